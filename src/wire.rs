//! Any byte stream as packets: big reads, one write per turn, no memory while idle.
//!
//! A [`Reader`] reads into a buffer that all connections of a thread share, and keeps only the
//! unfinished tail of a packet. A [`Writer`] collects a turn's packets in a buffer that is lent
//! by the thread too, and keeps only what the peer did not take.
//!
//! Bounds: a Reader never holds more than twice what has come of the packet that is being received,
//! or a kilobyte more; the length that a header claims reserves nothing.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::codec::frame::{self, PACKET_MAX, Split};

/// Where the bytes of a read are.
#[derive(Debug)]
pub enum Input {
    /// The peer has closed its side.
    Closed,
    /// In the shared buffer, so many from its start.
    Shared(usize),
    /// In a buffer of their own, since the packet is large.
    Own(Vec<u8>),
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
            if *needed > shared.len() || tail.len() >= OWN_BYTES {
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
    pub fn take_kept(&mut self) -> Vec<u8> {
        self.0.take().map_or(Vec::new(), |unfinished| unfinished.tail)
    }

    /// Keeps the beginning of a packet that will be `needed` bytes long, as far as is known.
    pub fn keep(&mut self, rest: &[u8], needed: usize) {
        self.keep_own(rest.to_vec(), 0, needed);
    }

    /// The same for bytes in a buffer of their own, of which the first `consumed` are done with.
    pub fn keep_own(&mut self, mut own: Vec<u8>, consumed: usize, needed: usize) {
        if consumed > 0 {
            own.drain(..consumed.min(own.len()));
            own.shrink_to_fit();
        }
        self.0 = (!own.is_empty()).then(|| Box::new(Unfinished { tail: own, needed }));
    }
}

impl Unfinished {
    /// To where the packet's beginning is, and hardly more than the packet. What has not come takes
    /// no more room than what has: a claim of 256 MiB costs its sender the bytes.
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
        Poll::Ready(Ok(Input::Own(std::mem::take(&mut self.tail))))
    }
}

/// Bytes on their way out.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// Those in front that are gone.
    sent: usize,
}

impl Output {
    /// With room for so many.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), sent: 0 }
    }

    /// What is not gone; `None`: nothing.
    fn unsent(&self) -> Option<&[u8]> {
        self.bytes.get(self.sent..).filter(|unsent| !unsent.is_empty())
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

/// Bytes at the front of the buffer that are gone, beyond which they may be cut off.
const FORGET_SENT: usize = 64 << 10;

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
            self.pending.take_if(|own| own.unsent().is_none());
            return;
        }
        let Some(mut buffer) = self.pending.take() else { return };
        if let Some(unsent) = buffer.unsent() {
            self.pending = Some(Box::new(Output { bytes: unsent.to_vec(), sent: 0 }));
        }
        if buffer.bytes.capacity() <= LENT_CAPACITY_MAX {
            buffer.bytes.clear();
            buffer.sent = 0;
            *lent = Some(buffer);
        }
    }

    /// Where packets are encoded to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.pending.get_or_insert_default().bytes
    }

    /// Whether everything is gone.
    pub fn is_idle(&self) -> bool {
        self.backlog() == 0 && !self.unflushed
    }

    /// Bytes that the peer has not taken yet.
    pub fn backlog(&self) -> usize {
        self.pending.as_deref().map_or(0, |pending| pending.bytes.len() - pending.sent)
    }

    /// A peer that always takes something and never everything must not cost what it has taken.
    fn forget_sent(&mut self) {
        let backlog = self.backlog();
        if let Some(Output { bytes, sent }) = self.pending.as_deref_mut()
            && *sent >= FORGET_SENT
            && *sent >= backlog
        {
            bytes.drain(..*sent);
            *sent = 0;
        }
    }

    /// Writes until everything is gone or the peer takes no more; returns the bytes written.
    pub fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        while let Some(pending) = self.pending.as_deref_mut()
            && let Some(unsent) = pending.unsent()
        {
            if self.by_packet && self.packet_left == 0 {
                self.packet_left = packet_len(unsent);
            }
            let packet = unsent.get(..self.packet_left as usize).filter(|_| self.by_packet);
            match Pin::new(&mut *io).poll_write(cx, packet.unwrap_or(unsent)) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.packet_left = self.packet_left.saturating_sub(n as u32);
                    pending.sent += n;
                    written += n;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.forget_sent();
                    let nothing = written == 0;
                    return if nothing { Poll::Pending } else { Poll::Ready(Ok(written)) };
                }
            }
        }
        if let Some(Output { bytes, sent }) = self.pending.as_deref_mut().filter(|p| p.sent > 0) {
            bytes.clear();
            *sent = 0;
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

/// Length of the packet that these bytes begin with.
fn packet_len(bytes: &[u8]) -> u32 {
    let len = match frame::split(bytes, PACKET_MAX) {
        Ok(Split::Frame(frame)) => frame.len,
        _ => bytes.len(),
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
        reader.keep(b"bc", 4);
        assert!(matches!(read(&mut reader, b"de", &mut shared), Input::Shared(4)));
        assert_eq!(&shared[..4], b"bcde");
    }

    #[test]
    fn a_packet_larger_than_the_shared_buffer_gets_one_of_its_own() {
        let (mut reader, mut shared) = (Reader::default(), [0; 4]);
        reader.keep(b"abcd", 7);
        let Input::Own(own) = read(&mut reader, b"efgh", &mut shared) else { panic!() };
        assert_eq!(own, b"abcdefg", "no more than the packet is read");
        reader.keep_own(own, 7, 0);
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
            Poll::Ready(Ok(Input::Own(own))) => own,
            other => panic!("{other:?}"),
        };
        reader.keep(b"ab", 7);
        assert_eq!(some(&mut reader, 3), b"abcde");
        reader.keep(b"abcde", 20);
        assert_eq!(some(&mut reader, 2), b"abcdefg");
        assert_eq!(some(&mut reader, 100), b"hijkl");
    }

    #[test]
    fn a_large_packet_takes_no_more_than_twice_what_has_come_of_it() {
        let (mut reader, mut shared) = (Reader::default(), vec![0; 1 << 17]);
        let first = vec![b'x'; OWN_BYTES];
        reader.keep(&first, 10 * OWN_BYTES);
        let mut len = first.len();
        let rest = vec![b'y'; 10 * OWN_BYTES];
        while len < 10 * OWN_BYTES {
            let Input::Own(own) = read(&mut reader, &rest, &mut shared) else { panic!() };
            assert!(own.len() > len && own.capacity() <= 2 * len, "{} {len}", own.capacity());
            len = own.len();
            reader.keep_own(own, 0, 10 * OWN_BYTES);
        }
        assert_eq!(len, 10 * OWN_BYTES, "no more than the packet is read");
    }

    #[test]
    fn what_comes_behind_a_whole_packet_is_not_read_byte_by_byte() {
        let (mut reader, mut shared) = (Reader::default(), vec![0; 1 << 17]);
        reader.keep(&vec![b'x'; OWN_BYTES], 5);
        let more = vec![b'y'; OWN_BYTES];
        let mut io: &[u8] = &more;
        let mut cx = Context::from_waker(Waker::noop());
        let mut reads = 0;
        while reader.kept() < 2 * OWN_BYTES {
            let room = 2 * OWN_BYTES - reader.kept();
            match reader.poll_read_some(&mut cx, &mut io, &mut shared, room) {
                Poll::Ready(Ok(Input::Own(own))) => reader.keep_own(own, 0, 5),
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
        assert!(lent.unwrap().bytes.capacity() >= 100);
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
