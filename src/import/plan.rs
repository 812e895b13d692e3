//! What mosquitto's file means: its Sessions and messages as changes of our store.
//!
//! Two things need care:
//!
//! 1. *Order.* Our queues have the order of their messages' identities, which one message has once
//!    for all its receivers. Mosquitto's queues are lists, and a message that was retained long ago
//!    may stand in one behind newer ones. Such a delivery gets a copy of the message.
//! 2. *Incoming QoS 2.* Mosquitto distributes such a message when PUBREL comes, we when PUBLISH
//!    does. So one that waits for its PUBREL is distributed here, and its Packet Identifier noted
//!    as received: the PUBREL, or the PUBLISH once more, is then answered and brings nothing twice.
//!
//! What cannot be taken over is counted by its reason, and told.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;

use triomphe::ThinArc;

use super::mosquitto::{self, Dump, state};
use super::{ImportError, Report, Terms};
use crate::broker::publish::{flags, identity};
use crate::broker::sys;
use crate::clock::Moment;
use crate::codec::primitive::{Fields, VARINT_MAX};
use crate::codec::property::Place as PropertyPlace;
use crate::codec::{PacketType, Properties, QoS, SubscriptionOptions, Version};
use crate::message::{Message, Parts};
use crate::queue::SubscriptionIds;
use crate::router::{Interest, Router, Subscriber};
use crate::session::record::Record;
use crate::session::subscriptions::Subscription;
use crate::store::{Change, SessionId, Target, Targets};
use crate::topic::{TopicFilter, TopicName};

/// Deliveries that the distribution of incoming messages may bring.
const DISTRIBUTED_MAX: usize = 1_000_000;

/// Bytes of copies that keep queues in order: a file can name a large message many times.
const COPIES_BYTES_MAX: usize = 1 << 30;

/// Identities of the store.
pub struct Identities<M, S> {
    /// The next message's.
    pub message: M,
    /// The next Session's.
    pub session: S,
}

/// A message's place in the order of all: mosquitto's number; behind it copies of others, each with
/// a number of its own and its Session.
type Place = (u64, u32, u32);

/// A message to be written.
struct Sending {
    message: Message,
    targets: Targets,
}

/// An outgoing exchange.
struct Exchange {
    packet_id: u16,
    /// None: the receiver has it.
    place: Option<Place>,
    flags: u8,
    subscription_ids: SubscriptionIds,
}

/// A Session that is taken over.
struct Member<'a> {
    session: SessionId,
    record: Record,
    subscriptions: BTreeMap<&'a str, Subscription>,
    /// The place of its last message.
    last: Option<Place>,
    exchanges: Vec<Exchange>,
    packet_ids: BTreeSet<u16>,
    received: BTreeSet<u16>,
}

impl Member<'_> {
    /// The place for its next message, which has this number.
    fn next_place(&mut self, number: u64) -> Place {
        let place = match self.last {
            Some((last, copy, _)) if number <= last => (last, copy + 1, self.session.0),
            _ => (number, 0, 0),
        };
        self.last = Some(place);
        place
    }
}

/// What is known of a Client Identifier of the file.
enum Known {
    /// Its place among the Sessions that are taken over.
    Member(usize),
    /// Its Session is over.
    Over,
}

/// A Session as the router knows it.
#[derive(Clone, Copy, Debug)]
struct Receiver(SessionId);

impl Subscriber for Receiver {
    fn key(&self) -> u64 {
        self.0.0.into()
    }
}

/// What has been made of the file so far.
struct Plan<'a> {
    terms: Terms,
    members: Vec<Member<'a>>,
    known: HashMap<&'a [u8], Known>,
    /// By mosquitto's numbers; with the publisher.
    messages: HashMap<u64, (Message, u64)>,
    router: Router<Receiver>,
    sendings: BTreeMap<Place, Sending>,
    copied_bytes: usize,
    distributed: usize,
    retained: BTreeMap<String, Option<(Message, u64)>>,
    report: Report,
}

