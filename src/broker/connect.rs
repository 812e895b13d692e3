//! Sessions begin, change hands, wait and end.

use std::sync::Arc;

use dashmap::mapref::entry::Entry;
use tokio::sync::futures::OwnedNotified;

use super::Broker;
use super::fate::Fate;
use super::mailbox::{Mail, Mailbox};
use super::registry::{Lease, Memberships, Parked, Parts, Place};
use super::subscribe::FILTERS_MAX;
use super::timeline::Due;
use super::turn::Turn;
use crate::access::acl::guard::Guard;
use crate::clock::Moment;
use crate::codec::{QoS, ReasonCode};
use crate::metrics::DropReason;
use crate::queue::Delivery;
use crate::session::Session;
use crate::session::connect::{Manner, Terms};
use crate::session::will::Will;
use crate::store::{Change, SessionId};

/// After so many seconds a Session that is being ended for a Client that wants its place is ended
/// without it.
const ENDING_S: u64 = 10;

/// A Client that has been let in and wants its Session.
pub struct Request {
    /// Client Identifier, given or assigned.
    pub client_id: Arc<str>,
    /// Whether an existing Session is to be ended.
    pub clean_start: bool,
    /// What was agreed.
    pub terms: Terms,
    /// Its Will.
    pub will: Option<Box<Will>>,
    /// Who it is, and what it may do.
    pub guard: Arc<Guard>,
    /// Sessions that there may be, with and without a connection, for a new one to be made.
    pub sessions_max: usize,
}

/// Why a Client does not get a Session now.
enum Denied {
    /// It is lent: the request, and when to try again.
    Lent(Box<(Request, OwnedNotified)>),
    /// It is ended first, of which a part has been done: the request.
    Ending(Box<Request>),
    /// It belongs to another user.
    Foreign,
    /// It would be a new one, and there are as many as may be.
    Full,
}

/// A Session for a connection.
pub struct Connected {
    /// The Session.
    pub lease: Lease,
    /// Whether it existed before.
    pub session_present: bool,
}

impl Broker {
    /// Finds or makes the Session of a Client. Waits while another connection of the same Client
    /// gives it up [MQTT-3.1.4-3]. What must be durable before CONNACK is noted in `turn`. The
    /// error is what the Client is told, and what the log is.
    pub async fn connect(
        self: &Arc<Self>,
        mut request: Request,
        turn: &mut Turn,
    ) -> Result<Connected, (ReasonCode, &'static str)> {
        loop {
            match self.try_connect(request, turn) {
                Ok(connected) => return Ok(connected),
                Err(Denied::Foreign) => {
                    let why = "the session belongs to another user";
                    return Err((ReasonCode::NotAuthorized, why));
                }
                Err(Denied::Full) => {
                    return Err((ReasonCode::ServerBusy, "global_max_clients is reached"));
                }
                Err(Denied::Ending(back)) => {
                    request = *back;
                    tokio::task::yield_now().await;
                }
                Err(Denied::Lent(lent)) => {
                    let (back, returned) = *lent;
                    request = back;
                    returned.await;
                    // How the Session was given back must be durable before CONNACK says how it
                    // stands. Answers come in order, so any change waits for what was before it.
                    turn.change(Change::Finished { message: 0, session: SessionId(0) });
                }
            }
        }
    }

    /// One attempt.
    fn try_connect(
        self: &Arc<Self>,
        request: Request,
        turn: &mut Turn,
    ) -> Result<Connected, Denied> {
        let found = match self.registry.places.entry(request.client_id.clone()) {
            Entry::Vacant(_) if !self.registry.take_place(request.sessions_max) => {
                return Err(Denied::Full);
            }
            Entry::Vacant(vacant) => {
                let mailbox = self.new_mailbox(&request);
                vacant.insert(Place::lent(&mailbox));
                (mailbox, None)
            }
            Entry::Occupied(mut occupied) => {
                let is_over = match occupied.get() {
                    Place::Parked(parked) => parked.is_over(self.now()),
                    Place::Lent { .. } => false,
                };
                if !is_over && self.is_foreign(occupied.get().mailbox(), &request.guard) {
                    return Err(Denied::Foreign);
                }
                if let Place::Lent { mailbox, returned } = occupied.get_mut() {
                    let back = returned.get_or_insert_default().clone().notified_owned();
                    mailbox.post(Mail::Close(ReasonCode::SessionTakenOver));
                    return Err(Denied::Lent(Box::new((request, back))));
                }
                let ends = request.clean_start || is_over;
                let place = occupied.get_mut();
                if let (true, Place::Parked(parked)) = (ends, &mut *place)
                    && self.end_some(&request.client_id, parked)
                {
                    return Err(Denied::Ending(Box::new(request)));
                }
                let mailbox = match place {
                    Place::Parked(parked) if !ends => {
                        // While the place is locked: the next who wants this Session asks later.
                        parked.mailbox.reconnected();
                        parked.mailbox.clone()
                    }
                    _ => self.new_mailbox(&request),
                };
                let former = match std::mem::replace(place, Place::lent(&mailbox)) {
                    Place::Parked(parked) => Some(parked),
                    Place::Lent { .. } => None,
                };
                (mailbox, former)
            }
        };
        Ok(self.lend(request, found, turn))
    }

