//! A connection to the broker under test: bytes out, packets in.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::books::Books;
use crate::decode;
use crate::packet::{Packet, Version};
use crate::second;

/// What a broker may do.
#[derive(Clone, Debug)]
pub enum Event {
    Packet(Packet, Vec<u8>),
    /// Bytes that no Server may send.
    Wrong(String, Vec<u8>),
    /// The end of the connection, and what came of a packet before it.
    Closed(Vec<u8>),
    /// Nothing in time, but for the beginning of a packet.
    Silence(Vec<u8>),
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Packet(packet, bytes) => write!(f, "{packet}  [{}]", hexadecimal(bytes)),
            Self::Wrong(what, bytes) => write!(f, "{what}  [{}]", hexadecimal(bytes)),
            Self::Closed(rest) if rest.is_empty() => f.write_str("the end of the connection"),
            Self::Closed(rest) => {
                write!(f, "the end of the connection within a packet  [{}]", hexadecimal(rest))
            }
            Self::Silence(rest) if rest.is_empty() => f.write_str("nothing in time"),
            Self::Silence(rest) => {
                write!(f, "the beginning of a packet only  [{}]", hexadecimal(rest))
            }
        }
    }
}

/// Bytes for people; the middle of many is left out.
pub fn hexadecimal(bytes: &[u8]) -> String {
    const SHOWN: usize = 48;
    let shown: Vec<String> = bytes.iter().take(SHOWN).map(|b| format!("{b:02x}")).collect();
    let rest = bytes.len().saturating_sub(SHOWN);
    if rest == 0 { shown.join(" ") } else { format!("{} … {rest} more", shown.join(" ")) }
}

pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    /// An event that was looked at and not yet taken.
    next: Option<Event>,
    pub version: Version,
    /// The Maximum Packet Size that its CONNECT gave.
    pub maximum_packet_size: Option<u64>,
    /// Whether a CONNACK accepted it.
    pub accepted: bool,
    pub books: Books,
}

impl Connection {
    pub fn open(address: SocketAddr, version: Version) -> Result<Self, String> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))
            .map_err(|e| format!("no connection to {address}: {e}"))?;
        stream.set_nodelay(true).unwrap();
        Ok(Self {
            stream,
            unread: vec![],
            next: None,
            version,
            maximum_packet_size: None,
            accepted: false,
            books: Books::default(),
        })
    }

    /// The peer may not want it any more; what it does instead is seen by reading.
    pub fn send(&mut self, bytes: &[u8]) {
        self.books.sent(bytes);
        self.stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = self.stream.write_all(bytes);
    }

    /// Ends the sending side; the broker then ends the other.
    pub fn shut(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// What comes next, which stays next.
    pub fn peek(&mut self, deadline: Instant) -> Event {
        let event = match self.next.take() {
            Some(event) => event,
            None => self.read(deadline),
        };
        if !matches!(event, Event::Silence(_)) {
            self.next = Some(event.clone());
        }
        event
    }

    pub fn take(&mut self, deadline: Instant) -> Event {
        let event = self.peek(deadline);
        self.next = None;
        if let Event::Packet(packet, _) = &event
            && packet.name == "CONNACK"
            && packet.find_number("reason") == Some(0)
        {
            self.accepted = true;
        }
        event
    }

    fn read(&mut self, deadline: Instant) -> Event {
        loop {
            match decode::length(&self.unread) {
                Ok(Some(len)) if len <= self.unread.len() => {
                    let bytes = self.unread.drain(..len).collect();
                    return self.packet(bytes);
                }
                Ok(_) => {}
                Err(what) => return Event::Wrong(what, std::mem::take(&mut self.unread)),
            }
            // Zero is no timeout; a deadline that has passed still takes what is there.
            let left = deadline.saturating_duration_since(Instant::now());
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Event::Closed(std::mem::take(&mut self.unread)),
                Ok(len) => self.unread.extend(&bytes[..len]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Event::Silence(self.unread.clone());
                }
                Err(_) => return Event::Closed(std::mem::take(&mut self.unread)),
            }
        }
    }

    fn packet(&mut self, bytes: Vec<u8>) -> Event {
        if self.maximum_packet_size.is_some_and(|maximum| bytes.len() as u64 > maximum) {
            return Event::Wrong("a packet beyond the Maximum Packet Size".into(), bytes);
        }
        let decoded = decode::decode(&bytes, self.version);
        let agreed = decoded.and_then(|mut packet| {
            second::agrees(&bytes, self.version, &packet)?;
            self.books.came(&mut packet, self.version)?;
            Ok(packet)
        });
        match agreed {
            Ok(packet) => Event::Packet(packet, bytes),
            Err(what) => Event::Wrong(format!("a packet that no Server may send: {what}"), bytes),
        }
    }
}
