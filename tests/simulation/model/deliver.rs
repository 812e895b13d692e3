//! Messages that are delivered: whether they may be, and how.

use std::collections::BTreeSet;

use super::session::{InFlight, Session, Span};
use super::track::{Track, Via};
use super::{Message, Model};
use crate::client::number;
use crate::history::CLIENTS;
use crate::packet::Publish;

impl Model {
    /// The broker sends a PUBLISH.
    pub(super) fn deliver(&mut self, conn: usize, publish: &Publish) {
        if let Some(number) = number(&publish.payload)
            && let Err(why) = self.check_delivery(conn, number, publish)
        {
            let client = self.conns.get(&conn).map_or("", |conn| CLIENTS[conn.client].0);
            let Publish { dup, qos, retain, topic, id, subscription_ids, .. } = publish;
            self.broken(format!(
                "{client}, connection {conn}: PUBLISH of message {number} to {topic}, QoS {qos}, \
                 identifier {id}, DUP {dup}, RETAIN {retain}, subscriptions \
                 {subscription_ids:?}: {why}"
            ));
        }
    }

    fn check_delivery(
        &mut self,
        number: usize,
        message_number: u32,
        publish: &Publish,
    ) -> Result<(), String> {
        let Some(message) = self.messages.get(&message_number).cloned() else {
            return Err("nobody has published it".into());
        };
        if message.topic != publish.topic {
            return Err(format!("it was published to {}", message.topic));
        }
        let client = self.conns[&number].client;
        let session = &self.sessions[client];
        if session.conn != Some(number) {
            return Err("the Session is not this connection's".into());
        }
        let waits = self.sessions.iter().any(|session| session.keeps_will(message_number));
        let via = self.way(client, message_number, &message, publish).ok_or(match waits {
            true => "it is of a Will that is not due",
            false => "nothing brings it",
        })?;
        self.check_identifier(client, message_number, &via, publish)?;
        let is_unsure = message.unsure_from.is_some();
        self.check_track(client, number, message_number, &via, publish, is_unsure)?;
        self.check_expiry(client, &message, publish)?;
        self.sent(client, number, message_number, via, publish, &message)
    }

    /// The way that a PUBLISH came by.
    fn way(
        &mut self,
        client: usize,
        number: u32,
        message: &Message,
        publish: &Publish,
    ) -> Option<Via> {
        let session = &self.sessions[client];
        let held = session.in_flight.get(&publish.id).filter(|_| publish.qos > 0);
        if let Some(held) = held.filter(|held| held.number == number) {
            return Some(held.via.clone());
        }
        let v5 = CLIENTS[client].1;
        let shared = session.spans.iter().filter(|span| span.is_shared());
        let group = shared.rev().find(|span| match v5 {
            true => span.id.is_some_and(|id| publish.subscription_ids == [id]),
            false => publish.topic.starts_with("q/"),
        });
        if let Some(span) = group {
            let filter = span.filter.clone();
            let group = self.groups.get_mut(&filter)?;
            if let Some(from) = message.unsure_from
                && !group.tracks.contains_key(&number)
                && span.to.is_none_or(|to| to >= from)
            {
                let track = Track { crashed: true, restarted: true, ..Track::default() };
                group.tracks.insert(number, track);
            }
            return group.tracks.contains_key(&number).then_some(Via::Group(filter));
        }
        let may_come = |track: &Track| {
            track.retain.contains(&publish.retain)
                && track.ids.as_ref().is_none_or(|ids| !v5 || *ids == publish.subscription_ids)
                && track.qos.contains(&publish.qos)
        };
        let tracks = session.tracks.range((number, Via::Plain)..=(number, Via::Handed(u64::MAX)));
        let mut fitting: Vec<(&Via, &Track)> =
            tracks.filter(|(_, t)| may_come(t)).map(|((_, via), track)| (via, track)).collect();
        // Rather one that has not come yet, and must; with DUP rather one that was sent.
        let conn = session.conn.and_then(|conn| self.conns.get(&conn));
        let has_come =
            |via: &Via| conn.is_some_and(|conn| conn.copies.contains_key(&(number, via.clone())));
        fitting.sort_by_key(|(via, track)| {
            let is_other = publish.dup != (track.writes > 0);
            (has_come(via), is_other, track.is_there(), !track.must)
        });
        if let Some((via, _)) = fitting.first() {
            return Some((*via).clone());
        }
        if session.tracks.contains_key(&(number, Via::Plain)) {
            return Some(Via::Plain);
        }
        let from = message.unsure_from?;
        let may_match = |span: &Span| {
            !span.is_shared() && span.matches(&message.topic) && span.to.is_none_or(|to| to >= from)
        };
        session.spans.iter().any(may_match).then(|| {
            let (crashed, restarted, qos) = (true, true, BTreeSet::from([0, 1, 2]));
            let retain = BTreeSet::from([false, true]);
            let track = Track { crashed, restarted, qos, retain, ..Track::default() };
            self.sessions[client].tracks.insert((number, Via::Plain), track);
            Via::Plain
        })
    }

