//! Messages that are published: who must get them, who may.

use std::collections::BTreeSet;

use super::queues::is_queued;
use super::retained::Kept;
use super::session::{Session, Span, Sure};
use super::track::{Track, Via};
use super::{Due, Message, Model};
use crate::client::number;
use crate::history::CLIENTS;
use crate::packet::{Packet, Publish};

/// The subscriptions of a Session that mean a message.
struct Match<'a> {
    spans: Vec<&'a Span>,
    /// Whether one of them is surely there.
    sure: bool,
}

/// The plain subscriptions that match, or those of a share group.
fn plain<'a>(session: &'a Session, topic: &str, own: bool) -> Match<'a> {
    let spans: Vec<&Span> = session
        .spans
        .iter()
        .filter(|span| span.is_open() && !span.is_shared() && span.matches(topic))
        .filter(|span| !(own && span.no_local))
        .collect();
    let sure = session.exists == Sure::Yes && spans.iter().any(|span| span.is_sure());
    Match { spans, sure }
}

impl Match<'_> {
    /// The QoS that the message may have.
    fn qos(&self, published: u8) -> BTreeSet<u8> {
        let all = self.spans.iter().map(|span| span.qos);
        let most = all.clone().max().unwrap_or(0);
        let sure = self.spans.iter().filter(|span| span.is_sure()).map(|span| span.qos);
        let least = sure.max().unwrap_or_else(|| all.min().unwrap_or(0));
        (least..=most).map(|qos| qos.min(published)).collect()
    }

    fn are_sure(&self) -> bool {
        self.spans.iter().all(|span| span.is_sure())
    }

    fn ids(&self) -> Option<Vec<u32>> {
        let mut ids: Vec<u32> = self.spans.iter().filter_map(|span| span.id).collect();
        ids.sort_unstable();
        self.are_sure().then_some(ids)
    }

    fn retain(&self, published: bool) -> BTreeSet<bool> {
        let kept = self.spans.iter().any(|span| span.retain_as_published) && published;
        if self.are_sure() { BTreeSet::from([kept]) } else { BTreeSet::from([false, kept]) }
    }
}

impl Model {
    /// PUBLISH was read.
    pub(super) fn published(&mut self, conn: usize, publish: Publish) {
        let Some(client) = self.conns.get(&conn).map(|conn| conn.client) else { return };
        let message_number = number(&publish.payload);
        let is_known = message_number.is_some_and(|number| self.is_repeated(number));
        let mut due = Due {
            id: publish.id,
            number: message_number,
            order: self.order,
            reached: (false, false),
            repeated: is_known,
            unsure: message_number.is_some_and(|number| self.was_processed(number)),
            may_be_refused: self.unsafe_from().is_some(),
        };
        if !is_known {
            self.order += 1;
            due.order = self.order;
            if let Some(number) = message_number {
                let expiry_s = publish.expiry_s;
                let (topic, qos, retain) = (publish.topic.clone(), publish.qos, publish.retain);
                self.messages.entry(number).or_insert(Message {
                    topic,
                    qos,
                    retain,
                    publisher: client,
                    expiry_s,
                    priority: publish.priority.unwrap_or(0),
                    processed: vec![],
                    unsure_from: None,
                    relayed: false,
                    crashes: 0,
                });
            }
            due.reached = self.reached(&publish.topic, client);
            if is_queued(&publish.topic) {
                due.reached = (true, true);
            }
            if publish.retain {
                let expires_at = publish.expiry_s.map(|s| self.now + u64::from(s) * 1000);
                let kept = Kept::new(message_number, self.now, self.order, client, publish.qos);
                let kept = Kept { expires_at, ..kept };
                if due.unsure {
                    self.maybe_retain_now(&publish.topic, kept);
                } else {
                    self.retain(&publish.topic, kept);
                }
            }
            if let Some(number) = message_number {
                self.process(number);
            }
        }
        let Some(conn) = self.conns.get_mut(&conn) else { return };
        match publish.qos {
            0 => {}
            1 => conn.pubacks.push_back(due),
            _ => conn.pubrecs.push_back(due),
        }
    }

    /// Whether a message of QoS 2 is sent again and surely known to the broker.
    fn is_repeated(&self, number: u32) -> bool {
        self.messages.get(&number).is_some_and(|message| {
            message.qos == 2
                && !message.processed.is_empty()
                && (message.relayed || message.crashes == self.crashes)
        })
    }

