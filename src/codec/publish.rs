//! PUBLISH (section 3.3), the packet that matters for speed: decoded as a view of the input,
//! encoded straight into the connection's buffer.

use std::num::NonZeroU16;

use super::frame::{Frame, PacketType};
use super::primitive::{Fields, NOT_UTF8, VARINT_MAX, WITH_NULL, put_varint, varint_len};
use super::property::{self, Place, PropertyId};
use super::{DecodeError, EncodeError, PacketId, Properties, QoS, Version};
use crate::topic::{TopicError, TopicName};

/// The User Property that says how often a declared queue has handed a message out.
pub const DELIVERY_COUNT: &str = "whimbrel-delivery-count";

/// A PUBLISH packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Publish<'a> {
    /// Whether it may repeat an earlier packet.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Whether it is (to be) retained.
    pub retain: bool,
    /// Where to; `None`: a Topic Alias stands for it (MQTT 5.0).
    pub topic: Option<TopicName<'a>>,
    /// There is one exactly when the QoS is not 0 [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
    /// Properties.
    pub properties: Properties<'a>,
    /// The Application Message.
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// The packet in a frame of this type. A topic that is `known` is not checked again: a seventh
    /// of the instructions of a small message's whole way through the broker.
    #[inline]
    pub fn of_frame(
        frame: &Frame<'a>,
        version: Version,
        known: Option<TopicName<'a>>,
    ) -> Result<Self, DecodeError> {
        debug_assert_eq!(frame.kind, PacketType::Publish);
        Self::decode(frame.flags, frame.body, version, known)
    }

    #[inline]
    pub(super) fn decode(
        flags: u8,
        body: &'a [u8],
        version: Version,
        known: Option<TopicName<'a>>,
    ) -> Result<Self, DecodeError> {
        // [MQTT-3.3.1-4]
        let qos = QoS::from_bits(flags >> 1 & 3).ok_or(DecodeError::Malformed("QoS 3"))?;
        let dup = flags & 0b1000 != 0;
        let dup = match (dup, qos, version) {
            (true, QoS::AtMostOnce, Version::V31) => false, // Without a meaning there.
            (true, QoS::AtMostOnce, _) => {
                return Err(DecodeError::Malformed("DUP with QoS 0")); // [MQTT-3.3.1-2]
            }
            (dup, ..) => dup,
        };
        let mut fields = Fields(body);
        let topic = match (fields.binary()?, known) {
            (topic, Some(known)) if *topic == *known.as_str().as_bytes() => Some(known),
            (b"", _) if version.has_properties() => None,
            (topic, _) => Some(topic_name(topic)?),
        };
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            _ => Some(fields.packet_id()?),
        };
        let place = Place::Packet(PacketType::Publish);
        let properties = Properties::decode(&mut fields, version, place)?;
        if topic.is_none() && properties.topic_alias().is_none() {
            return Err(DecodeError::ProtocolError("no topic and no Topic Alias"));
        }
        let payload = fields.rest();
        Ok(Self { dup, qos, retain: flags & 1 != 0, topic, packet_id, properties, payload })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let outgoing = Outgoing {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic.map_or(&[], |topic| topic.as_str().as_bytes()),
            packet_id: self.packet_id,
            topic_alias: None,
            message_expiry_s: None,
            subscription_ids: &[],
            delivery_count: 0,
            properties: self.properties.raw(),
            payload: self.payload,
        };
        if outgoing.encoded_len(version) > VARINT_MAX {
            return Err(EncodeError::TooLong);
        }
        outgoing.encode(version, out);
        Ok(())
    }
}

/// Checks a Topic Name: well-formed UTF-8 [MQTT-1.5.4-1] without null [MQTT-1.5.4-2] and wildcards
/// [MQTT-3.3.2-2], for the last two of which it is looked through once.
fn topic_name(bytes: &[u8]) -> Result<TopicName<'_>, DecodeError> {
    match TopicName::new(std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)?) {
        Err(TopicError::ContainsNul) => Err(WITH_NULL),
        name => Ok(name?),
    }
}

