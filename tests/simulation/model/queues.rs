//! Declared queues: who holds what, how often it was handed out, and what must be left.
//!
//! Topics below `$q/` are met by no other filter, so that whatever has one came from a queue.

use std::collections::{BTreeMap, BTreeSet};

use super::session::Session;
use super::{Due, Model};
use crate::client::number;
use crate::history::CLIENTS;
use crate::packet::Publish;
use crate::queues::{BRIEF_S, DEAD, LEASE_MS, PRIO, TIGHT, TIGHT_MAX, WORK_MAX};

/// What a message takes from the queue to its consumer at most, when nothing is in its way.
const LATE_MS: u64 = 200;

/// What tells a message from its dead letter.
type Key = (u32, bool);

/// A message in a queue.
#[derive(Clone, Debug, Default)]
struct Entry {
    topic: String,
    /// How often it was published, and when last.
    copies: u32,
    at: u64,
    order: u64,
    /// Whether it must be consumed, and whether its publisher was told that it is safe.
    must: bool,
    acked: bool,
    /// Nobody knows what has become of it: only that it may come.
    loose: bool,
    /// The highest delivery count, and who saw it.
    count: u32,
    seen_by: Option<usize>,
    writes: u32,
    /// Who has it: Client, connection, QoS.
    holder: Option<(usize, usize, u8)>,
    finished: Option<u64>,
    /// Whether that may have been after its lease.
    is_late: bool,
    /// Whether a crash ended the Session that had it with QoS 2: only as a dead letter may it come.
    is_bound: bool,
    /// Whom it was sent to with QoS 2. No crash makes it anybody else's.
    bound_to: Option<usize>,
    /// Who may have had it, or been about to be sent it, with QoS 2 in a crash.
    maybe_with: BTreeSet<usize>,
    /// How often it was taken as a new message of QoS 2.
    taken: u32,
    /// Its place in the queue that goes by priority.
    place: Option<Place>,
}

/// What came while nobody consumed waits together, and is handed out by priority.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Which of the times it was in which nobody consumed.
    wait: u64,
    /// By priority, the highest first, then as they came.
    rank: (u8, u64),
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Queues {
    entries: BTreeMap<Key, Entry>,
    /// By connection and Packet Identifier.
    sent: BTreeMap<(usize, u16), Key>,
    /// The last order at which somebody may have consumed from the queue that rejects.
    touched: u64,
    /// Times in which nobody consumed from the queue that goes by priority.
    waits: u64,
    /// The rank of what came last of such a time, by connection.
    came: BTreeMap<(usize, u64), (u8, u64)>,
    /// Whether everything is to be consumed by now.
    pub must_be_empty: bool,
}

/// Whether a topic belongs to a queue.
pub fn is_queued(topic: &str) -> bool {
    topic.starts_with("$q/")
}

/// The queues that a Session which is online has consumed from with QoS 2.
fn consumed(session: &Session) -> Vec<String> {
    let spans = session.spans.iter().filter(|span| span.qos == 2 && session.conn.is_some());
    spans.map(|span| span.filter.clone()).filter(|filter| filter.starts_with("$queue/")).collect()
}

/// Whether a Session may consume from the queue that goes by priority.
pub fn consumes_by_priority(session: &Session) -> bool {
    session.conn.is_some() && session.spans.iter().any(|span| span.filter == PRIO)
}

/// Whether a topic belongs to the queue that consumers know by this filter.
fn is_of(topic: &str, filter: &str) -> bool {
    let name = filter.trim_start_matches("$queue/");
    topic.split('/').nth(1) == Some(name)
}

impl Entry {
    fn is_strict(&self) -> bool {
        !self.loose && self.copies < 2
    }

    /// Whether it is of this queue and nobody has been sent it.
    fn first_of(&self, filter: &str) -> bool {
        self.is_strict() && self.writes == 0 && is_of(&self.topic, filter)
    }

    /// Whether a lease of it may have run out.
    fn may_be_lent_anew(&self, now: u64) -> bool {
        self.topic.starts_with("$q/lease") && now >= self.at + LEASE_MS
    }

    fn loosen(&mut self) {
        (self.loose, self.must, self.holder) = (true, false, None);
    }
}

