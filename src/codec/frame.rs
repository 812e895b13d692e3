//! The fixed header (section 2.1): where a packet ends and what it is.

use super::primitive::VARINT_MAX;
use super::{DecodeError, Version};

/// Bytes of the longest packet there can be: a type, four bytes of length and what they count.
pub const PACKET_MAX: usize = 5 + VARINT_MAX;

/// Control Packet type (table 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PacketType {
    /// 1
    Connect = 1,
    /// 2
    ConnAck = 2,
    /// 3
    Publish = 3,
    /// 4
    PubAck = 4,
    /// 5
    PubRec = 5,
    /// 6
    PubRel = 6,
    /// 7
    PubComp = 7,
    /// 8
    Subscribe = 8,
    /// 9
    SubAck = 9,
    /// 10
    Unsubscribe = 10,
    /// 11
    UnsubAck = 11,
    /// 12
    PingReq = 12,
    /// 13
    PingResp = 13,
    /// 14
    Disconnect = 14,
    /// 15
    Auth = 15,
}

impl PacketType {
    const fn from_nibble(nibble: u8) -> Option<Self> {
        Some(match nibble {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The flags that a packet of this type must have (table 2.2); PUBLISH has its own.
    pub const fn fixed_flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    /// Whether a packet of this type may have these flags. To MQTT 3.1 most have no meaning, and
    /// DUP marks also what is not PUBLISH when it is sent again.
    const fn takes_flags(self, flags: u8, version: Version) -> bool {
        match (self, version) {
            (Self::Publish, _) => true,
            (Self::PubRel | Self::Subscribe | Self::Unsubscribe, Version::V31) => {
                flags & 0b0110 == 0b0010
            }
            (Self::Connect | Self::Auth, _) | (_, Version::V311 | Version::V5) => {
                flags == self.fixed_flags()
            }
            (_, Version::V31) => true,
        }
    }

    /// Whether it acknowledges a PUBLISH or what follows on one.
    pub const fn is_ack(self) -> bool {
        matches!(self, Self::PubAck | Self::PubRec | Self::PubRel | Self::PubComp)
    }

    /// The first byte of a packet of this type other than PUBLISH.
    pub const fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.fixed_flags()
    }
}

/// One packet's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: PacketType,
    /// The low four bits of the first byte.
    pub flags: u8,
    /// Variable header and payload.
    pub body: &'a [u8],
    /// Bytes of the whole packet.
    pub len: usize,
}

/// What the input begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// A whole packet.
    Frame(Frame<'a>),
    /// A part of one.
    NeedMore {
        /// Its whole length where the header tells, else the length of a header.
        at_least: usize,
    },
}

/// Takes the first packet off the input of a connection whose version is not known yet.
pub fn split(input: &[u8], maximum_packet_size: usize) -> Result<Split<'_>, DecodeError> {
    split_of(Version::V5, input, maximum_packet_size)
}

/// Takes the first packet off the input. What the header alone forbids is refused without
/// waiting for the rest.
#[inline]
pub fn split_of(
    version: Version,
    input: &[u8],
    maximum_packet_size: usize,
) -> Result<Split<'_>, DecodeError> {
    let Some((&first, rest)) = input.split_first() else {
        return Ok(Split::NeedMore { at_least: 2 });
    };
    let Some(kind) = PacketType::from_nibble(first >> 4) else {
        return Err(DecodeError::Malformed("packet type 0 is reserved"));
    };
    let flags = first & 0x0F;
    if !kind.takes_flags(flags, version) {
        return Err(DecodeError::Malformed("reserved flags of the fixed header")); // [MQTT-2.1.3-1]
    }
    let (remaining, header) = match remaining_length(rest)? {
        Some((remaining, bytes)) => (remaining, 1 + bytes),
        None => return Ok(Split::NeedMore { at_least: input.len() + 1 }),
    };
    let len = header + remaining;
    if len > maximum_packet_size {
        return Err(DecodeError::PacketTooLarge { length: len, maximum: maximum_packet_size });
    }
    match input.get(header..len) {
        Some(body) => Ok(Split::Frame(Frame { kind, flags, body, len })),
        None => Ok(Split::NeedMore { at_least: len }),
    }
}

/// The Remaining Length and how many bytes it takes; `None` when it has not come whole.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, DecodeError> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            if byte == 0 && at > 0 {
                // [MQTT-1.5.5-1]
                return Err(DecodeError::Malformed("a Remaining Length of more bytes than needed"));
            }
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(DecodeError::Malformed("a Remaining Length of more than four bytes"));
    }
    Ok(None)
}
