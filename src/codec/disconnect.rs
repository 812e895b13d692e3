//! DISCONNECT (section 3.14).

use super::ack::{put_properties, reason};
use super::frame::PacketType;
use super::primitive::{Fields, put_packet};
use super::property::Place;
use super::{DecodeError, EncodeError, Properties, ReasonCode, Version};

/// The connection ends; from the Server only in MQTT 5.0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disconnect<'a> {
    /// Why.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

impl<'a> Disconnect<'a> {
    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut fields = Fields(body);
        let mut disconnect = Self { reason: ReasonCode::Success, properties: Properties::EMPTY };
        // Reason Code and Property Length can be omitted, sections 3.14.2.1 and 3.14.2.2.1.
        if version.has_reason_codes() && !fields.is_empty() {
            disconnect.reason = reason(&mut fields, PacketType::Disconnect)?;
            if !fields.is_empty() {
                let place = Place::Packet(PacketType::Disconnect);
                disconnect.properties = Properties::decode(&mut fields, version, place)?;
            }
        }
        fields.end()?;
        Ok(disconnect)
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let first = PacketType::Disconnect.first_byte();
        let is_short = self.reason == ReasonCode::Success && self.properties.is_empty();
        if !version.has_reason_codes() || is_short {
            out.extend_from_slice(&[first, 0]);
            return Ok(());
        }
        if self.properties.is_empty() {
            out.extend_from_slice(&[first, 1, self.reason.as_u8()]);
            return Ok(());
        }
        put_packet(first, out, |body| {
            body.push(self.reason.as_u8());
            put_properties(self.properties, version, body);
            Ok(())
        })
    }
}
