//! A receiver's queue: ready -> in flight -> finished.
//!
//! One type serves a Session, which is its own consumer, and a share group, which has many. The
//! queue keeps what is ready; what a consumer has taken is in that consumer's hands, bounded by
//! its window, until it is acknowledged or given back.
//!
//! Invariants:
//! 1. Deliveries leave in the order in which they came, those given back before all others. While
//!    the window for QoS 1 and 2 is closed, QoS 0 deliveries pass those that wait for it.
//! 2. `bytes` is the sum of the weights of what is ready; a push passes no limit.
//! 3. Nothing live is dropped while something expired takes its room.

use std::collections::VecDeque;

use crate::clock::Moment;
use crate::codec::QoS;
use crate::message::Message;
use crate::metrics::DropReason;

/// Several Subscription Identifiers, shared by all deliveries of one route.
pub type SubscriptionIds = Option<triomphe::ThinArc<(), u32>>;

/// A message's place in one queue: what this receiver is to get.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What was published.
    pub message: Message,
    /// Identifiers of the subscriptions that matched [MQTT-3.3.4-3].
    pub subscription_ids: SubscriptionIds,
    /// The share group it was taken from; 0: the Session's own queue.
    pub source: u32,
    /// Place in the order of arrival; set by [`Queue::push`].
    pub sequence: u32,
    /// The lower of the message's and the subscription's.
    pub qos: QoS,
    /// The RETAIN flag to be sent.
    pub retain: bool,
    /// Whether a consumer may have seen it before.
    pub dup: bool,
}

/// Which message goes when a queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The one that arrives.
    #[default]
    DropNewest,
    /// The one that has waited longest.
    DropOldest,
}

/// Bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages that are ready.
    pub messages_max: usize,
    /// Memory of the messages that are ready, in bytes.
    pub bytes_max: usize,
    /// What happens to a message beyond a bound.
    pub overflow: Overflow,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages_max: 100_000, bytes_max: 64 << 20, overflow: Overflow::DropNewest }
    }
}

/// What waits for a receiver.
#[derive(Debug, Default)]
pub struct Queue {
    /// QoS 1 and 2, in order.
    acknowledged: VecDeque<Delivery>,
    /// QoS 0, in order.
    unacknowledged: VecDeque<Delivery>,
    next_sequence: u32,
    bytes: usize,
    /// No message of the queue expires before this; `None` while none does at all.
    expires_from: Option<Moment>,
}

/// What a queue had to let go, each with the reason.
pub type Dropped = Vec<(Delivery, DropReason)>;

/// Capacity that an empty queue may keep, so that a burst's memory is given back.
const IDLE_CAPACITY: usize = 64;

impl Queue {
    /// Adds a delivery at the end. Where a bound is reached, room is made as the limits say, and
    /// what had to go is added to `dropped`: first what has expired, then the new delivery or the
    /// oldest ones.
    pub fn push(
        &mut self,
        mut delivery: Delivery,
        limits: &Limits,
        now: Moment,
        dropped: &mut Dropped,
    ) {
        let weight = delivery.message.weight();
        if self.is_full(weight, limits) {
            self.drop_expired(now, dropped);
        }
        while self.is_full(weight, limits) {
            let oldest = match limits.overflow {
                Overflow::DropNewest => None,
                Overflow::DropOldest => self.pop(true),
            };
            let Some(oldest) = oldest else {
                dropped.push((delivery, DropReason::QueueFull));
                return;
            };
            dropped.push((oldest, DropReason::QueueFull));
        }
        let expires_at = delivery.message.expires_at();
        if expires_at != Moment::NEVER {
            self.expires_from = Some(self.expires_from.map_or(expires_at, |at| at.min(expires_at)));
        }
        delivery.sequence = self.next_sequence;
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.bytes = self.bytes.saturating_add(weight);
        match delivery.qos {
            QoS::AtMostOnce => self.unacknowledged.push_back(delivery),
            _ => self.acknowledged.push_back(delivery),
        }
    }

    fn is_full(&self, weight: usize, limits: &Limits) -> bool {
        self.len() >= limits.messages_max || self.bytes.saturating_add(weight) > limits.bytes_max
    }

    /// Takes out what has expired; looks through the queue only when something may have.
    fn drop_expired(&mut self, now: Moment, dropped: &mut Dropped) {
        if self.expires_from.is_none_or(|from| from > now) {
            return;
        }
        let expired = self.extract(|delivery| delivery.message.is_expired(now));
        dropped.extend(expired.into_iter().map(|delivery| (delivery, DropReason::Expired)));
        let left = self.acknowledged.iter().chain(&self.unacknowledged);
        let expiring = left.map(|delivery| delivery.message.expires_at());
        self.expires_from = expiring.filter(|&at| at != Moment::NEVER).min();
    }

    /// Takes the next delivery; only QoS 0 while `window_open` is false.
    pub fn take(&mut self, window_open: bool) -> Option<Delivery> {
        self.pop(window_open)
    }

    /// Whether [`Queue::take`] would find something.
    pub fn has_ready(&self, window_open: bool) -> bool {
        !self.unacknowledged.is_empty() || (window_open && !self.acknowledged.is_empty())
    }

    /// Deliveries that a consumer took and could not finish go back before all others, in the
    /// order given.
    pub fn give_back(&mut self, deliveries: impl DoubleEndedIterator<Item = Delivery>) {
        for mut delivery in deliveries.rev() {
            if delivery.message.expires_at() != Moment::NEVER {
                // Looked at when the queue is next full.
                self.expires_from = Some(
                    delivery.message.expires_at().min(self.expires_from.unwrap_or(Moment::NEVER)),
                );
            }
            self.bytes = self.bytes.saturating_add(delivery.message.weight());
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
        self.bytes -= cleared.iter().map(|d| d.message.weight()).sum::<usize>().min(self.bytes);
        cleared.len()
    }

    /// Takes those deliveries out of the queue that `wanted` chooses, in order, QoS 1 and 2 first.
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
        let weight: usize = extracted.iter().map(|d: &Delivery| d.message.weight()).sum();
        self.bytes = self.bytes.saturating_sub(weight);
        extracted
    }

    /// Messages that are ready.
    pub fn len(&self) -> usize {
        self.acknowledged.len() + self.unacknowledged.len()
    }

    /// Whether nothing is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory of the messages that are ready, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn pop(&mut self, window_open: bool) -> Option<Delivery> {
        let waiting = self.acknowledged.front().filter(|_| window_open);
        let queue = match (waiting, self.unacknowledged.front()) {
            (None, None) => return None,
            (Some(_), None) => &mut self.acknowledged,
            (None, Some(_)) => &mut self.unacknowledged,
            (Some(acked), Some(unacked)) => {
                // Sequences wrap; two that are in the queue at once are never half a range apart.
                let older = acked.sequence.wrapping_sub(unacked.sequence) as i32;
                if older <= 0 { &mut self.acknowledged } else { &mut self.unacknowledged }
            }
        };
        let delivery = queue.pop_front()?;
        if queue.is_empty() && queue.capacity() > IDLE_CAPACITY {
            queue.shrink_to(0);
        }
        self.bytes = self.bytes.saturating_sub(delivery.message.weight());
        Some(delivery)
    }
}

#[cfg(test)]
mod tests;