impl Model {
    /// A message is published.
    pub(super) fn enqueue(&mut self, number: u32) {
        self.touch();
        let Some(message) = self.messages.get(&number) else { return };
        if !is_queued(&message.topic) {
            return;
        }
        let must = message.qos > 0 && message.expiry_s.is_none();
        let rank = (u8::MAX - message.priority, self.order);
        let wait = match self.sessions.iter().any(consumes_by_priority) {
            true => None,
            false => Some(self.queues.waits),
        };
        self.queues.waits += u64::from(wait.is_none());
        let entry = self.queues.entries.entry((number, false)).or_default();
        entry.topic.clone_from(&message.topic);
        entry.copies += 1;
        (entry.at, entry.order, entry.acked) = (self.now, self.order, false);
        (entry.is_bound, entry.bound_to) = (false, None);
        entry.maybe_with.clear();
        entry.place = wait.filter(|_| entry.copies < 2).map(|wait| Place { wait, rank });
        entry.must = must && !entry.loose && !message.topic.starts_with("$q/brief");
        entry.loose |= message.qos == 0;
        if message.topic.starts_with("$q/last") && message.qos > 0 {
            // Whether a repetition is one, and what is then the last, nobody can see from outside.
            entry.must &= entry.copies < 2;
            let topic = message.topic.clone();
            let entries = self.queues.entries.iter_mut();
            let others = entries.filter(|(key, e)| key.0 != number && e.topic == topic);
            others.for_each(|(_, former)| former.must = false);
        }
    }

    /// What waits in the queue that goes by priority may have been on its way to somebody.
    pub(super) fn queue_mixed(&mut self, which: impl Fn(u64) -> bool) {
        for entry in self.queues.entries.values_mut().filter(|entry| which(entry.at)) {
            entry.place = None;
        }
    }

    /// Notes whether somebody may consume from the queue that rejects.
    pub(super) fn touch(&mut self) {
        let may = |span: &super::session::Span| span.filter == TIGHT;
        if self.sessions.iter().any(|s| s.conn.is_some() && s.spans.iter().any(may)) {
            self.queues.touched = self.order;
        }
    }

    /// The publisher was told that its message is safe.
    pub(super) fn queue_acked(&mut self, number: u32) {
        let Queues { entries, touched, .. } = &mut self.queues;
        let Some(entry) = entries.get_mut(&(number, false)) else { return };
        entry.acked = true;
        let waits = |entry: &&Entry| {
            entry.topic.starts_with("$q/tight")
                && entry.is_strict()
                && entry.must
                && entry.acked
                && entry.writes == 0
                && entry.order > *touched
        };
        let count = entries.values().filter(waits).count();
        if count > TIGHT_MAX {
            self.broken(format!("a queue for {TIGHT_MAX} messages has let in {count}"));
        }
    }

    /// The publisher was told that its message was not taken.
    pub(super) fn queue_refused(&mut self, due: &Due, surely: bool) {
        let Some(number) = due.number else { return };
        let Some(entry) = self.queues.entries.get_mut(&(number, false)) else { return };
        if surely && entry.is_strict() && !due.unsure && !due.repeated {
            self.queues.entries.remove(&(number, false));
        } else {
            entry.loosen();
        }
        if let Some(message) = self.messages.get_mut(&number) {
            message.crashes = u32::MAX;
        }
    }

    /// The broker sends a message of a queue.
    pub(super) fn deliver_queued(&mut self, conn: usize, publish: &Publish) {
        let Some(number) = number(&publish.payload) else { return };
        if let Err(why) = self.check_queued(conn, number, publish) {
            let client = self.conns.get(&conn).map_or("", |conn| CLIENTS[conn.client].0);
            self.broken(format!("{client}, connection {conn}: {publish:?}: {why}"));
        }
    }

