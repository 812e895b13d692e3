//! The frames of WebSocket (RFC 6455, section 5) as a server reads and writes them: bytes in,
//! bytes out, no network.
//!
//! A [`Decoder`] is given bytes as they come, cut anywhere, and leaves of them, in place, what the
//! binary frames carry. It keeps the header that is coming, and the payload of a control frame, of
//! at most 125 bytes as they come: the length that a frame claims reserves nothing, and no frame
//! or message is ever put together. So a message may be as long as it likes; what a byte stream
//! within it may be is for its reader to say.

use thiserror::Error;

/// Payload of a control frame, at most (section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// The kinds of frames that are read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message that was begun.
    Continuation = 0x0,
    /// Beginning of a message of bytes.
    Binary = 0x2,
    /// The end.
    Close = 0x8,
    /// To be answered by a pong.
    Ping = 0x9,
    /// The answer to a ping.
    Pong = 0xA,
}

/// What a peer must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// A frame of a client is not masked.
    #[error("a WebSocket frame without a mask")]
    Unmasked,
    /// A bit of an extension that was not agreed upon.
    #[error("a WebSocket frame with reserved bits")]
    ReservedBits,
    /// A kind of frame that does not exist.
    #[error("a WebSocket frame of a reserved kind")]
    ReservedOpcode,
    /// Text is not bytes.
    #[error("a WebSocket text frame")]
    Text,
    /// A continuation without a beginning.
    #[error("a WebSocket continuation of nothing")]
    NothingToContinue,
    /// A beginning while another message is not at its end.
    #[error("a WebSocket message within another")]
    MessageWithinMessage,
    /// A control frame in fragments.
    #[error("a WebSocket control frame in fragments")]
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    #[error("a WebSocket control frame of more than 125 bytes")]
    LongControl,
    /// A length that is not written in the fewest bytes, or of 2^63 and more.
    #[error("a WebSocket frame with a wrong length")]
    Length,
    /// A frame beyond the limit.
    #[error("a WebSocket frame that is too long")]
    TooLong,
    /// A Close frame with half a status code, or one that must not be sent.
    #[error("a WebSocket Close frame with a wrong status code")]
    CloseCode,
    /// A Close frame whose reason is not UTF-8.
    #[error("a WebSocket Close frame with a reason that is not UTF-8")]
    CloseReason,
}

/// Why nothing more is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closes, with this status code if any.
    Closed(Option<u16>),
    /// The peer broke a rule.
    Violated(Violation),
}

impl End {
    /// The payload of the Close frame that answers it (section 7.4.1): the peer's own code, or
    /// what it did.
    pub fn answer(self) -> Option<u16> {
        match self {
            Self::Closed(code) => code,
            Self::Violated(Violation::Text) => Some(1003),
            Self::Violated(Violation::CloseReason) => Some(1007),
            Self::Violated(Violation::TooLong) => Some(1009),
            Self::Violated(_) => Some(1002),
        }
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The kind of a frame.
    First,
    /// Whether it is masked, and its length if that is short.
    Second,
    /// Bytes of a longer length, which must come to `least`.
    Length {
        missing: u8,
        least: u64,
    },
    Mask {
        missing: u8,
    },
    /// At least one byte of it.
    Payload,
}

/// The receiving half.
#[derive(Debug)]
pub struct Decoder {
    frame_bytes_max: u64,
    expected: Expected,
    opcode: Opcode,
    is_final: bool,
    /// Whether a message was begun and its last fragment has not come.
    is_within_message: bool,
    /// Payload of the frame that has not come.
    left: u64,
    /// Turned so that its highest byte is for the next one of the payload.
    mask: u32,
    /// What has come of a control frame.
    control: Vec<u8>,
    ping: Option<Vec<u8>>,
    end: Option<End>,
}

impl Decoder {
    /// Refuses data frames of more bytes.
    pub fn new(frame_bytes_max: usize) -> Self {
        Self {
            frame_bytes_max: frame_bytes_max as u64,
            expected: Expected::First,
            opcode: Opcode::Continuation,
            is_final: false,
            is_within_message: false,
            left: 0,
            mask: 0,
            control: Vec::new(),
            ping: None,
            end: None,
        }
    }

    /// Why nothing more is read, if so.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether a ping has come that was not taken.
    pub fn has_ping(&self) -> bool {
        self.ping.is_some()
    }

    /// The last ping that came: its answer stands for those before it (section 5.5.3).
    pub fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    /// Takes bytes as they came and moves to their front what binary frames carry of them; how
    /// many these are. What comes after the end is ignored.
    pub fn decode(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut carried) = (0, 0);
        while let Some(&byte) = bytes.get(at).filter(|_| self.end.is_none()) {
            if self.expected != Expected::Payload {
                at += 1;
                if let Err(violation) = self.header(byte) {
                    self.end = Some(End::Violated(violation));
                }
                continue;
            }
            let rest = bytes.len() - at;
            let len = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
            let payload = at..at + len;
            at += len;
            if matches!(self.opcode, Opcode::Binary | Opcode::Continuation) {
                if payload.start > carried {
                    bytes.copy_within(payload, carried);
                }
                unmask(bytes.get_mut(carried..carried + len).unwrap_or_default(), self.mask);
                carried += len;
            } else {
                let had = self.control.len();
                self.control.extend_from_slice(bytes.get(payload).unwrap_or_default());
                unmask(self.control.get_mut(had..).unwrap_or_default(), self.mask);
            }
            self.mask = self.mask.rotate_left(8 * (len % 4) as u32);
            self.left -= len as u64;
            if self.left == 0 {
                self.finish();
            }
        }
        carried
    }

