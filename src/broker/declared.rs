//! Declared queues: share groups that an operator names. They are there before the first consumer
//! and after the last, everything that matches their filter waits in the store, and what they
//! cannot keep goes to a dead-letter topic.
//!
//! On record a queue is its name and filter. What else was declared may change with every start;
//! the messages stay as far as the filter still matches them.

use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxHashMap;

use super::Broker;
use super::fate::Fate;
use super::groups::everything;
use super::receiver::Receiver;
use super::share::{Inner, ShareGroup};
use super::turn::Turn;
use crate::clock::Moment;
use crate::codec::property::PropertyBuffer;
use crate::codec::publish::DELIVERY_COUNT;
use crate::codec::{PacketId, Properties, QoS};
use crate::message::{Message, Parts};
use crate::metrics::DropReason;
use crate::queue::declaration::{Declaration, OnReject};
use crate::queue::{Delivery, Dropped, Limits, Stored, Trace};
use crate::store::{Change, Lent, Look, RecoveredSession, SessionId};
use crate::topic::{QUEUE_PREFIX, TopicFilter, TopicName};

/// Marks a declared queue among the records of the store.
const RECORD: u8 = 4;

/// The User Properties of a dead letter, beside [`DELIVERY_COUNT`].
const REASON: &str = "whimbrel-dead-letter-reason";
const SOURCE_QUEUE: &str = "whimbrel-source-queue";
const ORIGINAL_TOPIC: &str = "whimbrel-original-topic";

/// A queue as the store knows it.
pub(super) struct Record<'r> {
    name: &'r str,
    filter: &'r str,
}

impl<'r> Record<'r> {
    /// `None` when the bytes are no record of a queue.
    pub(super) fn decode(record: &'r [u8]) -> Option<Self> {
        let (&RECORD, rest) = record.split_first()? else { return None };
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (name, filter) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        Some(Self {
            name: std::str::from_utf8(name).ok()?,
            filter: std::str::from_utf8(filter).ok()?,
        })
    }

    fn encode(&self) -> Box<[u8]> {
        let len = u16::try_from(self.name.len()).unwrap_or(u16::MAX).to_le_bytes();
        let parts: [&[u8]; 4] = [&[RECORD], &len, self.name.as_bytes(), self.filter.as_bytes()];
        parts.concat().into_boxed_slice()
    }
}

/// How a queue stands.
#[derive(Clone, Debug)]
pub struct QueueState {
    /// What was declared.
    pub declaration: Declaration,
    /// Messages that wait.
    pub messages: usize,
    /// Their weight in bytes.
    pub bytes: usize,
}

impl Broker {
    /// The declared queue that a Topic Filter names, as `$queue/{name}` or
    /// `$share/{name}/{filter}`.
    pub(super) fn declared(&self, filter: TopicFilter<'_>) -> Option<Arc<ShareGroup>> {
        let name = filter.queue_name().or(filter.share_name().map(|name| name.as_str()))?;
        let queue = self.groups.by_name.get(name)?.clone();
        let is_it = filter.queue_name().is_some() || queue.takes(filter.filter());
        is_it.then_some(queue)
    }

    /// The declared queues, by name.
    pub fn queues(&self) -> Vec<QueueState> {
        let mut queues: Vec<_> = self.groups.by_name.iter().map(|queue| queue.state()).collect();
        queues.sort_by(|one, other| one.declaration.name.cmp(&other.declaration.name));
        queues
    }

    /// Makes the declared queues, with what the store remembers of them.
    pub(super) fn restore_queues(
        &self,
        recovered: Vec<RecoveredSession>,
        file: &Look,
        turn: &mut Turn,
    ) {
        let mut left: HashMap<Box<str>, RecoveredSession> = HashMap::new();
        for queue in recovered {
            if let Some(Record { name, .. }) = Record::decode(&queue.record) {
                left.insert(name.into(), queue);
            }
        }
        let mut restored = Vec::new();
        for declaration in &self.options.queues {
            let strategy = declaration.strategy.or(Some(self.options.share_strategy));
            let declaration = Declaration { strategy, ..declaration.clone() };
            match left.remove(&declaration.name) {
                Some(found) => {
                    let queue = self.new_queue(declaration, Some(&found), turn);
                    restored.push((queue, found));
                }
                None => drop(self.new_queue(declaration, None, turn)),
            }
        }
        for (name, found) in left {
            self.restore_undeclared(&name, found, &mut restored, turn);
        }
        self.fill(restored, file, turn);
    }

