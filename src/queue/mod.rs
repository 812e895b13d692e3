//! A receiver's queue: ready -> in flight -> finished.
//!
//! One type serves a Session, which is its own consumer, and a share group, which has many. The
//! queue keeps what is ready; what a consumer has taken is in that consumer's hands, bounded by
//! its window, until it is acknowledged or given back.
//!
//! A long queue costs disk, not memory. Messages at its front are at hand; behind them comes a
//! backlog of those that the store has and the queue only names, in 16 bytes each. When little is
//! left at hand the queue says which messages it wants next ([`Queue::wanted`]), and they come as
//! a page ([`Queue::page`]).
//!
//! Invariants:
//! 1. Deliveries leave in the order in which they came, those given back before all others. QoS 0
//!    deliveries pass those that wait for the window for QoS 1 and 2, or for the store.
//! 2. `bytes` is the sum of the weights of what is ready, `at_hand` of what of it is in memory; a
//!    push passes no limit.
//! 3. Nothing live is dropped while something expired takes its room.
//! 4. Only a message that the store keeps for this queue is in the backlog.
//! 5. What stands at the front, at hand or in the backlog, was not withdrawn.

mod backlog;
pub mod declaration;
mod delivery;
pub mod lanes;
pub mod last_value;
pub mod lent;
mod limits;
mod portion;

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use crate::clock::Moment;
use crate::codec::QoS;
use crate::metrics::DropReason;
use backlog::Backlog;
pub use backlog::{Stored, earlier, seconds};
pub use delivery::{Delivery, Fetched, SubscriptionIds, Trace};
pub use limits::{Limits, Overflow};
use portion::Portion;

/// What waits for a receiver.
#[derive(Debug, Default)]
pub struct Queue {
    /// QoS 1 and 2 at hand, in order.
    acknowledged: VecDeque<Delivery>,
    /// QoS 1 and 2 behind them, in order.
    backlog: Option<Box<Backlog>>,
    /// QoS 0, in order.
    unacknowledged: VecDeque<Delivery>,
    /// The store keeps messages of QoS 1 and 2 with this identity or a later one for this queue.
    stored_from: Option<u64>,
    /// What its own deliveries have as [`Delivery::source`].
    source: u32,
    next_sequence: u32,
    bytes: usize,
    at_hand: usize,
    /// What may be taken at a time.
    portion: Portion,
    /// No message of the queue expires before this; `None` while none does at all.
    expires_from: Option<Moment>,
    /// What was withdrawn and still stands behind the front, at hand or in the backlog.
    withdrawn: Option<Box<FxHashSet<u64>>>,
}

/// What a queue had to let go, each with the reason.
pub type Dropped = Vec<(Trace, DropReason)>;

/// Capacity that an empty queue may keep, so that a burst's memory is given back.
const IDLE_CAPACITY: usize = 64;

/// Deliveries that are not moved one by one when all are taken; of fewer the queue keeps the small
/// list that it holds them in.
const WHOLE_LEAST: usize = 8;

/// Withdrawn messages in the middle of a queue that are left there in any case.
const WITHDRAWN_LEAST: usize = 64;

impl Queue {
    /// A Session's queue; `stored`: the store keeps its messages of QoS 1 and 2.
    pub fn of_session(stored: bool) -> Self {
        Self { stored_from: stored.then_some(1), ..Self::default() }
    }

    /// A share group's queue, whose deliveries have this mark.
    pub fn of_group(source: u32) -> Self {
        Self { source, ..Self::default() }
    }

    /// What its own deliveries have as [`Delivery::source`].
    pub fn source(&self) -> u32 {
        self.source
    }

    /// The store keeps messages of QoS 1 and 2 for the queue, from this identity on.
    pub fn store_from(&mut self, first: u64) {
        self.stored_from = Some(first);
    }

    /// Adds a delivery at the end. Where a bound is reached, room is made as the limits say, and
    /// what had to go is added to `dropped`: first what has expired, then the new delivery or the
    /// oldest ones.
    pub fn push(
        &mut self,
        delivery: Delivery,
        limits: &Limits,
        now: Moment,
        dropped: &mut Dropped,
    ) {
        let (weight, qos) = (delivery.weight(), delivery.qos);
        if self.is_full(qos, weight, limits) {
            self.drop_expired(now, dropped);
        }
        while self.is_full(qos, weight, limits) {
            let oldest = match limits.overflow {
                Overflow::DropNewest | Overflow::Reject => None,
                Overflow::DropOldest => self.drop_oldest(),
            };
            let Some(oldest) = oldest else {
                dropped.push((delivery.trace(), DropReason::QueueFull));
                return;
            };
            dropped.push((oldest, DropReason::QueueFull));
        }
        self.add(delivery, limits, dropped);
    }