    /// Whether a message of QoS 2 was processed before, unless that was lost.
    fn was_processed(&self, number: u32) -> bool {
        let message = self.messages.get(&number);
        message.is_some_and(|message| message.qos == 2 && !message.processed.is_empty())
    }

    /// Whether somebody surely subscribes to a topic, and whether somebody may.
    fn reached(&self, topic: &str, publisher: usize) -> (bool, bool) {
        let (mut surely, mut maybe) = (false, false);
        for (client, session) in self.sessions.iter().enumerate() {
            if session.exists == Sure::No {
                continue;
            }
            let found = plain(session, topic, client == publisher);
            let shared = |span: &&Span| span.is_open() && span.is_shared() && span.matches(topic);
            let is_sure = |span: &Span| span.is_sure() && session.exists == Sure::Yes;
            surely |= found.sure || session.spans.iter().filter(shared).any(is_sure);
            maybe |= !found.spans.is_empty() || session.spans.iter().any(|span| shared(&span));
        }
        (surely, maybe)
    }

    /// A message goes to all that subscribe.
    fn process(&mut self, number: u32) {
        let (now, order, crashes) = (self.now, self.order, self.crashes);
        let Some(message) = self.messages.get_mut(&number) else { return };
        let is_unsure = message.qos == 2 && !message.processed.is_empty();
        message.processed.push(now);
        message.crashes = crashes;
        let message = message.clone();
        for (client, session) in self.sessions.iter_mut().enumerate() {
            if session.exists == Sure::No {
                continue;
            }
            let found = plain(session, &message.topic, client == message.publisher);
            if found.spans.is_empty() {
                continue;
            }
            let mut qos = found.qos(message.qos);
            let is_there = session.is_online() || (session.conn.is_some() && session.opening);
            // What may be of QoS 0 only need not wait for who is away.
            let may_be_qos0 = qos.contains(&0);
            if !is_there {
                qos.remove(&0);
            }
            if qos.is_empty() {
                continue;
            }
            let must = found.sure && (!may_be_qos0 || session.is_online());
            let track = Track {
                must,
                durable: session.stored,
                at: now,
                orders: vec![order],
                qos,
                retain: found.retain(message.retain),
                ids: found.ids(),
                ..Track::default()
            };
            enter(session.tracks.entry((number, Via::Plain)).or_default(), track, is_unsure);
        }
        self.process_shared(number, &message, is_unsure);
        self.enqueue(number);
    }

    /// A message goes to all share groups that want it.
    fn process_shared(&mut self, number: u32, message: &Message, is_unsure: bool) {
        for (filter, group) in &mut self.groups {
            let (mut any, mut must, mut durable, mut is_loose) = (false, false, false, false);
            for session in self.sessions.iter().filter(|s| s.exists != Sure::No) {
                let is_it = |span: &&Span| {
                    span.is_open() && span.filter == *filter && span.matches(&message.topic)
                };
                for span in session.spans.iter().filter(is_it) {
                    let is_sure = session.exists == Sure::Yes && span.is_sure();
                    any = true;
                    // What leaves with QoS 0 may get lost.
                    is_loose |= span.qos == 0;
                    must |= is_sure && message.qos > 0;
                    durable |= is_sure && session.stored;
                }
            }
            if any {
                let (at, orders, must) = (self.now, vec![self.order], must && !is_loose);
                let track = Track { must, durable, at, orders, ..Track::default() };
                enter(group.tracks.entry(number).or_default(), track, is_unsure);
            }
        }
    }

    /// A Will is published.
    pub(super) fn publish_will(&mut self, number: u32) {
        let Some(message) = self.messages.get(&number).cloned() else { return };
        self.order += 1;
        if message.retain {
            let expires_at = message.expiry_s.map(|s| self.now + u64::from(s) * 1000);
            let kept =
                Kept::new(Some(number), self.now, self.order, message.publisher, message.qos);
            self.retain(&message.topic, Kept { expires_at, ..kept });
        }
        self.process(number);
    }

    /// A Will may be published at any time from now on.
    pub(super) fn unsure_will(&mut self, number: u32) {
        let seq = self.seq;
        let Some(message) = self.messages.get_mut(&number) else { return };
        message.unsure_from.get_or_insert(seq);
        if message.retain {
            let message = message.clone();
            let order = self.order;
            let kept = Kept::new(Some(number), self.now, order, message.publisher, message.qos);
            self.maybe_retain(&message.topic, kept);
        }
    }