    fn check_queued(&mut self, conn: usize, number: u32, publish: &Publish) -> Result<(), String> {
        let client = self.conns[&conn].client;
        let session = &mut self.sessions[client];
        if session.conn != Some(conn) {
            return Err("the Session is not this connection's".into());
        }
        if publish.qos > 0 {
            session.in_flight.remove(&publish.id);
        }
        let key = (number, publish.topic == DEAD);
        if key.1 {
            self.bury(number, publish)?;
        }
        let was_unsure = self.messages.get(&number).is_some_and(|m| m.unsure_from.is_some());
        let entry = self.queues.entries.get_mut(&key).ok_or("nobody has published it")?;
        if entry.topic != publish.topic {
            return Err(format!("it was published to {}", entry.topic));
        }
        entry.loose |= was_unsure;
        if entry.is_bound && !was_unsure {
            return Err("its Client's Session ended in a crash while it had it with QoS 2".into());
        }
        let is_anothers = entry.bound_to.is_some_and(|holder| holder != client);
        if is_anothers && entry.copies < 2 && !was_unsure {
            return Err("another Client was sent it with QoS 2".into());
        }
        if entry.is_strict() {
            entry.check(client, self.now, publish)?;
        }
        if let Some(Place { wait, rank }) = entry.place.filter(|_| entry.first_of(PRIO)) {
            let last = self.queues.came.entry((conn, wait)).or_default();
            if rank < *last {
                return Err("what is to come later came before it".into());
            }
            *last = rank;
        }
        let is_late = self.now > entry.at + (u64::from(BRIEF_S) + 1) * 1000 + LATE_MS;
        if entry.topic.starts_with("$q/brief") && entry.copies < 2 && entry.writes == 0 {
            let is_roomy = self.conns[&conn].is_roomy;
            if is_late && is_roomy && publish.count.is_none_or(|count| count == 1) && !publish.dup {
                return Err("it has waited for too long".into());
            }
        }
        if publish.qos == 2 {
            entry.bound_to = Some(client);
        }
        entry.writes += 1;
        entry.count = entry.count.max(publish.count.unwrap_or(0));
        entry.seen_by = Some(client);
        entry.holder = Some((client, conn, publish.qos));
        if publish.qos > 0 {
            self.queues.sent.insert((conn, publish.id), key);
        } else {
            entry.finished = Some(self.now);
        }
        Ok(())
    }

    /// A dead letter comes: may it?
    fn bury(&mut self, number: u32, publish: &Publish) -> Result<(), String> {
        let reason = publish.reason.as_deref();
        let is_v5 = publish.count.is_some() || reason.is_some();
        if is_v5 && !matches!(reason, Some("max-deliveries" | "session-ended")) {
            return Err(format!("a dead letter with the reason {reason:?}"));
        }
        let Some(from) = self.queues.entries.get(&(number, false)) else {
            return Err("a dead letter of what nobody published".into());
        };
        if !from.topic.starts_with("$q/work") {
            return Err(format!("a dead letter of what was published to {}", from.topic));
        }
        if from.is_strict() && from.finished.is_some() {
            return Err("a dead letter of what was acknowledged".into());
        }
        let (loose, topic) = (!from.is_strict(), DEAD.to_owned());
        let (at, copies) = (self.now, 1);
        let letter = Entry { topic, copies, at, loose, must: !loose, ..Entry::default() };
        self.queues.entries.entry((number, true)).or_insert(letter);
        Ok(())
    }

    /// PUBACK or PUBREC was read.
    pub(super) fn queue_answered(&mut self, conn: usize, id: u16, reason: u8) {
        let Some(key) = self.queues.sent.remove(&(conn, id)) else { return };
        let Some(entry) = self.queues.entries.get_mut(&key) else { return };
        entry.holder = None;
        // What is refused goes back to one queue; from the others it is dropped.
        if reason < 0x80 || !entry.topic.starts_with("$q/work") {
            entry.is_late |= entry.may_be_lent_anew(self.now);
            entry.finished = Some(self.now);
        } else {
            entry.bound_to = None;
        }
    }

    /// A PUBLISH has reached its Client, which takes it for a new one of QoS 2.
    pub(super) fn queue_got(&mut self, conn: usize, number: u32, id: u16) {
        let Some(key) = self.queues.sent.get(&(conn, id)).filter(|key| key.0 == number) else {
            return;
        };
        let Some(entry) = self.queues.entries.get_mut(key) else { return };
        if entry.is_strict() && entry.holder.is_some_and(|(.., qos)| qos == 2) {
            entry.taken += 1;
            if entry.taken > 1 {
                self.broken(format!("message {number} of QoS 2 was taken twice from a queue"));
            }
        }
    }

    /// A consumer's connection is over.
    pub(super) fn queue_parted(&mut self, conn: usize) {
        self.touch();
        let client = self.conns[&conn].client;
        if self.sessions[client].spans.iter().any(|span| span.filter == PRIO) {
            self.queue_mixed(|_| true);
        }
        self.queues.sent.retain(|(of, _), _| *of != conn);
        for entry in self.queues.entries.values_mut() {
            if entry.holder.is_some_and(|(_, of, qos)| of == conn && qos < 2) {
                entry.holder = None;
            }
        }
    }

