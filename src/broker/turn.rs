//! What one turn of a connection gathers, to be handed over at its end in one go: one submission
//! to the store, one push and one bell per receiver.

use std::sync::Arc;
use std::vec::Drain;

use super::fate::Fate;
use super::mailbox::{Mailbox, Remainder};
use super::receiver::Receiver;
use super::share::ShareGroup;
use super::{Broker, Waiter};
use crate::clock::Moment;
use crate::message::Message;
use crate::metrics::{DropReason, Tally};
use crate::queue::Delivery;
use crate::router::{Route, Routes};
use crate::store::{Change, Fetch, SessionId, Submitted};

/// Changes and messages on their way.
#[derive(Default)]
pub struct Turn {
    changes: Vec<Change>,
    /// Messages whose topics now retain them or something else.
    retained: Vec<Message>,
    messages: Vec<Message>,
    /// Neighbouring messages that go the same way: the routes, and where they end in `messages`.
    runs: Vec<(Routes<Receiver>, usize)>,
    /// Share groups whose members have finished something: member's key and how much.
    finished: Vec<(Arc<ShareGroup>, u64, usize)>,
    /// Messages that declared queues are done with.
    settled: Vec<(Arc<ShareGroup>, u64)>,
    remainder: Remainder,
    /// What the turn counts; its connection adds it to the broker's.
    pub tally: Tally,
}

impl Turn {
    /// Notes a change for the store.
    pub fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Notes that a stored delivery is done with.
    pub fn finished(&mut self, message: u64, session: SessionId) {
        self.changes.push(Change::Finished { message, session });
    }

    /// Notes that what the message's topic retains has changed.
    pub fn retained(&mut self, message: &Message) {
        self.retained.push(message.clone());
    }

    /// Notes a message for its receivers.
    pub fn message(&mut self, message: Message, routes: &Routes<Receiver>) {
        self.messages.push(message);
        let end = self.messages.len();
        match self.runs.last_mut() {
            Some((last, last_end)) if last.is_same(routes) => *last_end = end,
            _ => self.runs.push((routes.clone(), end)),
        }
    }

    /// Notes that a declared queue is done with a message.
    pub(super) fn settled(&mut self, queue: Arc<ShareGroup>, message: u64) {
        self.settled.push((queue, message));
    }

    /// Notes that a member of a share group has room for one more.
    pub fn room_in_group(&mut self, group: &Arc<ShareGroup>, member: u64) {
        match self.finished.last_mut() {
            Some((last, key, n)) if Arc::ptr_eq(last, group) && *key == member => *n += 1,
            _ => self.finished.push((group.clone(), member, 1)),
        }
    }

    /// What pushes leave to be done.
    pub fn remainder(&mut self) -> &mut Remainder {
        &mut self.remainder
    }

    /// Whether there is anything for the store.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty() || !self.retained.is_empty()
    }
}

impl Broker {
    /// Hands a turn over: changes to the store, messages to their receivers. `waiter` is told
    /// when the changes are durable, if the answer is [`Submitted::Pending`].
    pub fn finish(&self, turn: &mut Turn, waiter: Option<Waiter>) -> Submitted {
        let submitted =
            if turn.has_changes() { self.submit(turn, waiter) } else { Submitted::Done };
        let mut start = 0;
        let now = self.now();
        let Turn { messages, runs, remainder, .. } = turn;
        let mut messages = messages.drain(..);
        for (routes, end) in runs.drain(..) {
            self.distribute(&routes, (&mut messages, end - start), now, remainder);
            start = end;
        }
        drop(messages);
        for (queue, message) in turn.settled.drain(..) {
            queue.settle(message);
        }
        for (group, member, n) in turn.finished.drain(..) {
            group.room(member, n, now, &mut turn.remainder);
        }
        self.account(turn);
        submitted
    }

    /// Submits a turn's changes. Of two turns that retain something for the same topic either may
    /// come here first; so each submits what the topic retains by now, and nothing changes that
    /// before it is submitted.
    fn submit(&self, turn: &mut Turn, waiter: Option<Waiter>) -> Submitted {
        if turn.retained.is_empty() {
            return self.store.submit(&mut turn.changes, waiter);
        }
        let held = self.retained.hold();
        for message in turn.retained.drain(..) {
            let topic = message.topic_str();
            let kept = held.get(topic).map(|kept| (kept.message.clone(), kept.publisher));
            turn.changes.push(Change::Retained { topic: topic.into(), kept });
        }
        self.store.submit(&mut turn.changes, waiter)
    }

