//! The model: knows from what passed the broker's ends of the pipes who must receive what.
//!
//! While the broker runs the model is exact: what the broker has heard it has done, in the order
//! in which it heard it. A crash makes things unsure: what was neither acknowledged nor given time
//! to be committed may be there or not. So a thing that *must* come has to come in the end, and
//! a thing that comes has to be one that *may* come.

mod deliver;
mod publish;
mod queues;
mod retained;
mod session;
mod track;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::history::CLIENTS;
use crate::log::Event;
use crate::packet::{Connect, Packet};
use queues::Queues;
use retained::Topic;
use session::Session;
use track::{Track, Via};

/// After so many milliseconds everything is committed, whether somebody waits for it or not: the
/// disk's time, 20, and the store's patience for what nobody waits for, 50, and some more.
const SETTLED_MS: u64 = 200;

/// How long the store waits before it tries a disk again that has failed.
pub const RETRY_MS: u64 = 50;

/// See the head of this file.
pub struct Model {
    now: u64,
    /// Counts events.
    seq: u64,
    /// Counts messages as they are processed.
    order: u64,
    /// Counts crashes.
    crashes: u32,
    conns: BTreeMap<usize, Conn>,
    sessions: Vec<Session>,
    groups: BTreeMap<String, Group>,
    messages: BTreeMap<u32, Message>,
    queues: Queues,
    retained: BTreeMap<String, Topic>,
    /// Topics with a retained Will that may be published at any time.
    wild: BTreeSet<String>,
    /// When the disk failed and when it worked again.
    failed_at: Option<u64>,
    healed_at: Option<u64>,
    /// What the broker began with was there before this.
    safe_until: u64,
    /// Whether the broker lets nobody in any more.
    is_stopping: bool,
    broken: Option<String>,
}

/// A message that was published.
#[derive(Clone, Debug)]
struct Message {
    topic: String,
    qos: u8,
    retain: bool,
    publisher: usize,
    expiry_s: Option<u32>,
    priority: u8,
    /// When it was processed.
    processed: Vec<u64>,
    /// From here on it may be processed at any time: a Will whose fate a crash has made unsure.
    unsure_from: Option<u64>,
    /// QoS 2: whether a repetition is surely known for one.
    relayed: bool,
    /// Crashes before it was processed last.
    crashes: u32,
}

/// A share group.
#[derive(Debug, Default)]
struct Group {
    /// When a member went away last, and gave back what it had.
    unrest: u64,
    tracks: BTreeMap<u32, Track>,
}

/// An acknowledgement that is due to a publisher.
#[derive(Clone, Debug)]
struct Due {
    id: u16,
    number: Option<u32>,
    order: u64,
    /// Whether somebody surely subscribes, and whether somebody may.
    reached: (bool, bool),
    /// Whether it is for a message that the broker had, or may have had.
    repeated: bool,
    unsure: bool,
    /// Whether the store may have taken no messages when it was read.
    may_be_refused: bool,
}

/// A Network Connection.
#[derive(Debug, Default)]
struct Conn {
    client: usize,
    incarnation: u64,
    connect: Option<Connect>,
    /// Whether a Session must be present; unknown after a crash.
    present: Option<bool>,
    open: bool,
    /// Whether what the broker writes leaves at once.
    is_roomy: bool,
    /// Whether what is acknowledged here need not be safe.
    in_memory: bool,
    refused: bool,
    ended: bool,
    /// The DISCONNECT that was read: Reason Code and Session Expiry Interval.
    left: Option<(u8, Option<u32>)>,
    pubacks: VecDeque<Due>,
    pubrecs: VecDeque<Due>,
    pubrels: Vec<u16>,
    pubcomps: Vec<u16>,
    subacks: VecDeque<(u16, Vec<u8>)>,
    unsubacks: VecDeque<u16>,
    pings: usize,
    /// PUBLISH packets of QoS 1 and 2 that are written and not answered.
    unanswered: Vec<u16>,
    /// What was written, by Packet Identifier; 0: QoS 0, in order.
    sent: BTreeMap<u16, VecDeque<(u32, Via)>>,
    /// How often.
    copies: BTreeMap<(u32, Via), usize>,
    /// The order of the message that was written last, by publisher, topic and QoS.
    last: BTreeMap<(usize, String, u8), u64>,
    /// The same of what share groups lend, by the group's filter too, and whether it was published
    /// with QoS 0.
    last_lent: BTreeMap<(String, usize, String, (bool, u8)), u64>,
}

impl Model {
    /// Nobody is there and nothing is retained.
    pub fn new() -> Self {
        Self {
            now: 0,
            seq: 0,
            order: 0,
            crashes: 0,
            conns: BTreeMap::new(),
            sessions: CLIENTS.iter().map(|_| Session::default()).collect(),
            groups: BTreeMap::new(),
            messages: BTreeMap::new(),
            queues: Queues::default(),
            retained: BTreeMap::new(),
            wild: BTreeSet::new(),
            failed_at: None,
            healed_at: None,
            safe_until: 0,
            is_stopping: false,
            broken: None,
        }
    }

