//! A client that speaks bytes, with its own idea of what packets look like: it shares no code
//! with the broker.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A connection.
pub struct Client {
    stream: TcpStream,
    v5: bool,
    /// Messages that came while an answer was waited for.
    early: VecDeque<Vec<u8>>,
}

/// How long an expected packet may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Joins the parts of a packet and puts type and length before them.
pub fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[first], &measured(parts)[..]].concat()
}

/// The parts joined, with their length before them as a Variable Byte Integer.
fn measured(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = vec![];
    let mut len = body.len();
    loop {
        let byte = (len & 127) as u8;
        len >>= 7;
        out.push(if len > 0 { byte | 128 } else { byte });
        if len == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// A string or binary field.
pub fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A block of properties with its length.
pub fn properties(parts: &[&[u8]]) -> Vec<u8> {
    measured(parts)
}

/// A CONNECT to be adorned.
#[derive(Clone)]
pub struct Connect {
    pub id: String,
    pub level: u8,
    pub clean: bool,
    pub keep_alive: u16,
    pub properties: Vec<u8>,
    /// Flags (QoS, RETAIN), properties, topic, payload.
    pub will: Option<(u8, Vec<u8>, String, Vec<u8>)>,
    pub username: Option<String>,
    pub password: Option<String>,
}

impl Connect {
    pub fn v4(id: &str) -> Self {
        Self {
            id: id.into(),
            level: 4,
            clean: true,
            keep_alive: 0,
            properties: vec![],
            will: None,
            username: None,
            password: None,
        }
    }

    pub fn v5(id: &str) -> Self {
        Self { level: 5, ..Self::v4(id) }
    }

    /// Keeps an existing Session, and the Session after the connection.
    pub fn durable(mut self) -> Self {
        self.clean = false;
        if self.level == 5 {
            self.properties.extend([17, 0xFF, 0xFF, 0xFF, 0xFF]);
        }
        self
    }

    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub fn with(mut self, property: &[u8]) -> Self {
        self.properties.extend(property);
        self
    }

    pub fn will(mut self, flags: u8, properties: &[u8], topic: &str, payload: &str) -> Self {
        self.will = Some((flags, properties.into(), topic.into(), payload.into()));
        self
    }

    pub fn user(mut self, username: &str, password: &str) -> Self {
        self.username = Some(username.into());
        self.password = Some(password.into());
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let name = if self.level == 3 { "MQIsdp" } else { "MQTT" };
        let mut flags = u8::from(self.clean) << 1;
        let mut payload = field(&self.id);
        if let Some((will_flags, properties, topic, message)) = &self.will {
            flags |= 4 | will_flags;
            if self.level == 5 {
                payload.extend(self::properties(&[properties]));
            }
            payload.extend(field(topic));
            payload.extend(field(message));
        }
        for (flag, text) in [(0x80, &self.username), (0x40, &self.password)] {
            if let Some(text) = text {
                flags |= flag;
                payload.extend(field(text));
            }
        }
        let properties = if self.level == 5 { properties(&[&self.properties]) } else { vec![] };
        packet(
            0x10,
            &[
                &field(name),
                &[self.level, flags],
                &self.keep_alive.to_be_bytes(),
                &properties,
                &payload,
            ],
        )
    }
}

impl Client {
    /// A connection without CONNECT.
    pub fn open(port: u16, v5: bool) -> Self {
        Self::over(TcpStream::connect(("127.0.0.1", port)).unwrap(), v5)
    }

    /// A connection that was opened otherwise.
    pub fn over(stream: TcpStream, v5: bool) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, v5, early: VecDeque::new() }
    }

    /// What carries it.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Connects and returns the CONNACK too.
    pub fn connect_with(port: u16, connect: &Connect) -> (Self, Vec<u8>) {
        let mut client = Self::open(port, connect.level == 5);
        client.send(&connect.bytes());
        let connack = client.read();
        assert_eq!(connack[0], 0x20, "not a CONNACK: {connack:02x?}");
        (client, connack)
    }

    /// Connects, which must succeed; the client and whether a Session was present.
    pub fn resume(port: u16, connect: &Connect) -> (Self, bool) {
        let (client, connack) = Self::connect_with(port, connect);
        assert_eq!(connack[3], 0, "refused: {connack:02x?}");
        (client, connack[2] == 1)
    }

    /// Connects, which must succeed.
    pub fn connect(port: u16, connect: &Connect) -> Self {
        Self::resume(port, connect).0
    }

    pub fn v4(port: u16, id: &str) -> Self {
        Self::connect(port, &Connect::v4(id))
    }

    pub fn v5(port: u16, id: &str) -> Self {
        Self::connect(port, &Connect::v5(id))
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends what the peer may not want any more.
    pub fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next packet, whole.
    pub fn read(&mut self) -> Vec<u8> {
        self.try_read().expect("a packet, not the end of the connection")
    }

    /// The next packet that is no PUBLISH; messages before it are kept for later.
    pub fn answer(&mut self) -> Vec<u8> {
        loop {
            let packet = self.next_packet().expect("an answer, not the end of the connection");
            if packet[0] >> 4 != 3 {
                return packet;
            }
            self.early.push_back(packet);
        }
    }

    /// The next packet of this type (the high four bits), whatever comes before it.
    pub fn read_kind(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let packet = self.read();
            if packet[0] & 0xF0 == kind {
                return packet;
            }
        }
    }

    /// The next packet, or `None` at the end of the connection.
    pub fn try_read(&mut self) -> Option<Vec<u8>> {
        self.early.pop_front().or_else(|| self.next_packet())
    }

    fn next_packet(&mut self) -> Option<Vec<u8>> {
        let mut packet = vec![];
        let mut byte = [0];
        let (mut len, mut shift) = (0_usize, 0);
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return None,
                Ok(_) => packet.push(byte[0]),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("no packet in {PATIENCE:?}: {e} after {packet:02x?}"),
            }
            if packet.len() > 1 {
                len |= usize::from(byte[0] & 127) << shift;
                shift += 7;
                if byte[0] & 128 == 0 {
                    break;
                }
            }
        }
        let start = packet.len();
        packet.resize(start + len, 0);
        self.stream.read_exact(&mut packet[start..]).unwrap();
        Some(packet)
    }

    /// The next packet must be this.
    pub fn expect(&mut self, expected: &[u8]) {
        let packet = self.read();
        assert_eq!(packet, expected, "\n got {packet:02x?}\nwant {expected:02x?}");
    }

    /// The connection must end, after this DISCONNECT reason for MQTT 5.0.
    pub fn expect_close(&mut self, reason: u8) {
        match self.try_read() {
            Some(packet) if self.v5 => {
                assert_eq!(packet[..3], [0xE0, packet[1], reason], "{packet:02x?}");
                assert_eq!(self.try_read(), None);
            }
            Some(packet) => panic!("not the end of the connection: {packet:02x?}"),
            None => assert!(!self.v5, "the connection ended without DISCONNECT {reason:#x}"),
        }
    }

    /// Whether nothing has come so far.
    pub fn is_silent(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        self.early.is_empty() && peeked.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    }

    /// Nothing has come before the answer to a PINGREQ.
    pub fn expect_nothing(&mut self) {
        self.send(&[0xC0, 0]);
        self.expect(&[0xD0, 0]);
    }

    /// Subscribes to one filter and returns its Reason Code.
    pub fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_with(&[], filter, options)
    }

    /// The same with properties.
    pub fn subscribe_with(&mut self, properties: &[u8], filter: &str, options: u8) -> u8 {
        let properties = if self.v5 { self::properties(&[properties]) } else { vec![] };
        self.send(&packet(0x82, &[&[0, 77], &properties, &field(filter), &[options]]));
        let suback = self.answer();
        assert_eq!(suback[0], 0x90, "not a SUBACK: {suback:02x?}");
        assert_eq!(suback[2..4], [0, 77]);
        *suback.last().unwrap()
    }

    pub fn unsubscribe(&mut self, filter: &str) -> Vec<u8> {
        let properties: &[u8] = if self.v5 { &[0] } else { &[] };
        self.send(&packet(0xA2, &[&[0, 78], properties, &field(filter)]));
        let unsuback = self.answer();
        assert_eq!(unsuback[0], 0xB0, "not an UNSUBACK: {unsuback:02x?}");
        unsuback
    }

    /// A PUBLISH of this version: `flags` are DUP, QoS and RETAIN.
    pub fn publish_bytes(
        &self,
        flags: u8,
        topic: &str,
        id: u16,
        properties: &[u8],
        payload: impl AsRef<[u8]>,
    ) -> Vec<u8> {
        let id = if flags & 6 == 0 { vec![] } else { id.to_be_bytes().to_vec() };
        let properties = if self.v5 { self::properties(&[properties]) } else { vec![] };
        packet(0x30 | flags, &[&field(topic), &id, &properties, payload.as_ref()])
    }

    /// Publishes, and carries the exchange of its QoS to the end.
    pub fn publish(&mut self, flags: u8, topic: &str, payload: impl AsRef<[u8]>) {
        let bytes = self.publish_bytes(flags, topic, 99, &[], payload);
        self.send(&bytes);
        match flags & 6 {
            0 => {}
            2 => {
                let ack = self.answer();
                assert_eq!(ack[0], 0x40, "{ack:02x?}");
            }
            _ => {
                let ack = self.answer();
                assert_eq!(ack[0], 0x50, "{ack:02x?}");
                self.send(&[0x62, 2, 0, 99]);
                assert_eq!(self.answer(), [0x70, 2, 0, 99]);
            }
        }
    }

    /// The next packet must be a PUBLISH: taken apart.
    pub fn read_publish(&mut self) -> Received {
        let packet = self.read();
        assert_eq!(packet[0] >> 4, 3, "not a PUBLISH: {packet:02x?}");
        Received::new(&packet, self.v5)
    }

    /// The next message, acknowledged whatever its QoS.
    pub fn receive(&mut self) -> Received {
        let received = self.read_publish();
        let [high, low] = received.id.to_be_bytes();
        match received.qos() {
            0 => {}
            1 => self.send(&[0x40, 2, high, low]),
            _ => {
                self.send(&[0x50, 2, high, low]);
                assert_eq!(self.answer(), [0x62, 2, high, low]);
                self.send(&[0x70, 2, high, low]);
            }
        }
        received
    }

    /// DISCONNECT, and the end of the connection.
    pub fn disconnect(mut self) {
        self.send(&[0xE0, 0]);
        assert_eq!(self.try_read(), None);
    }

    /// Ends the connection without DISCONNECT, and waits until the broker has noticed.
    pub fn vanish(self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut client = self;
        while client.try_read().is_some() {}
    }
}

