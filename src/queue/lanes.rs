//! A share group's queue: one, or one for each priority.
//!
//! The highest lane that holds something goes first, also when its messages must be read from the
//! store before: a lower one does not overtake it.

use super::declaration::PRIORITY_MAX;
use super::{Delivery, Dropped, Fetched, Limits, Overflow, Queue, Stored, Trace};
use crate::clock::Moment;
use crate::metrics::DropReason;

/// See the head of this file.
#[derive(Debug)]
pub struct Lanes {
    /// By priority; most groups have one.
    lanes: Vec<Queue>,
}

impl Lanes {
    /// The queue of a share group, whose deliveries have this mark.
    pub fn new(source: u32) -> Self {
        Self { lanes: vec![Queue::of_group(source)] }
    }

    /// Makes a lane for each priority.
    pub fn divide(&mut self) {
        let Some(first) = self.lanes.first() else { return };
        let (source, stored_from) = (first.source, first.stored_from);
        while self.lanes.len() <= usize::from(PRIORITY_MAX) {
            self.lanes.push(Queue { stored_from, ..Queue::of_group(source) });
        }
    }

    /// The store keeps messages of QoS 1 and 2, from this identity on.
    pub fn store_from(&mut self, first: u64) {
        for lane in &mut self.lanes {
            lane.store_from(first);
        }
    }

    /// As [`Queue::push`], in the lane of this priority. What is dropped as the oldest is of the
    /// lowest priority, and never of a higher one than what arrives.
    pub fn push(
        &mut self,
        delivery: Delivery,
        priority: u8,
        limits: &Limits,
        now: Moment,
        dropped: &mut Dropped,
    ) {
        if let [only] = &mut self.lanes[..] {
            only.push(delivery, limits, now, dropped);
            return;
        }
        let weight = delivery.weight();
        let own = usize::from(priority).min(self.lanes.len().saturating_sub(1));
        if !self.has_room(weight, limits) {
            for lane in &mut self.lanes {
                lane.drop_expired(now, dropped);
            }
        }
        while !self.has_room(weight, limits) {
            let lowest = self.lanes.iter_mut().take(own + 1).find(|lane| !lane.is_empty());
            let oldest = match limits.overflow {
                Overflow::DropNewest | Overflow::Reject => None,
                Overflow::DropOldest => lowest.and_then(Queue::drop_oldest),
            };
            let Some(oldest) = oldest else {
                dropped.push((delivery.trace(), DropReason::QueueFull));
                return;
            };
            dropped.push((oldest, DropReason::QueueFull));
        }
        if let Some(lane) = self.lanes.get_mut(own) {
            lane.add(delivery, limits, dropped);
        }
    }

    /// Whether one more message of this weight is within the bounds.
    pub fn has_room(&self, weight: usize, limits: &Limits) -> bool {
        self.len() < limits.messages_max && self.bytes().saturating_add(weight) <= limits.bytes_max
    }

    /// Takes the next delivery.
    pub fn take(&mut self) -> Option<Delivery> {
        for lane in self.lanes.iter_mut().rev() {
            if let Some(delivery) = lane.take(true) {
                return Some(delivery);
            }
            if lane.waits_for_store() {
                return None;
            }
        }
        None
    }

    /// Whether [`Lanes::take`] would find something.
    pub fn has_ready(&self) -> bool {
        for lane in self.lanes.iter().rev() {
            if lane.has_ready(true) {
                return true;
            }
            if lane.waits_for_store() {
                return false;
            }
        }
        false
    }

    /// The identity of what [`Lanes::take`] would find, or would if it were at hand.
    pub fn next_id(&self) -> Option<u64> {
        self.lanes.iter().rev().find_map(|lane| {
            let stored = || lane.backlog.as_ref()?.front().map(|stored| stored.id);
            lane.next_id().or_else(stored)
        })
    }

    /// As [`Queue::wanted`], with the lanes that want it.
    pub fn wanted(&mut self, is_short: bool) -> impl Iterator<Item = (usize, Vec<u64>)> {
        let wanted = move |(at, lane): (usize, &mut Queue)| Some((at, lane.wanted(is_short)?));
        self.lanes.iter_mut().enumerate().rev().filter_map(wanted)
    }

