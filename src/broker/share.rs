//! Share groups: one queue for all members, each message to exactly one of them.
//!
//! A group is one receiver in the router. Members take from its queue by credit: as many
//! deliveries as their window has room for, in turn or by another [`Strategy`]. What a member has
//! taken is lent: it comes back to the front of the queue when the member's connection ends before
//! it is acknowledged [MQTT-4.8.2-5]. So a slow member takes less, one that is away takes nothing,
//! and the queue waits while there is nobody.
//!
//! A group is durable as soon as one member's Session is, from then on; its messages wait in the
//! store under the group's own identity. A declared queue is a group that is there before it has
//! members and after, and has rules of its own: see [`super::declared`].
//!
//! [`Strategy`]: crate::queue::declaration::Strategy

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustc_hash::FxHashSet;

use super::fate::Fate;
use super::mailbox::{Mailbox, Remainder};
use super::members::{Choice, Credit, Members};
use super::memory::{Memory, Share};
use super::rules::Rules;
use crate::clock::Moment;
use crate::codec::QoS;
use crate::metrics::DropReason;
use crate::queue::declaration::Declaration;
use crate::queue::lanes::Lanes;
use crate::queue::{Delivery, Dropped, Fetched, Limits, Stored, Trace};
use crate::router::Interest;
use crate::store::{Lent, SessionId};

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) queue: Lanes,
    share: Share,
    pub(super) members: Members,
    pub(super) rules: Rules,
    /// Whether the last member has left: what still arrives on routes resolved before is refused.
    ended: bool,
    /// What members had that have left since and are still connected.
    pub(super) strays: FxHashSet<u64>,
}

/// See the head of this file.
#[derive(Debug)]
pub struct ShareGroup {
    key: u64,
    /// Marks its deliveries in the hands of members; never 0.
    source: u32,
    /// The whole Topic Filter, `$share/...` or `$queue/...`, which names the group.
    filter: Box<str>,
    is_declared: bool,
    stored: OnceLock<SessionId>,
    has_strays: AtomicBool,
    memory: Arc<Memory>,
    pub(super) inner: Mutex<Inner>,
}

impl Drop for ShareGroup {
    fn drop(&mut self) {
        self.inner.get_mut().share.end(&self.memory);
    }
}

impl ShareGroup {
    /// A group without members.
    pub(super) fn new(
        key: u64,
        filter: &str,
        memory: Arc<Memory>,
        declaration: Declaration,
    ) -> Self {
        // Keys rise by one for each Session or group; four thousand million of them would have to
        // come before two groups shared a mark.
        let source = (key as u32).max(1);
        let is_declared = declaration.is_declared();
        let mut queue = Lanes::new(source);
        if declaration.priority.is_some() {
            queue.divide();
        }
        let (share, members) = (Share::default(), Members::default());
        let rules = Rules::new(declaration);
        let strays = FxHashSet::default();
        let inner = Mutex::new(Inner { queue, share, members, rules, ended: false, strays });
        let (filter, stored) = (filter.into(), OnceLock::new());
        let has_strays = AtomicBool::new(false);
        Self { key, source, filter, is_declared, stored, has_strays, memory, inner }
    }

    /// The mark of its deliveries in the hands of members; never 0.
    pub fn source(&self) -> u32 {
        self.source
    }

    /// The whole Topic Filter, `$share/...` or `$queue/...`, which names the group.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// Whether it is a declared queue.
    pub fn is_declared(&self) -> bool {
        self.is_declared
    }

    /// What tells this receiver from others.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Its identity in the store, when it is durable.
    pub fn stored(&self) -> Option<SessionId> {
        self.stored.get().copied()
    }

    /// How many members it has.
    pub fn members(&self) -> usize {
        self.inner.lock().members.len()
    }

    /// Whether a message may be taken right away, and need not be written if it is done with soon:
    /// not one of a declared queue, which counts.
    pub fn may_be_quick(&self) -> bool {
        !self.is_declared && self.inner.lock().members.is_any_online()
    }