    /// Takes note of an event; the error is a promise that was broken.
    pub fn event(&mut self, now: u64, event: Event) -> Result<(), String> {
        self.now = now;
        self.seq += 1;
        match event {
            Event::Opened { conn, client, is_roomy, in_memory } => {
                let opened = Conn { client, is_roomy, in_memory, ..Conn::default() };
                self.conns.insert(conn, opened);
            }
            Event::Turn { conn } => self.turn(conn),
            Event::Read { conn, packet } => self.read(conn, packet),
            Event::Wrote { conn, packet } => self.wrote(conn, packet),
            Event::Ended { conn } => self.ended(conn),
            Event::Got { conn, number, id, new } => self.got(conn, number, id, new),
            Event::Forgot { client } => self.forgot(client),
            Event::Tick => self.tick(),
            Event::Failed => {
                self.failed_at = Some(self.unsafe_from().unwrap_or(now));
                self.healed_at = None;
            }
            Event::Healed => self.healed_at = Some(now),
            Event::Stopping => self.is_stopping = true,
            Event::Down { orderly } => self.down(orderly),
            Event::Up => self.up(),
        }
        match self.broken.take() {
            Some(broken) => Err(broken),
            None => Ok(()),
        }
    }

    /// Notes that a promise is broken.
    fn broken(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// Says whether what was done at a time is surely committed, if the power is cut now.
    fn settled(&self) -> impl Fn(u64) -> bool + Copy + use<> {
        let until = self.unsafe_from().unwrap_or(self.now);
        let safe_until = self.safe_until;
        move |at| at < safe_until || at + SETTLED_MS <= until
    }

    /// When the disk failed, if what was done then is not surely made good.
    fn unsafe_from(&self) -> Option<u64> {
        let is_good = self.healed_at.is_some_and(|at| at + RETRY_MS + SETTLED_MS <= self.now);
        self.failed_at.filter(|_| !is_good)
    }

    fn read(&mut self, number: usize, packet: Packet) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        match packet {
            Packet::Connect(connect) => self.connect(number, connect),
            Packet::Publish(publish) => self.published(number, publish),
            Packet::PubAck { id, reason } => {
                self.queue_answered(number, id, reason);
                self.acknowledged(number, id);
            }
            Packet::PubRec { id, reason } => {
                self.queue_answered(number, id, reason);
                self.received(number, id, reason);
            }
            Packet::PubRel { id, .. } => conn.pubcomps.push(id),
            Packet::PubComp { id, .. } => self.completed(number, id),
            Packet::Subscribe { id, subscription_id, filters } => {
                self.subscribe(number, id, subscription_id, &filters);
            }
            Packet::Unsubscribe { id, filters } => self.unsubscribe(number, id, &filters),
            Packet::PingReq => conn.pings += 1,
            Packet::Disconnect { reason, expiry_s } => conn.left = Some((reason, expiry_s)),
            other => self.broken(format!("connection {number}: a Client sent {other:?}")),
        }
    }

    fn wrote(&mut self, number: usize, packet: Packet) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let is_first = matches!(packet, Packet::ConnAck { .. });
        if is_first == conn.open {
            self.broken(format!("connection {number}: {packet:?} is not in its place"));
            return;
        }
        let is_wrong = match &packet {
            Packet::ConnAck { session_present, reason } => {
                return self.connected(number, *session_present, *reason);
            }
            Packet::Publish(publish) if queues::is_queued(&publish.topic) => {
                return self.deliver_queued(number, publish);
            }
            Packet::Publish(publish) => return self.deliver(number, publish),
            Packet::PubAck { id, reason } => {
                let due = conn.pubacks.pop_front();
                return self.answered(number, &packet, *id, *reason, due);
            }
            Packet::PubRec { id, reason } => {
                let due = conn.pubrecs.pop_front();
                return self.answered(number, &packet, *id, *reason, due);
            }
            Packet::PubRel { id, .. } => return self.released(number, *id),
            Packet::PubComp { id, .. } => match conn.pubcomps.iter().position(|due| due == id) {
                Some(at) => {
                    conn.pubcomps.remove(at);
                    false
                }
                None => true,
            },
            Packet::SubAck { id, reasons } => {
                let due = conn.subacks.pop_front();
                let is_wrong = due.is_none_or(|(due, granted)| due != *id || granted != *reasons);
                self.subscribed(number, *id);
                is_wrong
            }
            Packet::UnsubAck { id } => {
                let is_wrong = conn.unsubacks.pop_front() != Some(*id);
                self.unsubscribed(number, *id);
                is_wrong
            }
            Packet::PingResp if conn.pings > 0 => {
                conn.pings -= 1;
                false
            }
            Packet::Disconnect { .. } => false,
            _ => true,
        };
        if is_wrong {
            self.broken(format!("connection {number}: {packet:?} answers nothing"));
        }
    }

    /// From now on somebody consumes from every queue.
    pub fn drain(&mut self) {
        self.queues.must_be_empty = true;
    }

    /// Whether a connection is open.
    pub fn has_open_connections(&self) -> bool {
        self.conns.values().any(|conn| conn.open && !conn.ended)
    }

    /// The Session of a connection, unless the connection is not its any more.
    fn session_of(&mut self, number: usize) -> Option<&mut Session> {
        let conn = self.conns.get(&number)?;
        let session = self.sessions.get_mut(conn.client)?;
        (session.conn == Some(number)).then_some(session)
    }
}

/// Whether a Topic Name matches a Topic Filter without `$share`.
fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['#', '+']) {
        return false; // [MQTT-4.7.2-1]
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}