    /// Begins to end a Session that has many subscriptions, or goes on with it; false when what is
    /// left is little. If who wants its place goes away meanwhile, it ends by itself.
    pub(super) fn end_some(&self, client_id: &Arc<str>, parked: &mut Parked) -> bool {
        if parked.session.subscriptions.len() <= FILTERS_MAX {
            return false;
        }
        if !std::mem::replace(&mut parked.is_ending, true) {
            for timer in parked.timers.drain(..) {
                self.expiry.cancel(timer);
            }
            let (client_id, parting) = (client_id.clone(), parked.parting);
            let end = Due::Session { client_id, parting };
            parked.timers.push(self.expiry.add(self.now().after_s(ENDING_S), end));
        }
        self.unroute_some(&mut parked.session, parked.mailbox.key())
    }

    fn new_mailbox(&self, request: &Request) -> Arc<Mailbox> {
        let stored = request.terms.durable.then(|| self.store.next_session_id());
        let (key, memory, guard) = (self.next_key(), self.memory.clone(), request.guard.clone());
        Mailbox::new(key, stored, self.store.keeps_messages(), memory, guard)
    }

    /// Whether a Session is another user's. What belongs to nobody is whose it is who takes it.
    fn is_foreign(&self, mailbox: &Mailbox, guard: &Guard) -> bool {
        let held = mailbox.guard();
        let owner = &held.subject.username;
        !self.options.any_user_takes_over && owner.is_some() && *owner != guard.subject.username
    }

    fn lend(
        self: &Arc<Self>,
        mut request: Request,
        (mailbox, former): (Arc<Mailbox>, Option<Box<Parked>>),
        turn: &mut Turn,
    ) -> Connected {
        for timer in former.iter().flat_map(|former| &former.timers) {
            self.expiry.cancel(*timer);
        }
        let is_kept = |former: &Parked| Arc::ptr_eq(&former.mailbox, &mailbox);
        let session_present = former.as_deref().is_some_and(is_kept);
        let (session, groups) = match former {
            Some(former) if session_present => {
                // What was stored stays stored, also if the Client now comes by another way.
                request.terms.durable = mailbox.stored().is_some();
                let Parked { mut session, groups, since, .. } = *former;
                let now = self.now();
                let is_due = |will: &Will| since.after_s(will.delay_s.into()) <= now;
                if session.terms().manner == Manner::Own
                    && session.will().is_some_and(is_due)
                    && let Some(will) = session.take_will()
                {
                    self.publish_will(&will, &mailbox, now, turn);
                }
                mailbox.set_guard(request.guard);
                session.connected(request.terms, request.will);
                (session, groups)
            }
            former => {
                if let Some(former) = former {
                    // [MQTT-3.1.2-4]; its Will, if still waiting, is due since the Session ends.
                    self.end_parked(*former, turn);
                }
                self.metrics.sessions_created.increment();
                (
                    Session::new(request.client_id, request.terms, request.will),
                    Memberships::default(),
                )
            }
        };
        self.metrics.clients_connected.increment();
        for group in groups.iter() {
            let window = session.terms().send_window.into();
            group.online(&mailbox, window, self.now(), turn.remainder());
        }
        let mut parts = Parts { session, mailbox, groups };
        self.put_on_record(&mut parts, None, turn);
        Connected { lease: Lease { broker: self.clone(), parts: Some(parts) }, session_present }
    }

