//! An Application Message: what is left of a PUBLISH once it is accepted.
//!
//! One reference-counted block holds everything, so a message costs one allocation however many
//! receivers it has, and a receiver costs one counter. The block is the body of the PUBLISH packet
//! as it came (topic, a Packet Identifier that is skipped, properties, payload): one copy, no
//! assembly. Only a packet that carried what must not be forwarded (Topic Alias, Message Expiry
//! Interval) is put together anew.
//!
//! A large payload is not copied at all where the packet was read into a buffer of its own: the
//! message holds that buffer, and its block has only what stands before the payload.
//!
//! Invariants: the offsets in [`Fields`] are in order and within the block; the topic is a valid
//! Topic Name; the properties are those that a Server forwards unaltered (Payload Format
//! Indicator, Content Type, Response Topic, Correlation Data, User Property) [MQTT-3.3.2-4].

mod blocks;
pub mod output;

use std::num::NonZeroU8;
use std::sync::Arc;

use crate::clock::Moment;
use crate::codec::property::{Properties, PropertyId};
use crate::codec::{Publish, QoS};
use crate::topic::TopicName;
use blocks::Block;
use output::HELD_BYTES;

/// Shared and immutable; a clone is one counter.
#[derive(Clone)]
pub struct Message(Block);

/// What is known of a message beside its bytes.
#[derive(Clone)]
enum Header {
    /// Its payload stands in the block.
    Whole(Fields),
    /// Its payload stands in a buffer of its own.
    Held(Box<(Fields, Payload)>),
}

/// 24 bytes, since there may be millions; the compiler tells the kinds apart by the flags.
const _: () = assert!(size_of::<Header>() == 24);

#[derive(Clone, Copy)]
struct Fields {
    /// 0: not stored, has no identity.
    id: u64,
    expires_at: Moment,
    payload_start: u32,
    /// The topic stands at the start.
    topic_len: u16,
    /// Bytes between topic and properties that are skipped: Packet Identifier, Property Length.
    skipped: u8,
    flags: NonZeroU8,
}

/// The QoS in the flags of a message; the next bit is RETAIN.
const QOS: u8 = 3;
const RETAIN: u8 = 1 << 2;

/// A bit of the flags that is always set.
const SET: NonZeroU8 = NonZeroU8::new(1 << 7).unwrap();

impl Fields {
    fn properties_start(&self) -> usize {
        usize::from(self.topic_len) + usize::from(self.skipped)
    }
}

/// The end of a packet in the buffer that it was read into.
#[derive(Clone)]
struct Payload {
    buffer: Arc<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Memory that is held for it.
    fn weight(&self) -> usize {
        self.buffer.capacity() + size_of::<Vec<u8>>() + size_of::<(Fields, Self)>()
    }
}

/// Variable header and payload of a PUBLISH packet.
#[derive(Clone, Copy)]
pub struct Body<'a> {
    bytes: &'a [u8],
    buffer: Option<&'a Arc<Vec<u8>>>,
}

impl<'a> From<&'a [u8]> for Body<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, buffer: None }
    }
}

/// A buffer is held for a payload that is less than this part of it, but copied from otherwise.
const UNUSED_PART: usize = 4;

impl<'a> Body<'a> {
    /// These bytes, which stand in a buffer that nothing more is read into.
    pub fn within(bytes: &'a [u8], buffer: Option<&'a Arc<Vec<u8>>>) -> Self {
        Self { bytes, buffer }
    }

