//! An Application Message: what is left of a PUBLISH once it is accepted.
//!
//! One reference-counted block holds everything, so a message costs one allocation however many
//! receivers it has, and a receiver costs one counter. The block is the body of the PUBLISH packet
//! as it came (topic, a Packet Identifier that is skipped, properties, payload): one copy, no
//! assembly. Only a packet that carried what must not be forwarded (Topic Alias, Message Expiry
//! Interval) is put together anew.
//!
//! Invariants: the offsets in [`Header`] are in order and within the block; the topic is a valid
//! Topic Name; the properties are those that a Server forwards unaltered (Payload Format
//! Indicator, Content Type, Response Topic, Correlation Data, User Property) [MQTT-3.3.2-4].

use triomphe::ThinArc;

use crate::clock::Moment;
use crate::codec::property::{Properties, PropertyId};
use crate::codec::{Publish, QoS};
use crate::topic::TopicName;

/// Shared and immutable; a clone is one counter.
#[derive(Clone)]
pub struct Message(ThinArc<Header, u8>);

/// What is known of a message beside its bytes: 24 bytes, since there may be millions.
#[derive(Clone, Copy)]
struct Header {
    /// 0: not stored, has no identity.
    id: u64,
    expires_at: Moment,
    payload_start: u32,
    /// The topic stands at the start.
    topic_len: u16,
    /// Bytes between topic and properties that are skipped: Packet Identifier, Property Length.
    skipped: u8,
    flags: u8,
}

/// The QoS in the flags of a message; the next bit is RETAIN.
const QOS: u8 = 3;
const RETAIN: u8 = 1 << 2;

impl Header {
    fn properties_start(&self) -> usize {
        usize::from(self.topic_len) + usize::from(self.skipped)
    }
}

/// In a PUBLISH packet the topic's length field stands in front of it.
const TOPIC_START: usize = 2;

/// The parts of a message that is not taken from a PUBLISH packet's body.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// A valid Topic Name.
    pub topic: &'a str,
    /// Quality of service it was published with.
    pub qos: QoS,
    /// Whether it was published to be retained.
    pub retain: bool,
    /// When it is no longer worth delivering; [`Moment::NEVER`] for always.
    pub expires_at: Moment,
    /// Properties, of which the forwardable ones are kept.
    pub properties: Properties<'a>,
    /// The Application Message itself.
    pub payload: &'a [u8],
}

impl Message {
    /// The message of a PUBLISH packet whose variable header and payload are `body`.
    ///
    /// `topic` is the Topic Name meant, also where a Topic Alias stands for it.
    pub fn of_publish(
        id: u64,
        body: &[u8],
        publish: &Publish<'_>,
        topic: &str,
        now: Moment,
    ) -> Self {
        let expiry = publish.properties.message_expiry_interval();
        let expires_at = expiry.map_or(Moment::NEVER, |s| now.after_s(u64::from(s)));
        let aliased = publish.properties.topic_alias().is_some();
        if expiry.is_some() || aliased || publish.topic.is_none() {
            let Publish { qos, retain, properties, payload, .. } = *publish;
            return Self::new(id, &Parts { topic, qos, retain, expires_at, properties, payload });
        }
        let block = body.get(TOPIC_START..).unwrap_or_default();
        let payload_start = block.len().saturating_sub(publish.payload.len());
        let properties_start = payload_start.saturating_sub(publish.properties.raw().len());
        let header = Header {
            id,
            expires_at,
            payload_start: offset(payload_start),
            topic_len: topic_len(topic),
            skipped: u8::try_from(properties_start.saturating_sub(topic.len())).unwrap_or(u8::MAX),
            flags: flags(publish.qos, publish.retain),
        };
        Self(ThinArc::from_header_and_slice(header, block))
    }