/// What is to be written of a file, in order, and what is to be told.
pub fn plan<M: FnMut() -> u64, S: FnMut() -> SessionId>(
    dump: &Dump<'_>,
    terms: Terms,
    mut identities: Identities<M, S>,
) -> Result<(Vec<Change>, Report), ImportError> {
    let mut plan = Plan {
        terms,
        members: Vec::new(),
        known: HashMap::new(),
        messages: HashMap::new(),
        router: Router::default(),
        sendings: BTreeMap::new(),
        copied_bytes: 0,
        distributed: 0,
        retained: BTreeMap::new(),
        report: Report { version: dump.version, ..Report::default() },
    };
    plan.report.leave_out("chunks of a kind that is not known", dump.unknown);
    for client in &dump.clients {
        plan.client(client, &mut identities.session);
    }
    for subscription in &dump.subscriptions {
        plan.subscription(subscription);
    }
    for message in &dump.messages {
        plan.message(message);
    }
    for number in &dump.retained {
        plan.retained(*number);
    }
    for delivery in &dump.deliveries {
        plan.delivery(delivery)?;
    }
    Ok(plan.finish(identities.message))
}

/// A string of MQTT.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

impl<'a> Plan<'a> {
    fn client(
        &mut self,
        client: &mosquitto::Client<'a>,
        next_session: &mut impl FnMut() -> SessionId,
    ) {
        let known = match self.known.entry(client.id) {
            Entry::Occupied(_) => {
                return self.report.leave_out("Sessions of Clients that are there twice", 1);
            }
            Entry::Vacant(known) => known,
        };
        let (Some(client_id), Some(username)) =
            (text(client.id).filter(|id| !id.is_empty()), text(client.username))
        else {
            known.insert(Known::Over);
            return self.report.leave_out("Sessions with an identifier that is not MQTT's", 1);
        };
        let expires = u64::try_from(client.expires_s).unwrap_or(0);
        let interval_s = client.expiry_interval_s;
        let expires = Moment::default().after_s(expires);
        if interval_s == 0 || (client.expires_s != 0 && expires <= self.terms.now) {
            known.insert(Known::Over);
            return self.report.leave_out("Sessions that have expired", 1);
        }
        let has_end = interval_s != u32::MAX && client.expires_s > 0;
        let began_ms = expires.unix_ms().saturating_sub(u64::from(interval_s) * 1000);
        let began = Moment::from_unix_ms(began_ms.max(1)).min(self.terms.now);
        known.insert(Known::Member(self.members.len()));
        let owner = Some(username).filter(|username| !username.is_empty());
        if owner.is_some() && !self.terms.knows_users {
            let what = "owners of Sessions, since the configuration has no users";
            self.report.leave_out(what, 1);
        }
        if owner.is_none() && self.terms.knows_users {
            let what = "owners of Sessions, since the file names none (who takes one first has it)";
            self.report.leave_out(what, 1);
        }
        let owner = owner.filter(|_| self.terms.knows_users);
        self.report.sessions += 1;
        self.members.push(Member {
            session: next_session(),
            record: Record {
                client_id: client_id.into(),
                owner: owner.map(Into::into),
                expiry_s: interval_s,
                disconnected_at: Some(if has_end { began } else { self.terms.now }),
                seen_to: 0,
                will: None,
            },
            subscriptions: BTreeMap::new(),
            last: None,
            exchanges: Vec::new(),
            packet_ids: BTreeSet::new(),
            received: BTreeSet::new(),
        });
    }

    /// The Session of a Client; counts what belongs to it where there is none.
    fn member(&mut self, client: &[u8], unknown: &'static str) -> Option<usize> {
        match self.known.get(client) {
            Some(Known::Member(at)) => return Some(*at),
            // That was told once.
            Some(Known::Over) => {}
            None => self.report.leave_out(unknown, 1),
        }
        None
    }

    fn subscription(&mut self, given: &mosquitto::Subscription<'a>) {
        let unknown = "subscriptions of Clients that are not in the file";
        let Some(at) = self.member(given.client, unknown) else { return };
        let filter = std::str::from_utf8(given.filter).ok().map(TopicFilter::new);
        let options = SubscriptionOptions::from_u8(given.options, Version::V5);
        let (Some(Ok(filter)), Ok(options)) = (filter, options) else {
            return self.report.leave_out("subscriptions that are not MQTT's", 1);
        };
        if filter.is_shared() {
            return self.report.leave_out("Shared Subscriptions", 1);
        }
        let id = NonZeroU32::new(given.id).filter(|id| id.get() as usize <= VARINT_MAX);
        let Some(member) = self.members.get_mut(at) else { return };
        let subscription = Subscription { options, id };
        if member.subscriptions.insert(filter.as_str(), subscription).is_some() {
            return;
        }
        self.report.subscriptions += 1;
        let interest = Interest {
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            id,
        };
        self.router.subscribe(filter.filter(), Receiver(member.session), interest);
    }

