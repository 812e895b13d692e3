//! Share groups: one queue for all members, each message to exactly one of them.
//!
//! A group is one receiver in the router. Members take from its queue by credit: as many
//! deliveries as their window has room for, in turn. What a member has taken is lent: it comes
//! back to the front of the queue when the member's connection ends before it is acknowledged
//! [MQTT-4.8.2-5]. So a slow member takes less, one that is away takes nothing, and the queue
//! waits while there is nobody.
//!
//! A group is durable as soon as one member's Session is, from then on; its messages wait in the
//! store under the group's own identity.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use triomphe::ThinArc;

use super::mailbox::{Mailbox, Remainder};
use super::memory::{Memory, Share};
use crate::clock::Moment;
use crate::codec::QoS;
use crate::metrics::DropReason;
use crate::queue::{Delivery, Fetched, Limits, Queue, Stored, SubscriptionIds, Trace};
use crate::router::Interest;
use crate::store::SessionId;

/// What is lent is bounded by the members' windows, not by the bounds of their own queues.
const LENT: Limits = Limits::NONE;

#[derive(Debug)]
struct Member {
    mailbox: Arc<Mailbox>,
    interest: Interest,
    subscription_ids: SubscriptionIds,
    online: bool,
    /// Deliveries that it may hold at once.
    window: usize,
    /// Deliveries that it holds.
    taken: usize,
    /// Deliveries about to be handed over.
    outbox: Vec<Delivery>,
}

impl Member {
    fn has_credit(&self) -> bool {
        self.online && self.taken < self.window
    }
}

#[derive(Debug, Default)]
struct Inner {
    queue: Queue,
    share: Share,
    members: Vec<Member>,
    /// Whose turn it is.
    turn: usize,
    /// Whether the last member has left: what still arrives on routes resolved before is refused.
    ended: bool,
}

/// See the head of this file.
#[derive(Debug)]
pub struct ShareGroup {
    key: u64,
    /// Marks its deliveries in the hands of members; never 0.
    source: u32,
    /// The whole Topic Filter, `$share/...`, which names the group.
    filter: Box<str>,
    stored: OnceLock<SessionId>,
    memory: Arc<Memory>,
    inner: Mutex<Inner>,
}

impl Drop for ShareGroup {
    fn drop(&mut self) {
        self.inner.get_mut().share.end(&self.memory);
    }
}

impl ShareGroup {
    /// A group without members.
    pub(super) fn new(key: u64, filter: &str, memory: Arc<Memory>) -> Self {
        // Keys rise by one for each Session or group; four thousand million of them would have to
        // come before two groups shared a mark.
        let source = (key as u32).max(1);
        let inner = Inner { queue: Queue::of_group(source), ..Inner::default() };
        let (filter, inner) = (filter.into(), Mutex::new(inner));
        Self { key, source, filter, stored: OnceLock::new(), memory, inner }
    }

    /// The mark of its deliveries in the hands of members; never 0.
    pub fn source(&self) -> u32 {
        self.source
    }

    /// The whole Topic Filter, `$share/...`, which names the group.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// What tells this receiver from others.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Its identity in the store, when it is durable.
    pub fn stored(&self) -> Option<SessionId> {
        self.stored.get().copied()
    }

    /// Whether a message could be taken right away.
    pub fn has_online_member(&self) -> bool {
        self.inner.lock().has_online_member()
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
        let is_online = inner.has_online_member();
        // Nobody is there to take what the store keeps anyhow.
        let at_hand_max = if is_online { limits.at_hand_max } else { 0 };
        let limits = self.memory.bound(&Limits { at_hand_max, ..*limits });
        for mut delivery in deliveries {
            delivery.source = self.source;
            if inner.ended {
                remainder.ended.push((delivery.trace(), self.stored()));
            } else if delivery.qos == QoS::AtMostOnce && !is_online {
                remainder.overflow.push((delivery.trace(), DropReason::NoConsumer));
            } else {
                inner.queue.push(delivery, &limits, now, &mut remainder.overflow);
            }
        }
        self.hand_out(&mut inner, remainder);
    }

    /// Gives out what members have credit for, and reports what the queue then holds.
    fn hand_out(&self, inner: &mut Inner, remainder: &mut Remainder) {
        inner.hand_out(remainder);
        inner.share.report(&inner.queue, &self.memory);
    }

    /// A member has finished with `n` deliveries.
    pub fn room(&self, member: u64, n: usize, remainder: &mut Remainder) {
        let mut inner = self.inner.lock();
        if let Some(member) = inner.member(member) {
            member.taken = member.taken.saturating_sub(n);
        }
        self.hand_out(&mut inner, remainder);
    }

    /// A member is connected, with this window.
    pub fn online(&self, mailbox: &Mailbox, window: usize, remainder: &mut Remainder) {
        let mut inner = self.inner.lock();
        if let Some(member) = inner.member(mailbox.key()) {
            (member.online, member.window, member.taken) = (true, window, 0);
        }
        self.hand_out(&mut inner, remainder);
    }

