//! What one turn of a connection gathers, to be handed over at its end in one go: one submission
//! to the store, one push and one bell per receiver. Where there are very many receivers they have
//! their turn later, some at a time ([`Undelivered`]).

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

/// Receivers that are rung at a time, each of which then has something to do, and deliveries that
/// they get together: about two milliseconds.
const RECEIVERS_MAX: usize = 512;
const DELIVERIES_MAX: usize = 16_384;

/// Messages that wait, and where they go.
#[derive(Default)]
struct Left {
    messages: Vec<Message>,
    /// Neighbouring messages that go the same way: the routes, and how many they are.
    runs: Vec<(Routes<Receiver>, usize)>,
    /// Runs and messages that are done with, and routes of the run after them.
    done: (usize, usize, usize),
}

/// Messages that some of their receivers have not got; they get them at the latest when this is
/// dropped.
pub struct Undelivered {
    broker: Arc<Broker>,
    left: Left,
}

/// Changes and messages on their way.
#[derive(Default)]
pub struct Turn {
    changes: Vec<Change>,
    /// Messages whose topics now retain them or something else.
    retained: Vec<Message>,
    messages: Vec<Message>,
    /// Neighbouring messages that go the same way: the routes, and where they end in `messages`.
    runs: Vec<(Routes<Receiver>, usize)>,
    /// What [`Broker::finish_some`] has left.
    left: Left,
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

    /// Takes out what [`Broker::finish_some`] has left.
    pub fn undelivered(&mut self, broker: &Arc<Broker>) -> Option<Undelivered> {
        if self.left.runs.is_empty() {
            return None;
        }
        Some(Undelivered { broker: broker.clone(), left: std::mem::take(&mut self.left) })
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

    /// Whether there is nothing to hand over. Most turns have nothing, where messages come one by
    /// one.
    pub fn is_empty(&self) -> bool {
        !self.has_changes()
            && self.messages.is_empty()
            && self.runs.is_empty()
            && self.finished.is_empty()
            && self.settled.is_empty()
            && self.remainder.is_empty()
    }
}

impl Broker {
    /// Hands a turn over: changes to the store, messages to their receivers. `waiter` is told
    /// when the changes are durable, if the answer is [`Submitted::Pending`].
    pub fn finish(&self, turn: &mut Turn, waiter: Option<Waiter>) -> Submitted {
        self.finish_for((usize::MAX, usize::MAX), turn, waiter, self.now())
    }

    /// As [`Broker::finish`], for a turn that began just `now`; and where there are very many
    /// receivers they get what is theirs later: see [`Turn::undelivered`].
    pub fn finish_some(&self, turn: &mut Turn, waiter: Option<Waiter>, now: Moment) -> Submitted {
        self.finish_for((RECEIVERS_MAX, DELIVERIES_MAX), turn, waiter, now)
    }

    fn finish_for(
        &self,
        (mut receivers, mut deliveries): (usize, usize),
        turn: &mut Turn,
        waiter: Option<Waiter>,
        now: Moment,
    ) -> Submitted {
        let submitted =
            if turn.has_changes() { self.submit(turn, waiter) } else { Submitted::Done };
        let mut start = 0;
        let Turn { messages, runs, remainder, left, .. } = turn;
        let mut messages = messages.drain(..);
        for (routes, end) in runs.drain(..) {
            let (count, run) = (routes.iter().len(), end - start);
            start = end;
            // Once something is left, what comes after it is too.
            let fits = left.runs.is_empty() && count <= receivers && count * run <= deliveries;
            if fits {
                self.distribute(&routes, (&mut messages, run), now, remainder);
                (receivers, deliveries) = (receivers - count, deliveries - count * run);
            } else {
                left.messages.extend(messages.by_ref().take(run));
                left.runs.push((routes, run));
            }
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
            let kept = held.get(topic).map(|kept| (kept.message.clone(), kept.publisher.identity));
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

    /// Pushes messages that were left to some of their receivers; false: that was all.
    fn distribute_more(&self, left: &mut Left, now: Moment, remainder: &mut Remainder) -> bool {
        let (mut receivers, mut deliveries) = (RECEIVERS_MAX, DELIVERIES_MAX);
        while let Some((routes, run)) = left.runs.get(left.done.0) {
            let (runs, start, from) = left.done;
            let messages = left.messages.get(start..start + run).unwrap_or_default();
            let some = receivers.min(deliveries.div_ceil((*run).max(1)));
            if some == 0 {
                return true;
            }
            let mut pushed = 0;
            for route in routes.iter().skip(from).take(some) {
                self.push(route, messages.iter().cloned(), now, remainder);
                pushed += 1;
            }
            receivers -= pushed;
            deliveries = deliveries.saturating_sub(pushed * run);
            let is_over = from + pushed >= routes.iter().len();
            left.done =
                if is_over { (runs + 1, start + run, 0) } else { (runs, start, from + pushed) };
        }
        *left = Left::default();
        false
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

impl Undelivered {
    /// Gives some more receivers what is theirs; false: that was all.
    pub fn go_on(&mut self, turn: &mut Turn) -> bool {
        let Self { broker, left } = self;
        broker.distribute_more(left, broker.now(), &mut turn.remainder)
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        let mut turn = Turn::default();
        while !self.left.runs.is_empty() && self.go_on(&mut turn) {}
        self.broker.finish(&mut turn, None);
    }
}
