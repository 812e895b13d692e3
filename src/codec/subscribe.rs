//! SUBSCRIBE, and the answers SUBACK and UNSUBACK (sections 3.8, 3.9, 3.11).

use super::ack::put_properties;
use super::frame::PacketType;
use super::primitive::{Fields, put_binary, put_packet};
use super::property::Place;
use super::{DecodeError, EncodeError, PacketId, Properties, QoS, ReasonCode, Version};
use crate::topic::TopicFilter;

/// Whether retained messages are sent for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every subscribe.
    Send = 0,
    /// Only if the subscription is new.
    SendIfNew = 1,
    /// Not.
    DoNotSend = 2,
}

/// Subscription Options (section 3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// Messages of the Client itself are not sent back.
    pub no_local: bool,
    /// RETAIN is forwarded as published.
    pub retain_as_published: bool,
    /// Whether retained messages are sent.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// The options that a byte stands for.
    pub fn from_u8(byte: u8, version: Version) -> Result<Self, DecodeError> {
        let reserved = if version.has_properties() { 0xC0 } else { 0xFC };
        if byte & reserved != 0 {
            // [MQTT-3.8.3-5]
            return Err(DecodeError::Malformed("reserved bits of the Subscription Options"));
        }
        Ok(Self {
            qos: QoS::from_bits(byte & 3).ok_or(DecodeError::Malformed("a Maximum QoS of 3"))?,
            no_local: byte & 4 != 0,
            retain_as_published: byte & 8 != 0,
            retain_handling: match byte >> 4 & 3 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return Err(DecodeError::ProtocolError("a Retain Handling of 3")),
            },
        })
    }

    /// The byte that stands for the options.
    pub fn as_u8(self) -> u8 {
        self.qos as u8
            | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling as u8) << 4
    }
}

/// A Client asks for subscriptions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Subscribe<'a> {
    /// Of this request.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    version: Version,
    /// Filters and options as encoded; checked.
    payload: &'a [u8],
}

impl<'a> Subscribe<'a> {
    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut fields = Fields(body);
        let packet_id = fields.packet_id()?;
        let place = Place::Packet(PacketType::Subscribe);
        let properties = Properties::decode(&mut fields, version, place)?;
        let payload = fields.rest();
        if payload.is_empty() {
            return Err(DecodeError::ProtocolError("SUBSCRIBE without a Topic Filter")); // 3.8.3-2
        }
        while !fields.is_empty() {
            let (filter, options) = next_filter(&mut fields, version)?;
            if options.no_local && filter.share_name().is_some() {
                // [MQTT-3.8.3-4]
                return Err(DecodeError::ProtocolError("No Local on a Shared Subscription"));
            }
        }
        Ok(Self { packet_id, properties, version, payload })
    }

    /// The Topic Filters in order, each with its options.
    pub fn filters(&self) -> Filters<'a> {
        Filters::of(self.payload, self.version)
    }

    /// How a request with these filters is encoded; for Clients.
    pub fn payload<'f>(filters: impl Iterator<Item = (&'f str, SubscriptionOptions)>) -> Vec<u8> {
        let mut payload = Vec::new();
        for (filter, options) in filters {
            put_binary(filter.as_bytes(), &mut payload);
            payload.push(options.as_u8());
        }
        payload
    }

    /// A request with such a payload, checked; for Clients.
    pub fn new(
        packet_id: PacketId,
        properties: Properties<'a>,
        version: Version,
        payload: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let mut fields = Fields(payload);
        while !fields.is_empty() {
            next_filter(&mut fields, version)?;
        }
        Ok(Self { packet_id, properties, version, payload })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_packet(PacketType::Subscribe.first_byte(), out, |body| {
            body.extend_from_slice(&self.packet_id.get().to_be_bytes());
            put_properties(self.properties, version, body);
            body.extend_from_slice(self.payload);
            Ok(())
        })
    }
}

/// The Topic Filters of a SUBSCRIBE one after the other, each with its options.
#[derive(Debug)]
pub struct Filters<'a> {
    fields: Fields<'a>,
    version: Version,
}

impl<'a> Filters<'a> {
    /// Those of a payload, or of the end of one, that was checked.
    pub fn of(payload: &'a [u8], version: Version) -> Self {
        Self { fields: Fields(payload), version }
    }

    /// Those that have not been taken, encoded.
    pub fn rest(&self) -> &'a [u8] {
        self.fields.rest()
    }
}

impl<'a> Iterator for Filters<'a> {
    type Item = (TopicFilter<'a>, SubscriptionOptions);

    fn next(&mut self) -> Option<Self::Item> {
        if self.fields.is_empty() { None } else { next_filter(&mut self.fields, self.version).ok() }
    }
}

fn next_filter<'a>(
    fields: &mut Fields<'a>,
    version: Version,
) -> Result<(TopicFilter<'a>, SubscriptionOptions), DecodeError> {
    let filter = TopicFilter::new(fields.string()?)?;
    Ok((filter, SubscriptionOptions::from_u8(fields.u8()?, version)?))
}

/// The Server's answer to SUBSCRIBE or UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubAck<'a> {
    /// Of the request [MQTT-3.8.4-2].
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    /// A Reason Code for each Topic Filter, in order; UNSUBACK has none before MQTT 5.0.
    pub reasons: &'a [u8],
}

impl<'a> SubAck<'a> {
    pub(super) fn decode(
        kind: PacketType,
        body: &'a [u8],
        version: Version,
    ) -> Result<Self, DecodeError> {
        let mut fields = Fields(body);
        let packet_id = fields.packet_id()?;
        let properties = Properties::decode(&mut fields, version, Place::Packet(kind))?;
        let reasons = fields.rest();
        let is_allowed = |&reason: &u8| match (version.has_reason_codes(), kind) {
            (false, PacketType::UnsubAck) => false,
            (false, _) => matches!(reason, 0..=2 | 0x80), // [MQTT-3.9.3-2] of 3.1.1
            (true, _) => ReasonCode::from_u8(reason).is_some_and(|r| r.is_allowed_in(kind)),
        };
        if !reasons.iter().all(is_allowed) {
            return Err(DecodeError::Malformed("a reserved return code"));
        }
        Ok(Self { packet_id, properties, reasons })
    }

    pub(super) fn encode(
        &self,
        kind: PacketType,
        version: Version,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        put_packet(kind.first_byte(), out, |body| {
            body.extend_from_slice(&self.packet_id.get().to_be_bytes());
            put_properties(self.properties, version, body);
            if version.has_reason_codes() {
                body.extend_from_slice(self.reasons);
            } else if kind == PacketType::SubAck {
                body.extend(self.reasons.iter().map(|&r| if r >= 0x80 { 0x80 } else { r }));
            }
            Ok(())
        })
    }
}