    /// Adds a delivery at the end, whatever the bounds of the queue; not beyond those of memory.
    #[inline(always)] // With two others, see `Outgoing::encode`.
    fn add(&mut self, mut delivery: Delivery, limits: &Limits, dropped: &mut Dropped) {
        let weight = delivery.weight();
        let goes_to_backlog = self.goes_to_backlog(&delivery, weight, limits);
        if !goes_to_backlog && self.at_hand.saturating_add(weight) > limits.memory_max {
            dropped.push((delivery.trace(), DropReason::MemoryLimit));
            return;
        }
        self.note_expiry(delivery.expires_at());
        delivery.sequence = self.next_sequence;
        self.next_sequence = self.next_sequence.wrapping_add(1);
        if goes_to_backlog {
            let stored = Stored::of(&delivery);
            self.bytes = self.bytes.saturating_add(stored.weight());
            self.backlog.get_or_insert_default().push_back(stored);
            return;
        }
        self.bytes = self.bytes.saturating_add(weight);
        self.at_hand = self.at_hand.saturating_add(weight);
        match delivery.qos {
            QoS::AtMostOnce => self.unacknowledged.push_back(delivery),
            _ => self.acknowledged.push_back(delivery),
        }
    }

    fn is_full(&self, qos: QoS, weight: usize, limits: &Limits) -> bool {
        let (len, max) = match (limits.qos0_max, qos) {
            (0, _) => (self.len(), limits.messages_max),
            (qos0_max, QoS::AtMostOnce) => (self.unacknowledged.len(), qos0_max),
            _ => (self.len().saturating_sub(self.unacknowledged.len()), limits.messages_max),
        };
        len >= max || self.bytes.saturating_add(weight) > limits.bytes_max
    }

    fn goes_to_backlog(&self, delivery: &Delivery, weight: usize, limits: &Limits) -> bool {
        let is_long =
            self.backlog.is_some() || self.at_hand.saturating_add(weight) > limits.at_hand_max;
        is_long && self.is_stored(delivery)
    }

    /// Whether the store keeps a delivery's message for this queue. What a share group has lent
    /// it keeps for the group.
    fn is_stored(&self, delivery: &Delivery) -> bool {
        let id = delivery.message.id();
        delivery.qos != QoS::AtMostOnce
            && self.stored_from.is_some_and(|first| id >= first && id != 0)
            && delivery.source == self.source
    }

    fn note_expiry(&mut self, at: Moment) {
        if at != Moment::NEVER {
            self.expires_from = Some(self.expires_from.map_or(at, |from| from.min(at)));
        }
    }

    /// Takes out what has expired; looks through the queue only when something may have.
    fn drop_expired(&mut self, now: Moment, dropped: &mut Dropped) {
        if self.expires_from.is_none_or(|from| from > now) {
            return;
        }
        self.compact();
        let expired = self.extract(|delivery| delivery.is_expired(now));
        dropped.extend(expired.iter().map(|delivery| (delivery.trace(), DropReason::Expired)));
        if let Some(backlog) = &mut self.backlog {
            let expired = backlog.extract(|stored| stored.is_expired(now));
            let weight: usize = expired.iter().map(|stored| stored.weight()).sum();
            self.bytes = self.bytes.saturating_sub(weight);
            let source = self.source;
            let traces = expired.iter().map(|stored| stored.trace(source));
            dropped.extend(traces.map(|trace| (trace, DropReason::Expired)));
            self.backlog.take_if(|backlog| backlog.len() == 0);
        }
        let left = self.acknowledged.iter().chain(&self.unacknowledged);
        let at_hand = left.map(Delivery::expires_at);
        let stored = self.backlog.iter().flat_map(|backlog| backlog.iter());
        let expiring = at_hand.chain(stored.map(Stored::expires_at));
        self.expires_from = expiring.filter(|&at| at != Moment::NEVER).min();
    }