    /// As [`Queue::page`], for the lane that wanted it.
    pub fn page(&mut self, lane: usize, page: Vec<Fetched>, dropped: &mut Dropped) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.page(page, dropped);
        }
    }

    /// Deliveries that came back go to the front of their lanes, in the order given.
    pub fn give_back(&mut self, deliveries: impl DoubleEndedIterator<Item = (u8, Delivery)>) {
        for (priority, delivery) in deliveries.rev() {
            let own = usize::from(priority).min(self.lanes.len().saturating_sub(1));
            if let Some(lane) = self.lanes.get_mut(own) {
                lane.give_back(std::iter::once(delivery));
            }
        }
    }

    /// Puts back what the store remembers at a start, whatever the bounds say.
    pub fn restore(&mut self, entries: impl Iterator<Item = Stored>) {
        for stored in entries {
            let own = usize::from(stored.priority()).min(self.lanes.len().saturating_sub(1));
            if let Some(lane) = self.lanes.get_mut(own) {
                lane.restore(std::iter::once(stored));
            }
        }
    }

    /// Takes out a message of QoS 1 or 2 that is in the queue and of this priority and weight.
    pub fn withdraw(&mut self, id: u64, priority: u8, weight: usize) {
        let own = usize::from(priority).min(self.lanes.len().saturating_sub(1));
        if let Some(lane) = self.lanes.get_mut(own) {
            lane.withdraw(id, weight);
        }
    }

    /// Takes what has expired out of a queue in which everything waits equally long: only its
    /// front is looked at.
    pub fn drop_overdue(&mut self, now: Moment, dropped: &mut Dropped) {
        for lane in &mut self.lanes {
            while let Some(trace) = lane.take_overdue(now) {
                dropped.push((trace, DropReason::Expired));
            }
        }
    }

    /// As [`Queue::clear_qos0`].
    pub fn clear_qos0(&mut self) -> usize {
        self.lanes.iter_mut().map(Queue::clear_qos0).sum()
    }

    /// As [`Queue::leave_to_store`].
    pub fn leave_to_store(&mut self) {
        for lane in &mut self.lanes {
            lane.leave_to_store();
        }
    }

    /// As [`Queue::clear`].
    pub fn clear(&mut self) -> Vec<Trace> {
        self.lanes.iter_mut().flat_map(Queue::clear).collect()
    }

    /// Messages that are ready.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(Queue::len).sum()
    }

    /// Whether nothing is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Weight of the messages that are ready, in bytes.
    pub fn bytes(&self) -> usize {
        self.lanes.iter().map(Queue::bytes).sum()
    }

    /// Weight of those of them that are in memory, in bytes.
    pub fn at_hand(&self) -> usize {
        self.lanes.iter().map(Queue::at_hand).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;
    use crate::codec::QoS;

    fn lanes() -> Lanes {
        let mut lanes = Lanes::new(1);
        lanes.divide();
        lanes
    }

    fn push(lanes: &mut Lanes, id: u64, priority: u8, limits: &Limits) -> Vec<u64> {
        let mut dropped = Dropped::new();
        let delivery = Delivery { source: 1, ..Delivery::new(message(id, QoS::AtLeastOnce, "a")) };
        lanes.push(delivery, priority, limits, Moment::from_unix_ms(1), &mut dropped);
        dropped.into_iter().map(|(trace, _)| trace.message).collect()
    }

    fn drain(lanes: &mut Lanes) -> Vec<u64> {
        std::iter::from_fn(|| lanes.take()).map(|delivery| delivery.message.id()).collect()
    }

    #[test]
    fn the_highest_priority_goes_first_and_each_keeps_its_order() {
        let mut lanes = lanes();
        for (id, priority) in [(1, 0), (2, 9), (3, 4), (4, 9), (5, 200)] {
            push(&mut lanes, id, priority, &Limits::NONE);
        }
        assert_eq!(lanes.len(), 5);
        assert_eq!(drain(&mut lanes), [2, 4, 5, 3, 1]);
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_full_queue_drops_the_oldest_of_the_lowest_and_nothing_above_what_arrives() {
        let mut lanes = lanes();
        let limits =
            Limits { messages_max: 2, overflow: Overflow::DropOldest, ..Limits::default() };
        push(&mut lanes, 1, 5, &limits);
        push(&mut lanes, 2, 3, &limits);
        assert_eq!(push(&mut lanes, 3, 4, &limits), [2]);
        assert_eq!(push(&mut lanes, 4, 2, &limits), [4]);
        assert_eq!(drain(&mut lanes), [1, 3]);
    }

    #[test]
    fn what_is_withdrawn_is_not_there_any_more_wherever_it_stood() {
        let mut lanes = lanes();
        for id in 1..=300 {
            push(&mut lanes, id, 1, &Limits::NONE);
        }
        let weight = lanes.bytes() / 300;
        for id in (1..=300).filter(|id| id % 3 != 0) {
            lanes.withdraw(id, 1, weight);
        }
        assert_eq!((lanes.len(), lanes.bytes()), (100, 100 * weight));
        assert!(drain(&mut lanes).into_iter().eq((1..=100).map(|n| n * 3)));
        assert_eq!((lanes.len(), lanes.bytes(), lanes.at_hand()), (0, 0, 0));
    }
}
