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

use std::collections::VecDeque;

use crate::codec::QoS;
use crate::message::Message;

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
}

/// Capacity that an empty queue may keep, so that a burst's memory is given back.
const IDLE_CAPACITY: usize = 64;

impl Queue {
    /// Adds a delivery at the end. Where a bound is reached, what had to go is returned: the new
    /// one or the oldest that is ready, as the limits say.
    pub fn push(&mut self, mut delivery: Delivery, limits: &Limits) -> Option<Delivery> {
        let weight = delivery.message.weight();
        let full = self.len() >= limits.messages_max
            || self.bytes.saturating_add(weight) > limits.bytes_max;
        let mut dropped = None;
        if full {
            match limits.overflow {
                Overflow::DropNewest => return Some(delivery),
                Overflow::DropOldest => match self.pop(true) {
                    None => return Some(delivery),
                    oldest => dropped = oldest,
                },
            }
        }
        delivery.sequence = self.next_sequence;
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.bytes = self.bytes.saturating_add(weight);
        match delivery.qos {
            QoS::AtMostOnce => self.unacknowledged.push_back(delivery),
            _ => self.acknowledged.push_back(delivery),
        }
        dropped
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

    /// Takes those deliveries out of the queue that were lent by share groups, in order.
    pub fn extract_shared(&mut self) -> Vec<Delivery> {
        let mut shared = Vec::new();
        for queue in [&mut self.acknowledged, &mut self.unacknowledged] {
            if queue.iter().any(|delivery| delivery.source != 0) {
                let (lent, own): (Vec<_>, Vec<_>) =
                    std::mem::take(queue).into_iter().partition(|d| d.source != 0);
                *queue = own.into();
                shared.extend(lent);
            }
        }
        let weight: usize = shared.iter().map(|d: &Delivery| d.message.weight()).sum();
        self.bytes = self.bytes.saturating_sub(weight);
        shared
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
