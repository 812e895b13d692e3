//! What is alive in the file, and what the next commit will change.
//!
//! Changes are noted as they come in ([`Ledger::note`]) and written together
//! ([`Ledger::write`]). Between the two a message may be finished by all its receivers: then it
//! was never there.
//!
//! Invariants:
//! 1. Every message in the file with a receiver left is in `live`, which says in which of `rows`.
//! 2. `pending` is what the file lacks. A write that fails leaves it as it was, and everything
//!    else to be read from the file anew ([`Ledger::broken`], [`Ledger::adopt`]): whether the
//!    write is in the file nobody knows, so every change is such that it may be made twice.

mod write;

use std::collections::BTreeMap;

use hashbrown::HashMap;
use redb::WriteTransaction;
use rustc_hash::{FxHashMap, FxHashSet};

use super::live::Live;
use super::packer::Packed;
use super::row::Exchange;
use super::rows::Rows;
use super::{Change, Lent, SessionId, Targets};
use crate::message::Message;
use crate::queue::SubscriptionIds;

/// A row of `lent` is for the messages whose identities are alike without so many lowest bits.
const LENT_SHIFT: u32 = 8;

/// A message on its way into the file.
#[derive(Debug)]
struct Fresh {
    message: Message,
    targets: Targets,
    /// The submission it came with.
    submission: u64,
}

/// Where a message is.
#[derive(Debug)]
pub(super) enum Located {
    /// Not written yet.
    Fresh(Message, SubscriptionIds),
    /// In this row.
    Row(u64),
    /// Nowhere: nobody is to get it any more.
    Nowhere,
}

/// The accounts.
#[derive(Debug, Default)]
pub struct Ledger {
    live: Live,
    rows: Rows,
    received: FxHashMap<u32, FxHashSet<u16>>,
    sent: FxHashMap<u32, Vec<Exchange>>,
    /// How often messages of declared queues were handed out.
    lent: FxHashMap<u32, BTreeMap<u64, Lent>>,
    message_ids_spent: u64,
    session_ids_spent: u32,
    pending: Pending,
    /// Whether a write has failed, so that `live` and `rows` are not to be believed.
    broken: bool,
}

/// What will be written in a row's place; nothing: the row goes.
type Written = Option<Box<[u8]>>;

/// A receiver has finished with a message that is in the file.
#[derive(Clone, Copy, Debug)]
struct Acked {
    message: u64,
    session: SessionId,
    /// Of the row that the message is in.
    slot: u32,
}

/// What the next commit will change.
#[derive(Debug, Default)]
struct Pending {
    fresh: BTreeMap<u64, Fresh>,
    acked: Vec<Acked>,
    /// Slots of rows that nothing lives in any more.
    dead: FxHashSet<u32>,
    sessions: FxHashMap<u32, Written>,
    subs: HashMap<(u32, Box<str>), Written>,
    /// In the order of the table: neighbours lie in the same page.
    retained: BTreeMap<Box<str>, Option<(Message, u64)>>,
    received: FxHashSet<u32>,
    sent: FxHashSet<u32>,
    /// Rows of `lent`: the queue, and the messages by [`LENT_SHIFT`].
    lent: FxHashSet<(u32, u64)>,
    bytes: usize,
    /// Whether somebody waits for something other than a message that may yet be elided.
    urgent: bool,
}

/// What noting a change did to the submission it came with and to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// The submission waits for the commit.
    Urgent,
    /// The submission waits for the commit, or for this message to be finished.
    Held,
    /// Nobody waits for it.
    Lazy,
    /// A message of that submission needs no writing any more.
    Elided(u64),
}

