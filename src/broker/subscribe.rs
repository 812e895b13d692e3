//! Subscriptions come and go.
//!
//! A request may have a million Topic Filters, and each takes its time: of each call the broker
//! carries out a part ([`FILTERS_MAX`]), so that the other Clients of the thread have theirs in
//! between. Subscriptions that were made have their messages wait until SUBACK has left.

use std::num::NonZeroU32;

use super::Broker;
use super::groups::Joining;
use super::members::Credit;
use super::publish::identity;
use super::receiver::Receiver;
use super::registry::Parts;
use super::turn::Turn;
use crate::clock::Moment;
use crate::codec::{QoS, ReasonCode, RetainHandling, subscribe, unsubscribe};
use crate::message::Message;
use crate::queue::Delivery;
use crate::router::Interest;
use crate::router::retained::Wanted;
use crate::session::Session;
use crate::session::connect::levels;
use crate::session::subscriptions::Subscription;
use crate::store::{Change, Target};
use crate::topic::{TopicFilter, has_wildcard};

/// Topic Filters of a request, or of a Session that ends, that are dealt with at a time: about a
/// tenth of a millisecond.
pub const FILTERS_MAX: usize = 64;

/// Rules that take as long to ask about a Topic Filter as all else that is done with it.
const RULES_OF_FILTER: usize = 16;

/// Retained messages handed over at a time; no more follow while so many wait.
const RETAINED_PAGE: usize = 256;

/// Names that are looked at for them at a time.
const RETAINED_LOOKS: usize = 2_000;

/// What a filter costs at least, in looks.
const LOOKS_OF_FILTER: usize = 32;

/// Bytes of them handed over at a time, by their weight; no more follow while so many wait.
const RETAINED_PAGE_BYTES: usize = 1 << 20;

/// What became of a SUBSCRIBE or UNSUBSCRIBE, as far as it has been carried out.
#[derive(Debug, Default)]
pub struct Answered {
    /// A Reason Code for each Topic Filter, in their order.
    pub reasons: Vec<u8>,
    /// Why one was refused, in words.
    pub why: Option<Box<str>>,
}

impl Broker {
    /// Makes subscriptions of a SUBSCRIBE, filter by filter [MQTT-3.8.4-5]; not more than
    /// [`FILTERS_MAX`], and fewer where there are many rules to ask.
    pub fn subscribe(
        &self,
        parts: &mut Parts,
        filters: &mut subscribe::Filters<'_>,
        id: Option<NonZeroU32>,
        answered: &mut Answered,
        turn: &mut Turn,
    ) {
        let guard = parts.mailbox.guard();
        let some = FILTERS_MAX / (1 + guard.rules_of_subscriptions() / RULES_OF_FILTER);
        for (filter, options) in filters.take(some.max(1)) {
            let subscription = Subscription { options, id };
            let mounted = parts.session.terms().mounted_filter(filter);
            let granted = match mounted.as_deref().map(TopicFilter::new) {
                Some(Ok(filter)) if !guard.subscribes(filter.as_str(), options.qos) => {
                    Err(ReasonCode::NotAuthorized)
                }
                Some(Ok(filter)) => self.subscribe_one(parts, filter, subscription, turn),
                _ => Err(ReasonCode::TopicFilterInvalid),
            };
            answered.reasons.push(match granted {
                Ok(qos) => qos as u8,
                Err(reason @ ReasonCode::NotAuthorized) => reason.as_u8(),
                Err(reason) => {
                    answered.why = answered.why.take().or_else(|| self.why_refused(filter));
                    reason.as_u8()
                }
            });
        }
    }

    /// What the Client is told beside the Reason Code.
    fn why_refused(&self, filter: TopicFilter<'_>) -> Option<Box<str>> {
        let name = filter.queue_name().filter(|_| self.declared(filter).is_none())?;
        tracing::info!(queue = ?name, "a subscription to a queue that is not declared is refused");
        Some("no queue of this name is declared".into())
    }

