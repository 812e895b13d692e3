//! Any byte stream as packets: big reads, one write per turn, no memory while idle.
//!
//! A [`Reader`] reads into a buffer that all connections of a thread share, and keeps only the
//! unfinished tail of a packet. A [`Writer`] collects a turn's packets in a buffer that is lent
//! by the thread too, and keeps only what the peer did not take.
//!
//! Bounds: a Reader never holds more than twice what has come of the packet that is being received,
//! or of the one before it if that was large, or a few kilobytes more; the length that a header
//! claims reserves nothing.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::codec::frame::{self, PACKET_MAX, Split};
use crate::message::output::Output;

/// Where the bytes of a read are.
#[derive(Debug)]
pub enum Input {
    /// The peer has closed its side.
    Closed,
    /// In the shared buffer, so many from its start.
    Shared(usize),
    /// In a buffer of their own, since the packet is large.
    Own(Arc<Vec<u8>>),
}

impl Input {
    /// Bytes that are there, with those that were kept.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Closed => 0,
            Self::Shared(len) => *len,
            Self::Own(own) => own.len(),
        }
    }
}

/// Bytes of an unfinished packet from which on the rest is read to behind them: to copy so many
/// before each read costs more than reads for single packets.
const OWN_BYTES: usize = 16 << 10;

/// Bytes of a packet from which on it gets a buffer of its own at once, where those before it were
/// no smaller.
pub const LARGE_BYTES: usize = 32 << 10;

/// Bytes of the packets before that are believed of the next.
const USUAL_MAX: usize = 1 << 20;

/// Bytes behind a large packet that are read with its end: so that the next one is known.
const BEHIND_BYTES: usize = 4 << 10;

/// Room for the rest of a packet of which less than this has come.
const LEAST_BYTES: usize = 1 << 10;

/// The receiving half of a byte stream. One pointer: most of the time nothing is kept.
#[derive(Debug, Default)]
pub struct Reader(Option<Box<Unfinished>>);

/// The beginning of a packet.
#[derive(Debug)]
struct Unfinished {
    tail: Vec<u8>,
    /// Length that the packet begun in `tail` will have, as far as is known.
    needed: usize,
}

impl Reader {
    /// Reads once. What is in front of the new bytes is the tail that was kept: the caller sees
    /// one run of bytes, decodes the whole packets of it, and keeps the rest.
    pub fn poll_read<T: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        shared: &mut [u8],
    ) -> Poll<io::Result<Input>> {
        self.poll_read_some(cx, io, shared, usize::MAX)
    }

    /// The same, of which so many bytes at most are new.
    pub fn poll_read_some<T: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        shared: &mut [u8],
        max: usize,
    ) -> Poll<io::Result<Input>> {
        let mut kept = 0;
        if let Some(unfinished) = self.0.as_deref_mut() {
            let Unfinished { tail, needed } = unfinished;
            let has_room = tail.capacity() > tail.len();
            if has_room || *needed > shared.len() || tail.len() >= OWN_BYTES {
                return unfinished.poll_read(cx, io, max);
            }
            kept = tail.len();
            if let Some(front) = shared.get_mut(..kept) {
                front.copy_from_slice(tail);
            }
        }
        let end = kept.saturating_add(max).min(shared.len());
        let mut buffer = ReadBuf::new(shared.get_mut(kept..end).unwrap_or_default());
        ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(Ok(Input::Closed));
        }
        self.0 = None;
        Poll::Ready(Ok(Input::Shared(kept + read)))
    }

    /// Bytes that are kept.
    pub fn kept(&self) -> usize {
        self.0.as_deref().map_or(0, |unfinished| unfinished.tail.len())
    }

    /// What is kept.
    pub fn kept_bytes(&self) -> &[u8] {
        self.0.as_deref().map_or(&[], |unfinished| &unfinished.tail)
    }

    /// Length that the packet will have of which a part is kept, as far as is known.
    pub fn needed(&self) -> usize {
        self.0.as_deref().map_or(0, |unfinished| unfinished.needed)
    }

    /// Takes what was kept, to be handled before anything is read.
    pub fn take_kept(&mut self) -> Arc<Vec<u8>> {
        Arc::new(self.0.take().map_or(Vec::new(), |unfinished| unfinished.tail))
    }

    /// Keeps the beginning of a packet that will be `needed` bytes long, as far as is known, where
    /// they usually have `usual_len` bytes.
    pub fn keep(&mut self, rest: &[u8], needed: usize, usual_len: u32) {
        self.0 = (!rest.is_empty()).then(|| {
            let mut tail = Vec::with_capacity(room(rest.len(), needed, usual_len));
            tail.extend_from_slice(rest);
            Box::new(Unfinished { tail, needed })
        });
    }

    /// The same for bytes in a buffer of their own, of which the first `consumed` are done with.
    pub fn keep_own(&mut self, own: Arc<Vec<u8>>, consumed: usize, needed: usize, usual_len: u32) {
        if consumed > 0 {
            return self.keep(own.get(consumed..).unwrap_or_default(), needed, usual_len);
        }
        let tail = Arc::unwrap_or_clone(own);
        self.0 = (!tail.is_empty()).then(|| Box::new(Unfinished { tail, needed }));
    }
}