    /// A Session may have ended, with what it had of QoS 2.
    pub(super) fn queue_session_ended(&mut self, client: usize) {
        let mut letters = vec![];
        for ((number, is_letter), entry) in &mut self.queues.entries {
            let had = entry.seen_by == Some(client) || entry.maybe_with.contains(&client);
            if entry.finished.is_none() && had {
                // A dead letter, or dropped where there is none; or it was its only by record.
                let must = entry.must && entry.topic.starts_with("$q/work");
                entry.loosen();
                entry.must = must;
                letters.extend(is_letter.then_some(*number));
            }
        }
        self.done_with(&letters);
    }

    /// Dead letters that may be done with: so is what they were made of.
    fn done_with(&mut self, letters: &[u32]) {
        for number in letters {
            if let Some(from) = self.queues.entries.get_mut(&(*number, false)) {
                from.must = false;
            }
        }
    }

    /// The broker was stopped in good order.
    pub(super) fn queue_restart(&mut self) {
        self.queues.sent.clear();
    }

    /// The power was cut.
    pub(super) fn queue_crash(&mut self) {
        let settled = self.settled();
        let stored: Vec<bool> = self.sessions.iter().map(|s| s.is_surely_stored()).collect();
        let ends_with: Vec<_> = self.sessions.iter().map(|s| s.surely_ends_with()).collect();
        self.queues.sent.clear();
        let consumers: Vec<Vec<String>> = self.sessions.iter().map(consumed).collect();
        let mut letters = vec![];
        for ((number, is_letter), entry) in &mut self.queues.entries {
            if !(entry.acked || settled(entry.at)) || entry.finished.is_some_and(|at| !settled(at))
            {
                entry.finished = None;
                entry.loosen();
                letters.extend(is_letter.then_some(*number));
            }
            let of_queue = |filters: &Vec<String>| filters.iter().any(|f| is_of(&entry.topic, f));
            let who = consumers.iter().enumerate().filter(|(_, filters)| of_queue(filters));
            let who: Vec<usize> = who.map(|(client, _)| client).collect();
            entry.maybe_with.extend(who);
            if entry.holder.is_some_and(|(of, conn, qos)| qos == 2 && ends_with[of] == Some(conn)) {
                entry.is_bound = true;
                entry.must &= entry.topic.starts_with("$q/work");
            }
            // Its Session is gone, and with it what it had.
            if entry.holder.is_some_and(|(of, _, qos)| qos == 2 && !stored[of]) {
                entry.must &= entry.topic.starts_with("$q/work");
            }
            entry.holder = entry.holder.filter(|(client, _, qos)| *qos == 2 && stored[*client]);
            if entry.holder.is_none() {
                entry.taken = 0;
            }
        }
        self.done_with(&letters);
    }

    /// What is left in queues that everybody consumes.
    pub(super) fn queue_verdict(&self) -> Result<(), String> {
        let is_done =
            |key: &Key| self.queues.entries.get(key).is_some_and(|entry| entry.finished.is_some());
        for ((number, letter), entry) in &self.queues.entries {
            if entry.must && !is_done(&(*number, *letter)) && !is_done(&(*number, true)) {
                return Err(format!("{} has lost message {number}: {entry:?}", entry.topic));
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Whether it may come so.
    fn check(&self, client: usize, now: u64, publish: &Publish) -> Result<(), String> {
        if self.finished.is_some() && !self.is_late {
            return Err("it was acknowledged before".into());
        }
        if self.may_be_lent_anew(now) {
            return Ok(());
        }
        if let Some((holder, ..)) = self.holder.filter(|(holder, ..)| *holder != client) {
            return Err(format!("{} has it", CLIENTS[holder].0));
        }
        if !CLIENTS[client].1 || publish.qos == 0 {
            return Ok(());
        }
        let count = publish.count.unwrap_or(0);
        if count == 0 {
            return Err("its delivery count is missing".into());
        }
        let is_again = self.seen_by == Some(client);
        if count < self.count || (count == self.count && !is_again) {
            return Err(format!("its delivery count was {} before", self.count));
        }
        if self.topic.starts_with("$q/work") && count > WORK_MAX {
            return Err("it was handed out too often".into());
        }
        if publish.qos == 1 && !is_again && publish.dup != (count > 1) {
            return Err("DUP does not fit the delivery count".into());
        }
        if count > 1 && !publish.dup {
            return Err("DUP is missing".into());
        }
        Ok(())
    }
}
