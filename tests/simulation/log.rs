//! What has happened, in order, as it is seen at the broker's end of the pipes and by the Clients.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::packet::Packet;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A Client has opened a connection; `is_roomy`: the broker never waits to write; `in_memory`:
    /// by a listener with that durability.
    Opened { conn: usize, client: usize, is_roomy: bool, in_memory: bool },
    /// The broker has a turn with a connection that it has not let in.
    Turn { conn: usize },
    /// The broker has handled a packet, or is about to.
    Read { conn: usize, packet: Packet },
    /// The last byte of a packet has left the broker.
    Wrote { conn: usize, packet: Packet },
    /// The connection has ended, for the broker.
    Ended { conn: usize },
    /// A PUBLISH has reached its Client; `new`: the Client takes it for one it has not had.
    Got { conn: usize, number: u32, id: u16, new: bool },
    /// A Client has ended its part of its Session.
    Forgot { client: usize },
    /// The broker looks for what is due.
    Tick,
    /// The disk has returned an error: from here on nothing must be believed durable.
    Failed,
    /// The disk works again.
    Healed,
    /// The broker ends its connections and lets nobody in any more.
    Stopping,
    /// The broker is gone: by a power cut, or in good order.
    Down { orderly: bool },
    /// The broker is back.
    Up,
}

/// The events that have not been looked at, and the time.
#[derive(Clone, Debug)]
pub struct Log {
    events: Arc<Mutex<Vec<(u64, Event)>>>,
    rung: Arc<Notify>,
    start: Instant,
}

impl Log {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        let start = Instant::now();
        Self { events: Arc::default(), rung: Arc::default(), start }
    }

    /// Milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Adds an event.
    pub fn push(&self, event: Event) {
        self.note(event);
        self.ring();
    }

    /// Adds an event after which nothing has to be done.
    pub fn note(&self, event: Event) {
        let now = self.now();
        self.events.lock().push((now, event));
    }

    /// Something may have to be done.
    pub fn ring(&self) {
        self.rung.notify_one();
    }

    /// Waits until something may have to be done, at the latest until then.
    pub async fn rung_or(&self, until: u64) {
        let until = self.start + std::time::Duration::from_millis(until);
        let _ = tokio::time::timeout_at(until, self.rung.notified()).await;
    }

    /// Takes what has happened.
    pub fn take(&self) -> Vec<(u64, Event)> {
        std::mem::take(&mut self.events.lock())
    }
}
