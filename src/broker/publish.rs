//! A message's way from its publisher to the queues.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};

use super::Broker;
use super::mailbox::Mailbox;
use super::receiver::Receiver;
use super::share::ShareGroup;
use super::sys;
use super::turn::Turn;
use crate::access::acl::Permits;
use crate::access::acl::guard::Guard;
use crate::clock::Moment;
use crate::codec::{Properties, Publish, QoS, ReasonCode};
use crate::message::{Body, Message};
use crate::metrics::DropReason;
use crate::router::retained::Weight;
use crate::router::{Route, Routes, retained};
use crate::session::connect::levels;
use crate::session::will::Will;
use crate::store::{Change, SessionId, Target, Targets};

/// Topics whose routes a publisher keeps; beyond that it begins anew.
const CACHED_TOPICS_MAX: usize = 1024;

/// Routes that a publisher keeps, of all its topics; beyond that it begins anew too. About 2 MiB.
const CACHED_ROUTES_MAX: usize = 1 << 16;

/// Bytes of a topic whose routes are kept: with the bound above, of what a publisher can hold.
const CACHED_TOPIC_LEN_MAX: usize = 256;

/// Who published a retained message.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// What stands for its Client Identifier, for No Local [MQTT-3.8.3-3]; 0: nobody's.
    pub identity: u64,
    /// What it may publish, where that is asked again: for as long as the broker runs. And the QoS
    /// that it published with, which `upgrade_outgoing_qos` may have raised. Boxed: few ask, and a
    /// retained message is kept for each topic.
    pub guard: Option<Box<(Arc<Guard>, QoS)>>,
}

impl Weight for Source {
    fn weight(&self) -> usize {
        self.guard.as_ref().map_or(0, |judged| judged.0.subject.weight())
    }
}

impl Source {
    /// Whether it may still publish what it did.
    pub fn may_publish(&self, message: &Message) -> bool {
        self.guard.as_ref().is_none_or(|judged| {
            let (guard, qos) = &**judged;
            guard.may_publish(message.topic_str(), *qos, message.retain())
        })
    }
}

/// What a connection keeps for its publications.
#[derive(Debug, Default)]
pub struct Publisher {
    /// The Session's identity in the store, when it outlives its connections.
    stored: Option<SessionId>,
    /// What stands for its Client Identifier, see [`identity`].
    identity: u64,
    ways: Ways,
}

/// What a publisher knows of the topics that it publishes to.
#[derive(Debug, Default)]
struct Ways {
    /// Its receiver's key, for No Local.
    key: u64,
    /// What it may publish.
    guard: Arc<Guard>,
    /// The generation of what is below.
    generation: u64,
    known: FxHashMap<Arc<str>, Way>,
    /// Routes of those.
    known_routes: usize,
    /// How often routes were resolved.
    resolved: usize,
    /// The topic published to last, which is most often the next too.
    last: Option<(Arc<str>, Way)>,
}

/// What becomes of a publisher's messages to one topic.
#[derive(Clone, Debug)]
struct Way {
    /// Those that it may publish.
    permits: Permits,
    routes: Routes<Receiver>,
}

impl Way {
    /// The routes of a message that its publisher may publish.
    fn permitted(&self, publish: &Publish<'_>) -> Result<&Routes<Receiver>, ReasonCode> {
        match self.permits.allow(publish.qos, publish.retain) {
            true => Ok(&self.routes),
            false => Err(ReasonCode::NotAuthorized),
        }
    }
}

impl Publisher {
    /// Nothing published yet.
    pub fn new(mailbox: &Mailbox, guard: Arc<Guard>) -> Self {
        let identity = identity(&guard.subject.client_id);
        let ways = Ways { key: mailbox.key(), guard, ..Ways::default() };
        Self { stored: mailbox.stored(), identity, ways }
    }

    /// Nothing is published for a while: of the last topic no more is kept than of others.
    pub fn rest(&mut self) {
        self.ways.last.take_if(|(topic, way)| !is_kept(topic, way));
    }

    /// The topic published to last, which is most often the next too.
    pub fn last_topic(&self) -> Option<Arc<str>> {
        self.ways.last.as_ref().map(|(topic, _)| topic.clone())
    }

    /// How often the receivers of a topic had to be found, which may take long where they are many.
    pub fn resolved(&self) -> usize {
        self.ways.resolved
    }
}

