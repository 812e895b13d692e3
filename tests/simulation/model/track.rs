//! What is known of one message on its way to one receiver.

use std::collections::BTreeSet;

/// The way that a message takes to a Client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// Its own subscriptions.
    Plain,
    /// As a retained message, handed over for a subscription.
    Handed(u64),
    /// A share group.
    Group(String),
}

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// Whether it has to come.
    pub must: bool,
    /// Whether it had to come before a crash made that unsure.
    pub was_must: bool,
    /// Whether its publisher was told that it is safe.
    pub acked: bool,
    /// Whether the receiver outlives a crash.
    pub durable: bool,
    /// When it was processed last.
    pub at: u64,
    /// Its places in the order of processing.
    pub orders: Vec<u64>,
    /// The QoS that it may have.
    pub qos: BTreeSet<u8>,
    /// The RETAIN flags that it may have.
    pub retain: BTreeSet<bool>,
    /// Its Subscription Identifiers, where they are known.
    pub ids: Option<Vec<u32>>,
    /// Whether a connection of the receiver has ended since it was processed.
    pub parted: bool,
    pub writes: u32,
    /// Who was sent it last: Client, connection, QoS.
    pub holder: Option<(usize, usize, u8)>,
    /// When the Client acknowledged it.
    pub finished: Option<u64>,
    pub got: u32,
    /// How often its Client took it for a new message of QoS 2.
    pub got_exactly: u32,
    /// Whether a crash ended the Session that had it with QoS 2: nobody else may have it.
    pub is_bound: bool,
    /// What a share group has sent with QoS 2: to whom. No crash makes it anybody else's.
    pub bound_to: Option<usize>,
    /// Whether there was a crash since it was processed, or a restart of any kind.
    pub crashed: bool,
    pub restarted: bool,
}

impl Track {
    /// Whether the receiver has it, or has said so.
    pub fn is_there(&self) -> bool {
        self.got > 0 || self.finished.is_some()
    }

    /// The QoS that it was sent with last.
    pub fn holder_qos(&self) -> Option<u8> {
        self.holder.map(|(.., qos)| qos)
    }

    /// Processed once more.
    pub fn merge(&mut self, other: Self) {
        self.must |= other.must;
        self.at = other.at;
        (self.acked, self.is_bound, self.bound_to) = (false, false, None);
        self.durable |= other.durable;
        self.orders.extend(other.orders);
        self.qos.extend(other.qos);
        self.retain.extend(other.retain);
        if self.ids != other.ids {
            self.ids = None;
        }
    }

    /// The power was cut. `settled`: says whether what was done then is committed.
    pub fn crash(&mut self, settled: impl Fn(u64) -> bool) {
        (self.crashed, self.restarted) = (true, true);
        // What was not stored may be lost although its publication has been noted.
        self.was_must |= self.must && self.durable;
        if !(self.acked || settled(self.at)) || !self.durable {
            self.must = false;
        }
        if self.finished.is_some_and(|at| !settled(at)) {
            self.finished = None;
            self.must = false;
        }
    }

    /// It may come, and need not.
    pub fn blur(&mut self) {
        (self.crashed, self.restarted) = (true, true);
        self.must = false;
        self.finished = None;
    }
}
