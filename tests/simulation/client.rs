//! A Client: keeps the rules of the protocol, but acknowledges as it likes.

use std::collections::{BTreeSet, VecDeque};

use crate::log::{Event, Log};
use crate::packet::{Connect, Filter, Packet, Publish};
use crate::pipe::{Cut, Pipe};

/// How a Client acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// At once.
    Prompt,
    /// QoS 1 after so many milliseconds, QoS 2 after so many.
    Slow(u64, u64),
    /// Not before it is told to.
    Held,
    /// QoS 2 is refused with a Reason Code above 0x80 where there are any.
    Refused,
}

/// What a Client sends and has not finished.
#[derive(Clone, Debug)]
struct Flight {
    publish: Publish,
    /// QoS 2: the broker has it.
    relayed: bool,
}

/// A connection as its Client knows it.
#[derive(Debug)]
struct Conn {
    number: usize,
    pipe: Pipe,
    established: bool,
    in_memory: bool,
}

/// See the head of this file.
pub struct Client {
    index: usize,
    pub name: String,
    pub v5: bool,
    pub acks: Acks,
    /// Seconds that its Session outlives the connection, and when that ended.
    expiry_s: u32,
    left_at: u64,
    /// Whether it has its part of a Session, and whether it must begin a new one.
    has_state: bool,
    begins_anew: bool,
    /// Whether a memory listener has made it: if a CONNECT is not answered then, the Session that
    /// is present afterwards may be another.
    is_volatile: bool,
    conn: Option<Conn>,
    /// Connections that it has opened another beside.
    left: Vec<Pipe>,
    flights: Vec<Flight>,
    /// QoS 2 identifiers between PUBLISH and PUBREL.
    received: BTreeSet<u16>,
    /// Identifiers of SUBSCRIBE and UNSUBSCRIBE packets that are not answered.
    requests: Vec<u16>,
    /// Acknowledgements to come and when: of QoS 1, of QoS 2.
    due: [VecDeque<(u64, Packet)>; 2],
}

/// What an acknowledgement that is held waits for.
const HELD: u64 = u64::MAX;

impl Client {
    /// A Client that has not been heard of yet.
    pub fn new(index: usize, name: &str, v5: bool) -> Self {
        Self {
            index,
            name: name.into(),
            v5,
            acks: Acks::Prompt,
            expiry_s: 0,
            left_at: 0,
            has_state: false,
            begins_anew: false,
            is_volatile: false,
            conn: None,
            left: vec![],
            flights: vec![],
            received: BTreeSet::new(),
            requests: vec![],
            due: Default::default(),
        }
    }

    /// Opens a connection, beside the one there is, and sends CONNECT.
    pub fn connect(
        &mut self,
        (number, pipe, in_memory): (usize, Pipe, bool),
        mut connect: Connect,
        log: &Log,
    ) {
        let now = log.now();
        self.leave_connection(now);
        if std::mem::take(&mut self.begins_anew) {
            connect.clean_start = true;
        }
        if !self.v5 {
            connect.expiry_s = if connect.clean_start { 0 } else { u32::MAX };
        }
        let end = self.left_at.saturating_add(u64::from(self.expiry_s) * 1000);
        if connect.clean_start || (self.expiry_s < u32::MAX && end <= now) {
            self.forget(log);
        }
        self.expiry_s = connect.expiry_s;
        pipe.send(Packet::Connect(connect));
        self.conn = Some(Conn { number, pipe, established: false, in_memory });
    }

    /// Its part of the Session ends.
    fn forget(&mut self, log: &Log) {
        self.flights.clear();
        self.received.clear();
        self.has_state = false;
        log.push(Event::Forgot { client: self.index });
    }

    /// Leaves its connection to itself.
    fn leave_connection(&mut self, now: u64) {
        if let Some(conn) = self.conn.take() {
            self.left_at = now;
            self.begins_anew |= self.is_volatile && !conn.established;
            conn.pipe.widen();
            self.left.push(conn.pipe);
        }
        self.due = Default::default();
        self.requests.clear();
    }

