//! What a declared queue does that a plain share group does not: it counts, lends for a time, keeps
//! only last values, has priorities and a time to live, and may have no room.

use super::fate::Fate;
use crate::clock::Moment;
use crate::codec::{Properties, QoS};
use crate::message::Message;
use crate::metrics::DropReason;
use crate::queue::declaration::{Declaration, PRIORITY_MAX};
use crate::queue::lanes::Lanes;
use crate::queue::last_value::{LastValues, Superseded};
use crate::queue::lent::Lent;
use crate::queue::{Delivery, Dropped, Limits, Overflow, Trace, seconds};
use crate::store;

/// A priority as a User Property says it; what is no number is 0.
fn priority(text: &str) -> u8 {
    text.trim().parse::<u64>().map_or(0, |n| u8::try_from(n).unwrap_or(u8::MAX).min(PRIORITY_MAX))
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Rules {
    declaration: Declaration,
    /// Whether anything comes in.
    is_open: bool,
    lent: Lent,
    last_values: Option<Box<LastValues>>,
    /// Messages that were let in and have not come yet, and their weight.
    reserved: (usize, usize),
}

impl Rules {
    pub(super) fn new(declaration: Declaration) -> Self {
        let last_values =
            declaration.last_value.clone().map(|rule| Box::new(LastValues::new(rule)));
        let is_open = !declaration.filter.is_empty();
        let (lent, reserved) = (Lent::default(), (0, 0));
        Self { declaration, is_open, lent, last_values, reserved }
    }

    pub(super) fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// A message's priority; 0 where there are none.
    pub(super) fn priority(&self, message: &Message) -> u8 {
        let Some(name) = &self.declaration.priority else { return 0 };
        message.user_property(name).map_or(0, priority)
    }

    /// The priority of a message with these properties.
    fn priority_in(&self, properties: &Properties<'_>) -> u8 {
        let Some(name) = &self.declaration.priority else { return 0 };
        let mut pairs = properties.user_properties();
        pairs.find(|(held, _)| **held == **name).map_or(0, |(_, text)| priority(text))
    }

    /// What is stored of a message with these properties that comes now, beside its QoS: its
    /// priority, as bits of the flags, and when it expires.
    pub(super) fn stored_as(&self, properties: &Properties<'_>, now: Moment) -> (u8, u32) {
        (self.priority_in(properties) << 4, self.expires_s(now))
    }

    /// When a message that comes now expires in the queue, in seconds; 0: when it does itself.
    pub(super) fn expires_s(&self, now: Moment) -> u32 {
        self.declaration.message_ttl_s.map_or(0, |ttl| seconds(now.after_s(ttl.into())))
    }

    /// A delivery has come: gives it its time to live, takes the value out that it is the last of,
    /// and says its priority.
    pub(super) fn arrives(
        &mut self,
        delivery: &mut Delivery,
        queue: &mut Lanes,
        now: Moment,
        overflow: &mut Dropped,
    ) -> u8 {
        if !self.declaration.is_declared() {
            return 0;
        }
        delivery.expires_s = self.expires_s(now);
        let priority = self.priority(&delivery.message);
        if let Some(Superseded { id, priority, weight }) = self.supersedes(delivery, priority)
            && !self.lent.is_held(id)
        {
            queue.withdraw(id, priority, weight);
            self.lent.settle(id);
            let trace = Trace { message: id, qos: QoS::AtLeastOnce, source: delivery.source };
            overflow.push((trace, DropReason::Superseded));
        }
        priority
    }

    /// Takes over another declaration; returns what cannot change now, in words.
    pub(super) fn change(&mut self, mut declaration: Declaration) -> Vec<String> {
        let former = &self.declaration;
        let mut later = Vec::new();
        if former.filter == declaration.filter {
            self.is_open = true;
        } else {
            // What waits would have to be looked at, and consumers know the queue by it.
            declaration.filter.clone_from(&former.filter);
            later.push("`filter` changes with a restart".into());
        }
        if former.last_value != declaration.last_value {
            declaration.last_value.clone_from(&former.last_value);
            later.push("`last_value` changes with a restart".into());
        }
        if former.priority != declaration.priority {
            declaration.priority.clone_from(&former.priority);
            later.push("`priority` changes with a restart".into());
        }
        self.declaration = declaration;
        later
    }

    /// Whether anything comes in.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Lets nothing more in; false: nothing came in before.
    pub(super) fn close(&mut self) -> bool {
        std::mem::replace(&mut self.is_open, false)
    }

    /// Whether only the last value of each key is kept.
    pub(super) fn keeps_last_values(&self) -> bool {
        self.last_values.is_some()
    }

    fn supersedes(&mut self, delivery: &Delivery, priority: u8) -> Option<Superseded> {
        let values = self.last_values.as_mut().filter(|_| delivery.qos != QoS::AtMostOnce)?;
        values.enter(&delivery.message, priority, delivery.weight())
    }

    /// Whether a message that was handed out and comes back has a later value now.
    pub(super) fn is_superseded(&self, delivery: &Delivery) -> bool {
        let values = self.last_values.as_ref().filter(|_| delivery.message.id() != 0);
        values.is_some_and(|values| !values.is_latest(&delivery.message))
    }

    /// Lets a message in, for which room is kept until it comes; false: the queue is full and
    /// rejects.
    pub(super) fn reserve(
        &mut self,
        weight: usize,
        queue: &mut Lanes,
        of_all: &Limits,
        now: Moment,
        dropped: &mut Dropped,
    ) -> bool {
        if self.declaration.overflow != Overflow::Reject {
            return true;
        }
        let limits = self.declaration.limits(of_all);
        let (messages, bytes) = self.reserved;
        let limits = Limits {
            messages_max: limits.messages_max.saturating_sub(messages),
            bytes_max: limits.bytes_max.saturating_sub(bytes),
            ..limits
        };
        if !queue.has_room(weight, &limits) {
            let before = dropped.len();
            queue.drop_overdue(now, dropped);
            self.forget(dropped.get(before..).unwrap_or_default());
            if !queue.has_room(weight, &limits) {
                return false;
            }
        }
        self.reserved = (messages + 1, bytes.saturating_add(weight));
        true
    }

    /// Room that was kept for a message is not needed any more. What each weighs nobody has noted.
    pub(super) fn unreserve(&mut self) {
        let (messages, bytes) = self.reserved;
        let share = bytes.checked_div(messages).unwrap_or(bytes);
        self.reserved = (messages.saturating_sub(1), bytes - share);
    }

    /// Whether room was kept for a delivery, which has come.
    pub(super) fn use_reserved(&mut self, delivery: &Delivery) -> bool {
        let is_reserved = delivery.qos != QoS::AtMostOnce && self.reserved.0 > 0;
        if is_reserved {
            self.unreserve();
        }
        is_reserved
    }

    /// Whether deliveries are counted: those with an identity, of a declared queue.
    fn counts(&self, id: u64) -> bool {
        self.declaration.is_declared() && id != 0
    }

    /// How often a message was handed out.
    pub(super) fn attempts(&self, id: u64) -> u8 {
        self.lent.attempts(id)
    }

    /// Why a message that waits can be handed out to nobody; `None`: it can.
    pub(super) fn fate(&self, id: u64) -> Option<Fate> {
        if self.lent.is_orphan(id) {
            return Some(Fate::SessionEnded);
        }
        let max = self.declaration.deliveries_max.filter(|_| self.counts(id))?;
        (self.lent.attempts(id) >= max).then_some(Fate::Spent)
    }

    /// Whether there may be messages that can be handed out to nobody.
    pub(super) fn has_fates(&self) -> bool {
        self.declaration.deliveries_max.is_some() || self.lent.has_orphans()
    }

    /// Hands a message to a member, with this QoS.
    pub(super) fn lend(&mut self, delivery: &mut Delivery, member: u64, qos: QoS, now: Moment) {
        if !self.counts(delivery.message.id()) {
            return;
        }
        let priority = self.priority(&delivery.message);
        // QoS 2 that is on its way stays with its Client [MQTT-4.8.2-4].
        let lease = self.declaration.lease_ms.filter(|_| qos == QoS::AtLeastOnce);
        let until = lease.map(|ms| now.after_ms(ms));
        self.lent.lend(delivery, priority, member, until);
        delivery.dup = delivery.attempts > 1;
    }

    /// A member brings a delivery back; false: it is void.
    pub(super) fn comes_back(&mut self, delivery: &Delivery, member: u64) -> bool {
        !self.counts(delivery.message.id()) || self.lent.give_back(delivery, member)
    }

    /// What comes back because its lease has run out.
    pub(super) fn overdue(&mut self, now: Moment) -> Vec<Delivery> {
        self.lent.overdue(now)
    }

    /// A message is done with; its priority and weight in the queue if it must be taken out there.
    pub(super) fn settle(&mut self, id: u64) -> Option<(u8, usize)> {
        if let Some(values) = &mut self.last_values {
            values.forget(id);
        }
        self.lent.settle(id)
    }

    /// The queue has dropped these.
    pub(super) fn forget(&mut self, dropped: &[(Trace, DropReason)]) {
        if self.declaration.is_declared() || self.lent.has_orphans() {
            for (trace, _) in dropped {
                self.settle(trace.message);
            }
        }
    }

    /// What the store remembers of a message at a start; `waits`: it is in the queue, of this
    /// priority and weight.
    pub(super) fn restore(&mut self, id: u64, lent: store::Lent, waits: Option<(u8, usize)>) {
        if lent.is_bound {
            self.lent.orphan(id);
        }
        if self.counts(id) && lent.attempts > 0 {
            self.lent.restore(id, lent.attempts, waits);
        }
    }

    /// A message that was found at a start, in the order in which it came: what it supersedes.
    pub(super) fn found(
        &mut self,
        message: &Message,
        priority: u8,
        weight: usize,
    ) -> Option<Superseded> {
        self.last_values.as_mut()?.enter(message, priority, weight)
    }
}
