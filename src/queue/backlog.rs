//! The part of a queue whose messages are in the store alone: a few bytes for each.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::{Delivery, Trace};
use crate::clock::Moment;
use crate::codec::QoS;

/// A delivery whose message the store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The message's identity.
    pub id: u64,
    /// When it expires, in seconds since the Unix epoch, rounded up; 0: never.
    expires_s: u32,
    /// Bits 0 and 1: QoS; bit 2: RETAIN; bit 3: DUP; bits 4 to 7: priority; the others: what the
    /// message weighs when it is in memory, in units.
    packed: u32,
}

const RETAIN: u32 = 4;
const DUP: u32 = 8;
const PRIORITY_SHIFT: u32 = 4;
const WEIGHT_SHIFT: u32 = 8;

/// What a unit of weight is in bytes: a message of 256 MiB has about 2^24 of them.
const WEIGHT_UNIT: usize = 16;

/// What a message of so many bytes counts for in a queue, whether it is at hand or not.
pub(super) fn counted(weight: usize) -> usize {
    units(weight) as usize * WEIGHT_UNIT
}

fn units(weight: usize) -> u32 {
    let units = u32::try_from(weight / WEIGHT_UNIT).unwrap_or(u32::MAX);
    units.min(u32::MAX >> WEIGHT_SHIFT)
}

/// A moment in seconds since the Unix epoch, rounded up; 0: never.
pub fn seconds(at: Moment) -> u32 {
    match at {
        Moment::NEVER => 0,
        at => u32::try_from(at.unix_ms().div_ceil(1000)).unwrap_or(0),
    }
}

/// The earlier of two such moments.
pub fn earlier(one: u32, other: u32) -> u32 {
    match (one, other) {
        (0, at) | (at, 0) => at,
        (one, other) => one.min(other),
    }
}

impl Stored {
    /// What is left of a delivery when its message is left to the store.
    pub fn of(delivery: &Delivery) -> Self {
        let message = &delivery.message;
        let flags = delivery.qos as u8 | u8::from(delivery.retain) << 2;
        let expires_s = earlier(seconds(message.expires_at()), delivery.expires_s);
        let stored = Self::new(message.id(), message.weight(), expires_s, flags);
        if delivery.dup { stored.seen() } else { stored }
    }

    /// A delivery found in the store: `flags` has its QoS in bits 0 and 1, RETAIN in bit 2, its
    /// priority in bits 4 to 7; `expires_s` is in seconds since the Unix epoch, 0: never.
    pub fn new(id: u64, weight: usize, expires_s: u32, flags: u8) -> Self {
        let flags = u32::from(flags) & !DUP;
        Self { id, expires_s, packed: units(weight) << WEIGHT_SHIFT | flags }
    }

    /// The same, with this priority.
    pub fn of_priority(self, priority: u8) -> Self {
        let others = self.packed & !(15 << PRIORITY_SHIFT);
        Self { packed: others | u32::from(priority & 15) << PRIORITY_SHIFT, ..self }
    }

    /// Its priority among those of a declared queue; 0 where there are none.
    pub fn priority(&self) -> u8 {
        (self.packed >> PRIORITY_SHIFT & 15) as u8
    }

    /// When it expires, in seconds since the Unix epoch; 0: never.
    pub fn expires_s(&self) -> u32 {
        self.expires_s
    }

    /// What the message weighs when it is in memory, in bytes, about.
    pub fn weight(&self) -> usize {
        (self.packed >> WEIGHT_SHIFT) as usize * WEIGHT_UNIT
    }

    /// Its quality of service.
    pub fn qos(&self) -> QoS {
        QoS::from_bits((self.packed & 3) as u8).unwrap_or(QoS::AtLeastOnce)
    }

    /// The RETAIN flag to be sent.
    pub fn retain(&self) -> bool {
        self.packed & RETAIN != 0
    }

    /// Whether a consumer may have seen it before.
    pub fn dup(&self) -> bool {
        self.packed & DUP != 0
    }

    /// The same, seen before.
    pub fn seen(self) -> Self {
        Self { packed: self.packed | DUP, ..self }
    }

    /// When it expires; [`Moment::NEVER`] for never.
    pub fn expires_at(&self) -> Moment {
        match self.expires_s {
            0 => Moment::NEVER,
            s => Moment::from_unix_ms(u64::from(s) * 1000),
        }
    }

    pub(super) fn trace(&self, source: u32) -> Trace {
        Trace { message: self.id, qos: self.qos(), source }
    }

    pub(super) fn is_expired(&self, now: Moment) -> bool {
        now >= self.expires_at()
    }
}

/// Entries of one block.
const BLOCK: usize = 512;

/// Messages that are asked of the store at a time: so few at first, and up to so many where the
/// receiver is faster than they come. A page comes between two commits, which are the further
/// apart the more the broker has to do.
const PAGE_MESSAGES: RangeInclusive<usize> = 256..=8192;