/// Whether the way of a topic is not too much to be kept.
fn is_kept(topic: &str, way: &Way) -> bool {
    topic.len() <= CACHED_TOPIC_LEN_MAX && way.routes.iter().len() <= CACHED_ROUTES_MAX
}

impl Ways {
    /// Keeps the way of a topic, if it is not too much.
    fn keep(&mut self, topic: Arc<str>, way: Way) {
        if !is_kept(&topic, &way) || self.known.contains_key(&topic) {
            return;
        }
        let routes = way.routes.iter().len();
        let is_full = self.known_routes + routes > CACHED_ROUTES_MAX;
        if self.known.len() >= CACHED_TOPICS_MAX || is_full {
            self.known.clear();
            self.known_routes = 0;
        }
        self.known.insert(topic, way);
        self.known_routes += routes;
    }
}

/// A number that stands for a Client Identifier, the same in every process and never 0: who
/// published what is retained, for No Local.
pub fn identity(client_id: &str) -> u64 {
    let mut hasher = FxHasher::default();
    client_id.hash(&mut hasher);
    hasher.finish().max(1)
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// What the publisher is told.
    pub reason: ReasonCode,
    /// Whether that must wait for the store.
    pub waits: bool,
    /// Nothing became of it, because the store takes no messages now; it may later.
    pub later: bool,
}

impl Published {
    fn refused(reason: ReasonCode) -> Self {
        Self { reason, waits: false, later: false }
    }

    fn later(reason: ReasonCode) -> Self {
        Self { later: true, ..Self::refused(reason) }
    }
}

impl Broker {
    /// Distributes a PUBLISH packet with this body.
    pub fn publish(
        &self,
        publisher: &mut Publisher,
        publish: &Publish<'_>,
        topic: &str,
        body: Body<'_>,
        now: Moment,
        turn: &mut Turn,
    ) -> Published {
        let Publisher { stored, identity, ref mut ways } = *publisher;
        let permitted = self.way(ways, topic).and_then(|way| way.permitted(publish));
        let mut routes = match permitted {
            Ok(routes) => routes,
            Err(reason) => return Published::refused(reason),
        };
        let judged = publish.qos;
        let receives_twice = judged == QoS::ExactlyOnce;
        // A subscription's QoS is then the lower one, always.
        let raise = || Publish { qos: QoS::ExactlyOnce, ..*publish };
        let raised = self.tuned.raises_qos().then(raise);
        let publish = raised.as_ref().unwrap_or(publish);
        if publish.qos == QoS::AtMostOnce && !publish.retain {
            return self.publish_quick(publish, (topic, body), routes, now, turn);
        }
        if self.cannot_store(stored, publish, routes) {
            return Published::later(ReasonCode::QuotaExceeded);
        }
        let arrival = Arrival::new(publish, body.len(), now);
        if publish.retain && !self.is_let_in(routes, &arrival, turn) {
            return Published::later(ReasonCode::QuotaExceeded);
        }
        let mut retained = None;
        let (those_then, those_with_room);
        if publish.retain {
            let source = self.source(identity, &ways.guard, judged);
            match self.publish_retained((ways, source), publish, topic, body, now, turn) {
                Ok((message, then)) => (retained, those_then) = (Some(message), then),
                Err(reason) => return Published::refused(reason),
            }
            routes = &those_then;
        }
        // Its identity comes before its receivers are asked whether they are durable.
        let is_kept = publish.qos != QoS::AtMostOnce && may_be_kept(routes);
        let id = if is_kept { self.store.next_message_id() } else { 0 };
        let reason = reason_of(routes);
        let targets = match is_kept.then(|| self.targets(routes, &arrival, turn)) {
            None => Targets::new(),
            Some(Ok(targets)) => targets,
            // It is retained by now.
            Some(Err(_)) if publish.retain => {
                let targets;
                (targets, those_with_room) = self.with_room(routes, &arrival, turn);
                routes = &those_with_room;
                targets
            }
            Some(Err(reason)) => return Published::later(reason),
        };
        let waits = receives_twice && note_received(stored, publish, turn);
        let mut published = Published { reason, waits, later: false };
        if reason == ReasonCode::NoMatchingSubscribers && !publish.retain {
            self.metrics.drops.add(DropReason::NoSubscriber, 1);
            return published;
        }
        let message = retained.unwrap_or_else(|| {
            let id = if targets.is_empty() { 0 } else { id };
            Message::of_publish(id, body, publish, topic, now)
        });
        published.waits |= publish.retain || !targets.is_empty();
        self.hand_on(message, targets, routes, turn);
        published
    }