    fn subscribe_one(
        &self,
        parts: &mut Parts,
        filter: TopicFilter<'_>,
        subscription: Subscription,
        turn: &mut Turn,
    ) -> Result<QoS, ReasonCode> {
        let (topic_levels_max, subscriptions_max) = self.tuned.of_subscriptions();
        let held = &mut parts.session.subscriptions;
        if levels(filter.as_str()) > topic_levels_max {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        if filter.queue_name().is_some() && self.declared(filter).is_none() {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let joins_too_many = filter.is_shared()
            && self.declared(filter).is_none()
            && parts.groups.iter().len() >= self.tuned.shared_subscriptions_max();
        let is_full = held.len() >= subscriptions_max || joins_too_many || self.memory_is_full();
        if is_full && !held.contains(filter.as_str()) {
            self.metrics.subscriptions_refused.increment();
            let client = parts.session.client_id();
            tracing::debug!(?client, ?filter, "no room for a subscription");
            return Err(ReasonCode::QuotaExceeded);
        }
        let is_new = !held.insert(filter.as_str(), subscription);
        if let Some(session) = parts.mailbox.stored() {
            let (filter, options) = (filter.as_str().into(), subscription.encode());
            turn.change(Change::Subscribed { session, filter, options });
        }
        let joins = is_new.then_some(true);
        let ((), until) =
            self.retained.subscribe(|| self.route(parts, filter, subscription, joins, turn));
        let wants_retained = match subscription.options.retain_handling {
            RetainHandling::Send => true,        // [MQTT-3.3.1-9]
            RetainHandling::SendIfNew => is_new, // [MQTT-3.3.1-10]
            RetainHandling::DoNotSend => false,  // [MQTT-3.3.1-11]
        };
        // Retained messages are not sent for a Shared Subscription, section 4.8.2.
        let may_match = has_wildcard(filter.as_str()) || self.retained.contains(filter.as_str());
        if wants_retained && may_match && !filter.is_shared() {
            parts.session.retained_due.push(filter.as_str(), subscription, until);
        }
        Ok(subscription.options.qos)
    }

    /// Makes a subscription known to the router or to its share group. `joins`: it is new to the
    /// group, as a member who is online or not.
    pub(super) fn route(
        &self,
        parts: &mut Parts,
        filter: TopicFilter<'_>,
        subscription: Subscription,
        joins: Option<bool>,
        turn: &mut Turn,
    ) {
        let options = subscription.options;
        let interest = Interest {
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            id: subscription.id,
        };
        if !filter.is_shared() {
            let receiver = Receiver::Session(parts.mailbox.clone());
            self.router.subscribe(filter.filter(), receiver, interest);
            return;
        }
        let online = joins.unwrap_or(true);
        let room = online.then(|| parts.session.terms().send_window.into());
        let queue = self.declared(filter);
        let taken = queue.map_or(0, |queue| parts.session.held_of(queue.source()).count());
        let credit = Credit { room, taken };
        let group = self.join(&Joining { filter, mailbox: &parts.mailbox, interest, credit }, turn);
        // A declared queue has two names.
        let is_in = group.is_declared() && parts.groups.iter().any(|g| g.key() == group.key());
        if joins.is_some() && !is_in {
            parts.groups.push(group);
        }
    }

    /// Hands over a page of the retained messages that new subscriptions of the Session wait for,
    /// if its queue has room; false when there was nothing to do. What is retained leaves as
    /// the Client takes it: a filter that matches everything costs nobody else.
    pub fn send_retained(&self, parts: &mut Parts, now: Moment, turn: &mut Turn) -> bool {
        let (mut any, mut looks) = (false, RETAINED_LOOKS);
        while looks > 0 {
            match self.send_retained_page(parts, &mut looks, now, turn) {
                Some(true) => any = true,
                Some(false) => return true,
                None => return any,
            }
        }
        any
    }

    /// Hands over a page, which is paid for from `looks`; whether that was all of its filter,
    /// `None` when there was none to hand over.
    fn send_retained_page(
        &self,
        parts: &mut Parts,
        looks: &mut usize,
        now: Moment,
        turn: &mut Turn,
    ) -> Option<bool> {
        let due = parts.session.retained_due.first()?;
        let waiting = parts.mailbox.waiting();
        let limits = &self.tuned.queue();
        let page = RETAINED_PAGE.min(limits.messages_max).saturating_sub(waiting.0);
        let bytes = RETAINED_PAGE_BYTES.min(limits.bytes_max / 2);
        if page == 0 || waiting.1 >= bytes {
            return None;
        }
        let (Some(round), Ok(filter)) = (due.round(), TopicFilter::new(&due.filter)) else {
            parts.session.retained_due.advance(None);
            return Some(true);
        };
        let (subscription, until, after) = (round.subscription, round.until, due.after.as_deref());
        let wanted = Wanted { filter, until, after, at_most: page, bytes, looks: *looks };
        let held = self.retained.hold();
        let found = held.matching(&wanted, now);
        *looks = looks.saturating_sub(found.looked.max(LOOKS_OF_FILTER));
        let own = identity(parts.session.client_id());
        let asks = self.tuned.asks_sources();
        let deliveries: Vec<Delivery> = found
            .messages
            .into_iter()
            .filter(|kept| !(subscription.options.no_local && kept.publisher.identity == own))
            .filter(|kept| !asks || kept.publisher.may_publish(&kept.message))
            .map(|kept| self.retained_delivery(parts, kept.message, subscription, turn))
            .collect();
        let before = turn.remainder().overflow.len();
        parts.mailbox.push(deliveries.into_iter(), limits, now, turn.remainder());
        drop(held);
        for (delivery, reason) in turn.remainder().overflow.split_off(before) {
            self.dropped(delivery, reason, parts.mailbox.stored(), turn);
        }
        let is_over = found.next.is_none();
        parts.session.retained_due.advance(found.next);
        Some(is_over)
    }

    /// A retained message for a new subscription, with RETAIN set [MQTT-3.3.1-8]. For a Session
    /// that outlives its connection it is a message of its own that must survive.
    fn retained_delivery(
        &self,
        parts: &Parts,
        mut message: Message,
        subscription: Subscription,
        turn: &mut Turn,
    ) -> Delivery {
        let qos = message.qos().min(subscription.options.qos);
        let subscription_ids =
            subscription.id.map(|id| triomphe::ThinArc::from_header_and_slice((), &[id.get()]));
        if let (Some(session), true) = (parts.mailbox.stored(), qos != QoS::AtMostOnce) {
            message = message.with_id(self.store.next_message_id());
            let flags = super::publish::flags(qos, true);
            let subscription_ids = subscription_ids.clone();
            let target = Target { session, flags, online: true, expires_s: 0, subscription_ids };
            let targets = std::iter::once(target).collect();
            turn.change(Change::Message { message: message.clone(), targets });
        }
        Delivery { subscription_ids, qos, retain: true, ..Delivery::new(message) }
    }

    /// Ends subscriptions of an UNSUBSCRIBE [MQTT-3.10.4-1]; not more than [`FILTERS_MAX`].
    pub fn unsubscribe(
        &self,
        parts: &mut Parts,
        filters: &mut unsubscribe::Filters<'_>,
        answered: &mut Answered,
        turn: &mut Turn,
    ) {
        for filter in filters.take(FILTERS_MAX) {
            let mounted = parts.session.terms().mounted_filter(filter);
            let filter = mounted.as_deref().and_then(|filter| TopicFilter::new(filter).ok());
            let existed = filter.is_some_and(|f| parts.session.subscriptions.remove(f.as_str()));
            let missing = ReasonCode::NoSubscriptionExisted;
            let reason = if existed { ReasonCode::Success } else { missing };
            answered.reasons.push(reason.as_u8());
            let Some(filter) = filter.filter(|_| existed) else { continue };
            parts.session.retained_due.forget(filter.as_str());
            if !self.stays_member(parts, filter) {
                if filter.is_shared() {
                    self.part(parts, filter.as_str(), turn);
                }
                self.unroute(parts, filter.as_str(), turn);
            }
            if let Some(session) = parts.mailbox.stored() {
                turn.change(Change::Unsubscribed { session, filter: filter.as_str().into() });
            }
        }
    }

    /// Ends subscriptions of a Session that ends, but for those of share groups, which first get
    /// back what it has of them; not more than [`FILTERS_MAX`] at a time. False when there are no
    /// more.
    pub(super) fn unroute_some(&self, session: &mut Session, key: u64) -> bool {
        let is_own = |f: &&str| TopicFilter::new(f).is_ok_and(|filter| !filter.is_shared());
        let filters = session.subscriptions.iter().map(|(filter, _)| filter);
        let some: Vec<Box<str>> =
            filters.filter(is_own).take(FILTERS_MAX).map(Into::into).collect();
        for filter in &some {
            session.subscriptions.remove(filter);
            self.router.unsubscribe(filter, key);
        }
        some.len() == FILTERS_MAX
    }

    /// Whether a Session that ends a subscription has the same declared queue by its other name.
    fn stays_member(&self, parts: &Parts, filter: TopicFilter<'_>) -> bool {
        let Some(queue) = self.declared(filter) else { return false };
        parts.session.subscriptions.iter().any(|(held, _)| {
            TopicFilter::new(held)
                .ok()
                .and_then(|held| self.declared(held))
                .is_some_and(|held| held.key() == queue.key())
        })
    }

    /// Parts a Session from a share group that it leaves: what it has not been sent goes back to
    /// the group, what it has is completed [MQTT-3.10.4-3]. With a Session that the store knows it
    /// becomes its own, unless it is of a declared queue; else it comes back if it is not
    /// completed when the Session ends.
    fn part(&self, parts: &mut Parts, filter: &str, turn: &mut Turn) {
        let queue = TopicFilter::new(filter).ok().and_then(|filter| self.declared(filter));
        let name = queue.as_ref().map_or(filter, |queue| queue.filter());
        let Some(group) = parts.groups.take_out(name) else { return };
        group.pause(parts.mailbox.key());
        let mut back = parts.mailbox.give_up(group.source());
        group.offline(parts.mailbox.key(), &mut back, self.now(), turn.remainder());
        let (own, groups) = (parts.mailbox.stored(), group.stored());
        if group.is_declared() {
            return;
        }
        if own.is_none() {
            group.stray(parts.session.held_of(group.source()));
            return;
        }
        let rename = |delivery: &Delivery| {
            let message = &delivery.message;
            if let Some(queue) = groups.filter(|_| message.id() != 0) {
                turn.finished(message.id(), queue);
            }
            let Some(session) = own else { return message.clone() };
            let message = message.with_id(self.store.next_message_id());
            let flags = super::publish::flags(delivery.qos, delivery.retain);
            let subscription_ids = delivery.subscription_ids.clone();
            let target = Target { session, flags, online: false, expires_s: 0, subscription_ids };
            let targets = std::iter::once(target).collect();
            turn.change(Change::Message { message: message.clone(), targets });
            message
        };
        let kept = parts.session.keep_shared(group.source(), rename);
        for packet_id in kept {
            let delivery = parts.session.outgoing().delivery(packet_id);
            if let (Some(session), Some(delivery)) = (own, delivery)
                && delivery.qos == QoS::ExactlyOnce
            {
                turn.change(Change::Completed { session, packet_id: packet_id.get() });
                self.bind(session, packet_id, delivery, turn);
            }
        }
    }

    /// Makes a subscription unknown to the router or to its share group.
    pub(super) fn unroute(&self, parts: &mut Parts, filter: &str, turn: &mut Turn) {
        let Ok(filter) = TopicFilter::new(filter) else { return };
        let key = parts.mailbox.key();
        if !filter.is_shared() {
            self.router.unsubscribe(filter.filter(), key);
        } else {
            self.leave(filter, key, turn);
        }
    }
}
