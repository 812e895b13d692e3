//! Properties (section 2.2.2): one table, and blocks that have been checked against it.

use std::num::{NonZeroU16, NonZeroU32};

use super::frame::PacketType;
use super::primitive::{Fields, put_binary, put_varint};
use super::{DecodeError, Version};
use crate::topic::TopicName;

/// How a property's value is represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One byte that is 0 or 1.
    Flag,
    /// A Two Byte Integer.
    U16,
    /// A Two Byte Integer that is not 0.
    NonZeroU16,
    /// A Two Byte Integer that is not 0, with a Reason Code of its own.
    Alias,
    /// A Four Byte Integer.
    U32,
    /// A Four Byte Integer that is not 0.
    NonZeroU32,
    /// A Variable Byte Integer that is not 0.
    Varint,
    /// A string.
    Text,
    /// A string that is a Topic Name.
    Topic,
    /// Bytes.
    Binary,
    /// Two strings.
    Pair,
}

/// Where a property may stand: a packet, or the Will within CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a packet of this type.
    Packet(PacketType),
    /// In the Will Properties.
    Will,
}

const WILL: u32 = 1;
const CONNECT: u32 = 1 << PacketType::Connect as u32;
const CONNACK: u32 = 1 << PacketType::ConnAck as u32;
const PUBLISH: u32 = 1 << PacketType::Publish as u32;
const ACKS: u32 = 0b1111 << PacketType::PubAck as u32;
const SUBSCRIBE: u32 = 1 << PacketType::Subscribe as u32;
const SUBACK: u32 = 1 << PacketType::SubAck as u32;
const UNSUBSCRIBE: u32 = 1 << PacketType::Unsubscribe as u32;
const UNSUBACK: u32 = 1 << PacketType::UnsubAck as u32;
const DISCONNECT: u32 = 1 << PacketType::Disconnect as u32;
const AUTH: u32 = 1 << PacketType::Auth as u32;
const REASONED: u32 = CONNACK | ACKS | SUBACK | UNSUBACK | DISCONNECT | AUTH;
const ANYWHERE: u32 = REASONED | CONNECT | PUBLISH | WILL | SUBSCRIBE | UNSUBSCRIBE;

macro_rules! properties {
    ($($id:literal $name:ident $kind:ident $places:expr;)+) => {
        /// A property's identifier (table 2-4).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum PropertyId {
            $(#[doc = stringify!($name)] $name = $id,)+
        }

        impl PropertyId {
            /// Every property.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            const fn from_u32(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// How its value is represented.
            pub const fn kind(self) -> Kind {
                match self {
                    $(Self::$name => Kind::$kind,)+
                }
            }

            const fn places(self) -> u32 {
                match self {
                    $(Self::$name => $places,)+
                }
            }
        }
    };
}

properties! {
    0x01 PayloadFormatIndicator Flag PUBLISH | WILL;
    0x02 MessageExpiryInterval U32 PUBLISH | WILL;
    0x03 ContentType Text PUBLISH | WILL;
    0x08 ResponseTopic Topic PUBLISH | WILL;
    0x09 CorrelationData Binary PUBLISH | WILL;
    0x0B SubscriptionIdentifier Varint PUBLISH | SUBSCRIBE;
    0x11 SessionExpiryInterval U32 CONNECT | CONNACK | DISCONNECT;
    0x12 AssignedClientIdentifier Text CONNACK;
    0x13 ServerKeepAlive U16 CONNACK;
    0x15 AuthenticationMethod Text CONNECT | CONNACK | AUTH;
    0x16 AuthenticationData Binary CONNECT | CONNACK | AUTH;
    0x17 RequestProblemInformation Flag CONNECT;
    0x18 WillDelayInterval U32 WILL;
    0x19 RequestResponseInformation Flag CONNECT;
    0x1A ResponseInformation Text CONNACK;
    0x1C ServerReference Text CONNACK | DISCONNECT;
    0x1F ReasonString Text REASONED;
    0x21 ReceiveMaximum NonZeroU16 CONNECT | CONNACK;
    0x22 TopicAliasMaximum U16 CONNECT | CONNACK;
    0x23 TopicAlias Alias PUBLISH;
    0x24 MaximumQoS Flag CONNACK;
    0x25 RetainAvailable Flag CONNACK;
    0x26 UserProperty Pair ANYWHERE;
    0x27 MaximumPacketSize NonZeroU32 CONNECT | CONNACK;
    0x28 WildcardSubscriptionAvailable Flag CONNACK;
    0x29 SubscriptionIdentifierAvailable Flag CONNACK;
    0x2A SharedSubscriptionAvailable Flag CONNACK;
}

impl PropertyId {
    /// Whether the property may stand in this place.
    pub const fn is_allowed_in(self, place: Place) -> bool {
        let bit = match place {
            Place::Packet(packet) => 1 << packet as u32,
            Place::Will => WILL,
        };
        self.places() & bit != 0
    }

    /// Whether it may stand there more than once.
    const fn is_repeatable(self, place: Place) -> bool {
        match self {
            Self::UserProperty => true,
            // A Client names one in SUBSCRIBE; a PUBLISH from the Server carries all that match.
            Self::SubscriptionIdentifier => {
                matches!(place, Place::Packet(PacketType::Publish))
            }
            _ => false,
        }
    }
}

