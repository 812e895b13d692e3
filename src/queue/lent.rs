//! What a declared queue has handed out: how often each message was, who holds it, and until when.
//!
//! A message is known here from the first time it is handed out until it is done with. It has one
//! holder at most; when its lease runs out it has none, and what the former holder still has of it
//! is void, except that its acknowledgement counts: the first one does.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Delivery;
use crate::clock::Moment;

/// A holder that is no consumer of now: it took the message before a restart.
const SOMEBODY: u64 = u64::MAX;

/// So many leases are kept whatever has become of their messages.
const LEASES_LEAST: usize = 1024;

#[derive(Debug)]
struct Entry {
    attempts: u8,
    /// 0: nobody, it is in the queue.
    holder: u64,
    /// The priority and weight that it has in the queue.
    place: (u8, usize),
    /// What goes back to the queue when the lease runs out.
    delivery: Option<Delivery>,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Lent {
    entries: FxHashMap<u64, Entry>,
    /// Leases in the order in which they run out, with the attempt that each is for.
    leases: VecDeque<(Moment, u64, u8)>,
    /// In the queue, and nobody may have them any more.
    orphans: FxHashSet<u64>,
}

impl Lent {
    /// How often a message was handed out.
    pub fn attempts(&self, id: u64) -> u8 {
        self.entries.get(&id).map_or(0, |entry| entry.attempts)
    }

    /// Hands a message of this priority out once more: the delivery says how often it was.
    pub fn lend(
        &mut self,
        delivery: &mut Delivery,
        priority: u8,
        holder: u64,
        lease: Option<Moment>,
    ) {
        let id = delivery.message.id();
        let attempts = self.attempts(id).saturating_add(1);
        delivery.attempts = attempts;
        let kept = lease.map(|until| {
            self.forget_old_leases();
            self.leases.push_back((until, id, attempts));
            delivery.clone()
        });
        let place = (priority, delivery.weight());
        self.entries.insert(id, Entry { attempts, holder, place, delivery: kept });
    }

    /// Leases of messages that are done with take no more room than those of others.
    fn forget_old_leases(&mut self) {
        if self.leases.len() > LEASES_LEAST && self.leases.len() > 2 * self.entries.len() {
            let entries = &self.entries;
            self.leases.retain(|(_, id, attempts)| {
                entries.get(id).is_some_and(|entry| entry.attempts == *attempts)
            });
        }
    }

    /// A consumer brings a delivery back; false: it was void. How often it was handed out is what
    /// the delivery says: one that never left its consumer's queue was not.
    pub fn give_back(&mut self, delivery: &Delivery, holder: u64) -> bool {
        let id = delivery.message.id();
        let is_holder = |entry: &&mut Entry| [holder, SOMEBODY].contains(&entry.holder);
        let Some(entry) = self.entries.get_mut(&id).filter(is_holder) else { return false };
        if delivery.attempts == 0 {
            self.entries.remove(&id);
        } else {
            (entry.attempts, entry.holder, entry.delivery) = (delivery.attempts, 0, None);
        }
        true
    }

    /// A message is in the queue whose holder's Session ended while it had it with QoS 2: nobody
    /// else may have it [MQTT-4.8.2-5].
    pub fn orphan(&mut self, id: u64) {
        self.orphans.insert(id);
    }

    /// Whether nobody may have a message any more.
    pub fn is_orphan(&self, id: u64) -> bool {
        !self.orphans.is_empty() && self.orphans.contains(&id)
    }

    /// Whether there are messages that nobody may have any more.
    pub fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// A message is done with. When it is in the queue, its priority and weight there: it must be
    /// taken out.
    pub fn settle(&mut self, id: u64) -> Option<(u8, usize)> {
        self.orphans.remove(&id);
        let entry = self.entries.remove(&id)?;
        (entry.holder == 0).then_some(entry.place)
    }

    /// Whether somebody holds a message.
    pub fn is_held(&self, id: u64) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.holder != 0)
    }

    /// What goes back to the queue because its lease has run out, in order.
    pub fn overdue(&mut self, now: Moment) -> Vec<Delivery> {
        let mut back = Vec::new();
        while let Some(&(until, id, attempts)) = self.leases.front()
            && until <= now
        {
            self.leases.pop_front();
            let entry = self.entries.get_mut(&id).filter(|entry| entry.attempts == attempts);
            if let Some(entry) = entry
                && let Some(delivery) = entry.delivery.take()
            {
                entry.holder = 0;
                back.push(delivery);
            }
        }
        back
    }

    /// What is known of a message at a start; `waits`: it is in the queue, of this priority and
    /// weight, and in nobody's hands.
    pub fn restore(&mut self, id: u64, attempts: u8, waits: Option<(u8, usize)>) {
        let holder = if waits.is_some() { 0 } else { SOMEBODY };
        let place = waits.unwrap_or_default();
        self.entries.insert(id, Entry { attempts, holder, place, delivery: None });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;
    use crate::codec::QoS;

    fn at(ms: u64) -> Moment {
        Moment::from_unix_ms(ms)
    }

    fn delivery(id: u64) -> Delivery {
        Delivery::new(message(id, QoS::AtLeastOnce, "a"))
    }

    #[test]
    fn every_hand_out_counts_but_those_that_never_left() {
        let mut lent = Lent::default();
        let mut first = delivery(1);
        lent.lend(&mut first, 0, 7, None);
        assert_eq!(first.attempts, 1);
        assert!(lent.give_back(&first, 7));
        lent.lend(&mut first, 0, 8, None);
        assert_eq!((first.attempts, lent.is_held(1)), (2, true));
        let unsent = Delivery { attempts: 1, ..first.clone() };
        assert!(lent.give_back(&unsent, 8));
        assert_eq!(lent.attempts(1), 1);
        let mut second = delivery(2);
        lent.lend(&mut second, 0, 8, None);
        assert!(lent.give_back(&Delivery { attempts: 0, ..second }, 8));
        assert_eq!(lent.attempts(2), 0);
    }

    #[test]
    fn a_lease_that_runs_out_voids_what_its_holder_has() {
        let mut lent = Lent::default();
        let (mut one, mut two) = (delivery(1), delivery(2));
        lent.lend(&mut one, 3, 7, Some(at(10)));
        lent.lend(&mut two, 3, 7, Some(at(20)));
        assert_eq!(lent.settle(2), None);
        let overdue = lent.overdue(at(30));
        assert_eq!(overdue.iter().map(|d| d.message.id()).collect::<Vec<_>>(), [1]);
        assert!(!lent.give_back(&one, 7), "it is void");
        let mut again = overdue.into_iter().next().unwrap();
        lent.lend(&mut again, 3, 8, Some(at(40)));
        assert_eq!(again.attempts, 2);
        assert!(lent.overdue(at(39)).is_empty());
        assert_eq!(lent.settle(1), None, "the first acknowledgement counts");
        assert!(lent.overdue(at(50)).is_empty());
    }

    #[test]
    fn a_late_acknowledgement_takes_the_message_out_of_the_queue() {
        let mut lent = Lent::default();
        let mut one = delivery(1);
        lent.lend(&mut one, 3, 7, Some(at(10)));
        assert_eq!(lent.overdue(at(10)).len(), 1);
        assert_eq!(lent.settle(1), Some((3, one.weight())));
        assert_eq!(lent.settle(1), None);
    }
}