    /// A message from its parts.
    pub fn new(id: u64, parts: &Parts<'_>) -> Self {
        let raw = parts.properties.raw();
        let mut block = Vec::with_capacity(parts.topic.len() + raw.len() + parts.payload.len());
        block.extend_from_slice(parts.topic.as_bytes());
        parts.properties.copy_where(is_forwarded, &mut block);
        let payload_start = block.len();
        block.extend_from_slice(parts.payload);
        let header = Header {
            id,
            expires_at: parts.expires_at,
            payload_start: offset(payload_start),
            topic_len: topic_len(parts.topic),
            skipped: 0,
            flags: flags(parts.qos, parts.retain),
        };
        Self(ThinArc::from_header_and_slice(header, &block))
    }

    /// The same message under another identity.
    pub fn with_id(&self, id: u64) -> Self {
        Self(ThinArc::from_header_and_slice(Header { id, ..*self.header() }, &self.0.slice))
    }

    /// The same message without what it is about.
    pub fn without_payload(&self) -> Self {
        let end = (self.header().payload_start as usize).min(self.0.slice.len());
        let rest = self.0.slice.get(..end).unwrap_or_default();
        Self(ThinArc::from_header_and_slice(*self.header(), rest))
    }

    /// The same message with a lifetime.
    pub fn expiring_at(&self, expires_at: Moment) -> Self {
        let header = Header { expires_at, ..*self.header() };
        Self(ThinArc::from_header_and_slice(header, &self.0.slice))
    }

    /// Its identity in the store, 0 when it is not stored.
    pub fn id(&self) -> u64 {
        self.header().id
    }

    /// The Topic Name's bytes.
    pub fn topic(&self) -> &[u8] {
        self.part(0, self.header().topic_len.into())
    }

    /// The Topic Name.
    pub fn topic_str(&self) -> &str {
        std::str::from_utf8(self.topic()).unwrap_or_default()
    }

    /// The forwardable properties as on the wire, without their length.
    pub fn properties(&self) -> &[u8] {
        self.part(self.header().properties_start(), self.header().payload_start as usize)
    }

    /// The first User Property of this name.
    pub fn user_property(&self, name: &str) -> Option<&str> {
        let mut pairs = Properties::check_forwarded(self.properties())?.user_properties();
        pairs.find_map(|(held, value)| (held == name).then_some(value))
    }

    /// The Application Message itself.
    pub fn payload(&self) -> &[u8] {
        self.part(self.header().payload_start as usize, usize::MAX)
    }

    /// Quality of service it was published with.
    pub fn qos(&self) -> QoS {
        QoS::from_bits(self.header().flags & QOS).unwrap_or(QoS::AtMostOnce)
    }

    /// Whether it was published to be retained.
    pub fn retain(&self) -> bool {
        self.header().flags & RETAIN != 0
    }

    /// When it is no longer worth delivering; [`Moment::NEVER`] for always.
    pub fn expires_at(&self) -> Moment {
        self.header().expires_at
    }

    /// Whether its Message Expiry Interval has passed [MQTT-3.3.2-5].
    pub fn is_expired(&self, now: Moment) -> bool {
        now >= self.header().expires_at
    }

    /// Seconds left to live, as forwarded to receivers [MQTT-3.3.2-6]; none for a message without
    /// a Message Expiry Interval.
    pub fn expiry_left_s(&self, now: Moment) -> Option<u32> {
        let at = self.header().expires_at;
        (at != Moment::NEVER)
            .then(|| u32::try_from(at.since(now).div_ceil(1000)).unwrap_or(u32::MAX))
    }

    /// Memory that the message holds, in bytes.
    pub fn weight(&self) -> usize {
        weight_of(self.0.slice.len())
    }