/// Bytes for which room is made when so many have come of a packet: for the whole of a large one if
/// those before it were as large, else for no more.
fn room(len: usize, needed: usize, usual_len: u32) -> usize {
    let usual = (usual_len as usize).min(USUAL_MAX);
    if needed >= LARGE_BYTES && needed <= usual.saturating_mul(2) {
        needed.max(len) + BEHIND_BYTES
    } else {
        len
    }
}

impl Unfinished {
    /// To where the packet's beginning is, and hardly more than the packet. Where no room was made
    /// for all of it, what has not come takes no more than what has: a claim of 256 MiB costs its
    /// sender the bytes.
    fn poll_read<T: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        max: usize,
    ) -> Poll<io::Result<Input>> {
        if self.tail.capacity() == self.tail.len() {
            let most = self.tail.len().max(LEAST_BYTES);
            let missing = match self.needed.saturating_sub(self.tail.len()) {
                0 => most, // What comes after a whole packet.
                missing => missing.min(most),
            };
            self.tail.reserve_exact(missing.min(max));
        }
        let mut some = io.take(max as u64);
        if ready!(pin!(some.read_buf(&mut self.tail)).poll(cx))? == 0 {
            return Poll::Ready(Ok(Input::Closed));
        }
        Poll::Ready(Ok(Input::Own(Arc::new(std::mem::take(&mut self.tail)))))
    }
}

/// The sending half of a byte stream.
#[derive(Debug, Default)]
pub struct Writer {
    /// The thread's, or of its own for what the peer did not take.
    pending: Option<Box<Output>>,
    /// Whether the stream may hold back something that was written.
    unflushed: bool,
    /// Whether each packet is written by itself.
    by_packet: bool,
    /// Bytes left of the packet that was begun, if so.
    packet_left: u32,
}

/// A lent buffer that has grown beyond this is not kept for the next turn.
const LENT_CAPACITY_MAX: usize = 1 << 20;

/// Pieces that are written at once.
const PIECES_MAX: usize = 32;

impl Writer {
    /// For a stream of which each write becomes a frame that the peer sees: some Clients read one
    /// packet of a frame and forget the rest, although frames mean nothing [MQTT-6.0.0-2].
    pub fn by_packet(&mut self) {
        self.by_packet = true;
    }

    /// Begins a turn: borrows the thread's buffer when nothing is pending.
    pub fn borrow(&mut self, lent: &mut Option<Box<Output>>) {
        if self.pending.is_none() {
            self.pending = lent.take();
        }
    }

    /// Ends a turn: gives the buffer back, or keeps what could not be sent in one of its own size.
    pub fn give_back(&mut self, lent: &mut Option<Box<Output>>) {
        if lent.is_some() {
            // Nothing was borrowed.
            self.pending.take_if(|own| own.left() == 0);
            return;
        }
        let Some(mut buffer) = self.pending.take() else { return };
        self.pending = buffer.take_left().map(Box::new);
        if buffer.capacity() <= LENT_CAPACITY_MAX {
            buffer.clear();
            *lent = Some(buffer);
        }
    }

    /// Where packets go.
    pub fn output(&mut self) -> &mut Output {
        self.pending.get_or_insert_default()
    }