    /// Whether a message needs the store, which takes none now.
    fn cannot_store(
        &self,
        publisher: Option<SessionId>,
        publish: &Publish<'_>,
        routes: &Routes<Receiver>,
    ) -> bool {
        let cannot = !self.takes_messages() && needs_store(publisher, publish, routes);
        if cannot && self.memory_is_full() {
            self.metrics.publications_refused_for_memory.increment();
        }
        cannot
    }

    /// Distributes what nobody has to keep: QoS 0 that is not retained.
    #[inline]
    fn publish_quick(
        &self,
        publish: &Publish<'_>,
        (topic, body): (&str, Body<'_>),
        routes: &Routes<Receiver>,
        now: Moment,
        turn: &mut Turn,
    ) -> Published {
        if routes.is_empty() {
            self.metrics.drops.add(DropReason::NoSubscriber, 1);
        } else {
            turn.message(Message::of_publish(0, body, publish, topic, now), routes);
        }
        Published { reason: reason_of(routes), waits: false, later: false }
    }

    /// Keeps a message for future subscribers, and resolves its routes in the same moment. Where
    /// there is no room a message that can be refused is; QoS 0 cannot.
    fn publish_retained(
        &self,
        (ways, source): (&mut Ways, Source),
        publish: &Publish<'_>,
        topic: &str,
        body: Body<'_>,
        now: Moment,
        turn: &mut Turn,
    ) -> Result<(Message, Routes<Receiver>), ReasonCode> {
        let is_stored = publish.qos != QoS::AtMostOnce;
        let id = if is_stored { self.store.next_message_id() } else { 0 };
        let message = Message::of_publish(id, body, publish, topic, now);
        let adds = !publish.payload.is_empty() && !self.retained.contains(topic);
        let mut routes = || self.way(ways, topic).map(|way| way.routes.clone());
        let (kept, routes) = if adds && self.memory_is_full() {
            (Err(retained::Full), routes())
        } else {
            self.retained.publish(&message, source, is_stored, routes)
        };
        if kept.is_err() && is_stored {
            return Err(ReasonCode::QuotaExceeded);
        }
        if kept.is_err() {
            self.metrics.drops.add(DropReason::NotRetained, 1);
        }
        turn.retained(&message);
        Ok((message, routes?))
    }

    fn source(&self, identity: u64, guard: &Arc<Guard>, qos: QoS) -> Source {
        let guard = self.tuned.asks_sources().then(|| Box::new((guard.clone(), qos)));
        Source { identity, guard }
    }

    /// Publishes the Will of the Client that has this mailbox, if it may publish it now.
    pub(super) fn publish_will(
        &self,
        will: &Will,
        mailbox: &Mailbox,
        now: Moment,
        turn: &mut Turn,
    ) {
        let (guard, publisher) = (mailbox.guard(), mailbox.key());
        let client_id = &guard.subject.client_id;
        if !guard.may_publish(will.topic(), will.qos(), will.retain()) {
            self.metrics.drops.add(DropReason::PublishDenied, 1);
            tracing::info!(client = ?client_id, topic = will.topic(), "its will is denied");
            return;
        }
        self.metrics.wills_published.increment();
        let id = if will.qos() == QoS::AtMostOnce { 0 } else { self.store.next_message_id() };
        let message = will.message(id, now);
        let routes = || self.router.routes(will.topic(), Some(publisher));
        let routes = if will.retain() {
            let source = self.source(identity(client_id), &guard, will.qos());
            let (kept, routes) = self.retained.publish(&message, source, false, routes);
            if kept.is_err() {
                self.metrics.drops.add(DropReason::NotRetained, 1);
                tracing::warn!(
                    topic = will.topic(),
                    "a will is not retained: the limit is reached"
                );
            }
            turn.retained(&message);
            routes
        } else {
            routes()
        };
        self.publish_own(message, &routes, turn);
    }

    /// Distributes a message of the broker's own: nobody can be told that there is no room for it.
    pub(super) fn publish_own(&self, message: Message, routes: &Routes<Receiver>, turn: &mut Turn) {
        if routes.is_empty() {
            self.metrics.drops.add(DropReason::NoSubscriber, 1);
            return;
        }
        let properties = Properties::check_forwarded(message.properties());
        let arrival = Arrival {
            qos: message.qos(),
            retain: message.retain(),
            properties: properties.unwrap_or(Properties::EMPTY),
            weight: message.weight(),
            now: self.now(),
        };
        let (targets, routes) = self.with_room(routes, &arrival, turn);
        self.hand_on(message, targets, &routes, turn);
    }

    pub(super) fn hand_on(
        &self,
        message: Message,
        targets: Targets,
        routes: &Routes<Receiver>,
        turn: &mut Turn,
    ) {
        if !targets.is_empty() {
            turn.change(Change::Message { message: message.clone(), targets });
        }
        if !routes.is_empty() {
            turn.message(message, routes);
        }
    }

    /// The way of a topic, from the publisher's own list where that is still right.
    #[inline(always)] // With two others, see `Outgoing::encode`.
    fn way<'a>(&self, ways: &'a mut Ways, topic: &str) -> Result<&'a Way, ReasonCode> {
        let generation = self.router.generation();
        if generation != ways.generation {
            ways.generation = generation;
            (ways.known, ways.known_routes) = (FxHashMap::default(), 0);
            ways.last = None;
        }
        if ways.last.as_ref().is_none_or(|(last, _)| **last != *topic) {
            self.find_way(ways, topic)?;
        }
        match &ways.last {
            Some((_, way)) => Ok(way),
            None => Err(ReasonCode::UnspecifiedError), // It has just been found.
        }
    }

    /// Makes a topic the last one.
    fn find_way(&self, ways: &mut Ways, topic: &str) -> Result<(), ReasonCode> {
        let found = match ways.known.get_key_value(topic) {
            Some((topic, way)) => (topic.clone(), way.clone()),
            None => {
                if levels(topic) > self.tuned.of_subscriptions().0 {
                    return Err(ReasonCode::TopicNameInvalid);
                }
                // Nobody can subscribe to what stands below $share.
                let denied = sys::is_own(topic) || topic.starts_with("$share/");
                ways.resolved = ways.resolved.wrapping_add(1);
                let way = Way {
                    permits: if denied { Permits::NONE } else { ways.guard.publishes(topic) },
                    routes: self.router.routes(topic, Some(ways.key)),
                };
                let topic = Arc::from(topic);
                if ways.last.is_some() {
                    ways.keep(Arc::clone(&topic), way.clone());
                }
                (topic, way)
            }
        };
        if let Some((last, former)) = ways.last.replace(found) {
            ways.keep(last, former);
        }
        Ok(())
    }
}

