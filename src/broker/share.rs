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

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;
use triomphe::ThinArc;

use super::Broker;
use super::mailbox::{Mailbox, Receiver, Refused};
use super::turn::Turn;
use crate::codec::QoS;
use crate::metrics::DropReason;
use crate::queue::{Delivery, Limits, Overflow, Queue, SubscriptionIds};
use crate::router::Interest;
use crate::store::{Change, SessionId};
use crate::topic::TopicFilter;

/// What is lent is bounded by the members' windows, not by the bounds of their own queues.
const LENT: Limits =
    Limits { messages_max: usize::MAX, bytes_max: usize::MAX, overflow: Overflow::DropNewest };

/// Marks a group among the records of the store.
const RECORD: u8 = 2;

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
    members: Vec<Member>,
    /// Whose turn it is.
    turn: usize,
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
    inner: Mutex<Inner>,
}

impl ShareGroup {
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
        self.inner.lock().members.iter().any(|member| member.online)
    }

    /// Adds messages to the queue, in order, and hands out what members have credit for.
    pub fn push(
        &self,
        deliveries: impl Iterator<Item = Delivery>,
        limits: &Limits,
        refused: &mut Refused,
    ) {
        let mut inner = self.inner.lock();
        let is_online = inner.members.iter().any(|member| member.online);
        for mut delivery in deliveries {
            delivery.source = self.source;
            if delivery.qos == QoS::AtMostOnce && !is_online {
                refused.overflow.push(delivery);
            } else if let Some(dropped) = inner.queue.push(delivery, limits) {
                refused.overflow.push(dropped);
            }
        }
        inner.hand_out(refused);
    }

    /// A member has finished with `n` deliveries.
    pub fn room(&self, member: u64, n: usize, refused: &mut Refused) {
        let mut inner = self.inner.lock();
        if let Some(member) = inner.member(member) {
            member.taken = member.taken.saturating_sub(n);
        }
        inner.hand_out(refused);
    }

    /// A member is connected, with this window.
    pub fn online(&self, mailbox: &Mailbox, window: usize, refused: &mut Refused) {
        let mut inner = self.inner.lock();
        if let Some(member) = inner.member(mailbox.key()) {
            (member.online, member.window, member.taken) = (true, window, 0);
        }
        inner.hand_out(refused);
    }

    /// A member is gone. What it had of this group is taken from `back` to the front of the queue.
    pub fn offline(&self, member: u64, back: &mut Vec<Delivery>, refused: &mut Refused) {
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
            delivery
        };
        inner.queue.give_back(mine.into_iter().map(restore));
        if !inner.members.iter().any(|member| member.online) {
            refused.no_consumer += inner.queue.clear_qos0() as u64;
        }
        inner.hand_out(refused);
    }

    fn make_durable(&self, broker: &Broker, turn: &mut Turn) {
        self.stored.get_or_init(|| {
            let session = broker.store.next_session_id();
            let record = [&[RECORD], self.filter.as_bytes()].concat().into_boxed_slice();
            turn.change(Change::SessionPut { session, record });
            session
        });
    }
}

impl Inner {
    fn member(&mut self, key: u64) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.mailbox.key() == key)
    }

    /// Gives what is ready to members with credit, in turn.
    fn hand_out(&mut self, refused: &mut Refused) {
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
        for member in self.members.iter_mut().filter(|member| !member.outbox.is_empty()) {
            let Member { mailbox, outbox, .. } = member;
            mailbox.push(outbox.drain(..), &LENT, refused);
        }
    }
}

/// All share groups.
#[derive(Debug, Default)]
pub struct Groups {
    by_filter: DashMap<Box<str>, Arc<ShareGroup>>,
    by_source: DashMap<u32, Arc<ShareGroup>>,
}

impl Groups {
    /// The group that a lent delivery belongs to.
    pub fn by_source(&self, source: u32) -> Option<Arc<ShareGroup>> {
        self.by_source.get(&source).map(|group| group.clone())
    }

    /// The identity in the store of the group that a lent delivery belongs to.
    pub fn stored(&self, source: u32) -> Option<SessionId> {
        self.by_source.get(&source).and_then(|group| group.stored())
    }

    /// All groups.
    pub fn all(&self) -> Vec<Arc<ShareGroup>> {
        self.by_filter.iter().map(|group| group.clone()).collect()
    }
}

/// A new member of a group.
pub struct Joining<'a> {
    /// The whole Topic Filter.
    pub filter: TopicFilter<'a>,
    /// Who joins.
    pub mailbox: &'a Arc<Mailbox>,
    /// What it wants.
    pub interest: Interest,
    /// Deliveries it may hold at once; `None` while it is away.
    pub window: Option<usize>,
}