impl Ledger {
    /// Notes a change that came with a submission.
    pub fn note(&mut self, change: Change, submission: u64) -> Noted {
        match change {
            Change::Message { message, targets } => {
                if targets.is_empty() {
                    return Noted::Lazy;
                }
                let may_be_elided = targets.iter().all(|target| target.online);
                self.pending.bytes += message.weight();
                self.pending.urgent |= !may_be_elided;
                let fresh = Fresh { message, targets, submission };
                self.pending.fresh.insert(fresh.message.id(), fresh);
                return if may_be_elided { Noted::Held } else { Noted::Urgent };
            }
            Change::Finished { message, session } => return self.finish(message, session),
            Change::Completed { session, packet_id } => {
                // What ended before PUBREC leaves its queue with the exchange, also when nobody
                // else remembers that queue: its share group may be gone.
                let unfinished = self.exchange(session, packet_id, |exchanges, at| {
                    let exchange = exchanges.remove(at);
                    (exchange.message != 0).then_some((exchange.message, exchange.queue))
                });
                return match unfinished.flatten() {
                    Some((message, queue)) => self.finish(message, queue),
                    None => Noted::Lazy,
                };
            }
            Change::SessionPut { session, record } => {
                self.pending.sessions.insert(session.0, Some(record));
            }
            Change::SessionEnded { session } => self.end(session),
            Change::Subscribed { session, filter, options } => {
                self.pending.subs.insert((session.0, filter), Some(options));
            }
            Change::Unsubscribed { session, filter } => {
                self.pending.subs.insert((session.0, filter), None);
            }
            Change::Retained { topic, kept } => {
                let weight = kept.as_ref().map_or(0, |(message, _)| message.weight());
                self.pending.bytes += weight;
                self.pending.retained.insert(topic, kept);
            }
            Change::Received { session, packet_id } => {
                self.received.entry(session.0).or_default().insert(packet_id);
                self.pending.received.insert(session.0);
            }
            Change::Released { session, packet_id } => {
                if let Some(ids) = self.received.get_mut(&session.0) {
                    ids.remove(&packet_id);
                }
                self.pending.received.insert(session.0);
            }
            Change::Sent { session, packet_id, message, queue, flags, subscription_ids } => {
                let exchange = Exchange { packet_id, message, queue, flags, subscription_ids };
                self.sent.entry(session.0).or_default().push(exchange);
                self.pending.sent.insert(session.0);
            }
            Change::Relayed { session, packet_id } => self.relay(session, packet_id),
            Change::Unbound { session, packet_id } => {
                self.exchange(session, packet_id, |exchanges, at| _ = exchanges.remove(at));
            }
            Change::Lent { queue, message, lent } => self.lend(queue, message, lent),
        }
        self.pending.urgent = true;
        Noted::Urgent
    }

    fn lend(&mut self, queue: SessionId, message: u64, lent: Lent) {
        let is_fresh = self
            .pending
            .fresh
            .get(&message)
            .is_some_and(|fresh| fresh.targets.iter().any(|target| target.session == queue));
        let is_here = is_fresh || self.live.sessions(message).contains(&queue.0) || self.broken;
        if lent == Lent::default() {
            self.lent.get_mut(&queue.0).map(|lent| lent.remove(&message));
        } else if is_here {
            self.lent.entry(queue.0).or_default().insert(message, lent);
        } else {
            return;
        }
        self.pending.lent.insert((queue.0, message >> LENT_SHIFT));
    }

    /// The Client has a QoS 2 message: its queue is done with it, the exchange is not.
    fn relay(&mut self, session: SessionId, packet_id: u16) {
        let done = self.exchange(session, packet_id, |exchanges, at| {
            let exchange = exchanges.get_mut(at)?;
            Some((std::mem::take(&mut exchange.message), exchange.queue))
        });
        if let Some((message, queue)) = done.flatten() {
            // The submission of the message may be elided now; its answer then leaves with this
            // commit, which is under way anyhow.
            self.finish(message, queue);
        }
    }

    fn exchange<T>(
        &mut self,
        session: SessionId,
        packet_id: u16,
        change: impl FnOnce(&mut Vec<Exchange>, usize) -> T,
    ) -> Option<T> {
        let exchanges = self.sent.get_mut(&session.0)?;
        let at = exchanges.iter().position(|e| e.packet_id == packet_id)?;
        self.pending.sent.insert(session.0);
        Some(change(exchanges, at))
    }

    fn finish(&mut self, message: u64, session: SessionId) -> Noted {
        if let Some(lent) = self.lent.get_mut(&session.0)
            && lent.remove(&message).is_some()
        {
            self.pending.lent.insert((session.0, message >> LENT_SHIFT));
        }
        if let Some(fresh) = self.pending.fresh.get_mut(&message) {
            fresh.targets.retain(|target| target.session != session);
            // A write that failed may have put it into the file: then it must leave it again.
            if !fresh.targets.is_empty() || self.broken {
                return Noted::Lazy;
            }
            let weight = fresh.message.weight();
            let submission = fresh.submission;
            self.pending.fresh.remove(&message);
            self.pending.bytes = self.pending.bytes.saturating_sub(weight);
            return Noted::Elided(submission);
        }
        if self.broken {
            self.pending.acked.push(Acked { message, session, slot: 0 });
            return Noted::Lazy;
        }
        if let Some(finished) = self.live.finish(message, session.0) {
            self.pending.acked.push(Acked { message, session, slot: finished.slot });
            if finished.is_last && self.rows.one_less(finished.slot) {
                self.pending.dead.insert(finished.slot);
            }
        }
        Noted::Lazy
    }

    fn end(&mut self, session: SessionId) {
        self.pending.sessions.insert(session.0, None);
        if self.received.remove(&session.0).is_some() {
            self.pending.received.insert(session.0);
        }
        if self.sent.remove(&session.0).is_some() {
            self.pending.sent.insert(session.0);
        }
        for message in self.lent.remove(&session.0).unwrap_or_default().into_keys() {
            self.pending.lent.insert((session.0, message >> LENT_SHIFT));
        }
    }