    fn check_identifier(
        &self,
        client: usize,
        number: u32,
        via: &Via,
        publish: &Publish,
    ) -> Result<(), String> {
        if publish.qos == 0 {
            return Ok(());
        }
        let session = &self.sessions[client];
        if let Some(held) = session.in_flight.get(&publish.id) {
            if held.number != number {
                return Err(format!("the identifier belongs to message {}", held.number));
            }
            if held.relayed.is_some() {
                return Err("the Client has answered it with PUBREC".into());
            }
            let (qos, retain, ids) = (publish.qos, publish.retain, &publish.subscription_ids);
            if (held.qos, held.retain, &held.ids) != (qos, retain, ids) {
                let (qos, retain, ids) = (held.qos, held.retain, &held.ids);
                return Err(format!("it was sent with QoS {qos}, RETAIN {retain}, {ids:?}"));
            }
        }
        let other = session.in_flight.iter().find(|(id, held)| {
            **id != publish.id && held.number == number && held.via == *via && held.qos == 2
        });
        match other {
            Some((id, _)) => Err(format!("it is under way with the identifier {id}")),
            None => Ok(()),
        }
    }

    fn track(&mut self, client: usize, number: u32, via: &Via) -> Option<&mut Track> {
        match via {
            Via::Group(filter) => self.groups.get_mut(filter)?.tracks.get_mut(&number),
            _ => self.sessions[client].tracks.get_mut(&(number, via.clone())),
        }
    }

    fn check_track(
        &mut self,
        client: usize,
        conn: usize,
        number: u32,
        via: &Via,
        publish: &Publish,
        is_unsure: bool,
    ) -> Result<(), String> {
        let v5 = CLIENTS[client].1;
        let copies = *self.conns[&conn].copies.get(&(number, via.clone())).unwrap_or(&0);
        // Each SUBSCRIBE may bring what is retained once more, also by another's identifier.
        let session = &self.sessions[client];
        let filter = match via {
            Via::Handed(uid) => session.handed.get(uid).map(|handed| handed.filter.clone()),
            _ => None,
        };
        let times =
            session.spans.iter().filter(|span| Some(&span.filter) == filter.as_ref()).count();
        let track = self.track(client, number, via).ok_or("nothing brings it")?;
        if track.finished.is_some() && track.orders.len().max(times) < 2 {
            return Err("it was acknowledged before".into());
        }
        if copies >= track.orders.len().max(times).max(1) {
            return Err("it comes twice on one connection".into());
        }
        let (holder, is_group) = (track.holder, matches!(via, Via::Group(_)));
        if is_group && track.is_bound && !is_unsure {
            return Err("its Client's Session ended in a crash while it had it with QoS 2".into());
        }
        let is_anothers = track.bound_to.is_some_and(|holder| holder != client);
        if is_group && is_anothers && track.orders.len() < 2 && !is_unsure {
            return Err("another Client was sent it with QoS 2".into());
        }
        if is_group {
            let other = holder.filter(|(holder, ..)| *holder != client && track.orders.len() < 2);
            if let Some((holder, ..)) = other {
                return Err(format!("{} has it", CLIENTS[holder].0));
            }
        } else if is_unsure {
            // Published when nobody knows: by what subscriptions, neither.
        } else if !track.qos.contains(&publish.qos) {
            return Err(format!("its QoS should be {:?}", track.qos));
        } else if !track.retain.contains(&publish.retain) {
            return Err(format!("RETAIN should be {:?}", track.retain));
        } else if let Some(ids) =
            track.ids.as_ref().filter(|ids| v5 && **ids != publish.subscription_ids)
        {
            return Err(format!("its subscriptions should be {ids:?}"));
        }
        let came_before = match is_group {
            true => holder.is_some_and(|(_, held, _)| held != conn),
            false => track.writes > 0,
        };
        let is_one = track.orders.len().max(times) < 2 && !is_unsure;
        let may_have_come = came_before || track.parted || (is_group && publish.qos == 2);
        if publish.dup && !may_have_come && !track.restarted {
            return Err("it was not sent before".into());
        }
        if publish.qos > 0 && !publish.dup && came_before && is_one {
            return Err("it was sent before".into());
        }
        Ok(())
    }

