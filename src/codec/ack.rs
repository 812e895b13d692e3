//! PUBACK, PUBREC, PUBREL, PUBCOMP (sections 3.4 to 3.7): one shape.

use super::frame::{Frame, PacketType};
use super::primitive::{Fields, put_packet, put_varint};
use super::property::Place;
use super::{DecodeError, EncodeError, PacketId, Properties, ReasonCode, Version};

/// An acknowledgement in a QoS 1 or 2 exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ack<'a> {
    /// Of the PUBLISH [MQTT-2.2.1-5].
    pub packet_id: PacketId,
    /// How it went; always Success before MQTT 5.0.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

impl<'a> Ack<'a> {
    /// The acknowledgement in a frame of one of the four types.
    #[inline]
    pub fn of_frame(frame: &Frame<'a>, version: Version) -> Result<Self, DecodeError> {
        Self::decode(frame.kind, frame.body, version)
    }

    #[inline]
    pub(super) fn decode(
        kind: PacketType,
        body: &'a [u8],
        version: Version,
    ) -> Result<Self, DecodeError> {
        let mut fields = Fields(body);
        let packet_id = fields.packet_id()?;
        let mut ack =
            Self { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY };
        // The Reason Code and the Property Length can be omitted, section 3.4.2.1.
        if version.has_reason_codes() && !fields.is_empty() {
            ack.reason = reason(&mut fields, kind)?;
            if !fields.is_empty() {
                ack.properties = Properties::decode(&mut fields, version, Place::Packet(kind))?;
            }
        }
        fields.end()?;
        Ok(ack)
    }

    /// Appends the packet of this type, one of the four; on an error `out` is as before.
    #[inline]
    pub fn encode(
        &self,
        kind: PacketType,
        version: Version,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let id = self.packet_id.get().to_be_bytes();
        let is_short = self.reason == ReasonCode::Success && self.properties.is_empty();
        if !version.has_reason_codes() || is_short {
            out.extend_from_slice(&[kind.first_byte(), 2, id[0], id[1]]);
            return Ok(());
        }
        if self.properties.is_empty() {
            out.extend_from_slice(&[kind.first_byte(), 3, id[0], id[1], self.reason.as_u8()]);
            return Ok(());
        }
        put_packet(kind.first_byte(), out, |body| {
            body.extend_from_slice(&[id[0], id[1], self.reason.as_u8()]);
            put_properties(self.properties, version, body);
            Ok(())
        })
    }
}

/// Reads a Reason Code that this packet may carry.
pub(super) fn reason(fields: &mut Fields<'_>, kind: PacketType) -> Result<ReasonCode, DecodeError> {
    ReasonCode::from_u8(fields.u8()?)
        .filter(|reason| reason.is_allowed_in(kind))
        .ok_or(DecodeError::Malformed("a Reason Code that this packet cannot carry"))
}

/// Appends a block of properties with its length, where the version has them.
pub(super) fn put_properties(properties: Properties<'_>, version: Version, body: &mut Vec<u8>) {
    if version.has_properties() {
        put_varint(properties.raw().len(), body);
        body.extend_from_slice(properties.raw());
    }
}