    fn message(&mut self, given: &mosquitto::Message<'_>) {
        let topic = std::str::from_utf8(given.topic).ok().map(TopicName::new);
        let properties = properties(given.properties);
        let (Some(Ok(topic)), Some(qos), Some(properties)) =
            (topic, QoS::from_bits(given.qos), properties)
        else {
            return self.report.leave_out("messages that are not MQTT's", 1);
        };
        let expires_at = match u64::try_from(given.expires_s) {
            Ok(0) => Moment::NEVER,
            Ok(seconds) => Moment::default().after_s(seconds),
            Err(_) => Moment::default(),
        };
        if expires_at <= self.terms.now {
            return self.report.leave_out("messages that have expired", 1);
        }
        let parts = Parts {
            topic: topic.as_str(),
            qos,
            retain: given.retain,
            expires_at,
            properties,
            payload: given.payload,
        };
        let publisher = text(given.publisher).filter(|id| !id.is_empty()).map_or(0, identity);
        self.messages.entry(given.number).or_insert_with(|| (Message::new(0, &parts), publisher));
    }

    fn retained(&mut self, number: u64) {
        // What is not there has expired, or was told of.
        let Some((message, publisher)) = self.messages.get(&number) else { return };
        let topic = message.topic_str();
        if !sys::is_own(topic) && !message.payload().is_empty() {
            self.retained.insert(topic.to_owned(), Some((message.clone(), *publisher)));
        }
    }

    fn delivery(&mut self, given: &mosquitto::Delivery<'_>) -> Result<(), ImportError> {
        let unknown = "messages of Clients that are not in the file";
        let Some(at) = self.member(given.client, unknown) else { return Ok(()) };
        let Some(qos) = QoS::from_bits(given.qos) else {
            self.report.leave_out("messages in a state that is not known", 1);
            return Ok(());
        };
        if given.is_incoming {
            return self.incoming(at, qos, given);
        }
        self.outgoing(at, qos, given)
    }

    fn outgoing(
        &mut self,
        at: usize,
        qos: QoS,
        given: &mosquitto::Delivery<'_>,
    ) -> Result<(), ImportError> {
        let has_begun = match (qos, given.state) {
            (QoS::AtMostOnce, _) => {
                self.report.leave_out("messages of QoS 0 that waited", 1);
                return Ok(());
            }
            (QoS::ExactlyOnce, state::RESENDS_PUBREL | state::WAITS_FOR_PUBCOMP) => {
                self.relayed(at, given.packet_id);
                return Ok(());
            }
            (QoS::AtLeastOnce, state::WAITS_FOR_PUBACK)
            | (QoS::ExactlyOnce, state::WAITS_FOR_PUBREC) => true,
            (_, state::QUEUED) => false,
            (qos, state) if state::PUBLISH.get(qos as usize) == Some(&state) => given.dup,
            _ => {
                self.report.leave_out("messages in a state that is not known", 1);
                return Ok(());
            }
        };
        let Some((message, _)) = self.messages.get(&given.message) else { return Ok(()) };
        let message = message.clone();
        let Some(properties) = properties(given.properties) else {
            self.report.leave_out("messages that are not MQTT's", 1);
            return Ok(());
        };
        let ids: Vec<u32> = properties.subscription_identifiers().map(NonZeroU32::get).collect();
        let subscription_ids = (!ids.is_empty()).then(|| ThinArc::from_header_and_slice((), &ids));
        let Some(member) = self.members.get_mut(at) else { return Ok(()) };
        let place = member.next_place(given.message);
        let flags = flags(qos, given.retain);
        if has_begun && given.packet_id != 0 && member.packet_ids.insert(given.packet_id) {
            let subscription_ids = subscription_ids.clone();
            let packet_id = given.packet_id;
            let place = Some(place);
            member.exchanges.push(Exchange { packet_id, place, flags, subscription_ids });
            self.report.in_flight += 1;
        }
        self.report.deliveries += 1;
        let session = member.session;
        self.send(
            place,
            message,
            Target { session, flags, online: false, expires_s: 0, subscription_ids },
        )
    }

    /// The receiver has the message; PUBREL is due.
    fn relayed(&mut self, at: usize, packet_id: u16) {
        let Some(member) = self.members.get_mut(at) else { return };
        if packet_id != 0 && member.packet_ids.insert(packet_id) {
            let (place, flags, subscription_ids) = (None, 0, None);
            member.exchanges.push(Exchange { packet_id, place, flags, subscription_ids });
            self.report.in_flight += 1;
        }
    }