    fn check_expiry(
        &self,
        client: usize,
        message: &Message,
        publish: &Publish,
    ) -> Result<(), String> {
        let Some(expiry_s) = message.expiry_s else {
            return match publish.expiry_s {
                Some(_) => Err("it has no Message Expiry Interval".into()),
                None => Ok(()),
            };
        };
        let Some(&last) = message.processed.last() else { return Ok(()) };
        let (Some(&first), now) = (message.processed.first(), self.now) else { return Ok(()) };
        if let Some(left_s) = publish.expiry_s {
            let most = (last + u64::from(expiry_s) * 1000).saturating_sub(first) / 1000;
            if u64::from(left_s) > most {
                return Err(format!("its Message Expiry Interval is {left_s} of {expiry_s}"));
            }
            if u64::from(left_s + 1) * 1000 + now < first + u64::from(expiry_s) * 1000 {
                return Err(format!("its Message Expiry Interval is only {left_s}"));
            }
        } else if CLIENTS[client].1 {
            return Err("its Message Expiry Interval is missing".into());
        }
        let is_roomy = |conn: &super::Conn| conn.is_roomy;
        let conn = self.sessions[client].conn.and_then(|conn| self.conns.get(&conn));
        let is_late = now > last + u64::from(expiry_s) * 1000;
        if is_late && !publish.dup && conn.is_some_and(is_roomy) && message.unsure_from.is_none() {
            return Err("it has expired".into());
        }
        Ok(())
    }

    /// Takes note of what was sent.
    fn sent(
        &mut self,
        client: usize,
        number: usize,
        message_number: u32,
        via: Via,
        publish: &Publish,
        message: &Message,
    ) -> Result<(), String> {
        let now = self.now;
        let Some(track) = self.track(client, message_number, &via) else { return Ok(()) };
        track.writes += 1;
        track.holder = Some((client, number, publish.qos));
        let orders = track.orders.clone();
        let is_fresh = track.writes == 1 && !track.restarted && !publish.dup;
        let is_lent_first = is_fresh.then_some(track.at);
        if publish.qos == 2 && matches!(via, Via::Group(_)) {
            track.bound_to = Some(client);
        }
        let is_taken = publish.qos == 0 && matches!(via, Via::Group(_));
        if is_taken {
            track.finished = Some(now);
        }
        let Some(conn) = self.conns.get_mut(&number) else { return Ok(()) };
        *conn.copies.entry((message_number, via.clone())).or_default() += 1;
        let sent = conn.sent.entry(publish.id).or_default();
        if publish.id > 0 {
            sent.clear();
        }
        sent.push_back((message_number, via.clone()));
        if via == Via::Plain && !orders.is_empty() && message.unsure_from.is_none() {
            let key = (message.publisher, message.topic.clone(), publish.qos);
            let last = conn.last.entry(key).or_default();
            match orders.iter().find(|order| **order > *last) {
                Some(order) => *last = *order,
                None => return Err("a later message of its publisher came before it".into()),
            }
        }
        // What was lent anew may come after what is newer.
        if let (Via::Group(filter), Some(at), [order]) = (&via, is_lent_first, &orders[..])
            && at > self.groups.get(filter).map_or(u64::MAX, |group| group.unrest)
            && message.unsure_from.is_none()
        {
            // What is of QoS 0 passes what waits for the store.
            let (topic, qos) = (message.topic.clone(), (message.qos > 0, publish.qos));
            let key = (filter.clone(), message.publisher, topic, qos);
            let last = conn.last_lent.entry(key).or_default();
            if *order < *last {
                return Err("a later message came before it to the same member".into());
            }
            *last = *order;
        }
        if publish.qos == 0 {
            return Ok(());
        }
        conn.unanswered.retain(|id| *id != publish.id);
        conn.unanswered.push(publish.id);
        let maximum = conn.connect.as_ref().and_then(|connect| connect.receive_maximum);
        let open = conn.unanswered.len();
        let held = InFlight {
            number: message_number,
            via,
            qos: publish.qos,
            retain: publish.retain,
            ids: publish.subscription_ids.clone(),
            relayed: None,
            released: false,
        };
        self.sessions[client].in_flight.insert(publish.id, held);
        match maximum {
            Some(maximum) if open > usize::from(maximum) => {
                Err(format!("{open} are not acknowledged, the Receive Maximum is {maximum}"))
            }
            _ => Ok(()),
        }
    }

