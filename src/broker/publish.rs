//! A message's way from its publisher to the queues.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};

use super::Broker;
use super::mailbox::Mailbox;
use super::receiver::Receiver;
use super::sys;
use super::turn::Turn;
use crate::access::acl::Permits;
use crate::access::acl::guard::Guard;
use crate::clock::Moment;
use crate::codec::{Properties, Publish, QoS, ReasonCode};
use crate::message::Message;
use crate::metrics::DropReason;
use crate::router::{Route, Routes, retained};
use crate::session::connect::levels;
use crate::session::will::Will;
use crate::store::{Change, SessionId, Target, Targets};

/// Topics whose routes a publisher keeps; beyond that it begins anew.
const CACHED_TOPICS_MAX: usize = 1024;

/// Bytes of a topic whose routes are kept: with the bound above, of what a publisher can hold.
const CACHED_TOPIC_LEN_MAX: usize = 256;

/// What a connection keeps for its publications.
#[derive(Debug, Default)]
pub struct Publisher {
    /// Its receiver's key, for No Local.
    pub key: u64,
    /// The Session's identity in the store, when it outlives its connections.
    pub stored: Option<SessionId>,
    /// What stands for its Client Identifier, see [`identity`].
    identity: u64,
    /// What it may publish.
    guard: Arc<Guard>,
    /// The generation of the ways below.
    generation: u64,
    ways: FxHashMap<Box<str>, Way>,
    /// The topic published to last, which is most often the next too.
    last: Option<(Box<str>, Way)>,
}

/// What becomes of a publisher's messages to one topic.
#[derive(Clone, Debug)]
struct Way {
    /// Those that it may publish.
    permits: Permits,
    routes: Routes<Receiver>,
}

