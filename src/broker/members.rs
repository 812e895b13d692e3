//! The consumers of a share group, and whose turn it is.
//!
//! A member gets only what it may receive. What none may that is there is withheld, so that it does
//! not stop what is behind it: until members come or go, or the rules change.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHasher;
use triomphe::ThinArc;

use super::mailbox::{Mailbox, Remainder};
use crate::access::acl::guard::{Guard, Receives};
use crate::clock::Moment;
use crate::codec::QoS;
use crate::queue::declaration::{Declaration, Strategy};
use crate::queue::{Delivery, Limits, SubscriptionIds};
use crate::router::Interest;

/// What is lent is bounded by the members' windows, not by the bounds of their own queues.
const LENT: Limits = Limits::NONE;

/// Deliveries that are kept apart for members without credit, all together: beyond them the whole
/// group waits.
const APART_MAX: usize = 1024;

/// Deliveries that nobody may receive who is there, and their bytes: of more the first are given
/// up.
const WITHHELD_MAX: usize = 256;
const WITHHELD_BYTES_MAX: usize = 1 << 20;

/// A consumer.
#[derive(Debug)]
pub(super) struct Member {
    mailbox: Arc<Mailbox>,
    /// What it may receive, and what is known of that.
    guard: Arc<Guard>,
    receives: Receives,
    interest: Interest,
    subscription_ids: SubscriptionIds,
    online: bool,
    /// Deliveries that its Session has room for, and those that it may hold at once.
    room: usize,
    window: usize,
    /// Deliveries that it holds.
    taken: usize,
    /// Deliveries that only it may get, because of their topics, and that it has no credit for.
    apart: VecDeque<Delivery>,
    /// Deliveries about to be handed over.
    outbox: Vec<Delivery>,
}

impl Member {
    fn has_credit(&self) -> bool {
        self.online && self.taken < self.window
    }

    pub(super) fn key(&self) -> u64 {
        self.mailbox.key()
    }

    /// Who it is may have changed, so what it may receive is asked anew.
    fn look_again(&mut self) {
        (self.guard, self.receives) = (self.mailbox.guard(), Receives::default());
    }

    /// Whether it may receive a delivery, as it would get it.
    fn may_have(&mut self, delivery: &Delivery) -> bool {
        if !self.guard.has_rules() {
            return true;
        }
        let retain = delivery.retain && self.interest.retain_as_published;
        let qos = self.qos(delivery);
        self.receives.allow_topic(&self.guard, delivery.message.topic_str(), qos, retain)
    }

    /// The QoS with which it gets a delivery.
    pub(super) fn qos(&self, delivery: &Delivery) -> QoS {
        delivery.qos.min(self.interest.qos)
    }

    /// Puts a delivery among those about to be handed over, as this member wants it.
    pub(super) fn give(&mut self, mut delivery: Delivery) {
        delivery.qos = self.qos(&delivery);
        delivery.retain = delivery.retain && self.interest.retain_as_published;
        delivery.subscription_ids = self.subscription_ids.clone();
        self.taken += 1;
        self.outbox.push(delivery);
    }
}

/// What a new member may be given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credit {
    /// Deliveries that its Session has room for at once; `None` while it is away.
    pub room: Option<usize>,
    /// Deliveries of the queue that it holds already, having been a member before.
    pub taken: usize,
}

/// Who is to get a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This member, which has credit.
    Now(usize),
    /// This member, when it has credit.
    Later(usize),
    /// Somebody, when he has credit.
    Somebody,
    /// Nobody who is there.
    Nobody,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Members {
    members: Vec<Member>,
    /// Whose turn it is; with [`Strategy::Sticky`] who has it.
    turn: usize,
    /// Deliveries that are kept apart.
    apart: usize,
    /// Deliveries that nobody may receive who is there, and their bytes.
    withheld: VecDeque<Delivery>,
    withheld_bytes: usize,
}

impl Members {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_any_online(&self) -> bool {
        self.members.iter().any(|member| member.online)
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Member> {
        self.members.get_mut(at)
    }