    /// A queue that is no longer declared can still be emptied.
    fn restore_undeclared(
        &self,
        name: &str,
        found: RecoveredSession,
        restored: &mut Vec<(Arc<ShareGroup>, RecoveredSession)>,
        turn: &mut Turn,
    ) {
        if found.queue.is_empty() && found.lent.is_empty() {
            tracing::info!(queue = ?name, "the queue is not declared any more and empty: it ends");
            turn.change(Change::SessionEnded { session: found.id });
            return;
        }
        tracing::warn!(
            queue = ?name, messages = found.queue.len(),
            "the queue is not declared any more: nothing new goes into it, and what waits can be \
             taken from $queue/NAME"
        );
        let declaration = Declaration { name: name.into(), ..Declaration::default() };
        restored.push((self.new_queue(declaration, Some(&found), turn), found));
    }

    pub(super) fn new_queue(
        &self,
        declaration: Declaration,
        known: Option<&RecoveredSession>,
        turn: &mut Turn,
    ) -> Arc<ShareGroup> {
        let filter = [QUEUE_PREFIX, &declaration.name].concat();
        let queue = self.new_group(&filter, declaration.clone());
        let session = known.map_or_else(|| self.store.next_session_id(), |found| found.id);
        queue.make_durable(|| session);
        if self.store.keeps_messages() {
            queue.store_from(1);
        }
        let record = Record { name: &declaration.name, filter: &declaration.filter }.encode();
        let is_on_record = known.is_some_and(|found| found.record == record);
        if !is_on_record && !declaration.filter.is_empty() {
            turn.change(Change::SessionPut { session, record });
        }
        self.groups.by_name.insert(declaration.name.clone(), queue.clone());
        if let Ok(filter) = TopicFilter::new(&declaration.filter) {
            self.router.subscribe(filter.filter(), Receiver::Group(queue.clone()), everything());
        }
        queue
    }

    /// Puts messages into their queues. Where a queue has another filter than before, or must know
    /// more of them than where they are, they are looked at.
    fn fill(
        &self,
        restored: Vec<(Arc<ShareGroup>, RecoveredSession)>,
        file: &Look,
        turn: &mut Turn,
    ) {
        let is_seen = |queue: &ShareGroup, found: &RecoveredSession| {
            let before = Record::decode(&found.record).map(|record| record.filter);
            let is_open = !queue.takes("");
            is_open
                && (queue.keeps_last_values() || before.is_none_or(|before| !queue.takes(before)))
        };
        let seen = restored.iter().filter(|(queue, found)| is_seen(queue, found));
        let seen = seen.map(|(_, found)| found.id).collect();
        let mut messages: FxHashMap<(SessionId, u64), Message> = FxHashMap::default();
        let looked = file.for_each_message(&seen, |queue, message| {
            // Only what a queue may still need: the topic and the User Properties.
            messages.insert((queue, message.id()), message.without_payload());
        });
        if let Err(error) = looked {
            tracing::error!("messages of declared queues cannot be read: {error}");
        }
        for (queue, found) in restored {
            let of_queue = |stored: &Stored| messages.get(&(found.id, stored.id));
            let mut dropped = Dropped::new();
            queue.fill(&found.queue, &found.lent, of_queue, &mut dropped);
            for (trace, reason) in dropped {
                self.dropped(trace, reason, None, turn);
            }
        }
    }

