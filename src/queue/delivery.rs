//! A message's place in a queue.

use super::backlog::counted;
use crate::clock::Moment;
use crate::codec::QoS;
use crate::message::Message;

/// Several Subscription Identifiers, shared by all deliveries of one route.
pub type SubscriptionIds = Option<triomphe::ThinArc<(), u32>>;

/// A message's place in one queue: what this receiver is to get.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What was published.
    pub message: Message,
    /// Identifiers of the subscriptions that matched [MQTT-3.3.4-3].
    pub subscription_ids: SubscriptionIds,
    /// The share group it was taken from; 0: the Session's own queue.
    pub source: u32,
    /// Place in the order of arrival; set by [`super::Queue::push`].
    pub sequence: u32,
    /// When the queue it is in lets it expire, in seconds since the Unix epoch; 0: when the message
    /// does.
    pub expires_s: u32,
    /// How often a declared queue has handed it out, this time included, as far as 255; 0 from any
    /// other queue.
    pub attempts: u8,
    /// The lower of the message's and the subscription's.
    pub qos: QoS,
    /// The RETAIN flag to be sent.
    pub retain: bool,
    /// Whether a consumer may have seen it before.
    pub dup: bool,
}

impl Delivery {
    /// A delivery of its own queue as the message was published, not seen before.
    pub fn new(message: Message) -> Self {
        let (qos, retain) = (message.qos(), message.retain());
        Self {
            message,
            subscription_ids: None,
            source: 0,
            sequence: 0,
            expires_s: 0,
            attempts: 0,
            qos,
            retain,
            dup: false,
        }
    }

    /// Whether it is not worth delivering any more [MQTT-3.3.2-5].
    pub fn is_expired(&self, now: Moment) -> bool {
        self.message.is_expired(now)
            || (self.expires_s != 0
                && now >= Moment::from_unix_ms(u64::from(self.expires_s) * 1000))
    }

    /// When it expires, as seconds say it; [`Moment::NEVER`] for never.
    pub(super) fn expires_at(&self) -> Moment {
        match self.expires_s {
            0 => self.message.expires_at(),
            s => self.message.expires_at().min(Moment::from_unix_ms(u64::from(s) * 1000)),
        }
    }

    /// What it counts for in its queue, in bytes.
    pub fn weight(&self) -> usize {
        counted(self.message.weight())
    }

    /// What the books need to know of it.
    pub fn trace(&self) -> Trace {
        Trace { message: self.message.id(), qos: self.qos, source: self.source }
    }
}

/// What the books need to know of a delivery when it is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The message's identity; 0 when it is not stored.
    pub message: u64,
    /// Quality of service of the delivery.
    pub qos: QoS,
    /// As [`Delivery::source`].
    pub source: u32,
}

/// A message of the backlog, read from the store.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The identity that was asked for.
    pub id: u64,
    /// The message and the identifiers of the subscriptions that matched; `None` when the store
    /// has lost it.
    pub found: Option<(Message, SubscriptionIds)>,
}
