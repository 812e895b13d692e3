//! The data representations of section 1.5, read and written.

use super::{DecodeError, EncodeError, PacketId};

/// Largest value of a Variable Byte Integer.
pub const VARINT_MAX: usize = 268_435_455;

/// Reads a packet's fields from front to back.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

pub(super) const WITH_NULL: DecodeError = DecodeError::Malformed("a string with U+0000");
pub(super) const NOT_UTF8: DecodeError = DecodeError::Malformed("a string that is not UTF-8");
const SHORT: DecodeError = DecodeError::Malformed("the packet ends within a field");

impl<'a> Fields<'a> {
    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.0.split_first().ok_or(SHORT)?;
        self.0 = rest;
        Ok(byte)
    }

    /// A Two Byte Integer.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// A Four Byte Integer.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A Packet Identifier, which is not 0 [MQTT-2.2.1-3].
    pub fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::ProtocolError("a Packet Identifier of 0"))
    }

    /// A Variable Byte Integer, in as few bytes as possible [MQTT-1.5.5-1].
    pub fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for at in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                return match (byte, at) {
                    (0, 1..) => Err(DecodeError::Malformed("an integer of too many bytes")),
                    _ => Ok(value),
                };
            }
        }
        Err(DecodeError::Malformed("a Variable Byte Integer of more than four bytes"))
    }

    /// So many bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Binary Data.
    pub fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A UTF-8 Encoded String: well-formed [MQTT-1.5.4-1], without U+0000 [MQTT-1.5.4-2], and
    /// with U+FEFF where it has one [MQTT-1.5.4-3].
    #[inline]
    pub fn string(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        if bytes.contains(&0) {
            return Err(WITH_NULL);
        }
        std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed("bytes after the end of the packet"))
        }
    }
}

/// How many bytes a Variable Byte Integer takes.
pub const fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Appends a Variable Byte Integer.
pub fn put_varint(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

/// Appends Binary Data or a string; cut at 65,535 bytes, which callers have checked.
pub fn put_binary(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(len)).unwrap_or_default());
}

/// Appends a packet whose body `write` appends; on an error `out` is as before.
pub fn put_packet(
    first: u8,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let mut body = Vec::new();
    write(&mut body)?;
    if body.len() > VARINT_MAX {
        return Err(EncodeError::TooLong);
    }
    out.push(first);
    put_varint(body.len(), out);
    out.extend_from_slice(&body);
    Ok(())
}

/// Refuses a field that its length cannot tell.
pub fn check_len(field: &[u8]) -> Result<&[u8], EncodeError> {
    if field.len() > usize::from(u16::MAX) { Err(EncodeError::TooLong) } else { Ok(field) }
}