    /// Takes out what stands at the front and has expired.
    fn take_overdue(&mut self, now: Moment) -> Option<Trace> {
        let is_overdue = |delivery: &Delivery| delivery.is_expired(now);
        if self.acknowledged.front().is_some_and(is_overdue)
            || (self.acknowledged.is_empty()
                && self.backlog.as_ref().and_then(|b| b.front()).is_some_and(|s| s.is_expired(now)))
        {
            return self.drop_oldest_acknowledged();
        }
        let overdue = self.unacknowledged.front().is_some_and(is_overdue);
        let delivery = if overdue { self.unacknowledged.pop_front() } else { None }?;
        self.forget_weight(delivery.weight());
        Some(delivery.trace())
    }

    fn drop_oldest_acknowledged(&mut self) -> Option<Trace> {
        if let Some(delivery) = self.acknowledged.pop_front() {
            self.forget_weight(delivery.weight());
            self.prune();
            return Some(delivery.trace());
        }
        let stored = self.pop_backlog()?;
        self.bytes = self.bytes.saturating_sub(stored.weight());
        Some(stored.trace(self.source))
    }

    /// Drops what has waited longest.
    fn drop_oldest(&mut self) -> Option<Trace> {
        match self.take(true) {
            Some(delivery) => Some(delivery.trace()),
            None => self.drop_oldest_acknowledged(),
        }
    }

    fn pop_backlog(&mut self) -> Option<Stored> {
        let backlog = self.backlog.as_mut()?;
        let stored = backlog.pop_front();
        if backlog.len() == 0 {
            self.backlog = None;
        }
        self.prune();
        stored
    }

    /// Takes the next delivery that is at hand; only QoS 0 while `window_open` is false.
    pub fn take(&mut self, window_open: bool) -> Option<Delivery> {
        let queue = match self.next(window_open)? {
            QoS::AtMostOnce => &mut self.unacknowledged,
            _ => &mut self.acknowledged,
        };
        let delivery = queue.pop_front()?;
        if queue.is_empty() && queue.capacity() > IDLE_CAPACITY {
            queue.shrink_to(0);
        }
        self.forget_weight(delivery.weight());
        self.prune();
        Some(delivery)
    }

    /// How many may be taken now before others have their turn; to be asked before each time, and
    /// [`Queue::rests`] be said after it.
    pub fn portion(&mut self) -> usize {
        let len = self.len_at_hand();
        self.portion.of(len)
    }

    /// What could be taken was.
    pub fn rests(&mut self) {
        let len = self.len_at_hand();
        self.portion.leaves(len);
    }

    fn len_at_hand(&self) -> usize {
        self.acknowledged.len().saturating_add(self.unacknowledged.len())
    }

    /// Takes all as one, in exchange for an empty list, where [`Queue::take`] would find it all:
    /// nothing but QoS 0, or nothing but no more than `window` of QoS 1 and 2, at hand, within
    /// `bytes` and the `portion`; whether it did. One by one is a fourteenth of a small message's
    /// instructions.
    pub fn take_all(
        &mut self,
        window: usize,
        bytes: usize,
        portion: usize,
        all: &mut VecDeque<Delivery>,
    ) -> bool {
        let is_whole = self.backlog.is_none() && self.withdrawn.is_none();
        if !is_whole || self.bytes > bytes || !all.is_empty() {
            return false;
        }
        let queue = match (self.acknowledged.len(), self.unacknowledged.len()) {
            (0, len @ WHOLE_LEAST..) if len <= portion => &mut self.unacknowledged,
            (len @ WHOLE_LEAST.., 0) if len <= portion.min(window) => &mut self.acknowledged,
            _ => return false,
        };
        if all.capacity() > IDLE_CAPACITY {
            *all = VecDeque::new();
        }
        (self.bytes, self.at_hand) = (0, 0);
        std::mem::swap(queue, all);
        true
    }

    /// The identity of what [`Queue::take`] would find; 0 where it has none.
    fn next_id(&self) -> Option<u64> {
        let next = match self.next(true)? {
            QoS::AtMostOnce => self.unacknowledged.front(),
            _ => self.acknowledged.front(),
        };
        next.map(|delivery| delivery.message.id())
    }

    /// Whether [`Queue::take`] would find something.
    pub fn has_ready(&self, window_open: bool) -> bool {
        self.next(window_open).is_some()
    }