    /// Lends nothing more to a member that is about to go.
    pub fn pause(&self, member: u64) {
        if let Some(member) = self.inner.lock().member(member) {
            member.online = false;
        }
    }

    /// A member is gone. What it had of this group is taken from `back` to the front of the queue.
    pub fn offline(&self, member: u64, back: &mut Vec<Delivery>, remainder: &mut Remainder) {
        let mut inner = self.inner.lock();
        if let Some(member) = inner.member(member) {
            (member.online, member.taken) = (false, 0);
        }
        let (mine, others): (Vec<_>, Vec<_>) =
            std::mem::take(back).into_iter().partition(|d| d.source == self.source);
        *back = others;
        let restore = |mut delivery: Delivery| {
            delivery.qos = delivery.message.qos();
            delivery.retain = delivery.message.retain();
            delivery.subscription_ids = None;
            delivery.dup = false; // Another Client has not seen it [MQTT-3.3.1-3].
            delivery
        };
        inner.queue.give_back(mine.into_iter().map(restore));
        if !inner.has_online_member() {
            remainder.no_consumer += inner.queue.clear_qos0() as u64;
            inner.queue.leave_to_store();
        }
        self.hand_out(&mut inner, remainder);
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

    /// Adds a member, with its window if it is connected, or changes what a member wants.
    pub(super) fn admit(
        &self,
        mailbox: &Arc<Mailbox>,
        interest: Interest,
        window: Option<usize>,
        remainder: &mut Remainder,
    ) {
        let mut inner = self.inner.lock();
        let subscription_ids =
            interest.id.map(|id| ThinArc::from_header_and_slice((), &[id.get()]));
        match inner.member(mailbox.key()) {
            Some(member) => {
                member.interest = interest;
                member.subscription_ids = subscription_ids;
            }
            None => inner.members.push(Member {
                mailbox: mailbox.clone(),
                interest,
                subscription_ids,
                online: window.is_some(),
                window: window.unwrap_or(0),
                taken: 0,
                outbox: Vec::new(),
            }),
        }
        self.hand_out(&mut inner, remainder);
    }

    /// Removes a member; false when it is none.
    pub(super) fn remove(&self, member: u64) -> bool {
        let mut inner = self.inner.lock();
        let before = inner.members.len();
        inner.members.retain(|held| held.mailbox.key() != member);
        inner.members.len() < before
    }

    /// Ends a group that has no members any more and returns what waits in it; `None` while it
    /// has some. A group that has ended stays so: who subscribes next makes a new one.
    pub(super) fn take_deserted(&self) -> Option<Vec<Trace>> {
        let mut inner = self.inner.lock();
        if !inner.members.is_empty() {
            return None;
        }
        inner.ended = true;
        Some(inner.queue.clear())
    }

    /// Puts back what the store remembers at a start.
    pub(super) fn restore(&self, waiting: impl Iterator<Item = Stored>) {
        self.inner.lock().queue.restore(waiting);
    }

    /// Messages that were wanted from the store.
    pub(super) fn page(&self, page: Vec<Fetched>, remainder: &mut Remainder) {
        let mut inner = self.inner.lock();
        inner.queue.page(page, &mut remainder.overflow);
        if !inner.has_online_member() {
            inner.queue.leave_to_store();
        }
        self.hand_out(&mut inner, remainder);
    }
}

impl Inner {
    fn has_online_member(&self) -> bool {
        self.members.iter().any(|member| member.online)
    }

    fn member(&mut self, key: u64) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.mailbox.key() == key)
    }

    /// Gives what is ready to members with credit, in turn.
    fn hand_out(&mut self, remainder: &mut Remainder) {
        while self.queue.has_ready(true) {
            let count = self.members.len();
            let next = (0..count)
                .map(|n| (self.turn + n) % count)
                .find(|&at| self.members.get(at).is_some_and(Member::has_credit));
            let Some(at) = next else { break };
            let (Some(mut delivery), Some(member)) =
                (self.queue.take(true), self.members.get_mut(at))
            else {
                break;
            };
            self.turn = at + 1;
            delivery.qos = delivery.qos.min(member.interest.qos);
            delivery.retain = delivery.retain && member.interest.retain_as_published;
            delivery.subscription_ids = member.subscription_ids.clone();
            member.taken += 1;
            member.outbox.push(delivery);
        }
        if self.members.iter().any(Member::has_credit)
            && let Some(ids) = self.queue.wanted()
        {
            remainder.wanted.push((self.queue.source(), ids));
        }
        for member in self.members.iter_mut().filter(|member| !member.outbox.is_empty()) {
            let Member { mailbox, outbox, .. } = member;
            mailbox.push(outbox.drain(..), &LENT, Moment::NEVER, remainder);
        }
    }
}