    /// Pushes the next messages, so many, to all receivers of their routes: to the last one the
    /// messages themselves, which saves two counts of each where there is only one.
    fn distribute(
        &self,
        routes: &Routes<Receiver>,
        (messages, run): (&mut Drain<'_, Message>, usize),
        now: Moment,
        remainder: &mut Remainder,
    ) {
        let Some((last, others)) = routes.split_last() else {
            messages.by_ref().take(run).for_each(drop);
            return;
        };
        for route in others {
            let copies = messages.as_slice().iter().take(run).cloned();
            self.push(route, copies, now, remainder);
        }
        self.push(last, messages.by_ref().take(run), now, remainder);
    }

    /// Pushes messages to a receiver.
    fn push(
        &self,
        route: &Route<Receiver>,
        messages: impl Iterator<Item = Message>,
        now: Moment,
        remainder: &mut Remainder,
    ) {
        let limits = &self.tuned.queue();
        let deliveries = messages.map(|message| Delivery {
            subscription_ids: route.subscription_ids.clone(),
            qos: message.qos().min(route.qos),
            retain: message.retain() && route.retain_as_published, // [MQTT-3.3.1-12, -13]
            ..Delivery::new(message)
        });
        let before = remainder.overflow.len();
        match &route.subscriber {
            Receiver::Session(mailbox) => {
                mailbox.push(deliveries, limits, now, remainder);
                self.forget_refused(mailbox, remainder, before);
            }
            Receiver::Group(group) => group.push(deliveries, limits, now, remainder),
        }
    }

    /// What a Session's queue refused is counted, and forgotten by the store.
    fn forget_refused(&self, mailbox: &Mailbox, remainder: &mut Remainder, before: usize) {
        if remainder.overflow.len() == before {
            return;
        }
        let mut turn = Turn::default();
        for (delivery, reason) in remainder.overflow.drain(before..) {
            self.dropped(delivery, reason, mailbox.stored(), &mut turn);
        }
        if turn.has_changes() {
            self.store.submit(&mut turn.changes, None);
        }
    }

    /// Asks the store for messages that a share group's queue wants.
    fn fetch_for_group(&self, source: u32, lane: usize, ids: Vec<u64>) {
        let Some(group) = self.groups.by_source(source) else { return };
        let Some(queue) = group.stored() else { return };
        let me = self.me.clone();
        let answer = move |page| {
            if let Some(broker) = me.upgrade() {
                let mut turn = Turn::default();
                group.page(lane, page, broker.now(), turn.remainder());
                broker.finish(&mut turn, None);
            }
        };
        self.store.fetch(Fetch { queue, ids, answer: Box::new(answer) });
    }

    /// Sends what declared queues cannot keep where it goes.
    fn bury(&self, spent: Vec<(u32, Delivery, Fate)>) {
        let mut turn = Turn::default();
        for (source, delivery, fate) in spent {
            let delivery = Delivery { source, ..delivery };
            let trace = delivery.trace();
            self.cannot_keep(delivery, fate, &mut turn);
            self.done(trace, None, &mut turn);
        }
        self.finish(&mut turn, None);
    }

    /// Counts what was refused, and lets the store forget what share groups dropped.
    fn account(&self, turn: &mut Turn) {
        if turn.remainder.offline > 0 {
            self.metrics.drops.add(DropReason::OfflineQos0, turn.remainder.offline);
            turn.remainder.offline = 0;
        }
        if turn.remainder.no_consumer > 0 {
            self.metrics.drops.add(DropReason::NoConsumer, turn.remainder.no_consumer);
            turn.remainder.no_consumer = 0;
        }
        for (source, lane, ids) in std::mem::take(&mut turn.remainder.wanted) {
            self.fetch_for_group(source, lane, ids);
        }
        if !turn.remainder.spent.is_empty() {
            self.bury(std::mem::take(&mut turn.remainder.spent));
        }
        if turn.remainder.overflow.is_empty() && turn.remainder.ended.is_empty() {
            return;
        }
        for (delivery, queue) in std::mem::take(&mut turn.remainder.ended) {
            self.metrics.drops.add(DropReason::SessionEnded, 1);
            if let Some(queue) = queue.filter(|_| delivery.message != 0) {
                turn.finished(delivery.message, queue);
            }
        }
        for (delivery, reason) in std::mem::take(&mut turn.remainder.overflow) {
            self.dropped(delivery, reason, None, turn);
        }
        if turn.has_changes() {
            self.store.submit(&mut turn.changes, None);
        }
        turn.finished.clear();
        turn.settled.clear();
    }
}