/// What the publisher of a message is told that has these.
fn reason_of(routes: &Routes<Receiver>) -> ReasonCode {
    if routes.is_empty() { ReasonCode::NoMatchingSubscribers } else { ReasonCode::Success }
}

/// Notes for a Session that is stored the identifier of QoS 2 that it has received; whether it is.
fn note_received(session: Option<SessionId>, publish: &Publish<'_>, turn: &mut Turn) -> bool {
    let (Some(session), Some(id)) = (session, publish.packet_id) else { return false };
    turn.change(Change::Received { session, packet_id: id.get() });
    true
}

/// Whether a message can be acknowledged only when something of it is in the store.
fn needs_store(
    publisher: Option<SessionId>,
    publish: &Publish<'_>,
    routes: &Routes<Receiver>,
) -> bool {
    let received_once = publish.qos == QoS::ExactlyOnce && publisher.is_some();
    publish.qos != QoS::AtMostOnce
        && (received_once || publish.retain || has_keeper(routes, |group| group.stored().is_some()))
}

/// Whether one of these may have to keep a message that is not of QoS 0. Where none has, the
/// message needs no identity: threads that take these from one counter wait for each other.
fn may_be_kept(routes: &Routes<Receiver>) -> bool {
    has_keeper(routes, |_| true) // A group may come to be stored meanwhile.
}