    /// Notes the Session's record for the store, if it outlives its connection.
    pub(super) fn put_on_record(
        &self,
        parts: &mut Parts,
        disconnected_at: Option<Moment>,
        turn: &mut Turn,
    ) {
        let Some(session) = parts.mailbox.stored() else { return };
        let owner = parts.mailbox.guard().subject.username.clone();
        let record = parts.session.record(disconnected_at, owner);
        turn.change(Change::SessionPut { session, record: record.encode() });
    }

    /// Takes a Session back from its connection: it waits for its Client, or ends.
    /// `is_taken_over`: by the Client's own next connection.
    pub(super) fn park(&self, mut parts: Parts, is_taken_over: bool) {
        self.metrics.clients_disconnected.increment();
        let now = self.now();
        let mut turn = Turn::default();
        for group in parts.groups.iter() {
            group.pause(parts.mailbox.key());
        }
        let (unsent, lent) = parts.mailbox.disconnected(self.tuned.queue().keeps_qos0);
        self.metrics.drops.add(DropReason::ConnectionLost, unsent as u64);
        let ends_now = parts.session.expiry_s() == 0;
        let mut back = self.unhold(&mut parts);
        back.extend(lent);
        self.give_back(&parts, back, &mut turn);
        if let (false, Some(session)) = (ends_now, parts.mailbox.stored()) {
            for packet_id in parts.session.put_on_record() {
                let delivery = parts.session.outgoing().delivery(packet_id);
                if let Some(delivery) = delivery.filter(|delivery| delivery.message.id() != 0) {
                    self.bind(session, packet_id, delivery, &mut turn);
                }
            }
        }
        let will_due = parts.session.will().map(|will| now.after_s(will.delay_s.into()));
        // In mosquitto the Will of a Session that goes on by another connection is not published.
        let goes_on = is_taken_over && parts.session.terms().manner == Manner::Mosquitto;
        if will_due.is_some_and(|due| ends_now || (due <= now && !goes_on))
            && let Some(will) = parts.session.take_will()
        {
            self.publish_will(&will, &parts.mailbox, now, &mut turn);
        }
        let client_id = parts.session.client_id().clone();
        let parked = if ends_now {
            self.end(parts, &mut turn);
            None
        } else {
            self.put_on_record(&mut parts, Some(now), &mut turn);
            Some(parts)
        };
        // Before another worker may have the Session: what the store is told of it stays in order.
        self.finish(&mut turn, None);
        let place = match parked {
            None => self.registry.remove_if(&client_id, |_| true),
            Some(parts) => self.park_until(parts, now, will_due.filter(|&due| due > now)),
        };
        place.inspect(Place::vacated);
    }

    /// Takes what goes back to share groups when the connection ends, or the Session. That what
    /// was held for QoS 2 is not bound to this Session any more, the store is told before another
    /// may have it: else a crash could leave it with both.
    fn unhold(&self, parts: &mut Parts) -> Vec<Delivery> {
        let stored = parts.mailbox.stored();
        let back = parts.session.give_back_shared();
        let held = back.iter().filter(|(_, delivery)| delivery.qos == QoS::ExactlyOnce);
        let void = held.filter_map(|(packet_id, delivery)| match stored {
            Some(session) => Some(Change::Unbound { session, packet_id: packet_id.get() }),
            None => self.not_bound(delivery),
        });
        let mut changes: Vec<_> = void.collect();
        if !changes.is_empty() {
            self.store.submit(&mut changes, None);
        }
        back.into_iter().map(|(_, delivery)| delivery).collect()
    }

    /// The Session's share groups have it no more, and get back what it had of them.
    fn give_back(&self, parts: &Parts, mut back: Vec<Delivery>, turn: &mut Turn) {
        if back.is_empty() && parts.groups.iter().len() == 0 {
            return;
        }
        let (key, now) = (parts.mailbox.key(), self.now());
        for group in parts.groups.iter() {
            group.offline(key, &mut back, now, turn.remainder());
        }
        // Of those that it has left.
        while let Some(source) = back.first().map(|delivery| delivery.source) {
            if let Some(group) = self.groups.by_source(source) {
                group.offline(key, &mut back, now, turn.remainder());
                continue;
            }
            let before = back.len();
            back.retain(|delivery| delivery.source != source);
            self.metrics.drops.add(DropReason::SessionEnded, (before - back.len()) as u64);
        }
    }

