//! Which Session is where: in the hands of a connection, or parked here.
//!
//! A Session is a value on loan. [`Lease`] is the loan: it gives the Session back when it is
//! dropped, however the connection's task ends. Whoever wants a Session that is lent asks its
//! holder through the mailbox and waits until it has come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use tokio::sync::Notify;

use super::Broker;
use super::mailbox::Mailbox;
use super::share::ShareGroup;
use super::timeline::Timer;
use crate::clock::Moment;
use crate::session::Session;

/// The share groups that a Session is a member of; most are of none.
#[derive(Default)]
pub struct Memberships(Option<Box<Joined>>);

#[derive(Default)]
struct Joined {
    groups: Vec<Arc<ShareGroup>>,
}

impl Memberships {
    /// Every group.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<ShareGroup>> {
        self.0.as_deref().map_or(&[][..], |joined| &joined.groups).iter()
    }

    /// Adds a group.
    pub fn push(&mut self, group: Arc<ShareGroup>) {
        self.0.get_or_insert_default().groups.push(group);
    }

    /// Takes out the group with this filter.
    pub fn take_out(&mut self, filter: &str) -> Option<Arc<ShareGroup>> {
        let groups = &mut self.0.as_deref_mut()?.groups;
        let at = groups.iter().position(|group| group.filter() == filter)?;
        Some(groups.swap_remove(at))
    }
}

/// A Session without a connection.
pub struct Parked {
    /// The Session.
    pub session: Session,
    /// Its mailbox, which goes on filling.
    pub mailbox: Arc<Mailbox>,
    /// The share groups it is a member of.
    pub groups: Memberships,
    /// Counts the partings of this broker, so that a timer set at one does not act on another.
    pub parting: u64,
    /// When the connection ended.
    pub since: Moment,
    /// Whether it is being ended: it has lost subscriptions already, and nobody gets it any more.
    pub is_ending: bool,
    /// What is to be done while it waits, by [`super::expire`].
    pub timers: smallvec::SmallVec<[Timer; 1]>,
}

impl Parked {
    /// Whether its Session Expiry Interval has passed.
    pub fn is_over(&self, now: Moment) -> bool {
        let expiry_s = self.session.expiry_s();
        self.is_ending || expiry_s != u32::MAX && self.since.after_s(expiry_s.into()) <= now
    }
}

/// Where a Client Identifier's Session is.
pub enum Place {
    /// With a connection, reached by its mailbox; who waits for it to come back is told.
    Lent {
        /// The way to the holder.
        mailbox: Arc<Mailbox>,
        /// Rung when the Session has come back or ended; made by the first who waits for that.
        returned: Option<Arc<Notify>>,
    },
    /// Here.
    Parked(Box<Parked>),
}

impl Place {
    /// With a connection.
    pub(super) fn lent(mailbox: &Arc<Mailbox>) -> Self {
        Self::Lent { mailbox: mailbox.clone(), returned: None }
    }

    /// Tells who waited for the Session to leave this place, which it has.
    pub(super) fn vacated(&self) {
        if let Self::Lent { returned: Some(returned), .. } = self {
            returned.notify_waiters();
        }
    }

    /// The mailbox of the Session.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        match self {
            Self::Lent { mailbox, .. } => mailbox,
            Self::Parked(parked) => &parked.mailbox,
        }
    }
}

/// Sessions by Client Identifier.
#[derive(Default)]
pub struct Registry {
    /// The places.
    pub(super) places: DashMap<Arc<str>, Place>,
    /// How many there are, and are about to be.
    taken: AtomicUsize,
}

impl Registry {
    /// Takes a place for one more Session, which is then put there; false: there are as many.
    pub(super) fn take_place(&self, sessions_max: usize) -> bool {
        let one_more = |taken| (taken < sessions_max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Takes away the place of a Client if it is such.
    pub(super) fn remove_if(
        &self,
        client_id: &str,
        is_such: impl FnOnce(&Place) -> bool,
    ) -> Option<Place> {
        let (_, place) = self.places.remove_if(client_id, |_, place| is_such(place))?;
        self.taken.fetch_sub(1, Ordering::Relaxed);
        Some(place)
    }

    /// How many Sessions there are, and how many of them are with a connection.
    pub fn counts(&self) -> (usize, usize) {
        let is_lent = |place: &Place| matches!(place, Place::Lent { .. });
        let lent = self.places.iter().filter(|place| is_lent(place.value())).count();
        (self.places.len(), lent)
    }

    /// The mailboxes of all Sessions that are with a connection, the oldest first.
    pub fn lent(&self) -> Vec<Arc<Mailbox>> {
        let mailbox = |place: &Place| match place {
            Place::Lent { mailbox, .. } => Some(mailbox.clone()),
            Place::Parked(_) => None,
        };
        let mut lent: Vec<_> =
            self.places.iter().filter_map(|place| mailbox(place.value())).collect();
        lent.sort_unstable_by_key(|mailbox| mailbox.key());
        lent
    }
}

/// A Session on loan to a connection's task.
pub struct Lease {
    /// The broker.
    pub broker: Arc<Broker>,
    /// What is lent; `None` once it was given back.
    pub parts: Option<Parts>,
}

/// What is lent.
pub struct Parts {
    /// The Session.
    pub session: Session,
    /// Its mailbox.
    pub mailbox: Arc<Mailbox>,
    /// The share groups it is a member of.
    pub groups: Memberships,
}

impl Lease {
    /// The Client was not let in after all: a connection that never began leaves no Will.
    pub fn never_began(&mut self) {
        if let Some(parts) = self.parts.as_mut() {
            parts.session.take_will();
        }
    }

    /// Ends a part of the subscriptions of a Session that will end when it is given back; false
    /// when there is nothing to do any more before it is.
    pub fn wind_down(&mut self) -> bool {
        self.parts.as_mut().is_some_and(|parts| {
            parts.session.expiry_s() == 0
                && self.broker.unroute_some(&mut parts.session, parts.mailbox.key())
        })
    }

    /// Gives the Session back now; `is_taken_over`: the Client's own next connection asked for it.
    pub fn give_back(&mut self, is_taken_over: bool) {
        if let Some(parts) = self.parts.take() {
            self.broker.park(parts, is_taken_over);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back(false);
    }
}
