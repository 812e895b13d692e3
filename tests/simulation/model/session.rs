//! Sessions as they must be: begun, changed hands, parked, ended, and after a crash.

use std::collections::{BTreeMap, BTreeSet};

use super::queues::consumes_by_priority;
use super::track::{Track, Via};
use super::{Due, Message, Model, matches};
use crate::client::number;
use crate::packet::{Connect, Filter};
use crate::queues::PRIO;

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sure {
    #[default]
    No,
    Maybe,
    Yes,
}

/// A Will that is not published.
#[derive(Clone, Debug)]
pub struct Will {
    number: u32,
    delay_s: u32,
    /// When it is due, once the connection is gone.
    due: Option<u64>,
}

/// A subscription from the SUBSCRIBE to the packet that ends it.
#[derive(Clone, Debug)]
pub struct Span {
    /// The whole Topic Filter.
    pub filter: String,
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub id: Option<u32>,
    /// Whether it is surely there.
    sure: bool,
    /// The connection on which it was made.
    conn: usize,
    /// The packets that began and ended it: their identifiers, when, whether answered.
    begun: (u16, u64, bool),
    ended: Option<(u16, u64, bool)>,
    /// Where it ended, counted in events.
    pub to: Option<u64>,
}

/// A message in flight to the Client.
#[derive(Clone, Debug)]
pub struct InFlight {
    pub number: u32,
    pub via: Via,
    pub qos: u8,
    pub retain: bool,
    pub ids: Vec<u32>,
    /// QoS 2: when the Client said that it has it, and whether PUBREL has left.
    pub relayed: Option<u64>,
    pub released: bool,
}

/// A retained message that was handed over for a subscription.
#[derive(Clone, Debug)]
pub struct Handed {
    pub topic: String,
    pub filter: String,
}

/// A Client's Session.
#[derive(Clone, Debug, Default)]
pub struct Session {
    pub exists: Sure,
    pub incarnation: u64,
    /// Whether it outlives a crash, and whether that is not sure.
    pub stored: bool,
    may_be_stored: bool,
    /// Session Expiry Interval: the least and the most that it may be.
    expiry_s: (u32, u32),
    /// When the connection ended, at the earliest and at the latest.
    since: (u64, u64),
    /// The same, counted in events: the order of what is due at one time.
    parting: u64,
    pub conn: Option<usize>,
    /// Whether CONNACK has not left.
    pub opening: bool,
    /// Whether one has ever.
    confirmed: bool,
    /// Connections that want it.
    waiting: Vec<usize>,
    will: Option<Will>,
    /// Wills that were given up or published, and when.
    void_wills: Vec<(u32, u64)>,
    pub spans: Vec<Span>,
    pub tracks: BTreeMap<(u32, Via), Track>,
    pub handed: BTreeMap<u64, Handed>,
    pub in_flight: BTreeMap<u16, InFlight>,
    /// What was there before, when that ended, and whether that is sure to survive a crash.
    former: Option<(u64, bool, Box<Self>)>,
    /// The connection whose CONNECT ended that; and the same only if it surely was there.
    ended_by: Option<usize>,
    former_by: Option<usize>,
}

impl Span {
    /// The share group, if it is one.
    pub fn is_shared(&self) -> bool {
        self.filter.starts_with("$share/")
    }

    /// The part that topics are matched with.
    fn pattern(&self) -> &str {
        if self.is_shared() {
            self.filter.splitn(3, '/').nth(2).unwrap_or("")
        } else {
            &self.filter
        }
    }

    /// Whether a topic is meant.
    pub fn matches(&self, topic: &str) -> bool {
        matches(self.pattern(), topic)
    }

    /// Whether it is there now; it may also be surely so.
    pub fn is_open(&self) -> bool {
        self.to.is_none()
    }

    /// Whether it is surely there, if it is there at all.
    pub fn is_sure(&self) -> bool {
        self.sure
    }
}

impl Session {
    /// Whether it surely outlives a crash.
    pub fn is_surely_stored(&self) -> bool {
        self.stored && !self.may_be_stored && self.exists == Sure::Yes && self.confirmed
    }

    /// The connection of a Session that surely ends with it.
    pub fn surely_ends_with(&self) -> Option<usize> {
        let is_sure = !self.stored && !self.may_be_stored && self.former.is_none() && !self.opening;
        self.conn.filter(|_| is_sure)
    }