    /// Adds messages to the queue, in order, and hands out what members have credit for.
    pub fn push(
        &self,
        deliveries: impl Iterator<Item = Delivery>,
        limits: &Limits,
        now: Moment,
        remainder: &mut Remainder,
    ) {
        let mut inner = self.inner.lock();
        let is_online = inner.members.is_any_online();
        // Nobody is there to take what the store keeps anyhow.
        let at_hand_max = if is_online { limits.at_hand_max } else { 0 };
        let limits = inner.rules.declaration().limits(&Limits { at_hand_max, ..*limits });
        let limits = self.memory.bound(&limits);
        for mut delivery in deliveries {
            delivery.source = self.source;
            if inner.ended {
                remainder.ended.push((delivery.trace(), self.stored()));
            } else if delivery.qos == QoS::AtMostOnce
                && !is_online
                && !inner.rules.declaration().keeps_qos0
            {
                remainder.overflow.push((delivery.trace(), DropReason::NoConsumer));
            } else {
                inner.push(delivery, &limits, now, &mut remainder.overflow);
            }
        }
        self.hand_out(&mut inner, now, remainder);
    }

    /// Gives out what members have credit for, and reports what the queue then holds.
    pub(super) fn hand_out(&self, inner: &mut Inner, now: Moment, remainder: &mut Remainder) {
        inner.hand_out(self.source, now, remainder);
        if inner.is_wanted() {
            let wanted = inner.queue.wanted(self.memory.is_short());
            remainder.wanted.extend(wanted.map(|(lane, ids)| (self.source, lane, ids)));
        }
        inner.share.report(inner.queue.at_hand(), &self.memory);
    }

    /// A member has finished with `n` deliveries.
    pub fn room(&self, member: u64, n: usize, now: Moment, remainder: &mut Remainder) {
        let mut inner = self.inner.lock();
        inner.members.room(member, n);
        self.hand_out(&mut inner, now, remainder);
    }

    /// A member is connected, with this window.
    pub fn online(&self, mailbox: &Mailbox, window: usize, now: Moment, remainder: &mut Remainder) {
        let mut inner = self.inner.lock();
        inner.rejoin_apart();
        let Inner { members, rules, .. } = &mut *inner;
        members.online(mailbox.key(), window, rules.declaration());
        self.hand_out(&mut inner, now, remainder);
    }

    /// Lends nothing more to a member that is about to go.
    pub fn pause(&self, member: u64) {
        let mut inner = self.inner.lock();
        inner.rejoin_apart();
        inner.members.offline(member);
    }

    /// A member is gone. What it had of this group is taken from `back` to the front of the queue.
    pub fn offline(
        &self,
        member: u64,
        back: &mut Vec<Delivery>,
        now: Moment,
        remainder: &mut Remainder,
    ) {
        let mut inner = self.inner.lock();
        inner.rejoin_apart();
        inner.members.offline(member);
        let (mine, others): (Vec<_>, Vec<_>) =
            std::mem::take(back).into_iter().partition(|d| d.source == self.source);
        *back = others;
        if inner.ended {
            remainder.ended.extend(mine.iter().map(|delivery| (delivery.trace(), self.stored())));
            return;
        }
        inner.give_back(mine, member, self.source, remainder);
        self.look_for_strays(&inner);
        if !inner.members.is_any_online() {
            if !inner.rules.declaration().keeps_qos0 {
                remainder.no_consumer += inner.queue.clear_qos0() as u64;
            }
            inner.queue.leave_to_store();
        }
        self.hand_out(&mut inner, now, remainder);
    }

    /// A member does not take a delivery, which goes back to the front of the queue.
    pub(super) fn take_back(
        &self,
        member: u64,
        delivery: Delivery,
        now: Moment,
        remainder: &mut Remainder,
    ) {
        let mut inner = self.inner.lock();
        if inner.ended {
            remainder.ended.push((delivery.trace(), self.stored()));
            return;
        }
        inner.give_back(vec![delivery], member, self.source, remainder);
        inner.members.room(member, 1);
        self.hand_out(&mut inner, now, remainder);
    }

    /// Makes the group durable, if it is not, under the identity that `identify` gives it; true:
    /// it was not.
    pub(super) fn make_durable(&self, identify: impl FnOnce() -> SessionId) -> bool {
        let mut is_new = false;
        self.stored.get_or_init(|| {
            is_new = true;
            identify()
        });
        is_new
    }

    /// Messages with this identity or a later one can be read back from the store.
    pub(super) fn store_from(&self, first: u64) {
        self.inner.lock().queue.store_from(first);
    }

    /// Adds a member with its credit, or changes what a member wants.
    pub(super) fn admit(
        &self,
        mailbox: &Arc<Mailbox>,
        interest: Interest,
        credit: Credit,
        now: Moment,
        remainder: &mut Remainder,
    ) {
        let mut inner = self.inner.lock();
        inner.rejoin_apart();
        let Inner { members, rules, .. } = &mut *inner;
        members.admit(mailbox, interest, credit, rules.declaration());
        self.hand_out(&mut inner, now, remainder);
    }