    /// Where packets are encoded to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.output().bytes()
    }

    /// Whether everything is gone.
    pub fn is_idle(&self) -> bool {
        self.backlog() == 0 && !self.unflushed
    }

    /// Bytes that the peer has not taken yet.
    pub fn backlog(&self) -> usize {
        self.pending.as_deref().map_or(0, Output::left)
    }

    /// Writes until everything is gone or the peer takes no more; returns the bytes written.
    pub fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        while let Some(pending) = self.pending.as_deref_mut().filter(|pending| pending.left() > 0) {
            if self.by_packet && self.packet_left == 0 {
                self.packet_left = packet_len(pending.head());
            }
            let max = if self.by_packet { self.packet_left as usize } else { usize::MAX };
            match poll_write_some(cx, io, pending, max) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.packet_left = self.packet_left.saturating_sub(n as u32);
                    pending.advance(n);
                    written += n;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    pending.forget_sent();
                    let nothing = written == 0;
                    return if nothing { Poll::Pending } else { Poll::Ready(Ok(written)) };
                }
            }
        }
        if written > 0
            && let Some(pending) = self.pending.as_deref_mut()
        {
            pending.clear();
            self.unflushed = true;
        }
        if self.unflushed {
            match Pin::new(io).poll_flush(cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending if written > 0 => return Poll::Ready(Ok(written)),
                Poll::Pending => return Poll::Pending,
            }
            self.unflushed = false;
        }
        Poll::Ready(Ok(written))
    }
}

/// Writes once, at most so many bytes.
fn poll_write_some<T: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    io: &mut T,
    pending: &Output,
    max: usize,
) -> Poll<io::Result<usize>> {
    match pending.as_slice() {
        Some(bytes) => Pin::new(io).poll_write(cx, bytes.get(..max).unwrap_or(bytes)),
        None => {
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let filled = pending.pieces(max, &mut pieces);
            Pin::new(io).poll_write_vectored(cx, pieces.get(..filled).unwrap_or_default())
        }
    }
}