    fn find(&mut self, key: u64) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.key() == key)
    }

    /// A member has finished with `n` deliveries.
    pub(super) fn room(&mut self, key: u64, n: usize) {
        if let Some(member) = self.find(key) {
            member.taken = member.taken.saturating_sub(n);
        }
    }

    /// A member is connected, with room for so many deliveries.
    pub(super) fn online(&mut self, key: u64, room: usize, declaration: &Declaration) {
        if let Some(member) = self.find(key) {
            (member.online, member.room, member.taken) = (true, room, 0);
            member.look_again();
            member.window = declaration.window(room);
        }
    }

    /// What a member may do is another matter.
    pub(super) fn reguarded(&mut self, key: u64) {
        if let Some(member) = self.find(key) {
            member.look_again();
        }
    }

    /// The declaration is another.
    pub(super) fn changed(&mut self, declaration: &Declaration) {
        for member in &mut self.members {
            member.window = declaration.window(member.room);
        }
    }

    /// Nothing more is lent to a member, which is about to go or gone.
    pub(super) fn offline(&mut self, key: u64) {
        if let Some(member) = self.find(key) {
            member.online = false;
        }
    }

    /// Adds a member with its credit, or changes what it wants.
    pub(super) fn admit(
        &mut self,
        mailbox: &Arc<Mailbox>,
        interest: Interest,
        credit: Credit,
        declaration: &Declaration,
    ) {
        let room = credit.room.unwrap_or(0);
        let subscription_ids =
            interest.id.map(|id| ThinArc::from_header_and_slice((), &[id.get()]));
        match self.find(mailbox.key()) {
            Some(member) => {
                (member.interest, member.subscription_ids) = (interest, subscription_ids);
            }
            None => self.members.push(Member {
                mailbox: mailbox.clone(),
                guard: mailbox.guard(),
                receives: Receives::default(),
                interest,
                subscription_ids,
                online: credit.room.is_some(),
                room,
                window: declaration.window(room),
                taken: credit.taken,
                apart: VecDeque::new(),
                outbox: Vec::new(),
            }),
        }
    }

    /// Removes a member, of which nothing is kept apart any more; false when it is none.
    pub(super) fn remove(&mut self, key: u64) -> bool {
        let before = self.members.len();
        self.members.retain(|member| member.key() != key);
        self.members.len() < before
    }

    /// Whether a delivery may be taken from the queue now.
    pub(super) fn is_ready(&self, strategy: Strategy) -> bool {
        match strategy {
            Strategy::RoundRobin | Strategy::LeastInflight => {
                self.members.iter().any(Member::has_credit)
            }
            Strategy::Sticky => {
                let holder = self.holder();
                holder.and_then(|at| self.members.get(at)).is_some_and(Member::has_credit)
            }
            Strategy::HashTopic => {
                self.apart < APART_MAX && self.members.iter().any(Member::has_credit)
            }
        }
    }

    /// Who gets a delivery.
    pub(super) fn choose(&mut self, strategy: Strategy, delivery: &Delivery) -> Choice {
        let chosen = match strategy {
            Strategy::RoundRobin => {
                let next = self.in_turn().find(|&at| self.can_have(at, delivery));
                self.turn = next.map_or(self.turn, |next| next + 1);
                next
            }
            Strategy::LeastInflight => {
                let mut least: Option<(usize, usize)> = None;
                for at in self.in_turn() {
                    let taken = self.members.get(at).map_or(usize::MAX, |member| member.taken);
                    let is_less = least.is_none_or(|(fewest, _)| taken < fewest);
                    if is_less && self.can_have(at, delivery) {
                        least = Some((taken, at));
                    }
                }
                let least = least.map(|(_, at)| at);
                self.turn = least.map_or(self.turn, |least| least + 1);
                least
            }
            Strategy::Sticky => match self.holder() {
                Some(holder) if self.may_have(holder, delivery) => {
                    self.turn = holder;
                    Some(holder).filter(|&at| self.has_credit(at))
                }
                // What is not for the holder is for others, who do not become it.
                _ => self.in_turn().find(|&at| self.can_have(at, delivery)),
            },
            Strategy::HashTopic => {
                let chosen = self.chosen(delivery);
                let is_next =
                    |at| self.members.get(at).is_some_and(|m: &Member| m.apart.is_empty());
                match chosen {
                    Some(at) if !is_next(at) || !self.has_credit(at) => return Choice::Later(at),
                    chosen => chosen,
                }
            }
        };
        let may = |members: &mut Self, at: usize| members.may_have(at, delivery);
        match chosen {
            Some(at) => Choice::Now(at),
            None if self.in_turn().any(|at| self.is_online(at) && may(self, at)) => {
                Choice::Somebody
            }
            None => Choice::Nobody,
        }
    }

    fn is_online(&self, at: usize) -> bool {
        self.members.get(at).is_some_and(|member| member.online)
    }

    fn may_have(&mut self, at: usize, delivery: &Delivery) -> bool {
        self.members.get_mut(at).is_some_and(|member| member.may_have(delivery))
    }

    fn can_have(&mut self, at: usize, delivery: &Delivery) -> bool {
        self.has_credit(at) && self.may_have(at, delivery)
    }

    fn has_credit(&self, at: usize) -> bool {
        self.members.get(at).is_some_and(Member::has_credit)
    }

    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (turn, count) = (self.turn, self.members.len());
        (0..count).map(move |n| (turn + n) % count)
    }

    /// Who has everything: the same as before while it is there.
    fn holder(&self) -> Option<usize> {
        self.in_turn().find(|&at| self.members.get(at).is_some_and(|member| member.online))
    }

    /// Who has a delivery's topic, of those that are there and may receive it: when one comes or
    /// goes, only topics that it has are anybody else's.
    fn chosen(&mut self, delivery: &Delivery) -> Option<usize> {
        let topic = delivery.message.topic();
        let score = |member: &Member| {
            let mut hasher = FxHasher::default();
            (member.key(), topic).hash(&mut hasher);
            hasher.finish()
        };
        let mut best = None;
        for (at, member) in self.members.iter_mut().enumerate() {
            if member.online && member.may_have(delivery) {
                best = best.max(Some((score(member), at)));
            }
        }
        best.map(|(_, at)| at)
    }

    /// Keeps a delivery for when somebody is there who may receive it; returns what is given up for
    /// that.
    pub(super) fn withhold(&mut self, delivery: Delivery) -> Vec<Delivery> {
        self.withheld_bytes = self.withheld_bytes.saturating_add(delivery.weight());
        self.withheld.push_back(delivery);
        let mut given_up = Vec::new();
        while self.withheld.len() > WITHHELD_MAX || self.withheld_bytes > WITHHELD_BYTES_MAX {
            let Some(first) = self.withheld.pop_front() else { break };
            self.withheld_bytes = self.withheld_bytes.saturating_sub(first.weight());
            given_up.push(first);
        }
        given_up
    }

    /// Keeps a delivery apart for a member.
    pub(super) fn keep_apart(&mut self, at: usize, delivery: Delivery) {
        if let Some(member) = self.members.get_mut(at) {
            member.apart.push_back(delivery);
            self.apart += 1;
        }
    }

    /// The next delivery that was kept apart for a member that now has credit.
    pub(super) fn next_apart(&mut self) -> Option<(usize, Delivery)> {
        if self.apart == 0 {
            return None;
        }
        let has = |member: &Member| member.has_credit() && !member.apart.is_empty();
        let at = self.members.iter().position(has)?;
        let delivery = self.members.get_mut(at)?.apart.pop_front()?;
        self.apart -= 1;
        Some((at, delivery))
    }

    /// Everything that is kept apart, in the order in which it came.
    pub(super) fn take_apart(&mut self) -> Vec<Delivery> {
        if self.apart == 0 && self.withheld.is_empty() {
            return Vec::new();
        }
        (self.apart, self.withheld_bytes) = (0, 0);
        let kept = self.members.iter_mut().flat_map(|member| member.apart.drain(..));
        let mut apart: Vec<_> = kept.chain(self.withheld.drain(..)).collect();
        let first = apart.first().map_or(0, |delivery| delivery.sequence);
        // Sequences wrap; two that are here at once are never half a range apart.
        apart.sort_by_key(|delivery| delivery.sequence.wrapping_sub(first).cast_signed());
        apart
    }

    /// Hands over what was given, and rings each member once.
    pub(super) fn hand_over(&mut self, remainder: &mut Remainder) {
        for member in self.members.iter_mut().filter(|member| !member.outbox.is_empty()) {
            let Member { mailbox, outbox, .. } = member;
            mailbox.push(outbox.drain(..), &LENT, Moment::NEVER, remainder);
        }
    }
}
