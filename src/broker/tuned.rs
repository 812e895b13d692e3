//! Settings that can change while the broker runs.
//!
//! Each is an atomic that is read with no order, since they are bounds, not decisions: who reads
//! the old value for a moment longer does nothing wrong.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::Options;
use crate::queue::{Limits, Overflow};

/// What of the [`Options`] can change.
#[derive(Debug, Default)]
pub(super) struct Tuned {
    messages_max: AtomicUsize,
    qos0_max: AtomicUsize,
    bytes_max: AtomicUsize,
    at_hand_max: AtomicUsize,
    drops_oldest: AtomicBool,
    keeps_qos0: AtomicBool,
    raises_qos: AtomicBool,
    asks_sources: AtomicBool,
    topic_levels_max: AtomicUsize,
    subscriptions_max: AtomicUsize,
    shared_subscriptions_max: AtomicUsize,
}

impl Tuned {
    /// As the options say.
    pub fn new(options: &Options) -> Self {
        let tuned = Self::default();
        tuned.set(options);
        tuned
    }

    /// From now on as the options say.
    pub fn set(&self, options: &Options) {
        let queue = &options.queue;
        self.messages_max.store(queue.messages_max, Ordering::Relaxed);
        self.qos0_max.store(queue.qos0_max, Ordering::Relaxed);
        self.bytes_max.store(queue.bytes_max, Ordering::Relaxed);
        self.at_hand_max.store(queue.at_hand_max, Ordering::Relaxed);
        self.drops_oldest.store(queue.overflow == Overflow::DropOldest, Ordering::Relaxed);
        self.keeps_qos0.store(queue.keeps_qos0, Ordering::Relaxed);
        self.raises_qos.store(options.raises_qos, Ordering::Relaxed);
        self.asks_sources.store(options.asks_sources, Ordering::Relaxed);
        let limits = &options.limits;
        self.topic_levels_max.store(limits.topic_levels_max, Ordering::Relaxed);
        self.subscriptions_max.store(limits.subscriptions_max, Ordering::Relaxed);
        self.shared_subscriptions_max.store(limits.shared_subscriptions_max, Ordering::Relaxed);
    }

    /// Bounds of a queue.
    pub fn queue(&self) -> Limits {
        let drops_oldest = self.drops_oldest.load(Ordering::Relaxed);
        Limits {
            messages_max: self.messages_max.load(Ordering::Relaxed),
            qos0_max: self.qos0_max.load(Ordering::Relaxed),
            bytes_max: self.bytes_max.load(Ordering::Relaxed),
            overflow: if drops_oldest { Overflow::DropOldest } else { Overflow::DropNewest },
            at_hand_max: self.at_hand_max.load(Ordering::Relaxed),
            memory_max: usize::MAX,
            keeps_qos0: self.keeps_qos0.load(Ordering::Relaxed),
        }
    }

    /// Whether a message is delivered with the QoS of the subscription, also a higher one.
    pub fn raises_qos(&self) -> bool {
        self.raises_qos.load(Ordering::Relaxed)
    }

    /// Whether it is asked again if who published a retained message may still do so.
    pub fn asks_sources(&self) -> bool {
        self.asks_sources.load(Ordering::Relaxed)
    }

    /// Levels of a topic and subscriptions of a Session, at most.
    pub fn of_subscriptions(&self) -> (usize, usize) {
        let load = |value: &AtomicUsize| value.load(Ordering::Relaxed);
        (load(&self.topic_levels_max), load(&self.subscriptions_max))
    }

    /// Shared Subscriptions of a Session, at most.
    pub fn shared_subscriptions_max(&self) -> usize {
        self.shared_subscriptions_max.load(Ordering::Relaxed)
    }
}
