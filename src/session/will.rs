//! The Will: a message that the Server publishes for a Client that is gone.

use crate::clock::Moment;
use crate::codec::{self, QoS};
use crate::message::{Message, Parts};

/// A Will Message and when it is due.
#[derive(Clone, Debug)]
pub struct Will {
    /// The message, without a lifetime: that begins when it is published.
    message: Message,
    /// Seconds from the end of the connection to publication [MQTT-3.1.3-9].
    pub delay_s: u32,
    /// The Message Expiry Interval to be published with, in seconds.
    expiry_s: Option<u32>,
}

impl Will {
    /// The Will of a CONNECT packet, to be published to this topic.
    pub fn new(will: &codec::Will<'_>, topic: &str) -> Self {
        let parts = Parts {
            topic,
            qos: will.qos,
            retain: will.retain,
            expires_at: Moment::NEVER,
            properties: will.properties,
            payload: will.payload,
        };
        Self {
            message: Message::new(0, &parts),
            delay_s: will.properties.will_delay_interval().unwrap_or(0),
            expiry_s: will.properties.message_expiry_interval(),
        }
    }

    /// The message to be published now, with an identity for the store.
    pub fn message(&self, id: u64, now: Moment) -> Message {
        match self.expiry_s {
            None => self.message.with_id(id),
            Some(s) => self.message.with_id(id).expiring_at(now.after_s(u64::from(s))),
        }
    }

    /// The topic it goes to.
    pub fn topic(&self) -> &str {
        self.message.topic_str()
    }

    /// Its quality of service.
    pub fn qos(&self) -> QoS {
        self.message.qos()
    }

    /// Whether it is to be retained.
    pub fn retain(&self) -> bool {
        self.message.retain()
    }

    /// Appends the Will as the store keeps it: delay u32, expiry u32 (`u32::MAX`: none), both
    /// little-endian, message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.delay_s.to_le_bytes());
        out.extend_from_slice(&self.expiry_s.unwrap_or(u32::MAX).to_le_bytes());
        self.message.encode(out);
    }

    /// What [`Will::encode`] wrote; `None` when the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (delay, rest) = bytes.split_first_chunk::<4>()?;
        let (expiry, rest) = rest.split_first_chunk::<4>()?;
        let expiry = u32::from_le_bytes(*expiry);
        Some(Self {
            message: Message::decode(0, rest)?,
            delay_s: u32::from_le_bytes(*delay),
            expiry_s: (expiry != u32::MAX).then_some(expiry),
        })
    }
}