    /// A byte of a header. What is wrong is said as soon as it is seen.
    fn header(&mut self, byte: u8) -> Result<(), Violation> {
        match self.expected {
            Expected::First => self.first(byte)?,
            Expected::Second => self.second(byte)?,
            Expected::Length { missing, least } => {
                self.left = self.left << 8 | u64::from(byte);
                self.expected = Expected::Length { missing: missing - 1, least };
                if missing == 1 {
                    self.measured(least)?;
                }
            }
            Expected::Mask { missing } => {
                self.mask = self.mask << 8 | u32::from(byte);
                self.expected = match missing {
                    1 => Expected::Payload,
                    missing => Expected::Mask { missing: missing - 1 },
                };
                if missing == 1 && self.left == 0 {
                    self.finish();
                }
            }
            Expected::Payload => {}
        }
        Ok(())
    }

    fn first(&mut self, byte: u8) -> Result<(), Violation> {
        if byte & 0x70 != 0 {
            return Err(Violation::ReservedBits);
        }
        self.is_final = byte & 0x80 != 0;
        self.opcode = match byte & 0x0F {
            0x0 if !self.is_within_message => return Err(Violation::NothingToContinue),
            0x0 => Opcode::Continuation,
            0x1 => return Err(Violation::Text), // [MQTT-6.0.0-1]
            0x2 if self.is_within_message => return Err(Violation::MessageWithinMessage),
            0x2 => Opcode::Binary,
            0x8..=0xA if !self.is_final => return Err(Violation::FragmentedControl),
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xA => Opcode::Pong,
            _ => return Err(Violation::ReservedOpcode),
        };
        self.expected = Expected::Second;
        Ok(())
    }

    fn second(&mut self, byte: u8) -> Result<(), Violation> {
        if byte & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        self.left = 0;
        match byte & 0x7F {
            126 => self.expected = Expected::Length { missing: 2, least: 126 },
            127 => self.expected = Expected::Length { missing: 8, least: 1 << 16 },
            len => {
                self.left = u64::from(len);
                self.measured(0)?;
            }
        }
        // A longer length is never that of a control frame, whatever follows.
        if self.is_control() && byte & 0x7F > 125 {
            return Err(Violation::LongControl);
        }
        Ok(())
    }

    /// The length is known.
    fn measured(&mut self, least: u64) -> Result<(), Violation> {
        if self.left < least || self.left >> 63 != 0 {
            return Err(Violation::Length);
        }
        let max = if self.is_control() { CONTROL_BYTES_MAX } else { self.frame_bytes_max };
        if self.left > max {
            return Err(Violation::TooLong);
        }
        self.expected = Expected::Mask { missing: 4 };
        Ok(())
    }

    fn is_control(&self) -> bool {
        matches!(self.opcode, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }

    /// The frame is whole.
    fn finish(&mut self) {
        self.expected = Expected::First;
        match self.opcode {
            Opcode::Binary | Opcode::Continuation => self.is_within_message = !self.is_final,
            Opcode::Ping => self.ping = Some(std::mem::take(&mut self.control)),
            Opcode::Pong => self.control = Vec::new(),
            Opcode::Close => self.end = Some(closed(&std::mem::take(&mut self.control))),
        }
    }
}

/// What a Close frame says (sections 5.5.1 and 7.4).
fn closed(payload: &[u8]) -> End {
    let (code, reason) = match payload {
        [] => return End::Closed(None),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        [_] => return End::Violated(Violation::CloseCode),
    };
    // 1004 to 1006 and 1015 are never sent; 3000 and up are anybody's.
    let is_valid = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !is_valid {
        return End::Violated(Violation::CloseCode);
    }
    match std::str::from_utf8(reason) {
        Ok(_) => End::Closed(Some(code)),
        Err(_) => End::Violated(Violation::CloseReason),
    }
}

/// The highest byte of the mask is for the first byte, and so on, and again (section 5.3).
fn unmask(bytes: &mut [u8], mask: u32) {
    let mask = mask.to_be_bytes();
    let in_memory = u32::from_ne_bytes(mask);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ in_memory).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Appends a whole frame of a server, which has no mask.
pub fn encode(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(HEADER_BYTES_MAX + payload.len());
    out.push(0x80 | opcode as u8);
    match payload.len() {
        len @ 0..126 => out.push(len as u8),
        len @ 126..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// Bytes before the payload of a frame that is written, at most.
pub const HEADER_BYTES_MAX: usize = 10;

#[cfg(test)]
mod tests;