    /// Whether QoS 0 is next, or something else.
    fn next(&self, window_open: bool) -> Option<QoS> {
        let acknowledged = self.acknowledged.front().filter(|_| window_open);
        let Some(unacknowledged) = self.unacknowledged.front() else {
            return acknowledged.map(|delivery| delivery.qos);
        };
        // Sequences wrap; two that are in the queue at once are never half a range apart.
        let is_older = |delivery: &&Delivery| {
            delivery.sequence.wrapping_sub(unacknowledged.sequence).cast_signed() <= 0
        };
        let older = acknowledged.filter(is_older);
        Some(older.map_or(QoS::AtMostOnce, |delivery| delivery.qos))
    }

    fn forget_weight(&mut self, weight: usize) {
        self.bytes = self.bytes.saturating_sub(weight);
        self.at_hand = self.at_hand.saturating_sub(weight);
    }

    /// Identities of the messages that are wanted from the store, once; none while a page is on
    /// its way, enough is at hand, or nothing is behind it. While memory `is_short` they are few.
    pub fn wanted(&mut self, is_short: bool) -> Option<Vec<u64>> {
        let at_hand = (self.acknowledged.len(), self.at_hand);
        self.backlog.as_mut()?.ask(at_hand, is_short)
    }

    /// The page that was [`Queue::wanted`]; what the store has lost is added to `dropped`.
    pub fn page(&mut self, page: Vec<Fetched>, dropped: &mut Dropped) {
        if let Some(backlog) = &mut self.backlog {
            backlog.answered(self.acknowledged.is_empty());
        }
        for Fetched { id, found } in page {
            let front = self.backlog.as_ref().and_then(|backlog| backlog.front());
            // What has been dropped meanwhile is not wanted any more.
            let Some(&stored) = front.filter(|stored| stored.id == id) else { continue };
            self.pop_backlog();
            let Some((message, subscription_ids)) = found else {
                self.bytes = self.bytes.saturating_sub(stored.weight());
                dropped.push((stored.trace(self.source), DropReason::Unreadable));
                continue;
            };
            let delivery = Delivery {
                subscription_ids,
                source: self.source,
                sequence: self.next_sequence,
                expires_s: stored.expires_s(),
                qos: stored.qos(),
                retain: stored.retain(),
                dup: stored.dup(),
                ..Delivery::new(message)
            };
            let weight = delivery.weight();
            self.at_hand = self.at_hand.saturating_add(weight);
            self.bytes = (self.bytes + weight).saturating_sub(stored.weight());
            self.acknowledged.push_back(delivery);
        }
    }

    /// Leaves to the store what it keeps anyhow, because nobody is there to take it.
    pub fn leave_to_store(&mut self) {
        while let Some(delivery) = self.acknowledged.back()
            && self.is_stored(delivery)
        {
            let stored = Stored::of(delivery);
            let weight = delivery.weight();
            self.at_hand = self.at_hand.saturating_sub(weight);
            self.bytes = (self.bytes + stored.weight()).saturating_sub(weight);
            self.backlog.get_or_insert_default().push_front(stored);
            self.acknowledged.pop_back();
        }
        if let Some(backlog) = &mut self.backlog {
            backlog.expect_little();
        }
        self.prune();
        self.acknowledged.shrink_to(0);
    }

    /// Puts back what the store remembers at a start, whatever the bounds say.
    pub fn restore(&mut self, entries: impl Iterator<Item = Stored>) {
        for stored in entries {
            self.bytes = self.bytes.saturating_add(stored.weight());
            self.note_expiry(stored.expires_at());
            self.backlog.get_or_insert_default().push_back(stored);
        }
    }

    /// Deliveries that a consumer took and could not finish go back before all others, in the
    /// order given.
    pub fn give_back(&mut self, deliveries: impl DoubleEndedIterator<Item = Delivery>) {
        for mut delivery in deliveries.rev() {
            // Looked at when the queue is next full.
            self.note_expiry(delivery.expires_at());
            let weight = delivery.weight();
            self.bytes = self.bytes.saturating_add(weight);
            self.at_hand = self.at_hand.saturating_add(weight);
            let queue = match delivery.qos {
                QoS::AtMostOnce => &mut self.unacknowledged,
                _ => &mut self.acknowledged,
            };
            delivery.sequence = queue.front().map_or(self.next_sequence, |next| next.sequence);
            queue.push_front(delivery);
        }
    }