impl Broker {
    /// Adds a member to a share group, which is made if it is not there, or changes what a member
    /// wants.
    pub(super) fn join(&self, joining: &Joining<'_>, turn: &mut Turn) -> Arc<ShareGroup> {
        let group = match self.groups.by_filter.entry(joining.filter.as_str().into()) {
            Entry::Occupied(occupied) => {
                self.admit(occupied.get(), joining, turn);
                occupied.get().clone()
            }
            Entry::Vacant(vacant) => {
                let group = self.new_group(joining.filter.as_str());
                self.admit(&group, joining, turn);
                vacant.insert(group.clone());
                self.route_group(&group, joining.filter);
                group
            }
        };
        group.inner.lock().hand_out(turn.refused());
        group
    }

    fn new_group(&self, filter: &str) -> Arc<ShareGroup> {
        let key = self.next_key();
        let group = Arc::new(ShareGroup {
            key,
            // Keys rise by one for each Session or group; four thousand million of them would
            // have to come before two groups shared a mark.
            source: (key as u32).max(1),
            filter: filter.into(),
            stored: OnceLock::new(),
            inner: Mutex::default(),
        });
        self.groups.by_source.insert(group.source, group.clone());
        group
    }

    fn route_group(&self, group: &Arc<ShareGroup>, filter: TopicFilter<'_>) {
        let everything = Interest {
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: true,
            id: None,
        };
        self.router.subscribe(filter.filter(), Receiver::Group(group.clone()), everything);
    }

    fn admit(&self, group: &ShareGroup, joining: &Joining<'_>, turn: &mut Turn) {
        if joining.mailbox.stored().is_some() {
            group.make_durable(self, turn);
        }
        let mut inner = group.inner.lock();
        let interest = joining.interest;
        let subscription_ids =
            interest.id.map(|id| ThinArc::from_header_and_slice((), &[id.get()]));
        match inner.member(joining.mailbox.key()) {
            Some(member) => {
                member.interest = interest;
                member.subscription_ids = subscription_ids;
            }
            None => inner.members.push(Member {
                mailbox: joining.mailbox.clone(),
                interest,
                subscription_ids,
                online: joining.window.is_some(),
                window: joining.window.unwrap_or(0),
                taken: 0,
                outbox: Vec::new(),
            }),
        }
    }

    /// Removes a member from a share group; the last one takes the group with it.
    pub(super) fn leave(&self, filter: TopicFilter<'_>, member: u64, turn: &mut Turn) -> bool {
        let Entry::Occupied(entry) = self.groups.by_filter.entry(filter.as_str().into()) else {
            return false;
        };
        let group = entry.get().clone();
        let mut inner = group.inner.lock();
        let Some(at) = inner.members.iter().position(|m| m.mailbox.key() == member) else {
            return false;
        };
        inner.members.remove(at);
        if !inner.members.is_empty() {
            return true;
        }
        entry.remove();
        self.router.unsubscribe(filter.filter(), group.key);
        let queue = std::mem::take(&mut inner.queue);
        drop(inner);
        self.end_group(&group, queue, turn);
        true
    }

    fn end_group(&self, group: &ShareGroup, mut queue: Queue, turn: &mut Turn) {
        while let Some(delivery) = queue.take(true) {
            self.dropped(&delivery, DropReason::SessionEnded, None, turn);
        }
        self.groups.by_source.remove(&group.source);
        if let Some(session) = group.stored() {
            turn.change(Change::SessionEnded { session });
        }
    }

    /// The Topic Filter of a group on record; `None` when the record is not one of a group.
    pub(super) fn group_record(record: &[u8]) -> Option<&str> {
        let (&kind, filter) = record.split_first()?;
        if kind == RECORD { std::str::from_utf8(filter).ok() } else { None }
    }

    /// Puts back a group that the store remembers, with what waits in its queue.
    pub(super) fn restore_group(
        &self,
        filter: TopicFilter<'_>,
        session: SessionId,
        waiting: impl Iterator<Item = Delivery>,
    ) -> Arc<ShareGroup> {
        let group = self.new_group(filter.as_str());
        group.stored.get_or_init(|| session);
        self.groups.by_filter.insert(filter.as_str().into(), group.clone());
        self.route_group(&group, filter);
        let mut inner = group.inner.lock();
        for mut delivery in waiting {
            delivery.source = group.source;
            inner.queue.push(delivery, &LENT);
        }
        drop(inner);
        group
    }

    /// Ends a restored group whose members are all gone.
    pub(super) fn end_if_deserted(&self, group: &Arc<ShareGroup>, turn: &mut Turn) {
        let Ok(filter) = TopicFilter::new(&group.filter) else { return };
        let mut inner = group.inner.lock();
        if inner.members.is_empty() {
            let queue = std::mem::take(&mut inner.queue);
            drop(inner);
            self.groups.by_filter.remove(&group.filter);
            self.router.unsubscribe(filter.filter(), group.key);
            self.end_group(group, queue, turn);
        }
    }

    /// The mark of a restored group's deliveries.
    pub(super) fn source_of(&self, session: SessionId) -> u32 {
        let is_it = |group: &ShareGroup| group.stored() == Some(session);
        let found = self.groups.by_source.iter().find(|group| is_it(group.value()));
        found.map_or(0, |group| *group.key())
    }
}
