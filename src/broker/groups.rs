//! All share groups: joined, left, found by what they lent, put back after a restart.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use rustc_hash::FxBuildHasher;

use super::Broker;
use super::mailbox::Mailbox;
use super::members::Credit;
use super::receiver::Receiver;
use super::share::ShareGroup;
use super::turn::Turn;
use crate::codec::QoS;
use crate::metrics::DropReason;
use crate::queue::declaration::Declaration;
use crate::queue::{Stored, Trace};
use crate::router::Interest;
use crate::store::{Change, Lent, SessionId};
use crate::topic::TopicFilter;

/// Marks a group among the records of the store.
const RECORD: u8 = 2;

/// All share groups.
#[derive(Debug, Default)]
pub struct Groups {
    pub(super) by_filter: DashMap<Box<str>, Arc<ShareGroup>>,
    /// Asked for each delivery of a group, by a number that nobody else chooses.
    by_source: DashMap<u32, Arc<ShareGroup>, FxBuildHasher>,
    /// The declared queues, by name; they are not in `by_filter`.
    pub(super) by_name: DashMap<Box<str>, Arc<ShareGroup>>,
}

impl Groups {
    /// How many groups there are, and how many members they have together.
    pub fn counts(&self) -> (usize, usize) {
        let members = self.by_source.iter().map(|group| group.members()).sum();
        (self.by_source.len(), members)
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<ShareGroup>> {
        self.by_source.iter().map(|group| group.clone()).collect()
    }

    /// The group that a lent delivery belongs to.
    pub fn by_source(&self, source: u32) -> Option<Arc<ShareGroup>> {
        self.by_source.get(&source).map(|group| group.clone())
    }

    /// The identity in the store of the group that a lent delivery belongs to.
    pub fn stored(&self, source: u32) -> Option<SessionId> {
        self.by_source.get(&source).and_then(|group| group.stored())
    }

    /// The identity in the store of the group that a lent delivery belongs to, and the group
    /// itself if it has to note what is done with.
    pub(super) fn owner(&self, source: u32) -> (Option<SessionId>, Option<Arc<ShareGroup>>) {
        let Some(group) = self.by_source.get(&source) else { return (None, None) };
        let notes = group.is_declared() || group.has_strays();
        (group.stored(), notes.then(|| group.clone()))
    }
}

/// What a group wants of its filter's messages; each member then gets what it wants itself.
pub(super) fn everything() -> Interest {
    Interest { qos: QoS::ExactlyOnce, no_local: false, retain_as_published: true, id: None }
}

/// A new member of a group.
pub struct Joining<'a> {
    /// The whole Topic Filter.
    pub filter: TopicFilter<'a>,
    /// Who joins.
    pub mailbox: &'a Arc<Mailbox>,
    /// What it wants.
    pub interest: Interest,
    /// What it may be given.
    pub credit: Credit,
}

impl Broker {
    /// Adds a member to a share group, which is made if it is not there, or changes what a member
    /// wants.
    pub(super) fn join(&self, joining: &Joining<'_>, turn: &mut Turn) -> Arc<ShareGroup> {
        if let Some(queue) = self.declared(joining.filter) {
            self.admit(&queue, joining, turn);
            return queue;
        }
        match self.groups.by_filter.entry(joining.filter.as_str().into()) {
            Entry::Occupied(occupied) => {
                self.admit(occupied.get(), joining, turn);
                occupied.get().clone()
            }
            Entry::Vacant(vacant) => {
                if let Some(queue) = self.declared(joining.filter) {
                    // It was declared a moment ago.
                    self.admit(&queue, joining, turn);
                    return queue;
                }
                let group = self.undeclared_group(joining.filter.as_str());
                self.admit(&group, joining, turn);
                vacant.insert(group.clone());
                self.route_group(&group, joining.filter);
                group
            }
        }
    }

    fn undeclared_group(&self, filter: &str) -> Arc<ShareGroup> {
        self.new_group(filter, Declaration::undeclared(self.options.share_strategy))
    }

    pub(super) fn new_group(&self, filter: &str, declaration: Declaration) -> Arc<ShareGroup> {
        let memory = self.memory.clone();
        let group = Arc::new(ShareGroup::new(self.next_key(), filter, memory, declaration));
        self.groups.by_source.insert(group.source(), group.clone());
        group
    }

    fn route_group(&self, group: &Arc<ShareGroup>, filter: TopicFilter<'_>) {
        self.router.subscribe(filter.filter(), Receiver::Group(group.clone()), everything());
    }

    fn admit(&self, group: &ShareGroup, joining: &Joining<'_>, turn: &mut Turn) {
        if joining.mailbox.stored().is_some() {
            let is_new = group.make_durable(|| {
                let session = self.store.next_session_id();
                let record = [&[RECORD], group.filter().as_bytes()].concat().into_boxed_slice();
                turn.change(Change::SessionPut { session, record });
                session
            });
            if is_new && self.store.keeps_messages() {
                // A message gets its identity before its receivers are asked whether they are
                // durable: one with a later identity than this is in the store for the group.
                group.store_from(self.store.next_message_id());
            }
        }
        let Joining { mailbox, interest, credit, .. } = *joining;
        group.admit(mailbox, interest, credit, self.now(), turn.remainder());
    }

    /// Removes a member from a share group; the last one takes the group with it, if nobody
    /// declared it.
    pub(super) fn leave(&self, filter: TopicFilter<'_>, member: u64, turn: &mut Turn) -> bool {
        if let Some(queue) = self.declared(filter) {
            return queue.remove(member, self.now(), turn.remainder());
        }
        let Entry::Occupied(entry) = self.groups.by_filter.entry(filter.as_str().into()) else {
            return false;
        };
        let group = entry.get().clone();
        if !group.remove(member, self.now(), turn.remainder()) {
            return false;
        }
        if let Some(left) = group.take_deserted() {
            entry.remove();
            self.end_group(&group, left, turn);
        }
        true
    }

    fn end_group(&self, group: &ShareGroup, left: Vec<Trace>, turn: &mut Turn) {
        if let Ok(filter) = TopicFilter::new(group.filter()) {
            self.router.unsubscribe(filter.filter(), group.key());
        }
        for trace in left {
            self.dropped(trace, DropReason::SessionEnded, None, turn);
        }
        self.groups.by_source.remove(&group.source());
        if let Some(session) = group.stored() {
            for message in group.take_strays() {
                turn.finished(message, session);
            }
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
        waiting: impl Iterator<Item = Stored>,
        lent: &[(u64, Lent)],
    ) -> Arc<ShareGroup> {
        let group = self.undeclared_group(filter.as_str());
        group.make_durable(|| session);
        group.store_from(1);
        self.groups.by_filter.insert(filter.as_str().into(), group.clone());
        self.route_group(&group, filter);
        group.restore(waiting, lent);
        group
    }

    /// Ends a restored group whose members are all gone.
    pub(super) fn end_if_deserted(&self, group: &Arc<ShareGroup>, turn: &mut Turn) {
        if let Some(left) = group.take_deserted() {
            self.groups.by_filter.remove(group.filter());
            self.end_group(group, left, turn);
        }
    }

    /// The mark of a restored group's deliveries.
    pub(super) fn source_of(&self, session: SessionId) -> u32 {
        let is_it = |group: &ShareGroup| group.stored() == Some(session);
        let found = self.groups.by_source.iter().find(|group| is_it(group.value()));
        found.map_or(0, |group| *group.key())
    }
}