    /// A member has left, with these that it has not acknowledged.
    pub(super) fn stray<'d>(&self, held: impl Iterator<Item = &'d Delivery>) {
        let mut inner = self.inner.lock();
        inner.strays.extend(held.map(|delivery| delivery.message.id()).filter(|&id| id != 0));
        self.look_for_strays(&inner);
    }

    /// While there are none, nobody asks the group about what is done with.
    pub(super) fn look_for_strays(&self, inner: &Inner) {
        self.has_strays.store(!inner.strays.is_empty(), Ordering::Relaxed);
    }

    /// Whether members have left with something that they have not acknowledged.
    pub(super) fn has_strays(&self) -> bool {
        self.has_strays.load(Ordering::Relaxed)
    }

    /// Takes what members have that have left, for a group that has ended.
    pub(super) fn take_strays(&self) -> FxHashSet<u64> {
        std::mem::take(&mut self.inner.lock().strays)
    }

    /// Removes a member; false when it is none.
    pub(super) fn remove(&self, member: u64, now: Moment, remainder: &mut Remainder) -> bool {
        let mut inner = self.inner.lock();
        inner.rejoin_apart();
        let was_one = inner.members.remove(member);
        self.hand_out(&mut inner, now, remainder);
        was_one
    }

    /// What a member may receive is another matter from now on.
    pub(super) fn reguarded(&self, member: u64, now: Moment, remainder: &mut Remainder) {
        let mut inner = self.inner.lock();
        inner.rejoin_apart();
        inner.members.reguarded(member);
        self.hand_out(&mut inner, now, remainder);
    }

    /// The same of all members.
    pub(super) fn rules_replaced(&self, now: Moment, remainder: &mut Remainder) {
        let mut inner = self.inner.lock();
        inner.rejoin_apart();
        self.hand_out(&mut inner, now, remainder);
    }

    /// Ends a group that has no members any more and returns what waits in it; `None` while it
    /// has some, or was declared. A group that has ended stays so: who subscribes next makes a new
    /// one.
    pub(super) fn take_deserted(&self) -> Option<Vec<Trace>> {
        if self.is_declared {
            return None;
        }
        self.end_if(Members::is_empty)
    }

    fn end_if(&self, is_over: impl FnOnce(&Members) -> bool) -> Option<Vec<Trace>> {
        let mut inner = self.inner.lock();
        if !is_over(&inner.members) {
            return None;
        }
        inner.ended = true;
        Some(inner.queue.clear())
    }

    /// Puts back what the store remembers at a start.
    pub(super) fn restore(&self, waiting: impl Iterator<Item = Stored>, lent: &[(u64, Lent)]) {
        let mut inner = self.inner.lock();
        inner.queue.restore(waiting);
        for &(id, lent) in lent {
            inner.rules.restore(id, lent, None);
        }
    }

    /// Messages that were wanted from the store, for this lane of the queue.
    pub(super) fn page(
        &self,
        lane: usize,
        page: Vec<Fetched>,
        now: Moment,
        remainder: &mut Remainder,
    ) {
        let mut inner = self.inner.lock();
        let mut dropped = Dropped::new();
        inner.queue.page(lane, page, &mut dropped);
        inner.rules.forget(&dropped);
        remainder.overflow.append(&mut dropped);
        inner.bury(self.source, remainder);
        if !inner.members.is_any_online() {
            inner.queue.leave_to_store();
        }
        self.hand_out(&mut inner, now, remainder);
    }

    /// Messages that wait, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.queue.len(), inner.queue.bytes())
    }
}

impl Inner {
    fn push(
        &mut self,
        mut delivery: Delivery,
        limits: &Limits,
        now: Moment,
        overflow: &mut Dropped,
    ) {
        let before = overflow.len();
        if self.rules.keeps_last_values() {
            // What is superseded must be found in the queue.
            self.rejoin_apart();
        }
        let priority = self.rules.arrives(&mut delivery, &mut self.queue, now, overflow);
        // Room was reserved for it where there may be none.
        let is_reserved = self.rules.use_reserved(&delivery);
        let limits = if is_reserved {
            Limits { messages_max: usize::MAX, bytes_max: usize::MAX, ..*limits }
        } else {
            *limits
        };
        self.queue.push(delivery, priority, &limits, now, overflow);
        self.rules.forget(overflow.get(before..).unwrap_or_default());
    }

