//! Bytes <-> MQTT Control Packets, for MQTT 3.1, 3.1.1 and 5.0, in both directions.
//!
//! Decoding borrows from the input and allocates nothing. It is strict: whatever can be judged
//! from the packet alone and must be rejected is rejected here, with the Reason Code to answer
//! with. A rule that needs to know the Client belongs to `session`.
//!
//! The protocol version is an argument, not another codec: what differs is asked of [`Version`].

pub mod ack;
pub mod auth;
pub mod connack;
pub mod connect;
pub mod disconnect;
pub mod frame;
pub mod primitive;
pub mod property;
pub mod publish;
pub mod reason;
pub mod subscribe;
pub mod unsubscribe;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::ConnAck;
pub use connect::{Connect, Will};
pub use disconnect::Disconnect;
pub use frame::{Frame, PacketType, Split};
pub use property::Properties;
pub use publish::Publish;
pub use reason::ReasonCode;
pub use subscribe::{RetainHandling, SubAck, Subscribe, SubscriptionOptions};
pub use unsubscribe::Unsubscribe;

use thiserror::Error;

use crate::topic::TopicError;

/// Identifies an exchange of packets; never 0 [MQTT-2.2.1-3].
pub type PacketId = std::num::NonZeroU16;

/// The protocol version that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (`MQTT`, level 4).
    V311,
    /// MQTT 5.0 (`MQTT`, level 5).
    V5,
}

impl Version {
    /// Whether packets carry properties.
    pub const fn has_properties(self) -> bool {
        matches!(self, Self::V5)
    }

    /// Whether acknowledgements say why, and the Server may send DISCONNECT.
    pub const fn has_reason_codes(self) -> bool {
        matches!(self, Self::V5)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        })
    }
}

/// Quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS that two bits stand for; 3 stands for none [MQTT-3.3.1-4].
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Why bytes are not a packet that may be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes are not a packet.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// The bytes are a packet that must not be.
    #[error("protocol error: {0}")]
    ProtocolError(&'static str),
    /// A topic is none.
    #[error("malformed packet: {0}")]
    Topic(#[from] TopicError),
    /// A Topic Alias of 0.
    #[error("a Topic Alias of 0")]
    TopicAliasInvalid,
    /// The header announces more than is accepted.
    #[error("a packet of {length} bytes, of which at most {maximum} are accepted")]
    PacketTooLarge {
        /// Of the whole packet.
        length: usize,
        /// What is accepted.
        maximum: usize,
    },
    /// A CONNECT of a version that is not spoken here.
    #[error("protocol level {level} is not supported")]
    UnsupportedVersion {
        /// The level asked for, the bridge bit taken off.
        level: u8,
    },
}

impl DecodeError {
    /// What an MQTT 5.0 peer is told.
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::Malformed(_) | Self::Topic(_) => ReasonCode::MalformedPacket,
            Self::ProtocolError(_) => ReasonCode::ProtocolError,
            Self::TopicAliasInvalid => ReasonCode::TopicAliasInvalid,
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedVersion { .. } => ReasonCode::UnsupportedProtocolVersion,
        }
    }
}

/// Why a packet cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// Longer than 268,435,455 bytes, or a field longer than 65,535.
    #[error("a packet or a field of it is too long")]
    TooLong,
    /// The version has no such packet.
    #[error("MQTT {0} has no such packet")]
    NotInVersion(Version),
}

/// A Control Packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Packet<'a> {
    /// Client asks for a connection.
    Connect(Connect<'a>),
    /// Server answers.
    ConnAck(ConnAck<'a>),
    /// A message.
    Publish(Publish<'a>),
    /// QoS 1: received.
    PubAck(Ack<'a>),
    /// QoS 2: received.
    PubRec(Ack<'a>),
    /// QoS 2: released.
    PubRel(Ack<'a>),
    /// QoS 2: complete.
    PubComp(Ack<'a>),
    /// Client asks for subscriptions.
    Subscribe(Subscribe<'a>),
    /// Server answers.
    SubAck(SubAck<'a>),
    /// Client gives up subscriptions.
    Unsubscribe(Unsubscribe<'a>),
    /// Server answers.
    UnsubAck(SubAck<'a>),
    /// Client asks whether the Server is there.
    PingReq,
    /// It is.
    PingResp,
    /// The connection ends.
    Disconnect(Disconnect<'a>),
    /// Enhanced authentication goes on (MQTT 5.0).
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// The packet in a frame. CONNECT carries its own version; `version` is for all others.
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, DecodeError> {
        let Frame { kind, flags, body, .. } = *frame;
        Ok(match kind {
            PacketType::Publish => Self::Publish(Publish::decode(flags, body, version, None)?),
            PacketType::PubAck => Self::PubAck(Ack::decode(kind, body, version)?),
            PacketType::PubRec => Self::PubRec(Ack::decode(kind, body, version)?),
            PacketType::PubRel => Self::PubRel(Ack::decode(kind, body, version)?),
            PacketType::PubComp => Self::PubComp(Ack::decode(kind, body, version)?),
            PacketType::Connect => Self::Connect(Connect::decode(body)?),
            PacketType::ConnAck => Self::ConnAck(ConnAck::decode(body, version)?),
            PacketType::Subscribe => Self::Subscribe(Subscribe::decode(body, version)?),
            PacketType::SubAck => Self::SubAck(SubAck::decode(kind, body, version)?),
            PacketType::Unsubscribe => Self::Unsubscribe(Unsubscribe::decode(body, version)?),
            PacketType::UnsubAck => Self::UnsubAck(SubAck::decode(kind, body, version)?),
            PacketType::PingReq => empty(body, Self::PingReq)?,
            PacketType::PingResp => empty(body, Self::PingResp)?,
            PacketType::Disconnect => Self::Disconnect(Disconnect::decode(body, version)?),
            PacketType::Auth => Self::Auth(Auth::decode(body, version)?),
        })
    }

    /// Appends the packet; on an error `out` is as before.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Connect(connect) => connect.encode(out),
            Self::ConnAck(connack) => connack.encode(version, out),
            Self::Publish(publish) => publish.encode(version, out),
            Self::PubAck(ack) => ack.encode(PacketType::PubAck, version, out),
            Self::PubRec(ack) => ack.encode(PacketType::PubRec, version, out),
            Self::PubRel(ack) => ack.encode(PacketType::PubRel, version, out),
            Self::PubComp(ack) => ack.encode(PacketType::PubComp, version, out),
            Self::Subscribe(subscribe) => subscribe.encode(version, out),
            Self::SubAck(suback) => suback.encode(PacketType::SubAck, version, out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out),
            Self::UnsubAck(unsuback) => unsuback.encode(PacketType::UnsubAck, version, out),
            Self::PingReq => {
                out.extend_from_slice(&[0xC0, 0]);
                Ok(())
            }
            Self::PingResp => {
                out.extend_from_slice(&[0xD0, 0]);
                Ok(())
            }
            Self::Disconnect(disconnect) => disconnect.encode(version, out),
            Self::Auth(auth) => auth.encode(version, out),
        }
    }
}

fn empty<'a>(body: &[u8], packet: Packet<'a>) -> Result<Packet<'a>, DecodeError> {
    if body.is_empty() {
        Ok(packet)
    } else {
        Err(DecodeError::Malformed("a PINGREQ or PINGRESP has no body"))
    }
}