    /// Whether a commit would write anything.
    pub fn is_dirty(&self) -> bool {
        let pending = &self.pending;
        pending.urgent
            || !pending.fresh.is_empty()
            || !pending.acked.is_empty()
            || !pending.sent.is_empty()
            || !pending.lent.is_empty()
    }

    /// Whether somebody waits for something other than messages that may yet be elided.
    pub fn is_urgent(&self) -> bool {
        self.pending.urgent
    }

    /// Messages that will be written.
    pub fn fresh(&self) -> usize {
        self.pending.fresh.len()
    }

    /// Bytes that will be written, roughly.
    pub fn pending_bytes(&self) -> usize {
        self.pending.bytes
    }

    /// Bytes of the messages in the file that have a receiver left.
    pub fn live_bytes(&self) -> u64 {
        self.rows.live_bytes()
    }

    /// Messages that have a receiver left, written or not, and their bytes.
    pub fn holds(&self) -> (u64, u64) {
        let messages = self.live.len() + self.pending.fresh.len();
        (messages as u64, self.live_bytes() + self.pending.bytes as u64)
    }

    /// Where a message is that waits for this receiver.
    pub(super) fn locate(&self, message: u64, session: SessionId) -> Located {
        if let Some(fresh) = self.pending.fresh.get(&message) {
            let target = fresh.targets.iter().find(|target| target.session == session);
            return target.map_or(Located::Nowhere, |target| {
                Located::Fresh(fresh.message.clone(), target.subscription_ids.clone())
            });
        }
        let slot = self.live.slot(message);
        slot.and_then(|slot| self.rows.number(slot)).map_or(Located::Nowhere, Located::Row)
    }

    /// Writes all that was noted. When that is committed, [`Ledger::written`] must be said; if it
    /// cannot be, the ledger is [`Ledger::broken`].
    pub fn write(&mut self, txn: &WriteTransaction) -> Result<(), redb::Error> {
        let pending = std::mem::take(&mut self.pending);
        let written = self.write_pending(txn, &pending);
        self.pending = pending;
        written
    }

    /// What was noted is in the file.
    pub fn written(&mut self) {
        self.pending = Pending::default();
    }
}

/// What recovery enters.
impl Ledger {
    /// Identities below these are spent.
    pub(super) fn restore_ids(&mut self, messages: u64, sessions: u32) {
        self.message_ids_spent = messages;
        self.session_ids_spent = sessions;
    }

    /// A row that was found, with these messages living in it and so many bytes of theirs.
    pub(super) fn restore_row(
        &mut self,
        number: u64,
        bytes: usize,
        live_bytes: usize,
        packed: Vec<Packed>,
    ) {
        let mut dead = std::mem::take(&mut self.pending.dead);
        self.enter(number, bytes, live_bytes, packed, &mut dead);
        self.pending.dead = dead;
    }

    /// An `ack` row that was found and mentions these rows; it goes with the last of them.
    pub(super) fn restore_ack(&mut self, number: u64, rows: &FxHashSet<u64>) {
        self.rows.restore_ack(number, rows);
    }

    /// A message that was handed out was found; false when nobody waits for it. To be called when
    /// its row was entered.
    pub(super) fn restore_lent(&mut self, queue: u32, message: u64, lent: Lent) -> bool {
        let is_live = self.live.sessions(message).contains(&queue);
        if is_live {
            self.lent.entry(queue).or_default().insert(message, lent);
        } else {
            self.pending.lent.insert((queue, message >> LENT_SHIFT));
        }
        is_live
    }

    /// QoS 2 exchanges that were found.
    pub(super) fn restore_exchanges(&mut self, id: u32, received: &[u16], sent: &[Exchange]) {
        if !received.is_empty() {
            self.received.insert(id, received.iter().copied().collect());
        }
        if !sent.is_empty() {
            self.sent.insert(id, sent.to_vec());
        }
    }
}

/// After a write that failed.
impl Ledger {
    /// A write has failed. What comes now is noted for when the file has been read anew.
    pub(super) fn broken(&mut self) {
        self.broken = true;
    }

    /// This ledger was read from the file after a write of `former` failed: takes over what was
    /// noted and may not be in the file.
    pub(super) fn adopt(&mut self, former: Self) {
        self.received = former.received;
        self.sent = former.sent;
        self.lent = former.lent;
        let dead = std::mem::take(&mut self.pending.dead);
        let Pending { fresh, acked, .. } = former.pending;
        self.pending =
            Pending { fresh: BTreeMap::new(), acked: Vec::new(), dead, ..former.pending };
        for Acked { message, session, .. } in acked {
            self.finish(message, session);
        }
        for (id, fresh) in fresh {
            if self.live.slot(id).is_none() {
                // One that everybody has finished with needs no row any more.
                if !fresh.targets.is_empty() {
                    self.pending.fresh.insert(id, fresh);
                }
                continue;
            }
            for session in self.live.sessions(id) {
                if !fresh.targets.iter().any(|target| target.session.0 == session) {
                    self.finish(id, SessionId(session));
                }
            }
        }
    }
}