/// Whether one of these is a Session that keeps a message, or a group that does.
fn has_keeper(routes: &Routes<Receiver>, keeps: impl Fn(&ShareGroup) -> bool) -> bool {
    routes.iter().any(|route| match &route.subscriber {
        Receiver::Session(mailbox) => route.qos != QoS::AtMostOnce && mailbox.stored().is_some(),
        Receiver::Group(group) => keeps(group),
    })
}

/// What must be known of a message to say who has to keep it.
struct Arrival<'a> {
    qos: QoS,
    retain: bool,
    properties: Properties<'a>,
    /// In bytes, about.
    weight: usize,
    now: Moment,
}

impl<'a> Arrival<'a> {
    fn new(publish: &Publish<'a>, weight: usize, now: Moment) -> Self {
        let Publish { qos, retain, properties, .. } = *publish;
        Self { qos, retain, properties, weight, now }
    }
}

/// Bits of [`Target::flags`]: QoS in the lowest two, then RETAIN.
pub fn flags(qos: QoS, retain: bool) -> u8 {
    qos as u8 | u8::from(retain) << 2
}

impl Broker {
    /// The receivers for which a message must survive; fails when one of them has no room for it
    /// and wants its publisher to know.
    fn targets(
        &self,
        routes: &Routes<Receiver>,
        arrival: &Arrival<'_>,
        turn: &mut Turn,
    ) -> Result<Targets, ReasonCode> {
        let mut targets = Targets::new();
        if arrival.qos == QoS::AtMostOnce {
            return Ok(targets);
        }
        for (at, route) in routes.iter().enumerate() {
            match self.target(route, arrival, turn) {
                Ok(Some(target)) => targets.push(target),
                Ok(None) => {}
                Err(reason) => {
                    routes.iter().take(at).for_each(|route| route.subscriber.let_out());
                    return Err(reason);
                }
            }
        }
        Ok(targets)
    }

    /// The same, for a message that cannot be refused: who has no room is left out of its routes.
    fn with_room(
        &self,
        routes: &Routes<Receiver>,
        arrival: &Arrival<'_>,
        turn: &mut Turn,
    ) -> (Targets, Routes<Receiver>) {
        let (mut targets, mut full) = (Targets::new(), Vec::new());
        if arrival.qos == QoS::AtMostOnce {
            return (targets, routes.clone());
        }
        for (at, route) in routes.iter().enumerate() {
            match self.target(route, arrival, turn) {
                Ok(target) => targets.extend(target),
                Err(_) => full.push(at),
            }
        }
        if full.is_empty() {
            return (targets, routes.clone());
        }
        self.metrics.drops.add(DropReason::QueueFull, full.len() as u64);
        (targets, routes.without(&full))
    }

    /// Whether every receiver that may reject a message has room for it now.
    fn is_let_in(&self, routes: &Routes<Receiver>, arrival: &Arrival<'_>, turn: &mut Turn) -> bool {
        let may_reject = arrival.qos != QoS::AtMostOnce
            && routes.iter().any(|route| route.subscriber.is_declared());
        if !may_reject || self.targets(routes, arrival, turn).is_err() {
            return !may_reject;
        }
        routes.iter().for_each(|route| route.subscriber.let_out());
        true
    }

    fn target(
        &self,
        route: &Route<Receiver>,
        arrival: &Arrival<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Target>, ReasonCode> {
        let (mut of_queue, mut expires_s) = (0, 0);
        let (session, online) = match &route.subscriber {
            Receiver::Session(_) if route.qos == QoS::AtMostOnce => return Ok(None),
            Receiver::Session(mailbox) => match mailbox.stored() {
                Some(session) => (session, mailbox.is_online()),
                None => return Ok(None),
            },
            Receiver::Group(group) => {
                let Some(session) = group.stored() else { return Ok(None) };
                let Arrival { properties, weight, now, .. } = arrival;
                let dropped = &mut turn.remainder().overflow;
                let of_all = || self.tuned.queue();
                let how = group.let_in(properties, *weight, of_all, *now, dropped);
                (of_queue, expires_s) = how.ok_or(ReasonCode::QuotaExceeded)?;
                (session, group.may_be_quick())
            }
        };
        let retain = arrival.retain && route.retain_as_published;
        Ok(Some(Target {
            session,
            flags: flags(arrival.qos.min(route.qos), retain) | of_queue,
            online,
            expires_s,
            subscription_ids: route.subscription_ids.clone(),
        }))
    }
}