/// Weight of the messages of a page beyond which no more are asked for, in bytes for each message
/// that it may have.
const PAGE_BYTES_EACH: usize = 1 << 10;

/// The same for the longest page, in bytes.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Entries in order, in blocks: a long backlog is not moved when it grows and holds little that
/// it does not use.
#[derive(Debug)]
pub(super) struct Backlog {
    blocks: VecDeque<VecDeque<Stored>>,
    len: usize,
    /// Whether entries at the front have been asked of the store.
    asked: bool,
    /// How many are asked for at a time.
    page: usize,
}

impl Default for Backlog {
    fn default() -> Self {
        Self { blocks: VecDeque::new(), len: 0, asked: false, page: *PAGE_MESSAGES.start() }
    }
}

impl Backlog {
    /// Identities of the entries that are to come next, once; `None` while they are on their way
    /// or so many, or bytes, are at hand that it is not time yet.
    pub(super) fn ask(
        &mut self,
        (at_hand, bytes_at_hand): (usize, usize),
        is_short: bool,
    ) -> Option<Vec<u64>> {
        if is_short {
            self.expect_little();
        }
        let mut bytes = (self.page * PAGE_BYTES_EACH).min(PAGE_BYTES_MAX);
        let is_enough = at_hand > self.page / 2 || at_hand > 0 && bytes_at_hand > bytes / 2;
        if self.asked || is_enough {
            return None;
        }
        self.asked = true;
        let fits = |stored: &&Stored| {
            let fits = bytes > 0;
            bytes = bytes.saturating_sub(stored.weight());
            fits
        };
        Some(self.iter().take(self.page).take_while(fits).map(|stored| stored.id).collect())
    }

    /// Whether entries are on their way.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// What was asked for is here; `too_late`: nothing was at hand any more.
    pub(super) fn answered(&mut self, too_late: bool) {
        self.asked = false;
        if too_late {
            self.page = (self.page * 2).min(*PAGE_MESSAGES.end());
        }
    }

    /// The next pages are to be short.
    pub(super) fn expect_little(&mut self) {
        self.page = *PAGE_MESSAGES.start();
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn front(&self) -> Option<&Stored> {
        self.blocks.front()?.front()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.blocks.iter().flatten()
    }

    pub(super) fn push_back(&mut self, stored: Stored) {
        self.len += 1;
        match self.blocks.back_mut() {
            Some(block) if block.len() < BLOCK => block.push_back(stored),
            last => {
                // The first block grows with what there is; most queues never fill it.
                let capacity = if last.is_some() { BLOCK } else { 4 };
                let mut block = VecDeque::with_capacity(capacity);
                block.push_back(stored);
                self.blocks.push_back(block);
            }
        }
    }

    pub(super) fn push_front(&mut self, stored: Stored) {
        self.len += 1;
        match self.blocks.front_mut() {
            Some(block) if block.len() < BLOCK => block.push_front(stored),
            _ => self.blocks.push_front(VecDeque::from([stored])),
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<Stored> {
        let block = self.blocks.front_mut()?;
        let stored = block.pop_front()?;
        self.len -= 1;
        if block.is_empty() {
            self.blocks.pop_front();
        }
        Some(stored)
    }

    /// Takes out those that `wanted` chooses, in order.
    pub(super) fn extract(&mut self, wanted: impl Fn(&Stored) -> bool) -> Vec<Stored> {
        let mut extracted = Vec::new();
        for block in &mut self.blocks {
            block.retain(|stored| {
                let goes = wanted(stored);
                extracted.extend(goes.then_some(*stored));
                !goes
            });
        }
        self.blocks.retain(|block| !block.is_empty());
        self.len -= extracted.len();
        extracted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: u64) -> Stored {
        Stored::new(id, 1, 0, 1)
    }

    #[test]
    fn entries_leave_in_order_whatever_the_blocks() {
        let mut backlog = Backlog::default();
        let count = 3 * BLOCK as u64 + 7;
        for id in 10..count {
            backlog.push_back(stored(id));
        }
        for id in (0..10).rev() {
            backlog.push_front(stored(id));
        }
        assert_eq!(backlog.len() as u64, count);
        let odd = backlog.extract(|stored| stored.id % 2 == 1);
        assert!(odd.iter().map(|stored| stored.id).eq((0..count).filter(|id| id % 2 == 1)));
        let left: Vec<u64> =
            std::iter::from_fn(|| backlog.pop_front()).map(|stored| stored.id).collect();
        assert!(left.into_iter().eq((0..count).filter(|id| id % 2 == 0)));
        assert_eq!((backlog.len(), backlog.blocks.len()), (0, 0));
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Stored>(), 16);
        let large = Stored::new(1, (256 << 20) - 1, 0, 0x97).seen();
        let weight = (256 << 20) - WEIGHT_UNIT;
        assert_eq!((large.weight(), large.retain(), large.dup()), (weight, true, true));
        assert_eq!((large.priority(), large.of_priority(3).priority()), (9, 3));
        assert_eq!(large.of_priority(3).weight(), large.weight());
    }
}
