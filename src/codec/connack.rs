//! CONNACK (section 3.2).

use super::ack::{put_properties, reason};
use super::frame::PacketType;
use super::primitive::{Fields, put_packet};
use super::property::Place;
use super::{DecodeError, EncodeError, Properties, ReasonCode, Version};

/// The Server's answer to CONNECT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConnAck<'a> {
    /// Whether the Server had a Session for this Client.
    pub session_present: bool,
    /// The verdict.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

impl<'a> ConnAck<'a> {
    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut fields = Fields(body);
        let flags = match (fields.u8()?, version) {
            (_, Version::V31) => 0, // There is no Session Present flag yet: the byte is reserved.
            (flags, _) => flags,
        };
        if flags > 1 {
            return Err(DecodeError::Malformed("reserved CONNACK flags")); // [MQTT-3.2.2-1]
        }
        let reason = if version.has_reason_codes() {
            reason(&mut fields, PacketType::ConnAck)?
        } else {
            ReasonCode::from_connect_return_code(fields.u8()?)
                .ok_or(DecodeError::Malformed("a reserved CONNACK return code"))?
        };
        let place = Place::Packet(PacketType::ConnAck);
        let properties = Properties::decode(&mut fields, version, place)?;
        fields.end()?;
        Ok(Self { session_present: flags == 1, reason, properties })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let code = if version.has_reason_codes() {
            self.reason.as_u8()
        } else {
            self.reason.connect_return_code()
        };
        // MQTT 3.1 has no Session Present flag: the byte is reserved there.
        let present = u8::from(self.session_present && version != Version::V31);
        put_packet(PacketType::ConnAck.first_byte(), out, |body| {
            body.extend_from_slice(&[present, code]);
            put_properties(self.properties, version, body);
            Ok(())
        })
    }
}