    /// PUBACK or PUBREC has left: the message is safe.
    pub(super) fn answered(
        &mut self,
        conn: usize,
        packet: &Packet,
        id: u16,
        reason: u8,
        due: Option<Due>,
    ) {
        let Some(due) = due.filter(|due| due.id == id) else {
            return self
                .broken(format!("connection {conn}: {packet:?} is not the one that is due"));
        };
        let v5 = self.conns.get(&conn).is_some_and(|conn| CLIENTS[conn.client].1);
        if reason == 0x97 && (due.may_be_refused || self.unsafe_from().is_some()) {
            return self.not_accepted(&due);
        }
        if reason == 0x97 && due.number.is_some_and(|number| self.may_be_full(number)) {
            return self.queue_refused(&due, true);
        }
        let (surely, maybe) = due.reached;
        let is_right = match reason {
            0 | 0x10 if due.unsure && !due.repeated => true,
            0 => maybe || due.repeated || !v5,
            0x10 => !surely && v5 && !due.repeated,
            _ => false,
        };
        if !is_right {
            return self.broken(format!(
                "connection {conn}: {packet:?}, but a subscriber is sure: {surely}, possible: \
                 {maybe}"
            ));
        }
        if self.conns.get(&conn).is_some_and(|conn| conn.in_memory) {
            return;
        }
        if let (Some(message), Packet::PubRec { .. }) =
            (due.number.and_then(|number| self.messages.get_mut(&number)), packet)
        {
            message.relayed = true;
        }
        if due.repeated {
            self.all_acked(due.number);
            return;
        }
        self.acked(due.order, due.number);
    }

    /// Whether a message goes to the queue that refuses when it is full.
    pub(super) fn may_be_full(&self, number: u32) -> bool {
        self.messages.get(&number).is_some_and(|message| message.topic.starts_with("$q/tight"))
    }

    fn acked(&mut self, order: u64, number: Option<u32>) {
        self.retained_acked(order);
        let Some(number) = number else { return };
        self.queue_acked(number);
        self.tracks_of(number).for_each(|track| track.acked |= track.orders.last() == Some(&order));
    }

    /// All that is known of a message on its ways.
    pub(super) fn tracks_of(&mut self, number: u32) -> impl Iterator<Item = &mut Track> {
        let all = (number, Via::Plain)..=(number, Via::Group(char::MAX.into()));
        let of_sessions =
            self.sessions.iter_mut().flat_map(move |s| s.tracks.range_mut(all.clone()));
        let of_groups = self.groups.values_mut().filter_map(move |g| g.tracks.get_mut(&number));
        of_sessions.map(|(_, track)| track).chain(of_groups)
    }

    /// A message was refused, or may have been, because the store takes none.
    pub(super) fn not_accepted(&mut self, due: &Due) {
        self.retained_refused(due.order);
        self.queue_refused(due, false);
        let of_sessions = self.sessions.iter_mut().flat_map(|session| session.tracks.values_mut());
        let of_groups = self.groups.values_mut().flat_map(|group| group.tracks.values_mut());
        for track in of_sessions.chain(of_groups) {
            track.must &= track.orders.last() != Some(&due.order);
        }
        if let Some(message) = due.number.and_then(|number| self.messages.get_mut(&number)) {
            message.crashes = u32::MAX;
        }
    }

    /// The answer to a repetition says of the first copy that it is safe.
    fn all_acked(&mut self, number: Option<u32>) {
        if let Some(number) = number {
            self.queue_acked(number);
        }
        let orders: Vec<u64> = self
            .sessions
            .iter()
            .flat_map(|session| session.tracks.iter())
            .filter(|((n, _), _)| Some(*n) == number)
            .filter_map(|(_, track)| track.orders.last().copied())
            .collect();
        for order in orders {
            self.acked(order, number);
        }
    }
}

/// Enters a message that is processed. `unsure`: it may have been processed before, and then is
/// not now.
fn enter(known: &mut Track, mut new: Track, is_unsure: bool) {
    if is_unsure {
        new.must &= known.was_must && !new.qos.contains(&0);
    }
    if known.orders.is_empty() {
        *known = new;
    } else {
        known.merge(new);
    }
}