    /// A consumer has refused a delivery [MQTT-4.8.2-6]. `own` is the stored identity of its
    /// Session, `exchange` what the store knows of the delivery's Packet Identifier.
    pub fn refused(
        &self,
        delivery: Delivery,
        member: u64,
        own: Option<SessionId>,
        exchange: Option<(SessionId, PacketId)>,
        turn: &mut Turn,
    ) {
        let queue = self.groups.by_source(delivery.source).filter(|queue| queue.is_declared());
        let on_reject = queue.as_ref().map_or(OnReject::Drop, |queue| queue.on_reject());
        if let (OnReject::Requeue, Some(queue)) = (on_reject, queue) {
            // Before another may have it.
            let void = match exchange {
                Some((session, packet_id)) => {
                    Some(Change::Unbound { session, packet_id: packet_id.get() })
                }
                None if own.is_none() && delivery.qos == QoS::ExactlyOnce => {
                    self.not_bound(&delivery)
                }
                None => None,
            };
            if let Some(void) = void {
                self.store.submit(&mut vec![void], None);
            }
            queue.take_back(member, delivery, self.now(), turn.remainder());
            return;
        }
        let trace = delivery.trace();
        if on_reject == OnReject::DeadLetter {
            self.cannot_keep(delivery, Fate::Refused, turn);
        } else {
            self.metrics.drops.add(DropReason::Refused, 1);
        }
        if let Some((session, packet_id)) = exchange {
            turn.change(Change::Completed { session, packet_id: packet_id.get() });
        }
        self.done(trace, own, turn);
        self.room(trace, member, turn);
    }

    /// A member may not receive a delivery that it was given, since the rules have changed: it goes
    /// back to its share group. False when it is not of one.
    pub fn pass_on(&self, delivery: &Delivery, member: u64, turn: &mut Turn) -> bool {
        let group = self.groups.by_source(delivery.source).filter(|_| delivery.source != 0);
        let Some(group) = group else { return false };
        group.take_back(member, delivery.clone(), self.now(), turn.remainder());
        true
    }

    /// Sends a message that a declared queue cannot keep to its dead-letter topic, or drops it. It
    /// is done with by the caller.
    pub(super) fn cannot_keep(&self, delivery: Delivery, fate: Fate, turn: &mut Turn) {
        let queue = self.groups.by_source(delivery.source).filter(|queue| queue.is_declared());
        let letter = queue.and_then(|queue| queue.dead_letter(&delivery, fate));
        let Some((topic, properties)) = letter else {
            self.metrics.drops.add(fate.drop_reason(), 1);
            return;
        };
        self.metrics.dead_letters.increment();
        let message = &delivery.message;
        let id = if message.qos() == QoS::AtMostOnce { 0 } else { self.store.next_message_id() };
        let parts = Parts {
            topic: &topic,
            qos: message.qos(),
            retain: false,
            expires_at: Moment::NEVER,
            properties: properties.as_properties(),
            payload: message.payload(),
        };
        let routes = self.router.routes(&topic, None);
        if routes.is_empty() {
            tracing::warn!(topic = ?topic, "a dead letter that nobody subscribes to is dropped");
        }
        self.publish_own(Message::new(id, &parts), &routes, turn);
    }

    /// Takes back what was lent for too long and forgets what has waited too long, about once a
    /// second.
    pub(super) fn expire_in_queues(&self, now: Moment, turn: &mut Turn) {
        for queue in self.groups.by_name.iter() {
            queue.expire(now, turn.remainder());
        }
    }
}

impl ShareGroup {
    /// Whether this is the filter of what goes into it.
    fn takes(&self, filter: &str) -> bool {
        *self.inner.lock().rules.declaration().filter == *filter
    }

    fn keeps_last_values(&self) -> bool {
        self.inner.lock().rules.keeps_last_values()
    }

    fn on_reject(&self) -> OnReject {
        self.inner.lock().rules.declaration().on_reject()
    }

    pub(super) fn state(&self) -> QueueState {
        let inner = self.inner.lock();
        QueueState {
            declaration: inner.rules.declaration().clone(),
            messages: inner.queue.len(),
            bytes: inner.queue.bytes(),
        }
    }

