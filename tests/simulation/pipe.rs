//! A simulated Network Connection: it delays, splits, stalls and breaks, and tells the log what
//! passes the broker's end.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::disk::Power;
use crate::log::{Event, Log};
use crate::packet::Packet;
use crate::plant::Plant;

/// What a connection is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Milliseconds to the broker, and back.
    pub delay_up: u64,
    pub delay_down: u64,
    /// Bytes that one read of the broker yields at most.
    pub read_max: usize,
    /// Bytes on their way to the Client at most; beyond that the broker has to wait.
    pub capacity: usize,
}

impl Link {
    /// A good one.
    pub const GOOD: Self = Self { delay_up: 0, delay_down: 0, read_max: 4096, capacity: 1 << 16 };
}

/// How a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The broker is told that nothing more comes.
    Closed,
    /// The broker's next read or write fails.
    Reset,
    /// The broker is told nothing: the bytes just go astray.
    Silent,
}

/// The Client's end.
#[derive(Clone, Debug)]
pub struct Pipe(Arc<Mutex<Inner>>);

/// The broker's end.
#[derive(Debug)]
pub struct BrokerEnd(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Chunk {
    ready: u64,
    bytes: Vec<u8>,
    /// Bytes that were read.
    read: usize,
    packet: Packet,
    /// Whether the broker is to see nothing of it although it is logged as read: a plant.
    swallowed: bool,
}

#[derive(Debug)]
struct Inner {
    conn: usize,
    v5: bool,
    link: Link,
    log: Log,
    power: Power,
    plant: Plant,
    up: VecDeque<Chunk>,
    up_ready: u64,
    /// What the broker has read and may be about to handle.
    fresh: VecDeque<Packet>,
    /// Whether it holds a PUBLISH back, and what of it waits: that, and what is behind it.
    holds: bool,
    behind: VecDeque<Packet>,
    cut: Option<(u64, Cut)>,
    /// What the broker has written and does not make a packet yet.
    begun: Vec<u8>,
    down: VecDeque<(u64, Packet, usize)>,
    stalled: bool,
    /// Whether CONNACK has left.
    is_open: bool,
    /// Whether the broker's end is closed, in its view.
    ended: bool,
    /// Whether the broker has said that nothing more comes.
    shut: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A connection between a Client and a broker.
pub fn pipe(
    conn: usize,
    v5: bool,
    link: Link,
    (log, power, plant): (&Log, &Power, &Plant),
) -> (Pipe, BrokerEnd) {
    let inner = Inner {
        conn,
        v5,
        link,
        log: log.clone(),
        power: power.clone(),
        plant: plant.clone(),
        up: VecDeque::new(),
        up_ready: 0,
        fresh: VecDeque::new(),
        holds: false,
        behind: VecDeque::new(),
        cut: None,
        begun: vec![],
        down: VecDeque::new(),
        stalled: false,
        is_open: false,
        ended: false,
        shut: false,
        reader: None,
        writer: None,
    };
    let inner = Arc::new(Mutex::new(inner));
    (Pipe(inner.clone()), BrokerEnd(inner))
}

impl Pipe {
    /// Sends a packet.
    pub fn send(&self, packet: Packet) {
        let mut inner = self.0.lock();
        if inner.cut.is_some() {
            return;
        }
        let ready = inner.up_ready.max(inner.log.now() + inner.link.delay_up);
        inner.up_ready = ready;
        let conn = inner.conn;
        let swallowed = inner.plant.swallows(conn, &packet);
        let bytes = inner.plant.misreads(&packet).encode(inner.v5);
        inner.up.push_back(Chunk { ready, bytes, read: 0, packet, swallowed });
        inner.wake();
    }

    /// What has arrived, and whether the connection is over.
    pub fn receive(&self) -> (Vec<Packet>, bool) {
        let mut inner = self.0.lock();
        let now = inner.log.now();
        let mut packets = vec![];
        while !inner.stalled && inner.down.front().is_some_and(|(ready, ..)| *ready <= now) {
            packets.extend(inner.down.pop_front().map(|(_, packet, _)| packet));
        }
        if !packets.is_empty() {
            inner.wake();
        }
        let over = inner.cut.is_some() || !inner.power.is_on();
        (packets, over || (inner.shut && inner.down.is_empty()))
    }

    /// Stops or goes on to take what comes.
    pub fn stall(&self, stalled: bool) {
        self.0.lock().stalled = stalled;
    }

    /// Takes all that comes, so that what the broker does is seen at once.
    pub fn widen(&self) {
        let mut inner = self.0.lock();
        (inner.link.capacity, inner.stalled) = (usize::MAX, false);
        inner.wake();
    }

    /// Breaks the connection; `loses` what is under way to the broker, or only what the Client
    /// has not had.
    pub fn cut(&self, how: Cut, loses: bool) {
        let mut inner = self.0.lock();
        if inner.cut.is_some() {
            return;
        }
        if loses || how == Cut::Silent {
            inner.up.retain(|chunk| chunk.read > 0);
        }
        let ready = inner.up_ready.max(inner.log.now() + inner.link.delay_up);
        inner.cut = Some((ready, how));
        inner.down.clear();
        inner.link.capacity = usize::MAX;
        inner.wake();
    }

    /// Lets time pass: wakes the broker for what has arrived. When the next thing will.
    pub fn pump(&self) -> u64 {
        let mut inner = self.0.lock();
        let now = inner.log.now();
        inner.wake();
        let up = inner.up.front().map(|chunk| chunk.ready);
        let cut = inner.cut.map(|(ready, _)| ready);
        let down = inner.down.front().map(|(ready, ..)| *ready).filter(|_| !inner.stalled);
        [up, cut, down].into_iter().flatten().filter(|&ready| ready > now).min().unwrap_or(u64::MAX)
    }

    /// The broker holds back the PUBLISH with this identifier.
    pub fn held(&self, id: u16) {
        self.0.lock().held(id);
    }

    /// The broker handles what it has held back, or holds it back again.
    pub fn tried_again(&self) {
        let mut inner = self.0.lock();
        inner.settle();
        inner.holds = false;
        inner.fresh = std::mem::take(&mut inner.behind);
    }

    /// The broker has its turn with the connection.
    pub fn turn(&self) {
        let inner = self.0.lock();
        if !inner.is_open && !inner.ended && inner.power.is_on() {
            inner.log.note(Event::Turn { conn: inner.conn });
        }
    }

    /// The broker has had its turn with the connection.
    pub fn settle(&self) {
        self.0.lock().settle();
    }

    /// Whether neither side has anything more to do with it.
    pub fn is_over(&self) -> bool {
        let inner = self.0.lock();
        inner.ended && (inner.cut.is_some() || inner.shut)
    }
}

impl Inner {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// What was read has been handled by now, but for what waits behind a PUBLISH.
    fn settle(&mut self) {
        while let Some(packet) = self.fresh.pop_front() {
            match self.holds && !goes_ahead(&packet) {
                true => self.behind.push_back(packet),
                false => self.handled(packet),
            }
        }
    }

    fn held(&mut self, id: u16) {
        let is_it = |packet: &Packet| matches!(packet, Packet::Publish(it) if it.id == id);
        let Some(at) = self.fresh.iter().position(is_it) else {
            panic!("a PUBLISH is held back that was not read");
        };
        let rest = self.fresh.split_off(at);
        self.settle();
        (self.holds, self.fresh) = (true, rest);
        self.settle();
    }

    fn handled(&mut self, packet: Packet) {
        if self.ended || !self.power.is_on() {
            return;
        }
        let leaves = matches!(packet, Packet::Disconnect { .. });
        let answer = self.plant.answers(self.conn, self.v5, &packet);
        self.log.push(Event::Read { conn: self.conn, packet });
        if leaves {
            self.end();
        }
        if let Some(answer) = answer {
            self.leave(answer);
        }
    }

    fn end(&mut self) {
        if !self.ended && self.power.is_on() {
            self.ended = true;
            self.log.push(Event::Ended { conn: self.conn });
        }
    }

    fn cut_now(&self) -> Option<Cut> {
        self.cut.filter(|(ready, _)| *ready <= self.log.now()).map(|(_, how)| how)
    }

    fn read(&mut self, buf: &mut ReadBuf<'_>) {
        let now = self.log.now();
        let mut room = self.link.read_max.min(buf.remaining());
        while room > 0
            && let Some(chunk) = self.up.front_mut().filter(|chunk| chunk.ready <= now)
        {
            if !chunk.swallowed {
                let len = room.min(chunk.bytes.len() - chunk.read);
                buf.put_slice(&chunk.bytes[chunk.read..chunk.read + len]);
                chunk.read += len;
                room -= len;
                if chunk.read < chunk.bytes.len() {
                    return;
                }
            }
            let Some(chunk) = self.up.pop_front() else { return };
            self.fresh.push_back(chunk.packet);
        }
    }

    /// Takes what the broker writes, packet by packet.
    fn write(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        while let Some(packet) = Packet::take(&mut self.begun, self.v5) {
            for packet in self.plant.replaces(self.conn, packet) {
                self.leave(packet);
            }
        }
    }

    /// A packet leaves the broker.
    fn leave(&mut self, packet: Packet) {
        self.is_open = true;
        let ends = match packet {
            Packet::Disconnect { .. } => true,
            Packet::ConnAck { reason, .. } => reason != 0,
            _ => false,
        };
        if !self.ended {
            self.log.push(Event::Wrote { conn: self.conn, packet: packet.clone() });
        }
        if ends {
            self.end();
        }
        if self.cut.is_none() {
            let ready = self.log.now() + self.link.delay_down;
            let len = packet.encode(self.v5).len();
            self.down.push_back((ready, packet, len));
            self.log.ring();
        }
    }

    fn room(&self) -> usize {
        let waiting: usize = self.down.iter().map(|(.., len)| len).sum();
        self.link.capacity.saturating_sub(waiting)
    }
}

/// What is handled although a PUBLISH before it waits.
fn goes_ahead(packet: &Packet) -> bool {
    use Packet::{PingReq, PubAck, PubComp, PubRec};
    matches!(packet, PingReq | PubAck { .. } | PubRec { .. } | PubComp { .. })
}

impl AsyncRead for BrokerEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if !inner.power.is_on() {
            return Poll::Pending;
        }
        inner.settle();
        let before = buf.filled().len();
        inner.read(buf);
        if buf.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        match inner.cut_now() {
            Some(Cut::Closed) => {
                // What is held back is heard to the end.
                if !inner.holds {
                    inner.end();
                }
                Poll::Ready(Ok(()))
            }
            Some(Cut::Reset) => {
                inner.end();
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            _ => {
                inner.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for BrokerEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if !inner.power.is_on() {
            return Poll::Pending;
        }
        inner.settle();
        if inner.cut_now() == Some(Cut::Reset) {
            inner.end();
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let len = buf.len().min(inner.room());
        if len == 0 {
            inner.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        inner.write(&buf[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        inner.settle();
        inner.end();
        inner.shut = true;
        inner.log.ring();
        Poll::Ready(Ok(()))
    }
}

impl Drop for BrokerEnd {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.settle();
        inner.end();
        inner.shut = true;
        inner.log.ring();
    }
}