    /// Parks a Session; returns the place that it leaves.
    fn park_until(&self, parts: Parts, now: Moment, will_due: Option<Moment>) -> Option<Place> {
        let client_id = parts.session.client_id().clone();
        let parting = self.next_key();
        let expiry_s = parts.session.expiry_s();
        let Parts { session, mailbox, groups, .. } = parts;
        let mut timers = smallvec::SmallVec::new();
        if let Some(due) = will_due {
            let will = Due::Will { client_id: client_id.clone(), parting };
            timers.push(self.expiry.add(due, will));
        }
        if expiry_s != u32::MAX {
            let end = Due::Session { client_id: client_id.clone(), parting };
            timers.push(self.expiry.add(now.after_s(expiry_s.into()), end));
        }
        let is_ending = false;
        let parked = Parked { session, mailbox, groups, parting, since: now, is_ending, timers };
        self.registry.places.insert(client_id, Place::Parked(Box::new(parked)))
    }

    /// Ends a Session that waited for its Client: its Will is published first if it still
    /// waited, since it is due at the end of the Session at the latest [MQTT-3.1.2-8].
    pub(super) fn end_parked(&self, parked: Parked, turn: &mut Turn) {
        let Parked { mut session, mailbox, groups, .. } = parked;
        if let Some(will) = session.take_will() {
            self.publish_will(&will, &mailbox, self.now(), turn);
        }
        self.end(Parts { session, mailbox, groups }, turn);
    }

    /// Ends a Session: nothing of it is left [MQTT-3.1.2-23].
    fn end(&self, mut parts: Parts, turn: &mut Turn) {
        self.metrics.sessions_ended.increment();
        let stored = parts.mailbox.stored();
        let back = self.unhold(&mut parts);
        self.give_back(&parts, back, turn);
        let filters: Vec<Box<str>> =
            parts.session.subscriptions.iter().map(|(filter, _)| filter.into()).collect();
        for filter in filters {
            self.unroute(&mut parts, &filter, turn);
        }
        for delivery in parts.session.abandon() {
            let trace = delivery.trace();
            self.cannot_keep(delivery, Fate::SessionEnded, turn);
            self.done(trace, stored, turn);
        }
        for delivery in parts.mailbox.end() {
            self.dropped(delivery, DropReason::SessionEnded, stored, turn);
        }
        if let Some(session) = stored {
            turn.change(Change::SessionEnded { session });
        }
    }

    /// A Client Identifier for a Client that gave none, which begins so.
    pub fn assign_client_id(&self, prefix: &str, manner: Manner) -> Arc<str> {
        let (seed, key) = (self.identifier_seed, self.next_key());
        match manner {
            Manner::Own => format!("{prefix}{seed:016x}{key:08x}").into(),
            // As long as mosquitto's, and as they look.
            Manner::Mosquitto => {
                let digits = format!("{seed:016x}{key:016x}");
                let part = |range| digits.get(range).unwrap_or_default();
                let (a, b, c) = (part(0..8), part(8..12), part(12..16));
                format!("{prefix}{a}-{b}-{c}-{}-{}", part(16..20), part(20..32)).into()
            }
        }
    }

    /// The Client of a Session has proven anew who it is, and what it may do.
    pub fn reguard(&self, parts: &Parts, guard: Arc<Guard>) {
        parts.mailbox.set_guard(guard);
        let (key, now, mut turn) = (parts.mailbox.key(), self.now(), Turn::default());
        for group in parts.groups.iter() {
            group.reguarded(key, now, turn.remainder());
        }
        self.finish(&mut turn, None);
    }

    /// Tells every connection of a user to end, who may not be here any more.
    pub fn expel(&self, username: &str) {
        for mailbox in self.registry.lent() {
            if mailbox.guard().subject.username.as_deref() == Some(username) {
                mailbox.post(Mail::Close(ReasonCode::NotAuthorized));
            }
        }
    }

    /// Tells every connection to end, because the broker does.
    pub fn close_connections(&self) {
        self.closing.store(true, std::sync::atomic::Ordering::Relaxed);
        for mailbox in self.registry.lent() {
            mailbox.post(Mail::Close(ReasonCode::ServerShuttingDown));
        }
    }
}