impl Publisher {
    /// Nothing published yet.
    pub fn new(mailbox: &Mailbox, guard: Arc<Guard>) -> Self {
        let (key, stored) = (mailbox.key(), mailbox.stored());
        Self { key, stored, identity: identity(&guard.subject.client_id), guard, ..Self::default() }
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
    /// Distributes a PUBLISH packet, whose variable header and payload are `body`.
    pub fn publish(
        &self,
        publisher: &mut Publisher,
        publish: &Publish<'_>,
        topic: &str,
        body: &[u8],
        now: Moment,
        turn: &mut Turn,
    ) -> Published {
        let routes = match self.permitted(publisher, publish, topic) {
            Ok(routes) => routes,
            Err(reason) => return Published::refused(reason),
        };
        let receives_twice = publish.qos == QoS::ExactlyOnce;
        // A subscription's QoS is then the lower one, always.
        let raise = || Publish { qos: QoS::ExactlyOnce, ..*publish };
        let raised = self.tuned.raises_qos().then(raise);
        let publish = raised.as_ref().unwrap_or(publish);
        if !self.takes_messages() && needs_store(publisher, publish, &routes) {
            if self.memory_is_full() {
                self.metrics.publications_refused_for_memory.increment();
            }
            return Published::later(ReasonCode::QuotaExceeded);
        }
        let Publish { qos, retain, properties, .. } = *publish;
        let arrival = Arrival { qos, retain, properties, weight: body.len(), now };
        if publish.retain && !self.is_let_in(&routes, &arrival, turn) {
            return Published::later(ReasonCode::QuotaExceeded);
        }
        let (retained, routes) = if publish.retain {
            match self.publish_retained(publisher, publish, topic, body, now, turn) {
                Ok((message, routes)) => (Some(message), routes),
                Err(reason) => return Published::refused(reason),
            }
        } else {
            (None, routes)
        };
        // Its identity comes before its receivers are asked whether they are durable.
        let id = if publish.qos == QoS::AtMostOnce { 0 } else { self.store.next_message_id() };
        let matches_none = routes.is_empty();
        let (targets, routes) = match self.targets(&routes, &arrival, turn) {
            Ok(targets) => (targets, routes),
            // It is retained by now.
            Err(_) if publish.retain => self.with_room(&routes, &arrival, turn),
            Err(reason) => return Published::later(reason),
        };
        let mut published = Published { reason: ReasonCode::Success, waits: false, later: false };
        if let (true, Some(session), Some(id)) =
            (receives_twice, publisher.stored, publish.packet_id)
        {
            turn.change(Change::Received { session, packet_id: id.get() });
            published.waits = true;
        }
        if matches_none && !publish.retain {
            self.metrics.drops.add(DropReason::NoSubscriber, 1);
            published.reason = ReasonCode::NoMatchingSubscribers;
            return published;
        }
        let message = retained.unwrap_or_else(|| {
            let id = if targets.is_empty() { 0 } else { id };
            Message::of_publish(id, body, publish, topic, now)
        });
        published.waits |= publish.retain || !targets.is_empty();
        if matches_none {
            published.reason = ReasonCode::NoMatchingSubscribers;
        }
        self.hand_on(message, targets, &routes, turn);
        published
    }

    /// Keeps a message for future subscribers, and resolves its routes in the same moment. Where
    /// there is no room a message that can be refused is; QoS 0 cannot.
    fn publish_retained(
        &self,
        publisher: &mut Publisher,
        publish: &Publish<'_>,
        topic: &str,
        body: &[u8],
        now: Moment,
        turn: &mut Turn,
    ) -> Result<(Message, Routes<Receiver>), ReasonCode> {
        let is_stored = publish.qos != QoS::AtMostOnce;
        let id = if is_stored { self.store.next_message_id() } else { 0 };
        let message = Message::of_publish(id, body, publish, topic, now);
        let identity = publisher.identity;
        let adds = !publish.payload.is_empty() && !self.retained.contains(topic);
        let (kept, way) = if adds && self.memory_is_full() {
            (Err(retained::Full), self.way(publisher, topic))
        } else {
            let way = || self.way(publisher, topic);
            self.retained.publish(&message, identity, is_stored, way)
        };
        if kept.is_err() && is_stored {
            return Err(ReasonCode::QuotaExceeded);
        }
        if kept.is_err() {
            self.metrics.drops.add(DropReason::NotRetained, 1);
        }
        turn.retained(&message);
        Ok((message, way?.routes))
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
        if !guard.publishes(will.topic()).allow(will.qos(), will.retain()) {
            self.metrics.drops.add(DropReason::PublishDenied, 1);
            tracing::info!(client = ?client_id, topic = will.topic(), "its will is denied");
            return;
        }
        self.metrics.wills_published.increment();
        let id = if will.qos() == QoS::AtMostOnce { 0 } else { self.store.next_message_id() };
        let message = will.message(id, now);
        let routes = || self.router.routes(will.topic(), Some(publisher));
        let routes = if will.retain() {
            let identity = identity(client_id);
            let (kept, routes) = self.retained.publish(&message, identity, false, routes);
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

    /// The routes of a message that its publisher may publish.
    fn permitted(
        &self,
        publisher: &mut Publisher,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Result<Routes<Receiver>, ReasonCode> {
        let Way { permits, routes } = self.way(publisher, topic)?;
        match permits.allow(publish.qos, publish.retain) {
            true => Ok(routes),
            false => Err(ReasonCode::NotAuthorized),
        }
    }

    /// The way of a topic, from the publisher's own list where that is still right.
    fn way(&self, publisher: &mut Publisher, topic: &str) -> Result<Way, ReasonCode> {
        let generation = self.router.generation();
        if generation != publisher.generation {
            publisher.generation = generation;
            publisher.ways = FxHashMap::default();
            publisher.last = None;
        }
        if let Some((last, way)) = &publisher.last
            && **last == *topic
        {
            return Ok(way.clone());
        }
        let way = match publisher.ways.get(topic) {
            Some(way) => way.clone(),
            None => {
                if levels(topic) > self.tuned.of_subscriptions().0 {
                    return Err(ReasonCode::TopicNameInvalid);
                }
                // Nobody can subscribe to what stands below $share.
                let denied = sys::is_own(topic) || topic.starts_with("$share/");
                let way = Way {
                    permits: if denied { Permits::NONE } else { publisher.guard.publishes(topic) },
                    routes: self.router.routes(topic, Some(publisher.key)),
                };
                if publisher.ways.len() >= CACHED_TOPICS_MAX {
                    publisher.ways.clear();
                }
                if publisher.last.is_some() && topic.len() <= CACHED_TOPIC_LEN_MAX {
                    publisher.ways.insert(topic.into(), way.clone());
                }
                way
            }
        };
        if let Some((last, former)) = publisher.last.replace((topic.into(), way.clone()))
            && last.len() <= CACHED_TOPIC_LEN_MAX
        {
            publisher.ways.entry(last).or_insert(former);
        }
        Ok(way)
    }
}

/// Whether a message can be acknowledged only when something of it is in the store.
fn needs_store(publisher: &Publisher, publish: &Publish<'_>, routes: &Routes<Receiver>) -> bool {
    let received_once = publish.qos == QoS::ExactlyOnce && publisher.stored.is_some();
    publish.qos != QoS::AtMostOnce
        && (received_once
            || publish.retain
            || routes.iter().any(|route| match &route.subscriber {
                Receiver::Session(mailbox) => {
                    route.qos != QoS::AtMostOnce && mailbox.stored().is_some()
                }
                Receiver::Group(group) => group.stored().is_some(),
            }))
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
                Ok(target) => targets.extend(target),
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
