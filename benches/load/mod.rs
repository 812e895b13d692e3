//! What the benches that load a running broker share: a bare MQTT 3.1.1 Client, and the CPU time of
//! another process.
#![allow(dead_code)] // Each bench uses its part.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// A connection to the broker.
pub struct Client {
    pub stream: TcpStream,
    inbox: Vec<u8>,
}

/// What a Client of these benches is sent.
pub enum Packet<'a> {
    PubAck(u16),
    /// `packet_id` is 0 at QoS 0.
    Publish {
        packet_id: u16,
        payload: &'a [u8],
    },
    Other,
}

impl Client {
    pub async fn connect(broker: SocketAddr, client_id: &str, clean: bool) -> Self {
        Self::connect_from([127, 0, 0, 1], broker, client_id, clean).await
    }

    /// The same from another address of this machine.
    pub async fn connect_from(
        from: [u8; 4],
        broker: SocketAddr,
        client_id: &str,
        clean: bool,
    ) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        let stream = socket.connect(broker).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream, inbox: Vec::new() };
        let mut body = b"\0\x04MQTT\x04".to_vec();
        body.extend([u8::from(clean) << 1, 0, 0]);
        text(&mut body, client_id);
        let mut packet = Vec::new();
        put_packet(&mut packet, 0x10, body.len());
        packet.extend(&body);
        let answer = client.exchange(&packet).await;
        assert_eq!(answer.get(3), Some(&0), "CONNACK {answer:?}");
        client
    }

    pub async fn subscribe(&mut self, filter: &str, qos: u8) {
        let mut packet = Vec::new();
        put_subscribe(&mut packet, 1, filter, qos);
        let answer = self.exchange(&packet).await;
        assert_eq!(answer.get(4), Some(&qos), "SUBACK {answer:?}");
    }

    pub async fn disconnect(mut self) {
        self.stream.write_all(&[0xE0, 0]).await.unwrap();
        let _ = self.stream.read(&mut [0]).await;
    }

    /// Sends a packet and returns the next one, which must be its answer.
    async fn exchange(&mut self, packet: &[u8]) -> Vec<u8> {
        self.stream.write_all(packet).await.unwrap();
        let mut answer = vec![0; 2];
        self.stream.read_exact(&mut answer).await.unwrap();
        let len = usize::from(answer[1]);
        answer.resize(2 + len, 0);
        self.stream.read_exact(&mut answer[2..]).await.unwrap();
        answer
    }

    /// Waits for bytes, and shows each packet that is complete; false: the connection has ended.
    pub async fn read(&mut self, mut show: impl FnMut(Packet<'_>)) -> bool {
        match self.stream.read_buf(&mut self.inbox).await {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
        let mut at = 0;
        while let Some((packet, len)) = next(&self.inbox[at..]) {
            show(packet);
            at += len;
        }
        self.inbox.drain(..at);
        true
    }
}

fn next(bytes: &[u8]) -> Option<(Packet<'_>, usize)> {
    let (mut len, mut at) = (0, 1);
    loop {
        let byte = *bytes.get(at)?;
        len |= usize::from(byte & 0x7F) << (7 * (at - 1));
        at += 1;
        if byte < 0x80 {
            break;
        }
    }
    let body = bytes.get(at..at + len)?;
    let number = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let packet = match bytes[0] >> 4 {
        4 => Packet::PubAck(number(0)),
        3 if bytes[0] & 6 == 0 => {
            Packet::Publish { packet_id: 0, payload: &body[2 + usize::from(number(0))..] }
        }
        3 => {
            let after = 2 + usize::from(number(0));
            Packet::Publish { packet_id: number(after), payload: &body[after + 2..] }
        }
        _ => Packet::Other,
    };
    Some((packet, at + len))
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend(text.as_bytes());
}

fn put_packet(out: &mut Vec<u8>, first: u8, mut len: usize) {
    out.push(first);
    loop {
        let low = (len & 0x7F) as u8;
        len >>= 7;
        out.push(if len > 0 { low | 0x80 } else { low });
        if len == 0 {
            return;
        }
    }
}

/// Appends a PUBLISH of QoS 1.
pub fn put_publish(out: &mut Vec<u8>, topic: &str, packet_id: u16, payload: &[u8]) {
    put_publish_of(out, topic, Some(packet_id), false, payload);
}

/// Appends a PUBLISH of QoS 1, or without a Packet Identifier of QoS 0.
pub fn put_publish_of(
    out: &mut Vec<u8>,
    topic: &str,
    packet_id: Option<u16>,
    retain: bool,
    payload: &[u8],
) {
    let id_len = if packet_id.is_some() { 2 } else { 0 };
    let first = 0x30 | id_len as u8 | u8::from(retain);
    put_packet(out, first, 2 + topic.len() + id_len + payload.len());
    text(out, topic);
    out.extend(packet_id.into_iter().flat_map(u16::to_be_bytes));
    out.extend(payload);
}

/// Appends a SUBSCRIBE with one filter.
pub fn put_subscribe(out: &mut Vec<u8>, packet_id: u16, filter: &str, qos: u8) {
    put_packet(out, 0x82, 2 + 2 + filter.len() + 1);
    out.extend(packet_id.to_be_bytes());
    text(out, filter);
    out.push(qos);
}

/// Appends a PUBACK.
pub fn put_puback(out: &mut Vec<u8>, packet_id: u16) {
    out.extend([0x40, 2]);
    out.extend(packet_id.to_be_bytes());
}

/// The CPU time that a process has used; zero when there is none.
pub fn cpu_of(pid: Option<u32>) -> Duration {
    let Some(pid) = pid else { return Duration::ZERO };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let used = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(used.sum())
}

/// The memory that a process uses, in bytes.
pub fn memory_of(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Runs a load on this core.
pub fn run(core: Option<usize>, load: impl Future<Output = ()>) {
    stay_on(core);
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, load);
}

/// Stays on this core.
pub fn stay_on(core: Option<usize>) {
    let Some(core) = core else { return };
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

/// The value that so many of a hundred are below.
pub fn percentile(sorted: &[u32], hundredths: usize) -> u32 {
    sorted.get(sorted.len() * hundredths / 100).copied().unwrap_or_default()
}