/// A PUBLISH, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub flags: u8,
    pub topic: String,
    pub id: u16,
    pub properties: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Received {
    pub fn new(packet: &[u8], v5: bool) -> Self {
        let header = 1 + packet[1..].iter().take_while(|&&b| b & 128 != 0).count() + 1;
        let mut rest = &packet[header..];
        let mut take = |n: usize| {
            let (taken, left) = rest.split_at(n);
            rest = left;
            taken.to_vec()
        };
        let topic_len = take(2);
        let topic = take(usize::from(u16::from_be_bytes([topic_len[0], topic_len[1]])));
        let id = if packet[0] & 6 == 0 { vec![0, 0] } else { take(2) };
        let properties = if v5 {
            let low = usize::from(take(1)[0]);
            let high = if low < 128 { 0 } else { usize::from(take(1)[0]) };
            assert!(high < 128);
            take(low & 127 | high << 7)
        } else {
            vec![]
        };
        Self {
            flags: packet[0] & 15,
            topic: String::from_utf8(topic).unwrap(),
            id: u16::from_be_bytes([id[0], id[1]]),
            properties,
            payload: rest.to_vec(),
        }
    }

    pub fn qos(&self) -> u8 {
        self.flags >> 1 & 3
    }

    pub fn retain(&self) -> bool {
        self.flags & 1 != 0
    }

    pub fn dup(&self) -> bool {
        self.flags & 8 != 0
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

impl Client {
    /// Reads and discards; `Some` at the end of the connection.
    pub fn stream_end(&mut self) -> Option<()> {
        let mut bytes = [0; 256];
        match self.stream.read(&mut bytes) {
            Ok(0) | Err(_) => Some(()),
            Ok(_) => None,
        }
    }

    /// Whether something has come, or comes within this time.
    pub fn has_bytes(&mut self, within: Duration) -> bool {
        if !self.early.is_empty() {
            return true;
        }
        self.stream.set_read_timeout(Some(within.max(Duration::from_micros(1)))).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        peeked.is_ok_and(|n| n > 0)
    }

    /// Whether a PINGREQ is answered.
    pub fn try_ping(&mut self) -> bool {
        self.try_send(&[0xC0, 0]);
        self.try_read() == Some(vec![0xD0, 0])
    }

    /// Whether a CONNECT succeeds.
    pub fn try_connect(&mut self, connect: &Connect) -> bool {
        self.try_send(&connect.bytes());
        self.try_read().is_some_and(|connack| connack[3] == 0)
    }
}