    fn send(&mut self, place: Place, message: Message, target: Target) -> Result<(), ImportError> {
        if place.1 != 0 {
            self.copied_bytes = self.copied_bytes.saturating_add(message.weight());
            if self.copied_bytes > COPIES_BYTES_MAX {
                return Err(ImportError::TooManyCopies);
            }
        }
        let begin = || Sending { message, targets: Targets::new() };
        self.sendings.entry(place).or_insert_with(begin).targets.push(target);
        Ok(())
    }

    /// A message whose PUBREL has not come.
    fn incoming(
        &mut self,
        at: usize,
        qos: QoS,
        given: &mosquitto::Delivery<'_>,
    ) -> Result<(), ImportError> {
        let is_known =
            [state::SENDS_PUBREC, state::WAITS_FOR_PUBREL, state::QUEUED].contains(&given.state);
        if qos != QoS::ExactlyOnce || !is_known || given.packet_id == 0 {
            self.report.leave_out("messages in a state that is not known", 1);
            return Ok(());
        }
        let Some(member) = self.members.get_mut(at) else { return Ok(()) };
        if !member.received.insert(given.packet_id) {
            self.report.leave_out("messages with a Packet Identifier that is in use", 1);
            return Ok(());
        }
        self.report.incoming += 1;
        let publisher = member.session.0.into();
        let Some((message, identity)) = self.messages.get(&given.message) else { return Ok(()) };
        let (message, identity) = (message.clone(), *identity);
        if message.retain() && !sys::is_own(message.topic_str()) {
            let kept = (!message.payload().is_empty()).then(|| (message.clone(), identity));
            self.retained.insert(message.topic_str().to_owned(), kept);
        }
        let routes = self.router.routes(message.topic_str(), Some(publisher));
        // Behind everything that waits already.
        let place = (u64::MAX, self.report.incoming, 0);
        for route in routes.iter() {
            let qos = qos.min(message.qos()).min(route.qos);
            if qos == QoS::AtMostOnce {
                continue;
            }
            self.distributed += 1;
            if self.distributed > DISTRIBUTED_MAX {
                return Err(ImportError::TooManyReceivers);
            }
            self.report.deliveries += 1;
            self.send(
                place,
                message.clone(),
                Target {
                    session: route.subscriber.0,
                    flags: flags(qos, route.retain_as_published && message.retain()),
                    online: false,
                    expires_s: 0,
                    subscription_ids: route.subscription_ids.clone(),
                },
            )?;
        }
        Ok(())
    }

    /// Everything as changes: a Session before what belongs to it, a message before what is bound
    /// to it.
    fn finish(mut self, mut next_message: impl FnMut() -> u64) -> (Vec<Change>, Report) {
        let mut changes = Vec::new();
        for member in &self.members {
            let (session, record) = (member.session, member.record.encode());
            changes.push(Change::SessionPut { session, record });
            for (filter, subscription) in &member.subscriptions {
                let (filter, options) = ((*filter).into(), subscription.encode());
                changes.push(Change::Subscribed { session, filter, options });
            }
        }
        let mut ids = HashMap::new();
        for (place, Sending { message, targets }) in std::mem::take(&mut self.sendings) {
            let id = next_message();
            ids.insert(place, id);
            changes.push(Change::Message { message: message.with_id(id), targets });
        }
        for Member { session, exchanges, received, .. } in self.members {
            for Exchange { packet_id, place, flags, subscription_ids } in exchanges {
                // 0: the receiver has it.
                let message = place.and_then(|place| ids.get(&place)).copied().unwrap_or(0);
                let queue = session;
                changes.push(Change::Sent {
                    session,
                    packet_id,
                    message,
                    queue,
                    flags,
                    subscription_ids,
                });
            }
            let received = received.into_iter();
            changes.extend(received.map(|packet_id| Change::Received { session, packet_id }));
        }
        for (topic, kept) in self.retained {
            self.report.retained += u32::from(kept.is_some());
            changes.push(Change::Retained { topic: topic.into(), kept });
        }
        (changes, self.report)
    }
}

/// Properties of a PUBLISH with their length, or nothing.
fn properties(bytes: &[u8]) -> Option<Properties<'_>> {
    if bytes.is_empty() {
        return Some(Properties::EMPTY);
    }
    let mut fields = Fields(bytes);
    let place = PropertyPlace::Packet(PacketType::Publish);
    let properties = Properties::decode(&mut fields, Version::V5, place).ok()?;
    fields.end().ok().map(|()| properties)
}