    /// Appends the message as the store keeps it, without its identity.
    ///
    /// Layout (little-endian): flags u8 (bits 0-1 QoS, bit 2 retain, bit 3 expiry follows),
    /// `[expires_at u64]`, topic length u16, properties length u32, topic, properties, payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let expires = self.expires_at() != Moment::NEVER;
        out.push(self.header().flags | u8::from(expires) << 3);
        if expires {
            out.extend_from_slice(&self.expires_at().unix_ms().to_le_bytes());
        }
        out.extend_from_slice(&self.header().topic_len.to_le_bytes());
        out.extend_from_slice(&offset(self.properties().len()).to_le_bytes());
        out.extend_from_slice(self.topic());
        out.extend_from_slice(self.properties());
        out.extend_from_slice(self.payload());
    }

    /// What [`Message::weight`] and [`Message::expires_at`] would say of the message that
    /// [`Message::encode`] wrote, without making it; `None` when the bytes are not one.
    pub fn weigh_encoded(bytes: &[u8]) -> Option<(usize, Moment)> {
        let (_, expires_at, rest) = split_encoded(bytes)?;
        // Topic length u16 and properties length u32 are here and not there.
        Some((weight_of(rest.len().checked_sub(6)?), expires_at))
    }

    /// The message that [`Message::encode`] wrote; `None` when the bytes are not one.
    pub fn decode(id: u64, bytes: &[u8]) -> Option<Self> {
        let (flags, expires_at, rest) = split_encoded(bytes)?;
        let (topic_len, rest) = rest.split_first_chunk::<2>()?;
        let (properties_len, rest) = rest.split_first_chunk::<4>()?;
        let (topic, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*topic_len)))?;
        let properties_len = usize::try_from(u32::from_le_bytes(*properties_len)).ok()?;
        let (properties, payload) = rest.split_at_checked(properties_len)?;
        Some(Self::new(
            id,
            &Parts {
                topic: TopicName::new(std::str::from_utf8(topic).ok()?).ok()?.as_str(),
                qos: QoS::from_bits(flags & QOS)?,
                retain: flags & RETAIN != 0,
                expires_at,
                properties: Properties::check_forwarded(properties)?,
                payload,
            },
        ))
    }

    fn header(&self) -> &Header {
        &self.0.header.header
    }

    fn part(&self, start: usize, end: usize) -> &[u8] {
        self.0.slice.get(start..end.min(self.0.slice.len())).unwrap_or_default()
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let payload = self.payload().len();
        write!(f, "Message({} {:?} {:?} {payload} B)", self.id(), self.topic_str(), self.qos())
    }
}

/// What [`Message::encode`] wrote, as flags, the end of its lifetime, and the rest.
fn split_encoded(bytes: &[u8]) -> Option<(u8, Moment, &[u8])> {
    let (&flags, rest) = bytes.split_first()?;
    if flags & 8 == 0 {
        return Some((flags, Moment::NEVER, rest));
    }
    let (at, rest) = rest.split_first_chunk::<8>()?;
    Some((flags, Moment::from_unix_ms(u64::from_le_bytes(*at)), rest))
}

/// Memory of a message whose block has so many bytes beside its header.
fn weight_of(block: usize) -> usize {
    block.saturating_add(size_of::<Header>() + 2 * size_of::<usize>())
}

/// A Topic Name is at most 65,535 bytes long.
fn topic_len(topic: &str) -> u16 {
    u16::try_from(topic.len()).unwrap_or(u16::MAX)
}

fn flags(qos: QoS, retain: bool) -> u8 {
    qos as u8 | if retain { RETAIN } else { 0 }
}

/// A packet is at most 256 MiB, so an offset into one fits.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Whether a Server forwards this property of a PUBLISH or Will as it came.
fn is_forwarded(id: PropertyId) -> bool {
    matches!(
        id,
        PropertyId::PayloadFormatIndicator
            | PropertyId::ContentType
            | PropertyId::ResponseTopic
            | PropertyId::CorrelationData
            | PropertyId::UserProperty
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_whose_topic_is_no_topic_name_are_no_message() {
        let decode = |topic: &[u8]| {
            let bytes = [&[0, topic.len() as u8, 0, 0, 0, 0, 0], topic, b"payload"].concat();
            Message::decode(7, &bytes)
        };
        assert_eq!(decode(b"a/b").unwrap().topic(), b"a/b");
        for topic in [&b""[..], b"a/+", b"#", b"\0", b"\xFF"] {
            assert!(decode(topic).is_none(), "{topic:02x?}");
        }
    }
}
