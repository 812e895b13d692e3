//! The memory of all queues' messages at hand, which has one limit, and that of the process,
//! which has another.
//!
//! A queue reports what it holds when that has changed by a good part ([`STEP`]), so that small
//! traffic costs nothing here; the sum is that much imprecise for each queue.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::queue::Limits;

/// Changes below this are not reported, in bytes.
const STEP: usize = 16 << 10;

/// What a queue may have at hand when the limit is reached, in bytes.
const LEAST: usize = 64 << 10;

/// How short of memory the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// There is enough.
    None = 0,
    /// What the store has is left to it.
    High = 1,
    /// Nothing must be added to what is kept.
    Full = 2,
}

/// Percents of the limit at which pressure begins and ends. Memory is looked at some times a
/// second: the distance to the limit is for what comes in meanwhile and what is on its way.
const HIGH: (usize, usize) = (70, 60);
const FULL: (usize, usize) = (85, 75);

/// The sum and its limit, in bytes.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    max: AtomicUsize,
    /// For the whole process; 0: none.
    process_max: usize,
    pressure: AtomicU8,
}

impl Memory {
    /// Nothing used, of so much for queues, and for the process (0: no limit).
    pub fn new(max: usize, process_max: usize) -> Self {
        let (used, max) = (AtomicUsize::new(0), AtomicUsize::new(max));
        Self { used, max, process_max, pressure: AtomicU8::new(0) }
    }

    /// From now on the limit of queues is another.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// How short of memory the process is.
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::High,
            _ => Pressure::Full,
        }
    }

    /// Notes what the process uses, in bytes; the new pressure when it is another.
    pub fn note(&self, used: usize) -> Option<Pressure> {
        if self.process_max == 0 {
            return None;
        }
        let is_above = |percent: usize| used / 100 >= self.process_max / 10_000 * percent;
        let former = self.pressure();
        let is =
            |pressure, (begins, ends)| is_above(if former >= pressure { ends } else { begins });
        let pressure = if is(Pressure::Full, FULL) {
            Pressure::Full
        } else if is(Pressure::High, HIGH) {
            Pressure::High
        } else {
            Pressure::None
        };
        self.pressure.store(pressure as u8, Ordering::Relaxed);
        (pressure != former).then_some(pressure)
    }

    /// Bytes in use, about.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether queues are to hold as little as they can.
    pub fn is_short(&self) -> bool {
        self.used() >= self.max.load(Ordering::Relaxed) || self.pressure() != Pressure::None
    }

    /// Limits for a queue now: when the memory is used up, what the store keeps is left to it,
    /// and of the rest there may be only a little.
    pub fn bound(&self, limits: &Limits) -> Limits {
        if !self.is_short() {
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
    use crate::message::{Message, Parts};
    use crate::queue::{Delivery, Dropped, Queue};

    fn delivery(bytes: usize) -> Delivery {
        Delivery::new(Message::new(0, &Parts::of_payload(&vec![0; bytes])))
    }

    #[test]
    fn pressure_ends_lower_than_it_began() {
        let memory = Memory::new(usize::MAX, 1_000_000);
        let noted = [690_000, 700_000, 849_000, 850_000, 760_000, 740_000, 610_000, 590_000]
            .map(|used| memory.note(used));
        let (high, full) = (Some(Pressure::High), Some(Pressure::Full));
        assert_eq!(noted, [None, high, None, full, None, high, None, Some(Pressure::None)]);
        assert_eq!(memory.note(2_000_000), full);
        assert_eq!(memory.bound(&Limits::default()).at_hand_max, 0);
        assert_eq!(memory.note(0), Some(Pressure::None));
        assert_eq!(Memory::new(0, 0).note(usize::MAX), None);
    }

    #[test]
    fn what_queues_hold_together_tightens_their_limits_and_loosens_them_again() {
        let memory = Memory::new(100_000, 0);
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
