//! A Network Connection: packets in, packets out, nothing of what they ask for.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{Connect, Received, field, packet};

/// A packet from the broker.
#[derive(Debug)]
pub enum Packet {
    Publish(Received),
    PubAck { id: u16, reason: u8 },
    PubRec { id: u16, reason: u8 },
    PubRel { id: u16 },
    PubComp { id: u16 },
    SubAck { id: u16, reason: u8 },
    UnsubAck { id: u16, reason: u8 },
    Disconnect,
}

/// A connection that CONNACK has begun.
pub struct Link {
    stream: TcpStream,
    v5: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    /// What CONNACK said.
    pub session_present: bool,
}

impl Link {
    pub async fn open(address: SocketAddr, connect: &Connect) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (input, output) = (Vec::new(), connect.bytes());
        let v5 = connect.level == 5;
        let mut link = Self { stream, v5, input, output, session_present: false };
        link.flush().await?;
        let connack = link.frame().await?;
        match connack[..] {
            [0x20, _, present, 0, ..] => link.session_present = present == 1,
            // A broker that is about to end may say so: unavailable, busy, shutting down.
            [0x20, _, _, 3 | 0x88 | 0x89 | 0x8B, ..] => return Err(ended()),
            _ => panic!("not a CONNACK that accepts: {connack:02x?}"),
        }
        Ok(link)
    }

    /// Adds a packet to what [`Link::flush`] writes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Adds an acknowledgement, which is four bytes in all versions.
    pub fn acknowledge(&mut self, first: u8, id: u16) {
        let [high, low] = id.to_be_bytes();
        self.send(&[first, 2, high, low]);
    }

    pub fn publish(&mut self, flags: u8, topic: &str, id: u16, payload: &[u8]) {
        let properties: &[u8] = if self.v5 { &[0] } else { &[] };
        let parts = [&field(topic)[..], &id.to_be_bytes(), properties, payload];
        self.send(&packet(0x30 | flags, &parts));
    }

    pub fn subscribe(&mut self, id: u16, filter: &str, qos: u8) {
        let properties: &[u8] = if self.v5 { &[0] } else { &[] };
        let parts = [&id.to_be_bytes()[..], properties, &field(filter), &[qos]];
        self.send(&packet(0x82, &parts));
    }

    pub fn unsubscribe(&mut self, id: u16, filter: &str) {
        let properties: &[u8] = if self.v5 { &[0] } else { &[] };
        self.send(&packet(0xA2, &[&id.to_be_bytes(), properties, &field(filter)]));
    }

    pub async fn flush(&mut self) -> Result<()> {
        let output = std::mem::take(&mut self.output);
        self.stream.write_all(&output).await
    }

    /// The next packet; may be dropped before it is there and asked for again.
    pub async fn next(&mut self) -> Result<Packet> {
        let frame = self.frame().await?;
        let header = header_len(&frame).unwrap();
        let at = |index: usize| frame.get(header + index).copied().unwrap_or(0);
        let id = u16::from_be_bytes([at(0), at(1)]);
        let reason = at(2);
        Ok(match frame[0] >> 4 {
            3 => Packet::Publish(Received::new(&frame, self.v5)),
            4 => Packet::PubAck { id, reason },
            5 => Packet::PubRec { id, reason },
            6 => Packet::PubRel { id },
            7 => Packet::PubComp { id },
            9 => Packet::SubAck { id, reason: *frame.last().unwrap() },
            11 if self.v5 => Packet::UnsubAck { id, reason: *frame.last().unwrap() },
            11 => Packet::UnsubAck { id, reason: 0 },
            14 => Packet::Disconnect,
            _ => panic!("an unexpected packet: {frame:02x?}"),
        })
    }

    async fn frame(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(len) = frame_len(&self.input)
                && self.input.len() >= len
            {
                return Ok(self.input.drain(..len).collect());
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(ended());
            }
        }
    }
}

fn ended() -> Error {
    Error::from(ErrorKind::UnexpectedEof)
}

/// Bytes of a packet's fixed header; `None` while it is not all there.
fn header_len(bytes: &[u8]) -> Option<usize> {
    let len = bytes.get(1..)?.iter().position(|byte| byte & 128 == 0)?;
    Some(len + 2)
}

/// Bytes of the first packet.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let header = header_len(bytes)?;
    let digits = bytes[1..header].iter().rev();
    Some(header + digits.fold(0, |len, digit| len << 7 | usize::from(digit & 127)))
}