    /// How many bytes these are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether these are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What a message holds of the buffer, if the payload at the end is worth it.
    #[inline]
    fn held(&self, payload_len: usize) -> Option<Payload> {
        let buffer = self.buffer.filter(|_| payload_len >= HELD_BYTES)?;
        if (buffer.capacity() - payload_len) > payload_len / UNUSED_PART {
            return None;
        }
        let end = (self.bytes.as_ptr().addr() - buffer.as_ptr().addr()) + self.bytes.len();
        let start = end.checked_sub(payload_len)?;
        Some(Payload { buffer: buffer.clone(), start, end })
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
    /// The message of a PUBLISH packet with this body.
    ///
    /// `topic` is the Topic Name meant, also where a Topic Alias stands for it.
    pub fn of_publish(
        id: u64,
        body: Body<'_>,
        publish: &Publish<'_>,
        topic: &str,
        now: Moment,
    ) -> Self {
        let expiry = publish.properties.message_expiry_interval();
        let expires_at = expiry.map_or(Moment::NEVER, |s| now.after_s(u64::from(s)));
        let aliased = publish.properties.topic_alias().is_some();
        let held = body.held(publish.payload.len());
        if expiry.is_some() || aliased || publish.topic.is_none() {
            let Publish { qos, retain, properties, payload, .. } = *publish;
            let parts = Parts { topic, qos, retain, expires_at, properties, payload };
            return Self::of_parts(id, &parts, held);
        }
        let block = body.bytes.get(TOPIC_START..).unwrap_or_default();
        let payload_start = block.len().saturating_sub(publish.payload.len());
        let properties_start = payload_start.saturating_sub(publish.properties.raw().len());
        let fields = Fields {
            id,
            expires_at,
            payload_start: offset(payload_start),
            topic_len: topic_len(topic),
            skipped: u8::try_from(properties_start.saturating_sub(topic.len())).unwrap_or(u8::MAX),
            flags: flags(publish.qos, publish.retain),
        };
        match held {
            None => Self(blocks::make(Header::Whole(fields), block)),
            Some(held) => {
                let block = block.get(..payload_start).unwrap_or_default();
                Self::made(fields, block, Some(held))
            }
        }
    }

    /// A message from its parts.
    pub fn new(id: u64, parts: &Parts<'_>) -> Self {
        Self::of_parts(id, parts, None)
    }

    /// The same, of which the payload may be held elsewhere.
    fn of_parts(id: u64, parts: &Parts<'_>, held: Option<Payload>) -> Self {
        let raw = parts.properties.raw();
        let payload = if held.is_some() { &[] } else { parts.payload };
        let mut block = Vec::with_capacity(parts.topic.len() + raw.len() + payload.len());
        block.extend_from_slice(parts.topic.as_bytes());
        parts.properties.copy_where(is_forwarded, &mut block);
        let payload_start = block.len();
        block.extend_from_slice(payload);
        let fields = Fields {
            id,
            expires_at: parts.expires_at,
            payload_start: offset(payload_start),
            topic_len: topic_len(parts.topic),
            skipped: 0,
            flags: flags(parts.qos, parts.retain),
        };
        Self::made(fields, &block, held)
    }

    fn made(fields: Fields, block: &[u8], held: Option<Payload>) -> Self {
        let header = match held {
            None => Header::Whole(fields),
            Some(payload) => Header::Held(Box::new((fields, payload))),
        };
        Self(blocks::make(header, block))
    }

    /// The same message under another identity.
    pub fn with_id(&self, id: u64) -> Self {
        Self::made(Fields { id, ..*self.fields() }, self.block(), self.held().cloned())
    }

    /// The same message without what it is about.
    pub fn without_payload(&self) -> Self {
        Self::made(*self.fields(), self.part(0, self.fields().payload_start as usize), None)
    }

    /// The same message with a lifetime.
    pub fn expiring_at(&self, expires_at: Moment) -> Self {
        Self::made(Fields { expires_at, ..*self.fields() }, self.block(), self.held().cloned())
    }

    /// It has come to its end here: the thread may keep its block for another.
    pub fn end(self) {
        blocks::keep(self.0);
    }

    /// Its identity in the store, 0 when it is not stored.
    #[inline]
    pub fn id(&self) -> u64 {
        self.fields().id
    }

    /// The Topic Name's bytes.
    #[inline]
    pub fn topic(&self) -> &[u8] {
        self.part(0, self.fields().topic_len.into())
    }

    /// The Topic Name.
    pub fn topic_str(&self) -> &str {
        std::str::from_utf8(self.topic()).unwrap_or_default()
    }

    /// The forwardable properties as on the wire, without their length.
    #[inline]
    pub fn properties(&self) -> &[u8] {
        self.part(self.fields().properties_start(), self.fields().payload_start as usize)
    }

    /// The first User Property of this name.
    pub fn user_property(&self, name: &str) -> Option<&str> {
        let mut pairs = Properties::check_forwarded(self.properties())?.user_properties();
        pairs.find_map(|(held, value)| (held == name).then_some(value))
    }

    /// The Application Message itself.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        match &self.0.header.header {
            Header::Whole(fields) => self.part(fields.payload_start as usize, usize::MAX),
            Header::Held(held) => held.1.bytes(),
        }
    }

    /// Quality of service it was published with.
    #[inline]
    pub fn qos(&self) -> QoS {
        QoS::from_bits(self.fields().flags.get() & QOS).unwrap_or(QoS::AtMostOnce)
    }

    /// Whether it was published to be retained.
    #[inline]
    pub fn retain(&self) -> bool {
        self.fields().flags.get() & RETAIN != 0
    }

    /// When it is no longer worth delivering; [`Moment::NEVER`] for always.
    #[inline]
    pub fn expires_at(&self) -> Moment {
        self.fields().expires_at
    }

    /// Whether its Message Expiry Interval has passed [MQTT-3.3.2-5].
    #[inline]
    pub fn is_expired(&self, now: Moment) -> bool {
        now >= self.fields().expires_at
    }

    /// Seconds left to live, as forwarded to receivers [MQTT-3.3.2-6]; none for a message without
    /// a Message Expiry Interval.
    pub fn expiry_left_s(&self, now: Moment) -> Option<u32> {
        let at = self.fields().expires_at;
        (at != Moment::NEVER)
            .then(|| u32::try_from(at.since(now).div_ceil(1000)).unwrap_or(u32::MAX))
    }

    /// Memory that the message holds, in bytes.
    #[inline]
    pub fn weight(&self) -> usize {
        weight_of(self.block().len()) + self.held().map_or(0, Payload::weight)
    }

    /// Appends the message as the store keeps it, without its identity.
    ///
    /// Layout (little-endian): flags u8 (bits 0-1 QoS, bit 2 retain, bit 3 expiry follows),
    /// `[expires_at u64]`, topic length u16, properties length u32, topic, properties, payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let expires = self.expires_at() != Moment::NEVER;
        out.push(self.fields().flags.get() & (QOS | RETAIN) | u8::from(expires) << 3);
        if expires {
            out.extend_from_slice(&self.expires_at().unix_ms().to_le_bytes());
        }
        out.extend_from_slice(&self.fields().topic_len.to_le_bytes());
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

    #[inline]
    fn fields(&self) -> &Fields {
        match &self.0.header.header {
            Header::Whole(fields) => fields,
            Header::Held(held) => &held.0,
        }
    }

    #[inline]
    fn held(&self) -> Option<&Payload> {
        match &self.0.header.header {
            Header::Whole(_) => None,
            Header::Held(held) => Some(&held.1),
        }
    }

    #[inline]
    fn block(&self) -> &[u8] {
        &self.0.slice
    }

    #[inline]
    fn part(&self, start: usize, end: usize) -> &[u8] {
        self.block().get(start..end.min(self.block().len())).unwrap_or_default()
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

fn flags(qos: QoS, retain: bool) -> NonZeroU8 {
    SET | qos as u8 | if retain { RETAIN } else { 0 }
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
impl<'a> Parts<'a> {
    /// Of a message of QoS 0 about nothing but its payload.
    pub(crate) fn of_payload(payload: &'a [u8]) -> Self {
        let (qos, expires_at) = (QoS::AtMostOnce, Moment::NEVER);
        let (retain, properties) = (false, Properties::EMPTY);
        Self { topic: "t", qos, retain, expires_at, properties, payload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Version;
    use crate::codec::frame::{Frame, PacketType};

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

    /// A message of a PUBLISH packet that stands in a buffer with so many bytes behind it.
    fn read_with(payload: &[u8], behind: usize, expiry: bool) -> (Message, Arc<Vec<u8>>) {
        let properties: &[u8] = if expiry { &[5, 2, 0, 0, 0, 9] } else { &[0] };
        let body = [&[0, 1, b't'][..], properties, payload].concat();
        let end = 2 + body.len();
        let mut buffer = vec![0x30, 0];
        buffer.extend_from_slice(&body);
        buffer.resize(end + behind, b'-');
        buffer.shrink_to_fit();
        let buffer = Arc::new(buffer);
        let body = &buffer[2..end];
        let frame = Frame { kind: PacketType::Publish, flags: 0, body, len: end };
        let publish = Publish::of_frame(&frame, Version::V5, None).unwrap();
        let body = Body::within(body, Some(&buffer));
        let now = Moment::from_unix_ms(1);
        (Message::of_publish(7, body, &publish, "t", now), buffer)
    }

    #[test]
    fn a_large_payload_stays_where_it_was_read_to() {
        let payload = vec![b'p'; HELD_BYTES];
        for expiry in [false, true] {
            let (message, buffer) = read_with(&payload, 9, expiry);
            assert!(std::ptr::eq(message.payload().as_ptr_range().end, &buffer[buffer.len() - 9]));
            assert!(message.weight() > buffer.capacity());
            let other = message.with_id(8).expiring_at(Moment::NEVER);
            assert_eq!((other.topic(), other.payload()), (&b"t"[..], &payload[..]));
            assert_eq!((other.id(), other.properties()), (8, &b""[..]));
            assert_eq!(Arc::strong_count(&buffer), 3);
            let bare = message.without_payload();
            assert_eq!((bare.topic(), bare.payload()), (&b"t"[..], &b""[..]));
            let mut bytes = vec![];
            message.encode(&mut bytes);
            let decoded = Message::decode(7, &bytes).unwrap();
            assert_eq!(
                (decoded.payload(), decoded.expires_at()),
                (&payload[..], message.expires_at())
            );
        }
    }

    #[test]
    fn a_buffer_is_not_held_for_a_small_part_of_it() {
        for (len, behind) in [(HELD_BYTES - 1, 0), (HELD_BYTES, HELD_BYTES / 2)] {
            let payload = vec![b'p'; len];
            let (message, buffer) = read_with(&payload, behind, false);
            assert_eq!((Arc::strong_count(&buffer), message.payload()), (1, &payload[..]));
        }
    }
}
