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

    /// The shortest form of one with a reason and no properties, which has no Property Length.
    pub fn short(reason: ReasonCode) -> [u8; 3] {
        [PacketType::Disconnect.first_byte(), 1, reason.as_u8()]
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let first = PacketType::Disconnect.first_byte();
        let is_short = self.reason == ReasonCode::Success && self.properties.is_empty();
        if !version.has_reason_codes() || is_short {
            out.extend_from_slice(&[first, 0]);
            return Ok(());
        }
        if self.properties.is_empty() {
            // The Property Length could be left out, but there are Clients that wait for it.
            out.extend_from_slice(&[first, 2, self.reason.as_u8(), 0]);
            return Ok(());
        }
        put_packet(first, out, |body| {
            body.push(self.reason.as_u8());
            put_properties(self.properties, version, body);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_followed_by_a_property_length() {
        let encode = |reason, version| {
            let mut out = vec![];
            let disconnect = Disconnect { reason, properties: Properties::EMPTY };
            disconnect.encode(version, &mut out).unwrap();
            out
        };
        assert_eq!(encode(ReasonCode::SessionTakenOver, Version::V5), [0xE0, 2, 0x8E, 0]);
        assert_eq!(encode(ReasonCode::Success, Version::V5), [0xE0, 0]);
        assert_eq!(Disconnect::short(ReasonCode::SessionTakenOver), [0xE0, 1, 0x8E]);
        assert_eq!(encode(ReasonCode::Success, Version::V311), [0xE0, 0]);
    }

    #[test]
    fn a_property_length_may_be_missing() {
        let reason = |body| Disconnect::decode(body, Version::V5).unwrap().reason;
        assert_eq!(reason(&[4]), ReasonCode::DisconnectWithWill);
        assert_eq!(reason(&[4, 0]), ReasonCode::DisconnectWithWill);
    }
}