    /// Whether CONNACK has come and the connection is not over.
    pub fn is_established(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.established)
    }

    /// Whether CONNECT is not answered.
    pub fn is_connecting(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| !conn.established)
    }

    /// Whether it waits for nothing from the broker.
    pub fn is_settled(&self) -> bool {
        self.flights.is_empty() && self.received.is_empty() && self.requests.is_empty()
    }

    /// What it waits for.
    pub fn waits_for(&self) -> String {
        format!("{:?} {:?} {:?}", self.flights, self.received, self.requests)
    }

    fn send(&self, packet: Packet) {
        if let Some(conn) = self.conn.as_ref().filter(|conn| conn.established) {
            conn.pipe.send(packet);
        }
    }

    fn free_id(&self) -> u16 {
        let is_free = |id: &u16| {
            !self.requests.contains(id)
                && !self.flights.iter().any(|flight| flight.publish.id == *id)
        };
        (1..).find(is_free).unwrap_or(1)
    }

    /// Publishes, if it is connected.
    pub fn publish(&mut self, mut publish: Publish) {
        if !self.is_established() {
            return;
        }
        if publish.qos > 0 {
            publish.id = self.free_id();
            self.flights.push(Flight { publish: publish.clone(), relayed: false });
        }
        self.send(Packet::Publish(publish));
    }

    /// Subscribes, if it is connected.
    pub fn subscribe(&mut self, subscription_id: Option<u32>, filters: Vec<Filter>) {
        if self.is_established() {
            let id = self.free_id();
            self.requests.push(id);
            self.send(Packet::Subscribe { id, subscription_id, filters });
        }
    }

    /// Unsubscribes, if it is connected.
    pub fn unsubscribe(&mut self, filter: String) {
        if self.is_established() {
            let id = self.free_id();
            self.requests.push(id);
            self.send(Packet::Unsubscribe { id, filters: vec![filter] });
        }
    }

    /// Sends PINGREQ, if it is connected.
    pub fn ping(&self) {
        self.send(Packet::PingReq);
    }

    /// Sends DISCONNECT and is gone.
    pub fn disconnect(&mut self, reason: u8, expiry_s: Option<u32>, now: u64) {
        if !self.is_established() {
            return;
        }
        // What was 0 may not be changed.
        let expiry_s = expiry_s.filter(|_| self.expiry_s > 0);
        self.expiry_s = expiry_s.unwrap_or(self.expiry_s);
        self.send(Packet::Disconnect { reason, expiry_s });
        if let Some(conn) = &self.conn {
            conn.pipe.cut(Cut::Closed, false);
        }
        self.leave_connection(now);
    }

    /// Breaks its connection.
    pub fn cut(&mut self, how: Cut, loses: bool, now: u64) {
        if let Some(conn) = &self.conn {
            conn.pipe.cut(how, loses);
        }
        self.leave_connection(now);
    }

    /// Stops or goes on to read.
    pub fn stall(&mut self, stalled: bool) {
        if let Some(conn) = &self.conn {
            conn.pipe.stall(stalled);
        }
    }

    /// Takes as much as comes, so that the broker need not wait to write.
    pub fn widen(&self) {
        if let Some(conn) = &self.conn {
            conn.pipe.widen();
        }
    }

    /// Lets go of the acknowledgements that are held.
    pub fn release(&mut self, now: u64) {
        for (at, _) in self.due.iter_mut().flatten() {
            *at = (*at).min(now);
        }
    }

    /// Reads what has come, sends what is due. When the next thing is.
    pub fn pump(&mut self, log: &Log) -> u64 {
        let now = log.now();
        let mut next = u64::MAX;
        self.left.retain(|pipe| {
            pipe.receive();
            next = next.min(pipe.pump());
            !pipe.is_over()
        });
        while let Some(conn) = &self.conn {
            let (packets, over) = conn.pipe.receive();
            if packets.is_empty() && over {
                conn.pipe.cut(Cut::Closed, true);
                self.leave_connection(now);
                break;
            }
            if packets.is_empty() {
                break;
            }
            for packet in packets {
                self.handle(packet, log);
            }
        }
        self.send_due(now);
        let due = self.due.iter().filter_map(|due| due.front()).map(|(at, _)| *at).min();
        let pipe = self.conn.as_ref().map_or(u64::MAX, |conn| conn.pipe.pump());
        next.min(pipe).min(due.unwrap_or(u64::MAX))
    }

    fn send_due(&mut self, now: u64) {
        for queue in 0..2 {
            while self.due[queue].front().is_some_and(|(at, _)| *at <= now) {
                if let Some((_, packet)) = self.due[queue].pop_front() {
                    self.send(packet);
                }
            }
        }
    }

    /// Acknowledges in its own time, but in order.
    fn acknowledge(&mut self, packet: Packet, log: &Log) {
        let queue = usize::from(!matches!(packet, Packet::PubAck { .. }));
        let at = match self.acks {
            Acks::Prompt | Acks::Refused => log.now(),
            Acks::Slow(one, two) => log.now() + if queue == 0 { one } else { two },
            Acks::Held => HELD,
        };
        let at = self.due[queue].back().map_or(at, |(last, _)| at.max(*last));
        self.due[queue].push_back((at, packet));
    }

    fn handle(&mut self, packet: Packet, log: &Log) {
        match packet {
            Packet::ConnAck { session_present, reason: 0 } => self.begin(session_present, log),
            Packet::Publish(publish) => self.take(&publish, log),
            Packet::PubAck { id, .. } => self.flights.retain(|flight| flight.publish.id != id),
            Packet::PubRec { id, reason } if reason >= 0x80 => {
                self.flights.retain(|flight| flight.publish.id != id);
            }
            Packet::PubRec { id, .. } => {
                let flight = self.flights.iter_mut().find(|flight| flight.publish.id == id);
                if let Some(flight) = flight {
                    flight.relayed = true;
                }
                self.send(Packet::PubRel { id, reason: 0 });
            }
            Packet::PubRel { id, .. } => {
                self.received.remove(&id);
                self.acknowledge(Packet::PubComp { id, reason: 0 }, log);
            }
            Packet::PubComp { id, .. } => self.flights.retain(|flight| flight.publish.id != id),
            Packet::SubAck { id, .. } | Packet::UnsubAck { id } => {
                self.requests.retain(|request| *request != id);
            }
            _ => {}
        }
    }

    /// CONNACK: goes on with its Session, or forgets it.
    fn begin(&mut self, session_present: bool, log: &Log) {
        if let Some(conn) = &mut self.conn {
            conn.established = true;
        }
        if session_present && !self.has_state {
            // [MQTT-3.2.2-4]
            self.begins_anew = true;
            return self.cut(Cut::Closed, false, log.now());
        }
        if !session_present {
            self.forget(log);
            self.is_volatile = self.conn.as_ref().is_some_and(|conn| conn.in_memory);
        }
        self.has_state = true;
        for Flight { publish, relayed } in &self.flights {
            self.send(match relayed {
                true => Packet::PubRel { id: publish.id, reason: 0 },
                false => Packet::Publish(Publish { dup: true, ..publish.clone() }),
            });
        }
    }

    fn take(&mut self, publish: &Publish, log: &Log) {
        let id = publish.id;
        let refused = publish.qos == 2
            && self.acks == Acks::Refused
            && self.v5
            && !self.received.contains(&id);
        let refuses = self.acks == Acks::Refused && self.v5 && publish.topic.starts_with("$q/");
        let new = publish.qos < 2 || (!refused && self.received.insert(id));
        if let (Some(conn), Some(number)) = (&self.conn, number(&publish.payload)) {
            log.push(Event::Got { conn: conn.number, number, id, new });
        }
        match publish.qos {
            0 => {}
            1 => {
                let reason = if refuses { 0x83 } else { 0 };
                self.acknowledge(Packet::PubAck { id, reason }, log);
            }
            _ if refused => self.acknowledge(Packet::PubRec { id, reason: 0x83 }, log),
            _ => self.acknowledge(Packet::PubRec { id, reason: 0 }, log),
        }
    }
}

/// A payload that says which message it is.
pub fn payload(number: u32, len: usize) -> Vec<u8> {
    let mut payload = format!("{number}.").into_bytes();
    payload.resize(payload.len().max(len), b'x');
    payload
}

/// The number of a message; none is in a payload that is empty.
pub fn number(payload: &[u8]) -> Option<u32> {
    let digits = payload.split(|&byte| byte == b'.').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
