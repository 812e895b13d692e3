//! Packets on their way out: bytes, and between them payloads that stay where they are.
//!
//! A small payload is copied behind its packet's head. A large one is not: its message is held
//! until the peer has taken it, so that it costs no copy however many receivers it has.
//!
//! Invariants: the places of the payloads rise and are within the bytes; what is gone of the first
//! payload is 0 while bytes before it are not gone; a payload that is all gone is not held.

use std::collections::VecDeque;
use std::io::IoSlice;

use super::Message;

/// Bytes of a payload from which on it is not copied.
pub const HELD_BYTES: usize = 8 << 10;

/// Bytes at the front that are gone, beyond which they may be cut off.
const FORGET_SENT: usize = 64 << 10;

/// Bytes on their way out.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// Those of them that are gone.
    sent: usize,
    /// Messages whose payloads stand before the byte of this number.
    held: VecDeque<(usize, Message)>,
    /// Bytes of the first of these payloads that are gone.
    held_sent: usize,
    /// Bytes of all of them that are not.
    held_left: usize,
}

impl Output {
    /// With room for so many.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Where packets are encoded to.
    #[inline]
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends a message's payload without copying it.
    pub fn hold(&mut self, message: Message) {
        let len = message.payload().len();
        if len > 0 {
            self.held.push_back((self.bytes.len(), message));
            self.held_left += len;
        }
    }

    /// Bytes that are not gone.
    #[inline]
    pub fn left(&self) -> usize {
        self.bytes.len() - self.sent + self.held_left
    }

    /// Bytes that it has room for.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.bytes.clear();
        if !self.held.is_empty() {
            self.held.clear();
        }
        (self.sent, self.held_sent, self.held_left) = (0, 0, 0);
    }

    /// What is not gone as a piece, if that is one.
    pub fn as_slice(&self) -> Option<&[u8]> {
        self.held.is_empty().then(|| self.bytes.get(self.sent..).unwrap_or_default())
    }

    /// Its first bytes that are not gone: all that are not of a held payload, when none has begun.
    pub fn head(&self) -> &[u8] {
        let end = self.held.front().map_or(self.bytes.len(), |(at, _)| *at);
        self.bytes.get(self.sent..end).unwrap_or_default()
    }

    /// Fills in pieces of what is not gone, at most so many bytes; how many pieces.
    pub fn pieces<'a>(&'a self, max: usize, into: &mut [IoSlice<'a>]) -> usize {
        let (mut left, mut from, mut held_sent) = (max, self.sent, self.held_sent);
        let end = (self.bytes.len(), None);
        let held = self.held.iter().map(|(at, message)| (*at, Some(message))).chain([end]);
        let mut pieces = held.flat_map(|(at, message)| {
            let bytes = self.bytes.get(std::mem::replace(&mut from, at)..at).unwrap_or_default();
            let payload = message.map_or(&[][..], |message| message.payload());
            [bytes, payload.get(std::mem::take(&mut held_sent)..).unwrap_or_default()]
        });
        let mut filled = 0;
        for slot in into {
            let Some(piece) = pieces.find(|piece| !piece.is_empty()).filter(|_| left > 0) else {
                break;
            };
            let piece = piece.get(..left).unwrap_or(piece);
            left -= piece.len();
            *slot = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// So many bytes are gone.
    pub fn advance(&mut self, mut gone: usize) {
        loop {
            let end = self.held.front().map_or(self.bytes.len(), |(at, _)| *at);
            let bytes = gone.min(end - self.sent);
            self.sent += bytes;
            gone -= bytes;
            let Some((_, message)) = self.held.front().filter(|_| gone > 0) else { break };
            let left = message.payload().len() - self.held_sent;
            let taken = gone.min(left);
            gone -= taken;
            self.held_left -= taken;
            self.held_sent += taken;
            if taken == left {
                self.held.pop_front();
                self.held_sent = 0;
            }
        }
        debug_assert_eq!(gone, 0, "more is gone than there was");
    }

    /// A peer that always takes something and never everything must not cost what it has taken.
    pub fn forget_sent(&mut self) {
        if self.sent >= FORGET_SENT && self.sent >= self.bytes.len() - self.sent {
            self.bytes.drain(..self.sent);
            self.held.iter_mut().for_each(|(at, _)| *at -= self.sent);
            self.sent = 0;
        }
    }

    /// Takes what is not gone, in one of its own size; `None`: nothing.
    pub fn take_left(&mut self) -> Option<Self> {
        if self.left() == 0 {
            return None;
        }
        let bytes = self.bytes.get(self.sent..).unwrap_or_default().to_vec();
        let held = self.held.drain(..).map(|(at, message)| (at - self.sent, message)).collect();
        let (held_sent, held_left) = (self.held_sent, self.held_left);
        Some(Self { bytes, sent: 0, held, held_sent, held_left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Parts;

    fn message(payload: &[u8]) -> Message {
        Message::new(0, &Parts::of_payload(payload))
    }

    fn left(output: &Output, max: usize) -> Vec<u8> {
        let mut pieces = [IoSlice::new(&[]); 8];
        let filled = output.pieces(max, &mut pieces);
        pieces[..filled].iter().flat_map(|piece| piece.to_vec()).collect()
    }

    fn output() -> Output {
        let mut output = Output::default();
        output.bytes().extend_from_slice(b"ab");
        output.hold(message(b"CDE"));
        output.hold(message(b"F"));
        output.hold(message(b""));
        output.bytes().extend_from_slice(b"gh");
        output.hold(message(b"IJ"));
        output
    }

    #[test]
    fn bytes_and_payloads_leave_in_the_order_in_which_they_came() {
        const ALL: &[u8] = b"abCDEFghIJ";
        for step in 1..=ALL.len() {
            let (mut output, mut gone) = (output(), 0);
            while output.left() > 0 {
                assert_eq!((output.left(), &left(&output, 100)[..]), (10 - gone, &ALL[gone..]));
                let part = left(&output, step);
                assert_eq!(part, ALL[gone..][..part.len()]);
                output.advance(part.len());
                gone += part.len();
                let rest = output.take_left().unwrap_or_default();
                assert_eq!(output.held.len(), 0);
                output = rest;
            }
            assert_eq!((gone, output.held.len()), (10, 0));
        }
    }

    #[test]
    fn fewer_pieces_than_there_are_end_before_the_end() {
        let output = output();
        let mut pieces = [IoSlice::new(&[]); 2];
        assert_eq!(output.pieces(100, &mut pieces), 2);
        assert_eq!((&*pieces[0], &*pieces[1]), (&b"ab"[..], &b"CDE"[..]));
        assert_eq!((output.head(), output.as_slice()), (&b"ab"[..], None));
    }

    #[test]
    fn what_is_gone_is_forgotten_where_it_is_much() {
        let mut output = Output::default();
        output.bytes().extend_from_slice(&vec![0; FORGET_SENT]);
        output.hold(message(b"X"));
        output.bytes().push(b'y');
        output.advance(FORGET_SENT);
        output.forget_sent();
        assert_eq!((output.bytes.len(), left(&output, 100)), (1, b"Xy".to_vec()));
    }
}