/// A PUBLISH to be sent of a message that the broker holds: the message's own bytes and what is
/// this receiver's. Before MQTT 5.0 the properties are left out.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Whether it may repeat an earlier packet.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Topic Name; empty where a Topic Alias stands for it.
    pub topic: &'a [u8],
    /// There is one exactly when the QoS is not 0.
    pub packet_id: Option<PacketId>,
    /// The alias that stands for the topic or is set for it.
    pub topic_alias: Option<NonZeroU16>,
    /// Seconds that the message has left to live.
    pub message_expiry_s: Option<u32>,
    /// Identifiers of the subscriptions that matched.
    pub subscription_ids: &'a [u32],
    /// How often the message was handed out, for a User Property; 0: not said.
    pub delivery_count: u8,
    /// Properties that are forwarded as they came.
    pub properties: &'a [u8],
    /// The Application Message.
    pub payload: &'a [u8],
}

impl Outgoing<'_> {
    /// Bytes of the whole packet.
    pub fn encoded_len(&self, version: Version) -> usize {
        let remaining = self.remaining_len(version);
        1 + varint_len(remaining) + remaining
    }

    /// Appends the packet.
    // The compiler finds it too long to be put in place. That it is, with `Queue::add` and
    // `Broker::way`, saves a twentieth of a small message's instructions.
    #[inline(always)]
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let remaining = self.remaining_len(version);
        out.reserve(5 + remaining);
        self.encode_head_of(remaining, version, out);
        out.extend_from_slice(self.payload);
    }

    /// Appends what stands before the payload.
    pub fn encode_head(&self, version: Version, out: &mut Vec<u8>) {
        self.encode_head_of(self.remaining_len(version), version, out);
    }

    #[inline(always)]
    fn encode_head_of(&self, remaining: usize, version: Version, out: &mut Vec<u8>) {
        let first = (PacketType::Publish as u8) << 4
            | u8::from(self.dup) << 3
            | (self.qos as u8) << 1
            | u8::from(self.retain);
        let [high, low] = u16::try_from(self.topic.len()).unwrap_or(u16::MAX).to_be_bytes();
        match u8::try_from(remaining) {
            // Most packets; at once for speed.
            Ok(remaining @ ..0x80) => out.extend_from_slice(&[first, remaining, high, low]),
            _ => {
                out.push(first);
                put_varint(remaining, out);
                out.extend_from_slice(&[high, low]);
            }
        }
        out.extend_from_slice(self.topic);
        if let Some(packet_id) = self.packet_id {
            out.extend_from_slice(&packet_id.get().to_be_bytes());
        }
        if version.has_properties() {
            self.encode_properties(out);
        }
    }

    fn encode_properties(&self, out: &mut Vec<u8>) {
        put_varint(self.properties_len(), out);
        if let Some(expiry) = self.message_expiry_s {
            out.push(PropertyId::MessageExpiryInterval as u8);
            out.extend_from_slice(&expiry.to_be_bytes());
        }
        if let Some(alias) = self.topic_alias {
            out.push(PropertyId::TopicAlias as u8);
            out.extend_from_slice(&alias.get().to_be_bytes());
        }
        for &id in self.subscription_ids {
            out.push(PropertyId::SubscriptionIdentifier as u8);
            put_varint(id as usize, out);
        }
        out.extend_from_slice(self.properties);
        if self.delivery_count > 0 {
            property::put_pair(DELIVERY_COUNT, &self.delivery_count.to_string(), out);
        }
    }

    fn properties_len(&self) -> usize {
        let ids: usize = self.subscription_ids.iter().map(|&id| 1 + varint_len(id as usize)).sum();
        self.properties.len()
            + ids
            + if self.message_expiry_s.is_some() { 5 } else { 0 }
            + if self.topic_alias.is_some() { 3 } else { 0 }
            + match self.delivery_count {
                0 => 0,
                1..=9 => 5 + DELIVERY_COUNT.len() + 1,
                10..=99 => 5 + DELIVERY_COUNT.len() + 2,
                100.. => 5 + DELIVERY_COUNT.len() + 3,
            }
    }

    #[inline]
    fn remaining_len(&self, version: Version) -> usize {
        let properties = if version.has_properties() {
            let len = self.properties_len();
            varint_len(len) + len
        } else {
            0
        };
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        2 + self.topic.len() + packet_id + properties + self.payload.len()
    }
}