/// A property's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Any integer.
    Int(u32),
    /// A string.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
    /// Name and value of a User Property.
    Pair(&'a str, &'a str),
}

/// A property, its value, and how it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property<'a> {
    /// Which one.
    pub id: PropertyId,
    /// Its value.
    pub value: Value<'a>,
    /// Identifier and value as encoded.
    pub raw: &'a [u8],
}

/// A block of properties that are known, in their place, and not repeated unless they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Self = Self(&[]);

    /// Reads a block with its length; before MQTT 5.0 there is none.
    #[inline]
    pub fn decode(
        fields: &mut Fields<'a>,
        version: Version,
        place: Place,
    ) -> Result<Self, DecodeError> {
        if !version.has_properties() {
            return Ok(Self::EMPTY);
        }
        let len = fields.varint()? as usize;
        if len == 0 {
            return Ok(Self::EMPTY);
        }
        let block = fields.take(len)?;
        check(block, place)?;
        Ok(Self(block))
    }

    /// A block that the store has kept of a message; `None` when it is not one.
    pub fn check_forwarded(block: &'a [u8]) -> Option<Self> {
        check(block, Place::Packet(PacketType::Publish)).ok()?;
        Some(Self(block))
    }

    /// The block as on the wire, without its length.
    pub fn raw(&self) -> &'a [u8] {
        self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The properties in order.
    pub fn iter(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        let mut fields = Fields(self.0);
        std::iter::from_fn(move || next(&mut fields).ok().flatten())
    }

    /// Appends those properties that `wanted` picks, in order and as they came.
    pub fn copy_where(&self, wanted: fn(PropertyId) -> bool, out: &mut Vec<u8>) {
        for property in self.iter().filter(|property| wanted(property.id)) {
            out.extend_from_slice(property.raw);
        }
    }

    fn find(&self, id: PropertyId) -> Option<Value<'a>> {
        if self.0.is_empty() {
            return None;
        }
        self.iter().find(|property| property.id == id).map(|property| property.value)
    }

    fn int(&self, id: PropertyId) -> Option<u32> {
        match self.find(id)? {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    fn int16(&self, id: PropertyId) -> Option<u16> {
        self.int(id).and_then(|value| u16::try_from(value).ok())
    }

    fn text(&self, id: PropertyId) -> Option<&'a str> {
        match self.find(id)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn binary(&self, id: PropertyId) -> Option<&'a [u8]> {
        match self.find(id)? {
            Value::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }
}

macro_rules! lookups {
    ($($name:ident $id:ident $with:ident -> $type:ty;)+) => {
        impl<'a> Properties<'a> {
            $(#[doc = concat!("The ", stringify!($id), ", if there is one.")]
            pub fn $name(&self) -> Option<$type> {
                self.$with(PropertyId::$id)
            })+
        }
    };
}

lookups! {
    payload_format_indicator PayloadFormatIndicator int -> u32;
    message_expiry_interval MessageExpiryInterval int -> u32;
    content_type ContentType text -> &'a str;
    response_topic ResponseTopic text -> &'a str;
    correlation_data CorrelationData binary -> &'a [u8];
    session_expiry_interval SessionExpiryInterval int -> u32;
    assigned_client_identifier AssignedClientIdentifier text -> &'a str;
    server_keep_alive ServerKeepAlive int16 -> u16;
    authentication_method AuthenticationMethod text -> &'a str;
    authentication_data AuthenticationData binary -> &'a [u8];
    request_problem_information RequestProblemInformation int -> u32;
    will_delay_interval WillDelayInterval int -> u32;
    request_response_information RequestResponseInformation int -> u32;
    response_information ResponseInformation text -> &'a str;
    server_reference ServerReference text -> &'a str;
    reason_string ReasonString text -> &'a str;
    topic_alias_maximum TopicAliasMaximum int16 -> u16;
    maximum_qos MaximumQoS int -> u32;
    retain_available RetainAvailable int -> u32;
    wildcard_subscription_available WildcardSubscriptionAvailable int -> u32;
    subscription_identifier_available SubscriptionIdentifierAvailable int -> u32;
    shared_subscription_available SharedSubscriptionAvailable int -> u32;
}

impl<'a> Properties<'a> {
    /// The Receive Maximum, if there is one.
    pub fn receive_maximum(&self) -> Option<NonZeroU16> {
        self.int16(PropertyId::ReceiveMaximum).and_then(NonZeroU16::new)
    }

    /// The Topic Alias, if there is one.
    pub fn topic_alias(&self) -> Option<NonZeroU16> {
        self.int16(PropertyId::TopicAlias).and_then(NonZeroU16::new)
    }

    /// The Maximum Packet Size, if there is one.
    pub fn maximum_packet_size(&self) -> Option<NonZeroU32> {
        self.int(PropertyId::MaximumPacketSize).and_then(NonZeroU32::new)
    }

    /// The Subscription Identifiers in order.
    pub fn subscription_identifiers(&self) -> impl Iterator<Item = NonZeroU32> + use<'a> {
        self.iter().filter_map(|property| match (property.id, property.value) {
            (PropertyId::SubscriptionIdentifier, Value::Int(id)) => NonZeroU32::new(id),
            _ => None,
        })
    }

    /// The User Properties in order [MQTT-3.3.2-18].
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| match property.value {
            Value::Pair(name, value) => Some((name, value)),
            _ => None,
        })
    }
}