    /// The topic and the properties of a dead letter; `None` where there are none.
    fn dead_letter(&self, delivery: &Delivery, fate: Fate) -> Option<(Box<str>, PropertyBuffer)> {
        let inner = self.inner.lock();
        let declaration = inner.rules.declaration();
        let topic = declaration.dead_letter.clone()?;
        let mut properties = PropertyBuffer::new();
        properties.raw(delivery.message.properties());
        properties.pair(REASON, fate.as_str());
        properties.pair(SOURCE_QUEUE, &declaration.name);
        properties.pair(ORIGINAL_TOPIC, delivery.message.topic_str());
        properties.pair(DELIVERY_COUNT, &delivery.attempts.to_string());
        Some((topic, properties))
    }

    /// How often a message was handed out.
    pub(super) fn attempts(&self, id: u64) -> u8 {
        self.inner.lock().rules.attempts(id)
    }

    /// Lets in a message that is to come with these properties and about this weight: its priority,
    /// as bits of the flags of a [`crate::store::Target`], and when it expires; `None`: there is no
    /// room, and the queue rejects. `of_all`: the bounds of every queue, asked for if need be.
    pub(super) fn let_in(
        &self,
        properties: &Properties<'_>,
        weight: usize,
        of_all: impl FnOnce() -> Limits,
        now: Moment,
        dropped: &mut Dropped,
    ) -> Option<(u8, u32)> {
        if !self.is_declared() {
            return Some((0, 0));
        }
        let mut inner = self.inner.lock();
        let Inner { queue, rules, .. } = &mut *inner;
        let has_room = rules.reserve(weight, queue, &of_all(), now, dropped);
        has_room.then(|| rules.stored_as(properties, now))
    }

    /// A message that was let in does not come.
    pub(super) fn let_out(&self) {
        if self.is_declared() {
            self.inner.lock().rules.unreserve();
        }
    }

    /// A message is done with.
    pub(super) fn settle(&self, id: u64) {
        let mut inner = self.inner.lock();
        inner.strays.remove(&id);
        self.look_for_strays(&inner);
        if let Some((priority, weight)) = inner.rules.settle(id) {
            inner.rejoin_apart();
            inner.queue.withdraw(id, priority, weight);
        }
    }

    /// Puts back what the store remembers: what waits, how often what was handed out, and the
    /// messages themselves where they were looked at.
    fn fill<'m>(
        &self,
        waiting: &[Stored],
        lent: &[(u64, Lent)],
        message: impl Fn(&Stored) -> Option<&'m Message>,
        dropped: &mut Dropped,
    ) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let filter = inner.rules.declaration().filter.clone();
        let takes = |message: &Message| {
            let topic = TopicName::new(message.topic_str());
            let filter = TopicFilter::new(&filter);
            matches!((filter, topic), (Ok(filter), Ok(topic)) if filter.matches(topic))
        };
        let mut places = FxHashMap::default();
        for &stored in waiting {
            let trace = Trace { message: stored.id, qos: stored.qos(), source: self.source() };
            let (mut priority, weight) = (stored.priority(), stored.weight());
            if let Some(message) = message(&stored) {
                if !filter.is_empty() && !takes(message) {
                    dropped.push((trace, DropReason::NotInFilter));
                    continue;
                }
                priority = inner.rules.priority(message);
                if let Some(former) = inner.rules.found(message, priority, weight) {
                    inner.queue.withdraw(former.id, former.priority, former.weight);
                    places.remove(&former.id);
                    let trace = Trace { message: former.id, ..trace };
                    dropped.push((trace, DropReason::Superseded));
                }
            }
            places.insert(stored.id, (priority, weight));
            inner.queue.restore(std::iter::once(stored.of_priority(priority)));
        }
        for &(id, lent) in lent {
            inner.rules.restore(id, lent, places.get(&id).copied());
        }
    }

    fn expire(&self, now: Moment, remainder: &mut super::mailbox::Remainder) {
        let mut inner = self.inner.lock();
        let overdue = inner.rules.overdue(now);
        inner.requeue(overdue, self.source(), remainder);
        let mut dropped = Dropped::new();
        inner.queue.drop_overdue(now, &mut dropped);
        inner.rules.forget(&dropped);
        remainder.overflow.append(&mut dropped);
        self.hand_out(&mut inner, now, remainder);
    }
}