    /// PUBACK was read.
    pub(super) fn acknowledged(&mut self, number: usize, id: u16) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        conn.unanswered.retain(|unanswered| *unanswered != id);
        let client = conn.client;
        let Some(held) = self.in_flight(number, id).filter(|held| held.qos == 1) else { return };
        self.sessions[client].in_flight.remove(&id);
        self.finished(client, &held);
    }

    fn in_flight(&mut self, number: usize, id: u16) -> Option<InFlight> {
        self.session_of(number)?.in_flight.get(&id).cloned()
    }

    fn finished(&mut self, client: usize, held: &InFlight) {
        let now = self.now;
        if let Some(track) = self.track(client, held.number, &held.via) {
            track.finished = Some(now);
        }
    }

    /// PUBREC was read.
    pub(super) fn received(&mut self, number: usize, id: u16, reason: u8) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&number) else { return };
        if reason >= 0x80 {
            conn.unanswered.retain(|unanswered| *unanswered != id);
        } else {
            conn.pubrels.push(id);
        }
        let client = conn.client;
        let Some(held) = self.in_flight(number, id).filter(|held| held.qos == 2) else { return };
        self.finished(client, &held);
        let Session { in_flight, .. } = &mut self.sessions[client];
        if reason >= 0x80 {
            in_flight.remove(&id);
        } else if let Some(held) = in_flight.get_mut(&id) {
            held.relayed = Some(now);
        }
    }

    /// PUBREL has left.
    pub(super) fn released(&mut self, number: usize, id: u16) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&number) else { return };
        conn.pubrels.retain(|due| *due != id);
        if let Some(held) = self.session_of(number).and_then(|s| s.in_flight.get_mut(&id)) {
            held.released = true;
            held.relayed.get_or_insert(now);
        }
    }

    /// PUBCOMP was read.
    pub(super) fn completed(&mut self, number: usize, id: u16) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        conn.unanswered.retain(|unanswered| *unanswered != id);
        if let Some(session) = self.session_of(number)
            && session.in_flight.get(&id).is_some_and(|held| held.relayed.is_some())
        {
            session.in_flight.remove(&id);
        }
    }

    /// A PUBLISH has reached its Client.
    pub(super) fn got(&mut self, number: usize, message: u32, id: u16, new: bool) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let (client, incarnation) = (conn.client, conn.incarnation);
        if new && id > 0 {
            self.queue_got(number, message, id);
        }
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let Some(sent) = conn.sent.get_mut(&id) else { return };
        let Some(at) = sent.iter().position(|(sent, _)| *sent == message) else { return };
        let Some((_, via)) = sent.remove(at) else { return };
        if self.sessions[client].incarnation != incarnation {
            return;
        }
        let Some(track) = self.track(client, message, &via) else { return };
        track.got += 1;
        if new && track.qos != BTreeSet::from([1]) && id > 0 && track.holder_qos() == Some(2) {
            track.got_exactly += 1;
            if track.got_exactly > 1 {
                let name = CLIENTS[client].0;
                self.broken(format!("{name} has taken message {message} of QoS 2 twice"));
            }
        }
    }

    /// A Client knows nothing more of what it has had.
    pub(super) fn forgot(&mut self, client: usize) {
        self.queue_session_ended(client);
        let own = self.sessions[client].tracks.values_mut();
        let of_groups = self.groups.values_mut().flat_map(|group| group.tracks.values_mut());
        for track in own.chain(of_groups) {
            track.got_exactly = 0;
        }
    }
}