    /// Whether a message is a Will of it that is not published.
    pub fn keeps_will(&self, number: u32) -> bool {
        self.will.as_ref().is_some_and(|will| will.number == number)
    }

    /// Whether the Client is connected, and has been told so.
    pub fn is_online(&self) -> bool {
        self.conn.is_some() && !self.opening
    }

    /// Nothing of it is sure any more.
    fn blur(&mut self, up: u64) {
        self.exists = Sure::Maybe;
        self.conn = None;
        self.opening = false;
        self.expiry_s = (0, u32::MAX);
        self.since.1 = up;
        self.in_flight.clear();
        for span in &mut self.spans {
            span.sure = false;
        }
        for track in self.tracks.values_mut() {
            track.blur();
        }
    }
}

/// The moment so many seconds after another; never for the longest interval.
fn after_s(at: u64, seconds: u32) -> u64 {
    if seconds == u32::MAX { u64::MAX } else { at.saturating_add(u64::from(seconds) * 1000) }
}

impl Model {
    /// CONNECT was read.
    pub(super) fn connect(&mut self, number: usize, connect: Connect) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let client = conn.client;
        if let Some(will) = &connect.will
            && let Some(payload) = crate::client::number(&will.payload)
        {
            let message = Message {
                topic: will.topic.clone(),
                qos: will.qos,
                retain: will.retain,
                publisher: client,
                expiry_s: will.expiry_s,
                priority: 0,
                processed: vec![],
                unsure_from: None,
                relayed: false,
                crashes: 0,
            };
            self.messages.insert(payload, message);
        }
        conn.connect = Some(connect);
        if self.is_stopping {
            conn.refused = true;
            return;
        }
        if self.sessions[client].conn.is_some() {
            self.sessions[client].waiting.push(number);
        } else {
            self.lend(number);
        }
    }

    /// The Session goes to a connection: the one there is, or a new one.
    fn lend(&mut self, number: usize) {
        let now = self.now;
        let Some(conn) = self.conns.get(&number) else { return };
        let Some(connect) = conn.connect.clone() else { return };
        let (client, in_memory) = (conn.client, conn.in_memory);
        let session = &mut self.sessions[client];
        let is_over =
            session.exists != Sure::No && after_s(session.since.1, session.expiry_s.1) <= now;
        if session.exists == Sure::Yes && after_s(session.since.0, session.expiry_s.0) <= now {
            session.exists = Sure::Maybe;
        }
        let present = if connect.clean_start || is_over || session.exists == Sure::No {
            if session.exists != Sure::No {
                let by = session.former_by.filter(|_| !session.confirmed);
                let own = (session.exists == Sure::Yes).then_some(number);
                self.end_session(client);
                self.sessions[client].former_by = by.or(own);
                self.sessions[client].ended_by = Some(number);
            }
            self.new_session(client, connect.expiry_s > 0 && !in_memory);
            Some(false)
        } else {
            (session.conn, session.opening) = (Some(number), true);
            if session.exists == Sure::Maybe {
                // It may as well be a new one.
                let stored = connect.expiry_s > 0 && !in_memory;
                session.may_be_stored |= session.stored != stored;
                session.stored |= stored;
            }
            if let Some(will) = session.will.take() {
                session.void_wills.push((will.number, now));
                if will.due.is_some_and(|due| due <= now) {
                    self.publish_will(will.number);
                }
            }
            (self.sessions[client].exists == Sure::Yes).then_some(true)
        };
        let session = &mut self.sessions[client];
        session.will = connect.will.as_ref().and_then(|will| {
            Some(Will { number: number_of(will)?, delay_s: will.delay_s, due: None })
        });
        session.expiry_s = match session.exists {
            Sure::Yes => (connect.expiry_s, connect.expiry_s),
            _ => (0, connect.expiry_s.max(session.expiry_s.1)),
        };
        session.conn = Some(number);
        session.opening = true;
        let incarnation = session.incarnation;
        if let Some(conn) = self.conns.get_mut(&number) {
            (conn.present, conn.incarnation) = (present, incarnation);
        }
    }

    fn new_session(&mut self, client: usize, stored: bool) {
        let former = self.sessions[client].former.take();
        let Session { former_by, ended_by, .. } = self.sessions[client];
        let waiting = std::mem::take(&mut self.sessions[client].waiting);
        self.sessions[client] = Session {
            exists: Sure::Yes,
            incarnation: self.seq,
            stored,
            former,
            former_by,
            ended_by,
            waiting,
            ..Session::default()
        };
    }

    /// CONNACK has left.
    pub(super) fn connected(&mut self, number: usize, session_present: bool, reason: u8) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        if reason != 0 {
            conn.refused = true;
            return;
        }
        conn.open = true;
        let client = conn.client;
        self.taken_over(client, number);
        if self.sessions[client].conn != Some(number) {
            let what = "another connection has the Session";
            return self.broken(format!("connection {number} is let in: {what}"));
        }
        let Some(conn) = self.conns.get(&number) else { return };
        if conn.present.is_some_and(|present| present != session_present) {
            return self.broken(format!(
                "client {client}, connection {number}: Session Present is {session_present}"
            ));
        }
        let in_memory = conn.in_memory;
        let Some(connect) = conn.connect.clone() else { return };
        if !session_present && conn.present.is_none() {
            // It did not survive.
            let will = self.sessions[client].will.take();
            self.end_session(client);
            self.new_session(client, connect.expiry_s > 0 && !in_memory);
            let session = &mut self.sessions[client];
            (session.conn, session.will) = (Some(number), will);
        }
        let session = &mut self.sessions[client];
        session.exists = Sure::Yes;
        session.opening = false;
        session.confirmed = true;
        session.expiry_s = (connect.expiry_s, connect.expiry_s);
        // A CONNACK that waits for nothing says nothing of what others have ended.
        let waits = session.stored || session.former_by == Some(number);
        if let Some((_, acked, _)) = &mut session.former {
            *acked |= waits;
        }
        session.void_wills.clear();
        let incarnation = session.incarnation;
        if let Some(conn) = self.conns.get_mut(&number) {
            conn.incarnation = incarnation;
        }
    }

    /// A connection that takes nothing cannot be told that it is over; its Session is given on
    /// nevertheless.
    fn taken_over(&mut self, client: usize, number: usize) {
        let session = &self.sessions[client];
        let holder = session.conn.filter(|_| session.waiting.contains(&number));
        let is_stuck = |holder: &usize| self.conns.get(holder).is_some_and(|conn| !conn.is_roomy);
        if let Some(holder) = holder.filter(is_stuck) {
            self.ended(holder);
            self.turn(number);
        }
    }

    /// The connection is over for the broker: the Session is parked, or ends.
    pub(super) fn ended(&mut self, number: usize) {
        let (now, seq) = (self.now, self.seq);
        let Some(conn) = self.conns.get_mut(&number) else { return };
        conn.ended = true;
        let (client, left, open, refused) = (conn.client, conn.left, conn.open, conn.refused);
        let session = &mut self.sessions[client];
        session.waiting.retain(|waiting| *waiting != number);
        if session.conn != Some(number) {
            return;
        }
        self.queue_parted(number);
        let session = &mut self.sessions[client];
        session.since = (now, now);
        session.parting = seq;
        session.conn = None;
        if let Some((reason, expiry_s)) = left {
            if let Some(expiry_s) = expiry_s {
                session.expiry_s = (expiry_s, expiry_s);
            }
            if reason == 0
                && let Some(will) = session.will.take()
            {
                session.void_wills.push((will.number, now));
            }
        }
        let mut refused_will = None;
        if !open && let Some(will) = session.will.take() {
            // Whether the connection had begun, nobody can see from outside.
            match refused {
                true => refused_will = Some((will.number, now)),
                false => self.unsure_will(will.number),
            }
        }
        self.unrest(client);
        let session = &mut self.sessions[client];
        session.opening = false;
        let ends = session.expiry_s == (0, 0);
        for ((_, via), track) in &mut session.tracks {
            track.parted = true;
            let is_lost = track.qos.iter().all(|&qos| qos == 0);
            if is_lost || ends {
                track.must = false;
            }
            if *via == Via::Plain {
                track.qos.remove(&0);
            }
        }
        if let Some(will) = &mut session.will {
            let due = after_s(now, will.delay_s);
            will.due = Some(due);
            if ends || due <= now {
                let will = will.number;
                session.will = None;
                session.void_wills.push((will, now));
                self.publish_will(will);
            }
        }
        self.give_back_shared(client, number);
        if ends {
            self.end_session(client);
        }
        // It may also have been gone before it could be told.
        if refused || !open && self.unsafe_from().is_some() {
            self.refused(client, number);
            // A crash may find it in the store.
            self.sessions[client].void_wills.extend(refused_will);
        }
        self.unanswered(number);
    }

    /// A connection has its turn that may have waited for its Session: now it finds it.
    pub(super) fn turn(&mut self, number: usize) {
        let Some(conn) = self.conns.get(&number) else { return };
        let session = &mut self.sessions[conn.client];
        if session.conn.is_none() && session.waiting.contains(&number) {
            session.waiting.retain(|waiting| *waiting != number);
            self.lend(number);
        }
    }

    /// A Client was not let in, because the store fails or another has come: before its Session
    /// was touched, or after.
    fn refused(&mut self, client: usize, number: usize) {
        let now = self.now;
        let session = &mut self.sessions[client];
        let stored = session.stored;
        let mut undone = vec![];
        let is_by_it = session.ended_by == Some(number);
        if let Some((ended_at, false, former)) = session.former.take_if(|_| is_by_it) {
            let waiting = std::mem::take(&mut session.waiting);
            let incarnation = session.incarnation;
            *session = *former;
            (session.waiting, session.incarnation) = (waiting, incarnation);
            // It need not have ended, and then its Will was not published.
            let wills = session.void_wills.iter().filter(|(_, at)| *at >= ended_at);
            undone.extend(wills.map(|(will, _)| *will));
        }
        session.may_be_stored |= session.stored != stored;
        session.stored |= stored;
        let mut unsure: Vec<u32> = session.void_wills.iter().map(|(will, _)| *will).collect();
        unsure.extend(session.will.take().map(|will| will.number));
        session.blur(now);
        for will in undone {
            self.tracks_of(will).for_each(|track| track.must = false);
        }
        for will in unsure {
            self.unsure_will(will);
        }
        self.end_groups();
    }

    /// Publications that are not answered when their connection ends may have been refused: by a
    /// store that took none, or a queue that was full.
    fn unanswered(&mut self, number: usize) {
        let is_unsafe = self.unsafe_from().is_some();
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let dues: Vec<Due> = conn.pubacks.drain(..).chain(conn.pubrecs.drain(..)).collect();
        for due in dues {
            if is_unsafe || due.may_be_refused {
                self.not_accepted(&due);
            } else if due.number.is_some_and(|number| self.may_be_full(number)) {
                self.queue_refused(&due, false);
            }
        }
    }

    /// What a share group's member had of QoS 1 goes back to the group. What it had when it left
    /// the group has become its own, if its Session is stored.
    fn give_back_shared(&mut self, client: usize, number: usize) {
        let session = &mut self.sessions[client];
        let keeps = session.stored;
        let is_open = |span: &&Span| span.is_shared() && (span.is_open() || !keeps);
        let members = session.spans.iter().filter(is_open).map(|span| span.filter.clone());
        let members: Vec<String> = members.collect();
        let goes_back = |via: &Via| matches!(via, Via::Group(filter) if members.contains(filter));
        session.in_flight.retain(|_, held| held.qos == 2 || !goes_back(&held.via));
        let groups = self.groups.iter_mut().filter(|(filter, _)| members.contains(filter));
        for track in groups.flat_map(|(_, group)| group.tracks.values_mut()) {
            if track.holder.is_some_and(|(_, conn, qos)| conn == number && qos < 2) {
                track.holder = None;
            }
        }
    }

    /// A Session ends: its Will is due, its subscriptions and messages are gone.
    pub(super) fn end_session(&mut self, client: usize) {
        if let Some(will) = self.sessions[client].will.take() {
            self.sessions[client].void_wills.push((will.number, self.now));
            match will.due {
                Some(_) => self.publish_will(will.number),
                None => self.unsure_will(will.number),
            }
        }
        self.queue_session_ended(client);
        let (now, seq) = (self.now, self.seq);
        let mut old = std::mem::take(&mut self.sessions[client]);
        let waiting = std::mem::take(&mut old.waiting);
        let older = old.former.take();
        // What it has had of a group, and not finished, nobody else gets; what it has kept of a
        // group that it left, neither.
        for (filter, group) in &mut self.groups {
            let mut spans = old.spans.iter().filter(|span| span.filter == *filter).peekable();
            let was_member = spans.peek().is_some();
            let has_left = spans.any(|span| !span.is_open());
            for track in group.tracks.values_mut() {
                let holds = track.holder.is_some_and(|(holder, ..)| holder == client);
                // After a restart what was bound counts as sent.
                if holds || has_left || (was_member && track.restarted) {
                    track.must = false;
                }
            }
        }
        let incarnation = old.incarnation;
        let confirmed = old.confirmed;
        let older = older.filter(|_| !confirmed).map(|(at, acked, mut older)| {
            // A crash may find this one instead, although it has never been confirmed.
            older.may_be_stored |= old.stored != older.stored;
            older.stored |= old.stored;
            (if old.stored { now } else { at }, acked, older)
        });
        let former = older.or(Some((now, false, Box::new(old))));
        self.sessions[client] =
            Session { former, waiting, incarnation: incarnation.max(seq), ..Session::default() };
        self.end_groups();
    }

    /// Groups without members are no more.
    pub(super) fn end_groups(&mut self) {
        for (filter, group) in &mut self.groups {
            let is_member = |session: &Session| {
                session.exists == Sure::Yes
                    && session.spans.iter().any(|s| s.is_open() && s.sure && s.filter == *filter)
            };
            if !self.sessions.iter().any(is_member) {
                for track in group.tracks.values_mut() {
                    track.must = false;
                }
            }
        }
    }

    /// The broker looks for what is due.
    pub(super) fn tick(&mut self) {
        let now = self.now;
        let mut due = vec![];
        for (client, session) in self.sessions.iter_mut().enumerate() {
            if session.conn.is_some() || session.exists == Sure::No {
                continue;
            }
            if let Some(at) =
                session.will.as_ref().and_then(|will| will.due).filter(|at| *at <= now)
            {
                due.push((at, session.parting, session.incarnation, true, client));
            }
            let end = after_s(session.since.1, session.expiry_s.1);
            if end <= now {
                due.push((end, session.parting, session.incarnation, false, client));
            } else if after_s(session.since.0, session.expiry_s.0) <= now {
                session.exists = Sure::Maybe;
            }
        }
        due.sort_unstable();
        for (.., is_will, client) in due {
            if !is_will {
                self.end_session(client);
            } else if let Some(will) = self.sessions[client].will.take() {
                self.sessions[client].void_wills.push((will.number, now));
                self.publish_will(will.number);
            }
        }
        self.end_groups();
    }

    /// SUBSCRIBE was read.
    pub(super) fn subscribe(
        &mut self,
        number: usize,
        id: u16,
        subscription_id: Option<u32>,
        filters: &[Filter],
    ) {
        let (now, seq) = (self.now, self.seq);
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let client = conn.client;
        conn.subacks.push_back((id, filters.iter().map(|filter| filter.qos).collect()));
        for filter in filters {
            if filter.filter == PRIO {
                // What it has published in the same turn comes after it.
                self.queue_mixed(|at| at == now);
            }
            let session = &mut self.sessions[client];
            let mut existed = Sure::No;
            for span in
                session.spans.iter_mut().filter(|s| s.is_open() && s.filter == filter.filter)
            {
                existed = if span.sure || existed == Sure::Yes { Sure::Yes } else { Sure::Maybe };
                (span.to, span.ended) = (Some(seq), Some((id, now, false)));
            }
            let span = Span {
                filter: filter.filter.clone(),
                qos: filter.qos,
                no_local: filter.no_local,
                retain_as_published: filter.retain_as_published,
                id: subscription_id,
                sure: true,
                conn: number,
                begun: (id, now, false),
                ended: None,
                to: None,
            };
            if span.is_shared() {
                let group = self.groups.entry(span.filter.clone()).or_default();
                for track in group.tracks.values_mut().filter(|_| span.qos == 0) {
                    track.must = false;
                }
            }
            session.spans.push(span.clone());
            if !span.is_shared() {
                self.hand_over(client, &span, filter.retain_handling, existed);
            }
        }
    }

    /// SUBACK has left.
    pub(super) fn subscribed(&mut self, number: usize, id: u16) {
        self.unsubscribed(number, id);
    }

    /// UNSUBSCRIBE was read.
    pub(super) fn unsubscribe(&mut self, number: usize, id: u16, filters: &[String]) {
        let (now, seq) = (self.now, self.seq);
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let client = conn.client;
        conn.unsubacks.push_back(id);
        for filter in filters {
            if filter == PRIO {
                self.queue_mixed(|_| true);
            }
            let spans = &mut self.sessions[client].spans;
            for span in spans.iter_mut().filter(|s| s.is_open() && s.filter == *filter) {
                (span.to, span.ended) = (Some(seq), Some((id, now, false)));
            }
            self.no_more_handed(client, |handed| handed.filter == *filter);
        }
        self.end_groups();
    }

    /// The answer to SUBSCRIBE or UNSUBSCRIBE has left: what it did is sure.
    pub(super) fn unsubscribed(&mut self, number: usize, id: u16) {
        let Some(session) = self.session_of(number) else { return };
        for span in &mut session.spans {
            if span.begun.0 == id && span.conn == number {
                span.begun.2 = true;
                span.sure |= span.is_open();
            }
            if let Some(ended) = span.ended.as_mut().filter(|ended| ended.0 == id) {
                ended.2 = true;
            }
        }
    }

    /// What a Client has of its share groups goes back to them.
    fn unrest(&mut self, client: usize) {
        for span in self.sessions[client].spans.iter().filter(|span| span.is_shared()) {
            if let Some(group) = self.groups.get_mut(&span.filter) {
                group.unrest = self.now;
            }
        }
    }

    /// The broker is gone.
    pub(super) fn down(&mut self, orderly: bool) {
        (0..self.sessions.len()).for_each(|client| self.unrest(client));
        for conn in self.conns.values_mut() {
            conn.ended = true;
        }
        if self.sessions.iter().any(consumes_by_priority) {
            self.queue_mixed(|_| true);
        }
        if orderly {
            self.queue_restart();
            for client in 0..self.sessions.len() {
                self.end_if_in_memory(client);
            }
            let tracks = self.sessions.iter_mut().flat_map(|session| &mut session.tracks);
            for ((_, via), track) in tracks {
                track.restarted = true;
                // What was not handed over is not on record.
                track.must &= track.writes > 0 || !matches!(via, Via::Handed(_));
            }
            let tracks = self.groups.values_mut().flat_map(|group| group.tracks.values_mut());
            tracks.for_each(|track| track.restarted = true);
            return;
        }
        self.crashes += 1;
        self.crash_retained();
        self.queue_crash();
        let settled = self.settled();
        let mut unsure = vec![];
        for message in self.messages.values_mut() {
            if message.crashes == self.crashes - 1 {
                message.relayed |= message.processed.last().is_some_and(|&at| settled(at));
            }
        }
        let is_stored: Vec<bool> = self.sessions.iter().map(|session| session.stored).collect();
        let ends_with: Vec<_> = self.sessions.iter().map(Session::surely_ends_with).collect();
        let ends = |session: &&Session| session.conn.is_some() && !session.stored;
        let spans = self.sessions.iter().filter(ends).flat_map(|session| &session.spans);
        let with_qos2 = spans.filter(|span| span.is_shared() && span.is_open() && span.qos == 2);
        let ending: BTreeSet<String> = with_qos2.map(|span| span.filter.clone()).collect();
        for session in &mut self.sessions {
            unsure.extend(session.crash(settled));
        }
        for (filter, group) in &mut self.groups {
            for track in group.tracks.values_mut() {
                let is_new = !settled(track.at);
                track.crash(settled);
                // It may have been about to be sent to a member with which it ends.
                if is_new && ending.contains(filter) {
                    (track.must, track.was_must) = (false, false);
                }
                let Some((client, conn, qos)) = track.holder.take() else { continue };
                if qos == 2 && ends_with[client] == Some(conn) {
                    (track.is_bound, track.must) = (true, false);
                } else if !is_stored[client] {
                    // Its Session is gone, and nobody knows what it had; with QoS 2 it has it.
                    track.got_exactly = 0;
                    track.must &= qos < 2;
                }
            }
        }
        for will in unsure {
            self.unsure_will(will);
        }
        self.end_groups();
        (self.failed_at, self.healed_at) = (None, None);
    }

    /// A Session that is not stored and outlives its connection does not outlive the process.
    fn end_if_in_memory(&mut self, client: usize) {
        let session = &mut self.sessions[client];
        if session.stored || session.may_be_stored || session.exists == Sure::No {
            return;
        }
        // Nobody publishes it any more, or somebody has while the broker stopped.
        if let Some(will) = session.will.take() {
            self.unsure_will(will.number);
        }
        self.end_session(client);
    }

    /// The broker is back: whoever was connected counts as gone since now.
    pub(super) fn up(&mut self) {
        let now = self.now;
        self.safe_until = now;
        self.is_stopping = false;
        let seq = self.seq;
        for session in &mut self.sessions {
            session.parting = seq;
            if session.since.1 == u64::MAX {
                session.since.1 = now;
                if session.since.0 == u64::MAX {
                    session.since.0 = now;
                }
            }
            if let Some(will) = &mut session.will
                && will.due.is_none()
            {
                will.due = Some(after_s(now, will.delay_s));
            }
        }
    }
}