/// Length of the packet that these bytes begin with.
fn packet_len(bytes: &[u8]) -> u32 {
    let len = match frame::split(bytes, PACKET_MAX) {
        Ok(Split::Frame(frame)) => frame.len,
        // Its payload stands elsewhere.
        Ok(Split::NeedMore { at_least }) => at_least,
        Err(_) => bytes.len(),
    };
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn read(reader: &mut Reader, bytes: &[u8], shared: &mut [u8]) -> Input {
        let mut cx = Context::from_waker(Waker::noop());
        let mut io: &[u8] = bytes;
        match reader.poll_read(&mut cx, &mut io, shared) {
            Poll::Ready(Ok(input)) => input,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_tail_of_a_packet_stands_before_the_next_read() {
        let (mut reader, mut shared) = (Reader::default(), [0; 8]);
        assert!(matches!(read(&mut reader, b"abc", &mut shared), Input::Shared(3)));
        reader.keep(b"bc", 4, 0);
        assert!(matches!(read(&mut reader, b"de", &mut shared), Input::Shared(4)));
        assert_eq!(&shared[..4], b"bcde");
    }

    #[test]
    fn a_packet_larger_than_the_shared_buffer_gets_one_of_its_own() {
        let (mut reader, mut shared) = (Reader::default(), [0; 4]);
        reader.keep(b"abcd", 7, 0);
        let Input::Own(own) = read(&mut reader, b"efgh", &mut shared) else { panic!() };
        assert_eq!(*own, b"abcdefg", "no more than the packet is read");
        reader.keep_own(own, 7, 0, 0);
        assert!(matches!(read(&mut reader, b"h", &mut shared), Input::Shared(1)));
    }

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let (mut reader, mut shared) = (Reader::default(), [0; 8]);
        let mut cx = Context::from_waker(Waker::noop());
        let mut io: &[u8] = b"cdefghijkl";
        let mut some = |reader: &mut Reader, max| match reader.poll_read_some(
            &mut cx,
            &mut io,
            &mut shared,
            max,
        ) {
            Poll::Ready(Ok(Input::Shared(len))) => shared[..len].to_vec(),
            Poll::Ready(Ok(Input::Own(own))) => own.to_vec(),
            other => panic!("{other:?}"),
        };
        reader.keep(b"ab", 7, 0);
        assert_eq!(some(&mut reader, 3), b"abcde");
        reader.keep(b"abcde", 20, 0);
        assert_eq!(some(&mut reader, 2), b"abcdefg");
        assert_eq!(some(&mut reader, 100), b"hijkl");
    }

    #[test]
    fn a_large_packet_takes_no_more_than_twice_what_has_come_of_it() {
        let (mut reader, mut shared) = (Reader::default(), vec![0; 1 << 17]);
        let first = vec![b'x'; OWN_BYTES];
        reader.keep(&first, 10 * OWN_BYTES, 0);
        let mut len = first.len();
        let rest = vec![b'y'; 10 * OWN_BYTES];
        while len < 10 * OWN_BYTES {
            let Input::Own(own) = read(&mut reader, &rest, &mut shared) else { panic!() };
            assert!(own.len() > len && own.capacity() <= 2 * len, "{} {len}", own.capacity());
            len = own.len();
            reader.keep_own(own, 0, 10 * OWN_BYTES, 0);
        }
        assert_eq!(len, 10 * OWN_BYTES, "no more than the packet is read");
    }

    #[test]
    fn a_large_packet_like_those_before_is_read_to_where_it_stays() {
        let (mut reader, mut shared) = (Reader::default(), vec![0; 1 << 17]);
        let (large, usual) = (2 * LARGE_BYTES, 2 * LARGE_BYTES as u32);
        let stream = vec![b'x'; 2 * large];
        reader.keep(b"xyz", large, usual);
        let Input::Own(own) = read(&mut reader, &stream, &mut shared) else { panic!() };
        assert_eq!(own.len(), large + BEHIND_BYTES, "and the beginning of the next");
        reader.keep_own(own, large, large, usual);
        assert_eq!(reader.kept(), BEHIND_BYTES);
        // What is much larger than those before is believed as it comes.
        reader.keep(b"xyz", 2 * large + 1, usual);
        assert!(
            matches!(read(&mut reader, &stream, &mut shared), Input::Own(own) if own.len() < 2000)
        );
    }

    #[test]
    fn what_comes_behind_a_whole_packet_is_not_read_byte_by_byte() {
        let (mut reader, mut shared) = (Reader::default(), vec![0; 1 << 17]);
        reader.keep(&vec![b'x'; OWN_BYTES], 5, 0);
        let more = vec![b'y'; OWN_BYTES];
        let mut io: &[u8] = &more;
        let mut cx = Context::from_waker(Waker::noop());
        let mut reads = 0;
        while reader.kept() < 2 * OWN_BYTES {
            let room = 2 * OWN_BYTES - reader.kept();
            match reader.poll_read_some(&mut cx, &mut io, &mut shared, room) {
                Poll::Ready(Ok(Input::Own(own))) => reader.keep_own(own, 0, 5, 0),
                other => panic!("{other:?}"),
            }
            reads += 1;
        }
        assert!(reads <= 2, "{reads}");
    }

    #[test]
    fn a_writer_keeps_only_what_was_not_taken() {
        let lent = Some(Box::new(Output::with_capacity(100)));
        let (mut writer, mut lent) = (Writer::default(), lent);
        writer.borrow(&mut lent);
        writer.buffer().extend_from_slice(b"hello");
        let (mut near, _far) = tokio::io::duplex(3);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(writer.poll_write(&mut cx, &mut near), Poll::Ready(Ok(3))));
        writer.give_back(&mut lent);
        assert_eq!((writer.backlog(), &writer.buffer()[..]), (2, &b"lo"[..]));
        assert!(lent.unwrap().capacity() >= 100);
    }

    /// Takes at most three bytes at a time, and shows what it was given.
    struct Frames(Vec<Vec<u8>>);

    impl AsyncWrite for Frames {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(3);
            self.0.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn no_two_packets_share_a_frame() {
        let mut writer = Writer::default();
        writer.by_packet();
        writer.buffer().extend([0xD0, 0, 0x40, 2, 0, 1, 0xD0, 0]);
        let mut frames = Frames(vec![]);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(writer.poll_write(&mut cx, &mut frames), Poll::Ready(Ok(8))));
        assert_eq!(frames.0, [&[0xD0, 0][..], &[0x40, 2, 0], &[1], &[0xD0, 0]]);
    }
}