    /// Gives what is ready to members that may have it.
    fn hand_out(&mut self, source: u32, now: Moment, remainder: &mut Remainder) {
        while let Some((at, delivery)) = self.members.next_apart() {
            self.give(at, delivery, now);
        }
        let strategy = self.rules.declaration().strategy.unwrap_or_default();
        loop {
            self.bury(source, remainder);
            if !self.members.is_ready(strategy) {
                break;
            }
            let Some(delivery) = self.queue.take() else { break };
            match self.members.choose(strategy, &delivery) {
                Choice::Now(at) => self.give(at, delivery, now),
                Choice::Later(at) => self.members.keep_apart(at, delivery),
                Choice::Nobody => {
                    for delivery in self.members.withhold(delivery) {
                        self.give_up(source, delivery, Fate::Denied, remainder);
                    }
                }
                Choice::Somebody => {
                    let priority = self.rules.priority(&delivery.message);
                    self.queue.give_back(std::iter::once((priority, delivery)));
                    break;
                }
            }
        }
        self.members.hand_over(remainder);
    }

    /// Whether somebody can have what is next, or it is to go.
    fn is_wanted(&self) -> bool {
        let strategy = self.rules.declaration().strategy.unwrap_or_default();
        self.members.is_ready(strategy) || self.next_fate().is_some()
    }

    /// Why nobody can have the next message; `None`: somebody can.
    fn next_fate(&self) -> Option<Fate> {
        if !self.rules.has_fates() {
            return None;
        }
        self.rules.fate(self.queue.next_id()?)
    }

    /// What nobody can have goes when its turn comes, whether or not somebody is there to take
    /// what is behind it.
    fn bury(&mut self, source: u32, remainder: &mut Remainder) {
        while let Some(fate) = self.next_fate() {
            let Some(delivery) = self.queue.take() else { return };
            self.give_up(source, delivery, fate, remainder);
        }
    }

    /// A message cannot be kept.
    fn give_up(
        &mut self,
        source: u32,
        mut delivery: Delivery,
        fate: Fate,
        remainder: &mut Remainder,
    ) {
        let id = delivery.message.id();
        delivery.attempts = self.rules.attempts(id);
        self.rules.settle(id);
        remainder.spent.push((source, delivery, fate));
    }

    fn give(&mut self, at: usize, mut delivery: Delivery, now: Moment) {
        let Some(member) = self.members.get_mut(at) else { return };
        let qos = member.qos(&delivery);
        self.rules.lend(&mut delivery, member.key(), qos, now);
        member.give(delivery);
    }

    /// What was kept apart for some members' topics goes back to the queue: others may have them.
    pub(super) fn rejoin_apart(&mut self) {
        let apart = self.members.take_apart();
        let rules = &self.rules;
        let back = apart.into_iter().map(|d| (rules.priority(&d.message), d));
        self.queue.give_back(back);
    }

    /// What a member had goes to the front of the queue, but for what was handed out as often as
    /// it may, or is not worth it any more.
    pub(super) fn give_back(
        &mut self,
        back: Vec<Delivery>,
        member: u64,
        source: u32,
        remainder: &mut Remainder,
    ) {
        let mut returned = Vec::new();
        for mut delivery in back {
            self.strays.remove(&delivery.message.id());
            delivery.qos = delivery.message.qos();
            delivery.retain = delivery.message.retain();
            delivery.subscription_ids = None;
            delivery.dup = false; // Another Client has not seen it [MQTT-3.3.1-3].
            if self.rules.comes_back(&delivery, member) {
                returned.push(delivery);
            }
        }
        self.requeue(returned, source, remainder);
    }

    /// What is in nobody's hands any more goes to the front of the queue.
    pub(super) fn requeue(&mut self, back: Vec<Delivery>, source: u32, remainder: &mut Remainder) {
        let mut returned = Vec::new();
        for delivery in back {
            if let Some(fate) = self.rules.fate(delivery.message.id()) {
                self.give_up(source, delivery, fate, remainder);
            } else if self.rules.is_superseded(&delivery) {
                self.rules.settle(delivery.message.id());
                remainder.overflow.push((delivery.trace(), DropReason::Superseded));
            } else {
                returned.push((self.rules.priority(&delivery.message), delivery));
            }
        }
        self.queue.give_back(returned.into_iter());
    }
}
