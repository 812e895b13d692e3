//! Subscriptions come and go.

use super::Broker;
use super::groups::Joining;
use super::receiver::Receiver;
use super::registry::Parts;
use super::turn::Turn;
use crate::clock::Moment;
use crate::codec::{QoS, ReasonCode, RetainHandling, Subscribe, Unsubscribe};
use crate::queue::Delivery;
use crate::router::Interest;
use crate::session::connect::levels;
use crate::session::subscriptions::Subscription;
use crate::store::{Change, Target};
use crate::topic::TopicFilter;

/// Retained messages handed over at a time.
const RETAINED_PAGE: usize = 1_000;

/// What became of a SUBSCRIBE or UNSUBSCRIBE: a Reason Code for each Topic Filter, and whether
/// the answer must wait for the store.
pub struct Answered {
    /// In the order of the Topic Filters.
    pub reasons: Box<[u8]>,
    /// Whether the answer waits.
    pub waits: bool,
}

impl Broker {
    /// Makes the subscriptions of a SUBSCRIBE, filter by filter [MQTT-3.8.4-5].
    pub fn subscribe(
        &self,
        parts: &mut Parts,
        request: &Subscribe<'_>,
        now: Moment,
        turn: &mut Turn,
    ) -> Answered {
        let id = request.properties.subscription_identifiers().next();
        let mut reasons = Vec::new();
        for (filter, options) in request.filters() {
            let subscription = Subscription { options, id };
            reasons.push(match self.subscribe_one(parts, filter, subscription, now, turn) {
                Ok(qos) => qos as u8,
                Err(reason) => reason.as_u8(),
            });
        }
        let waits = parts.mailbox.stored().is_some();
        Answered { reasons: reasons.into(), waits }
    }

    fn subscribe_one(
        &self,
        parts: &mut Parts,
        filter: TopicFilter<'_>,
        subscription: Subscription,
        now: Moment,
        turn: &mut Turn,
    ) -> Result<QoS, ReasonCode> {
        let limits = &self.options.limits;
        let held = &mut parts.session.subscriptions;
        if levels(filter.as_str()) > limits.topic_levels_max {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        if held.len() >= limits.subscriptions_max && !held.contains(filter.as_str()) {
            return Err(ReasonCode::QuotaExceeded);
        }
        let is_new = !held.insert(filter.as_str(), subscription);
        if let Some(session) = parts.mailbox.stored() {
            let (filter, options) = (filter.as_str().into(), subscription.encode());
            turn.change(Change::Subscribed { session, filter, options });
        }
        self.route(parts, filter, subscription, true, turn);
        let wants_retained = match subscription.options.retain_handling {
            RetainHandling::Send => true,        // [MQTT-3.3.1-9]
            RetainHandling::SendIfNew => is_new, // [MQTT-3.3.1-10]
            RetainHandling::DoNotSend => false,  // [MQTT-3.3.1-11]
        };
        // Retained messages are not sent for a Shared Subscription, section 4.8.2.
        if wants_retained && filter.share_name().is_none() {
            self.send_retained(parts, filter, subscription, now, turn);
        }
        Ok(subscription.options.qos)
    }

    /// Makes a subscription known to the router or to its share group.
    pub(super) fn route(
        &self,
        parts: &mut Parts,
        filter: TopicFilter<'_>,
        subscription: Subscription,
        online: bool,
        turn: &mut Turn,
    ) {
        let options = subscription.options;
        let interest = Interest {
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            id: subscription.id,
        };
        if filter.share_name().is_none() {
            let receiver = Receiver::Session(parts.mailbox.clone());
            self.router.subscribe(filter.filter(), receiver, interest);
            return;
        }
        let window = online.then(|| parts.session.terms().send_window());
        let group = self.join(&Joining { filter, mailbox: &parts.mailbox, interest, window }, turn);
        if !parts.groups.iter().any(|joined| joined.key() == group.key()) {
            parts.groups.push(group);
        }
    }

    fn send_retained(
        &self,
        parts: &Parts,
        filter: TopicFilter<'_>,
        subscription: Subscription,
        now: Moment,
        turn: &mut Turn,
    ) {
        let mut after: Option<String> = None;
        loop {
            let page = self.retained.matching(filter, after.as_deref(), RETAINED_PAGE, now);
            let deliveries: Vec<Delivery> = page
                .messages
                .into_iter()
                .map(|message| self.retained_delivery(parts, message, subscription, turn))
                .collect();
            let before = turn.refused().overflow.len();
            parts.mailbox.push(deliveries.into_iter(), &self.options.queue, turn.refused());
            let refused = turn.refused().overflow.split_off(before);
            for delivery in refused {
                let reason = crate::metrics::DropReason::QueueFull;
                self.dropped(&delivery, reason, parts.mailbox.stored(), turn);
            }
            match page.next {
                None => return,
                next => after = next,
            }
        }
    }

    /// A retained message for a new subscription, with RETAIN set [MQTT-3.3.1-8]. For a Session
    /// that outlives its connection it is a message of its own that must survive.
    fn retained_delivery(
        &self,
        parts: &Parts,
        mut message: crate::message::Message,
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
            let target = Target { session, flags, online: true, subscription_ids };
            let targets = std::iter::once(target).collect();
            turn.change(Change::Message { message: message.clone(), targets });
        }
        Delivery {
            message,
            subscription_ids,
            source: 0,
            sequence: 0,
            qos,
            retain: true,
            dup: false,
        }
    }

    /// Ends the subscriptions of an UNSUBSCRIBE [MQTT-3.10.4-1].
    pub fn unsubscribe(
        &self,
        parts: &mut Parts,
        request: &Unsubscribe<'_>,
        turn: &mut Turn,
    ) -> Answered {
        let mut reasons = Vec::new();
        for filter in request.filters() {
            let existed = parts.session.subscriptions.remove(filter.as_str());
            let missing = ReasonCode::NoSubscriptionExisted;
            reasons.push(if existed { ReasonCode::Success } else { missing }.as_u8());
            if !existed {
                continue;
            }
            self.unroute(parts, filter.as_str(), turn);
            if let Some(session) = parts.mailbox.stored() {
                turn.change(Change::Unsubscribed { session, filter: filter.as_str().into() });
            }
        }
        let waits = parts.mailbox.stored().is_some();
        Answered { reasons: reasons.into(), waits }
    }

    /// Makes a subscription unknown to the router or to its share group.
    pub(super) fn unroute(&self, parts: &mut Parts, filter: &str, turn: &mut Turn) {
        let Ok(filter) = TopicFilter::new(filter) else { return };
        let key = parts.mailbox.key();
        if filter.share_name().is_none() {
            self.router.unsubscribe(filter.filter(), key);
        } else {
            self.leave(filter, key, turn);
        }
    }
}
