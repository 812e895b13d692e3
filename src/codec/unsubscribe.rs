//! UNSUBSCRIBE (section 3.10).

use super::ack::put_properties;
use super::frame::PacketType;
use super::primitive::{Fields, put_packet};
use super::property::Place;
use super::{DecodeError, EncodeError, PacketId, Properties, Version};
use crate::topic::TopicFilter;

/// A Client gives up subscriptions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unsubscribe<'a> {
    /// Of this request.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    /// Filters as encoded; checked.
    payload: &'a [u8],
}

impl<'a> Unsubscribe<'a> {
    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut fields = Fields(body);
        let packet_id = fields.packet_id()?;
        let place = Place::Packet(PacketType::Unsubscribe);
        let properties = Properties::decode(&mut fields, version, place)?;
        if fields.is_empty() {
            // [MQTT-3.10.3-2]
            return Err(DecodeError::ProtocolError("UNSUBSCRIBE without a Topic Filter"));
        }
        Self::new(packet_id, properties, fields.rest())
    }

    /// A request whose Topic Filters are encoded in `payload`, checked.
    pub fn new(
        packet_id: PacketId,
        properties: Properties<'a>,
        payload: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let mut fields = Fields(payload);
        while !fields.is_empty() {
            TopicFilter::new(fields.string()?)?;
        }
        Ok(Self { packet_id, properties, payload })
    }

    /// The Topic Filters in order.
    pub fn filters(&self) -> Filters<'a> {
        Filters::of(self.payload)
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_packet(PacketType::Unsubscribe.first_byte(), out, |body| {
            body.extend_from_slice(&self.packet_id.get().to_be_bytes());
            put_properties(self.properties, version, body);
            body.extend_from_slice(self.payload);
            Ok(())
        })
    }
}

/// The Topic Filters of an UNSUBSCRIBE one after the other.
#[derive(Debug)]
pub struct Filters<'a>(Fields<'a>);

impl<'a> Filters<'a> {
    /// Those of a payload, or of the end of one, that was checked.
    pub fn of(payload: &'a [u8]) -> Self {
        Self(Fields(payload))
    }

    /// Those that have not been taken, encoded.
    pub fn rest(&self) -> &'a [u8] {
        self.0.rest()
    }
}

impl<'a> Iterator for Filters<'a> {
    type Item = TopicFilter<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        TopicFilter::new(self.0.string().ok()?).ok()
    }
}
