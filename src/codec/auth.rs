//! AUTH (section 3.15), of MQTT 5.0.

use super::ack::{put_properties, reason};
use super::frame::PacketType;
use super::primitive::{Fields, put_packet};
use super::property::Place;
use super::{DecodeError, EncodeError, Properties, ReasonCode, Version};

/// A step of enhanced authentication.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

impl<'a> Auth<'a> {
    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        if !version.has_reason_codes() {
            return Err(DecodeError::Malformed("packet type 15 is reserved before MQTT 5.0"));
        }
        let mut fields = Fields(body);
        let mut auth = Self { reason: ReasonCode::Success, properties: Properties::EMPTY };
        // Both can be omitted for Success without properties, section 3.15.2.1.
        if !fields.is_empty() {
            auth.reason = reason(&mut fields, PacketType::Auth)?;
            let place = Place::Packet(PacketType::Auth);
            auth.properties = Properties::decode(&mut fields, version, place)?;
        }
        fields.end()?;
        Ok(auth)
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if !version.has_reason_codes() {
            return Err(EncodeError::NotInVersion(version));
        }
        put_packet(PacketType::Auth.first_byte(), out, |body| {
            body.push(self.reason.as_u8());
            put_properties(self.properties, version, body);
            Ok(())
        })
    }
}