    /// Takes the QoS 0 deliveries out of the queue, where nobody is there to receive them, and
    /// says how many they were.
    pub fn clear_qos0(&mut self) -> usize {
        let cleared = std::mem::take(&mut self.unacknowledged);
        self.forget_weight(cleared.iter().map(Delivery::weight).sum());
        cleared.len()
    }

    /// Takes those deliveries at hand out of the queue that `wanted` chooses, in order, QoS 1 and
    /// 2 first.
    pub fn extract(&mut self, wanted: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let mut extracted = Vec::new();
        for queue in [&mut self.acknowledged, &mut self.unacknowledged] {
            if queue.iter().any(&wanted) {
                let (out, left): (Vec<_>, Vec<_>) =
                    std::mem::take(queue).into_iter().partition(&wanted);
                *queue = left.into();
                extracted.extend(out);
            }
        }
        self.forget_weight(extracted.iter().map(Delivery::weight).sum());
        extracted
    }

    /// Takes out a message of QoS 1 or 2 that is in the queue, wherever it stands and as often as
    /// it is asked in no time that grows with the queue.
    fn withdraw(&mut self, id: u64, weight: usize) {
        self.bytes = self.bytes.saturating_sub(weight);
        let withdrawn = self.withdrawn.get_or_insert_default();
        withdrawn.insert(id);
        let is_much = withdrawn.len() > WITHDRAWN_LEAST && withdrawn.len() > self.len();
        if is_much {
            self.compact();
        } else {
            self.prune();
        }
    }

    /// Restores invariant 5.
    fn prune(&mut self) {
        let Some(withdrawn) = &mut self.withdrawn else { return };
        while self.acknowledged.front().is_some_and(|front| withdrawn.remove(&front.message.id())) {
            let weight = self.acknowledged.pop_front().map_or(0, |front| front.weight());
            self.at_hand = self.at_hand.saturating_sub(weight);
        }
        if let Some(backlog) = &mut self.backlog {
            while backlog.front().is_some_and(|front| withdrawn.remove(&front.id)) {
                backlog.pop_front();
            }
            self.backlog.take_if(|backlog| backlog.len() == 0);
        }
        self.withdrawn.take_if(|withdrawn| withdrawn.is_empty());
    }

    /// Takes what was withdrawn out of the middle too.
    fn compact(&mut self) {
        let Some(withdrawn) = self.withdrawn.take() else { return };
        let mut weight = 0;
        self.acknowledged.retain(|delivery| {
            let goes = withdrawn.contains(&delivery.message.id());
            weight += if goes { delivery.weight() } else { 0 };
            !goes
        });
        self.at_hand = self.at_hand.saturating_sub(weight);
        if let Some(backlog) = &mut self.backlog {
            backlog.extract(|stored| withdrawn.contains(&stored.id));
            self.backlog.take_if(|backlog| backlog.len() == 0);
        }
    }

    /// Whether messages wait and none of QoS 1 or 2 is at hand, so that a page must come first.
    fn waits_for_store(&self) -> bool {
        self.acknowledged.is_empty() && self.backlog.is_some()
    }

    /// Whether messages wait that nobody has asked the store for, and none of QoS 1 or 2 is at
    /// hand.
    pub fn wants_page(&self) -> bool {
        self.waits_for_store() && self.backlog.as_ref().is_some_and(|backlog| !backlog.is_asked())
    }

    /// Takes out everything, for a receiver that ends.
    pub fn clear(&mut self) -> Vec<Trace> {
        self.compact();
        let at_hand = self.acknowledged.iter().chain(&self.unacknowledged).map(Delivery::trace);
        let stored = self.backlog.iter().flat_map(|backlog| backlog.iter());
        let traces = at_hand.chain(stored.map(|stored| stored.trace(self.source))).collect();
        *self = Self { stored_from: self.stored_from, source: self.source, ..Self::default() };
        traces
    }

    /// Messages that are ready.
    pub fn len(&self) -> usize {
        let backlog = self.backlog.as_ref().map_or(0, |backlog| backlog.len());
        let withdrawn = self.withdrawn.as_ref().map_or(0, |withdrawn| withdrawn.len());
        (self.acknowledged.len() + self.unacknowledged.len() + backlog).saturating_sub(withdrawn)
    }

    /// Whether nothing is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Weight of the messages that are ready, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Weight of those of them that are in memory, in bytes.
    pub fn at_hand(&self) -> usize {
        self.at_hand
    }
}

#[cfg(test)]
mod tests;