/// Checks a block against the table.
fn check(block: &[u8], place: Place) -> Result<(), DecodeError> {
    let mut fields = Fields(block);
    let mut seen = 0_u64;
    while let Some(property) = next(&mut fields)? {
        if !property.id.is_allowed_in(place) {
            // Section 2.2.2.2.
            return Err(DecodeError::Malformed("a property in a packet that has none such"));
        }
        let bit = 1 << property.id as u64;
        if seen & bit != 0 && !property.id.is_repeatable(place) {
            return Err(DecodeError::ProtocolError("a property twice"));
        }
        seen |= bit;
    }
    // Section 3.1.2.11.10: data without a method.
    let has = |id: PropertyId| seen & (1 << id as u64) != 0;
    if has(PropertyId::AuthenticationData) && !has(PropertyId::AuthenticationMethod) {
        return Err(DecodeError::ProtocolError("Authentication Data without a Method"));
    }
    Ok(())
}

/// Reads the next property; `None` at the end.
fn next<'a>(fields: &mut Fields<'a>) -> Result<Option<Property<'a>>, DecodeError> {
    if fields.is_empty() {
        return Ok(None);
    }
    let before = fields.rest();
    let id = PropertyId::from_u32(fields.varint()?)
        .ok_or(DecodeError::Malformed("an unknown property"))?;
    let not_zero = |value: u32| match value {
        0 => Err(DecodeError::ProtocolError("a property of 0 that must not be 0")),
        value => Ok(Value::Int(value)),
    };
    let value = match id.kind() {
        Kind::Flag => match fields.u8()? {
            value @ 0..=1 => Value::Int(value.into()),
            _ => return Err(DecodeError::ProtocolError("a property that is neither 0 nor 1")),
        },
        Kind::U16 => Value::Int(fields.u16()?.into()),
        // [MQTT-3.3.2-8]
        Kind::Alias => match fields.u16()? {
            0 => return Err(DecodeError::TopicAliasInvalid),
            value => Value::Int(value.into()),
        },
        Kind::NonZeroU16 => not_zero(fields.u16()?.into())?,
        Kind::U32 => Value::Int(fields.u32()?),
        Kind::NonZeroU32 => not_zero(fields.u32()?)?,
        Kind::Varint => not_zero(fields.varint()?)?,
        Kind::Text => Value::Text(fields.string()?),
        Kind::Topic => {
            let topic = fields.string()?;
            TopicName::new(topic).map_err(|_| {
                DecodeError::ProtocolError("a Response Topic that is no Topic Name") // [MQTT-3.3.2-14]
            })?;
            Value::Text(topic)
        }
        Kind::Binary => Value::Binary(fields.binary()?),
        Kind::Pair => Value::Pair(fields.string()?, fields.string()?),
    };
    let len = before.len() - fields.rest().len();
    Ok(Some(Property { id, value, raw: before.get(..len).unwrap_or_default() }))
}

/// Appends a User Property.
pub(super) fn put_pair(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(PropertyId::UserProperty as u8);
    put_binary(name.as_bytes(), out);
    put_binary(value.as_bytes(), out);
}

/// Properties that are to be sent.
#[derive(Clone, Debug, Default)]
pub struct PropertyBuffer(Vec<u8>);

impl PropertyBuffer {
    /// No properties.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a property of one byte.
    pub fn u8(&mut self, id: PropertyId, value: u8) {
        self.0.extend_from_slice(&[id as u8, value]);
    }

    /// Adds a Two Byte Integer.
    pub fn u16(&mut self, id: PropertyId, value: u16) {
        self.0.push(id as u8);
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Adds a Four Byte Integer.
    pub fn u32(&mut self, id: PropertyId, value: u32) {
        self.0.push(id as u8);
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Adds a Variable Byte Integer.
    pub fn varint(&mut self, id: PropertyId, value: u32) {
        self.0.push(id as u8);
        put_varint(value as usize, &mut self.0);
    }

    /// Adds a string.
    pub fn str(&mut self, id: PropertyId, value: &str) {
        self.bytes(id, value.as_bytes());
    }

    /// Adds Binary Data.
    pub fn bytes(&mut self, id: PropertyId, value: &[u8]) {
        self.0.push(id as u8);
        put_binary(value, &mut self.0);
    }

    /// Adds a User Property.
    pub fn pair(&mut self, name: &str, value: &str) {
        put_pair(name, value, &mut self.0);
    }

    /// Adds properties as they came.
    pub fn raw(&mut self, block: &[u8]) {
        self.0.extend_from_slice(block);
    }

    /// The properties as a block.
    pub fn as_properties(&self) -> Properties<'_> {
        Properties(&self.0)
    }
}