impl Session {
    /// The power is cut; returns the Wills whose fate is unsure.
    fn crash(&mut self, settled: impl Fn(u64) -> bool + Copy) -> Vec<u32> {
        let mut unsure: Vec<u32> = vec![];
        unsure.extend(self.void_wills.iter().filter(|(_, at)| !settled(*at)).map(|(will, _)| will));
        self.waiting.clear();
        let former = self.former.take().filter(|(at, acked, _)| !acked && !settled(*at));
        let is_new = self.exists != Sure::No && !self.confirmed;
        if self.opening || former.is_some() || is_new || self.may_be_stored {
            // The old Session or the new one.
            unsure.extend(self.will.take().map(|will| will.number));
            if let Some((_, _, former)) = former {
                let new = std::mem::replace(self, *former);
                let void = self.void_wills.iter().filter(|(_, at)| !settled(*at));
                unsure.extend(void.map(|(will, _)| will));
                unsure.extend(self.will.take().map(|will| will.number));
                self.stored |= new.stored;
                self.incarnation = new.incarnation;
                self.spans.extend(new.spans);
                self.tracks.extend(new.tracks);
                self.handed.extend(new.handed);
            }
            self.crash_spans(settled);
            self.blur(u64::MAX);
            if !self.stored {
                *self = Self { incarnation: self.incarnation, ..Self::default() };
            }
            return unsure;
        }
        if !self.stored || self.exists == Sure::No {
            unsure.extend(self.will.take().map(|will| will.number));
            *self = Self { incarnation: self.incarnation, ..Self::default() };
            return unsure;
        }
        match self.conn.take() {
            Some(_) => self.since = (u64::MAX, u64::MAX),
            None if settled(self.since.0) => {}
            None => {
                self.since.1 = u64::MAX;
                self.expiry_s.1 = u32::MAX;
                unsure.extend(self.will.take().map(|will| will.number));
            }
        }
        self.crash_spans(settled);
        self.in_flight.retain(|_, held| held.qos == 2);
        for held in self.in_flight.values_mut() {
            held.relayed = held.relayed.filter(|&at| held.released || settled(at));
        }
        for ((_, via), track) in &mut self.tracks {
            track.crash(settled);
            track.qos.remove(&0);
            track.must &= !track.qos.is_empty();
            if matches!(via, Via::Handed(_)) && track.writes == 0 {
                track.must = false;
            }
        }
        unsure
    }

    fn crash_spans(&mut self, settled: impl Fn(u64) -> bool) {
        let mut back = vec![];
        for span in &mut self.spans {
            if let Some((_, at, acked)) = span.ended
                && !acked
                && !settled(at)
            {
                let (ended, to) = (None, None);
                back.push(Span { sure: false, ended, to, ..span.clone() });
                span.ended = None;
            }
            let (_, at, acked) = span.begun;
            span.sure &= acked || settled(at);
        }
        self.spans.extend(back);
    }
}

fn number_of(will: &crate::packet::Will) -> Option<u32> {
    number(&will.payload)
}
