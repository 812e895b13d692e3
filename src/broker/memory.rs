//! The memory of all queues' messages at hand, which has one limit.
//!
//! A queue reports what it holds when that has changed by a good part ([`STEP`]), so that small
//! traffic costs nothing here; the sum is that much imprecise for each queue.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::queue::Limits;

/// Changes below this are not reported, in bytes.
const STEP: usize = 16 << 10;

/// What a queue may have at hand when the limit is reached, in bytes.
const LEAST: usize = 64 << 10;

/// The sum and its limit, in bytes.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    max: usize,
}

impl Memory {
    /// Nothing used.
    pub fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    /// Bytes in use, about.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Limits for a queue now: when the memory is used up, what the store keeps is left to it,
    /// and of the rest there may be only a little.
    pub fn bound(&self, limits: &Limits) -> Limits {
        if self.used() < self.max {
            return *limits;
        }
        Limits { at_hand_max: 0, memory_max: LEAST.min(limits.memory_max), ..*limits }
    }
}

/// What one queue has reported.
#[derive(Debug, Default)]
pub struct Share(usize);

impl Share {
    /// Reports what the queue has at hand now, in bytes.
    pub fn report(&mut self, held: usize, memory: &Memory) {
        if held.abs_diff(self.0) > STEP || (held == 0 && self.0 > 0) {
            self.set(held, memory);
        }
    }

    /// The queue is no more.
    pub fn end(&mut self, memory: &Memory) {
        self.set(0, memory);
    }

    fn set(&mut self, held: usize, memory: &Memory) {
        if held > self.0 {
            memory.used.fetch_add(held - self.0, Ordering::Relaxed);
        } else {
            memory.used.fetch_sub(self.0 - held, Ordering::Relaxed);
        }
        self.0 = held;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::codec::{Properties, QoS};
    use crate::message::{Message, Parts};
    use crate::queue::{Delivery, Dropped, Queue};

    fn delivery(bytes: usize) -> Delivery {
        let parts = Parts {
            topic: "t",
            qos: QoS::AtMostOnce,
            retain: false,
            expires_at: Moment::NEVER,
            properties: Properties::EMPTY,
            payload: &vec![0; bytes],
        };
        Delivery::new(Message::new(0, &parts))
    }

    #[test]
    fn what_queues_hold_together_tightens_their_limits_and_loosens_them_again() {
        let memory = Memory::new(100_000);
        let (mut queue, mut share) = (Queue::of_session(false), Share::default());
        let now = Moment::from_unix_ms(1);
        queue.push(delivery(150_000), &Limits::NONE, now, &mut Dropped::new());
        share.report(queue.at_hand(), &memory);
        assert!(memory.used() >= 150_000);
        let tight = memory.bound(&Limits::default());
        assert_eq!((tight.at_hand_max, tight.memory_max), (0, LEAST));
        queue.take(true);
        share.report(queue.at_hand(), &memory);
        assert_eq!(memory.used(), 0);
        assert_eq!(memory.bound(&Limits::default()).memory_max, usize::MAX);
        queue.push(delivery(20_000), &Limits::NONE, now, &mut Dropped::new());
        share.report(queue.at_hand(), &memory);
        share.end(&memory);
        assert_eq!(memory.used(), 0);
    }
}
