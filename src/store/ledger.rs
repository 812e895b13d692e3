//! What is alive in the file, and what the next commit will change.
//!
//! Changes are noted as they come in ([`Ledger::note`]) and written together
//! ([`Ledger::write`]). Between the two a message may be finished by all its receivers: then it
//! was never there.
//!
//! Invariants:
//! 1. Every message in the file with a receiver left is in `live`, and every live message's row is
//!    in `rows`.
//! 2. `Row::live` counts the live messages of a row; a row with none is removed by the next write.
//! 3. An acknowledgement of a message that is in a row which stays is in an `ack` row as long as
//!    that row stays. Without it, a crash would bring the message back for a receiver that has
//!    finished with it.

use std::collections::BTreeMap;

use redb::{ReadableTable, WriteTransaction};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::packer::{Packed, Packer, ROW_BYTES, Sessions};
use super::row::{self, Exchange};
use super::tables::{ACK, META, RETAINED, RX2, SEG, SESSIONS, SUBS, TX2};
use super::{Change, SessionId, Targets};
use crate::message::Message;

/// Rows are repacked only when the file has this much to gain.
const REPACK_FLOOR_BYTES: u64 = 32 << 20;

/// Rows looked at for repacking in one commit.
const REPACK_LOOKS: usize = 64;

/// Rows this young are left alone: their receivers may just not have answered yet.
const REPACK_AGE_ROWS: u64 = 20;

/// Identities of messages are spent in blocks of this many.
const MESSAGE_ID_BLOCK: u64 = 1 << 20;

/// Identities of Sessions are spent in blocks of this many.
const SESSION_ID_BLOCK: u32 = 1 << 10;

/// A message in the file.
#[derive(Debug)]
struct Live {
    row: u64,
    /// Bytes of its record.
    len: u32,
    targets: Sessions,
}

/// A row of the file.
#[derive(Debug, Default)]
struct Row {
    live: u32,
    live_bytes: u64,
    bytes: u64,
    /// The `ack` rows that mention it.
    acks: SmallVec<[u64; 2]>,
}

/// A message on its way into the file.
#[derive(Debug)]
struct Fresh {
    message: Message,
    targets: Targets,
    /// The submission it came with.
    submission: u64,
}

/// The accounts.
#[derive(Debug, Default)]
pub struct Ledger {
    live: FxHashMap<u64, Live>,
    rows: BTreeMap<u64, Row>,
    /// For each `ack` row, how many `seg` rows it mentions.
    acks: FxHashMap<u64, u32>,
    received: FxHashMap<u32, FxHashSet<u16>>,
    sent: FxHashMap<u32, Vec<Exchange>>,
    next_row: u64,
    next_ack: u64,
    message_ids_spent: u64,
    session_ids_spent: u32,
    bytes: u64,
    live_bytes: u64,
    /// Rows that repacking has emptied.
    emptied: Vec<u64>,
    pending: Pending,
}

fn write_retained(txn: &WriteTransaction, pending: &Pending) -> Result<(), redb::Error> {
    if pending.retained.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(RETAINED)?;
    for (topic, kept) in &pending.retained {
        match kept {
            Some((message, publisher)) => {
                table.insert(&**topic, &row::put_retained(message, *publisher)[..])?;
            }
            None => drop(table.remove(&**topic)?),
        }
    }
    Ok(())
}

/// What will be written in a row's place; nothing: the row goes.
type Written = Option<Box<[u8]>>;

/// What the next commit will change.
#[derive(Debug, Default)]
struct Pending {
    fresh: BTreeMap<u64, Fresh>,
    acked: Vec<(u64, SessionId, u64)>,
    dead_rows: FxHashSet<u64>,
    sessions: FxHashMap<u32, Written>,
    subs: FxHashMap<(u32, Box<str>), Written>,
    retained: FxHashMap<Box<str>, Option<(Message, u64)>>,
    received: FxHashSet<u32>,
    sent: FxHashSet<u32>,
    bytes: usize,
    /// Whether somebody waits for something other than a message that may yet be elided.
    urgent: bool,
}

/// What noting a change did to the submission it came with and to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// The submission waits for the commit.
    Urgent,
    /// The submission waits for the commit, or for this message to be finished.
    Held,
    /// Nobody waits for it.
    Lazy,
    /// A message of that submission needs no writing any more.
    Elided(u64),
}

impl Ledger {
    /// Notes a change that came with a submission.
    pub fn note(&mut self, change: Change, submission: u64) -> Noted {
        match change {
            Change::Message { message, targets } => {
                if targets.is_empty() {
                    return Noted::Lazy;
                }
                let may_be_elided = targets.iter().all(|target| target.online);
                self.pending.bytes += message.weight();
                self.pending.urgent |= !may_be_elided;
                let fresh = Fresh { message, targets, submission };
                self.pending.fresh.insert(fresh.message.id(), fresh);
                return if may_be_elided { Noted::Held } else { Noted::Urgent };
            }
            Change::Finished { message, session } => return self.finish(message, session),
            Change::Completed { session, packet_id } => {
                // What ended before PUBREC leaves its queue with the exchange, also when nobody
                // else remembers that queue: its share group may be gone.
                let unfinished = self.exchange(session, packet_id, |exchanges, at| {
                    let exchange = exchanges.remove(at);
                    (exchange.message != 0).then_some((exchange.message, exchange.queue))
                });
                return match unfinished.flatten() {
                    Some((message, queue)) => self.finish(message, queue),
                    None => Noted::Lazy,
                };
            }
            Change::SessionPut { session, record } => {
                self.pending.sessions.insert(session.0, Some(record));
            }
            Change::SessionEnded { session } => self.end(session),
            Change::Subscribed { session, filter, options } => {
                self.pending.subs.insert((session.0, filter), Some(options));
            }
            Change::Unsubscribed { session, filter } => {
                self.pending.subs.insert((session.0, filter), None);
            }
            Change::Retained { topic, kept } => {
                let weight = kept.as_ref().map_or(0, |(message, _)| message.weight());
                self.pending.bytes += weight;
                self.pending.retained.insert(topic, kept);
            }
            Change::Received { session, packet_id } => {
                self.received.entry(session.0).or_default().insert(packet_id);
                self.pending.received.insert(session.0);
            }
            Change::Released { session, packet_id } => {
                if let Some(ids) = self.received.get_mut(&session.0) {
                    ids.remove(&packet_id);
                }
                self.pending.received.insert(session.0);
            }
            Change::Sent { session, packet_id, message, queue } => {
                let exchange = Exchange { packet_id, message, queue };
                self.sent.entry(session.0).or_default().push(exchange);
                self.pending.sent.insert(session.0);
            }
            Change::Relayed { session, packet_id } => self.relay(session, packet_id),
        }
        self.pending.urgent = true;
        Noted::Urgent
    }

    /// The Client has a QoS 2 message: its queue is done with it, the exchange is not.
    fn relay(&mut self, session: SessionId, packet_id: u16) {
        let done = self.exchange(session, packet_id, |exchanges, at| {
            let exchange = exchanges.get_mut(at)?;
            Some((std::mem::take(&mut exchange.message), exchange.queue))
        });
        if let Some((message, queue)) = done.flatten() {
            // The submission of the message may be elided now; its answer then leaves with this
            // commit, which is under way anyhow.
            self.finish(message, queue);
        }
    }

    fn exchange<T>(
        &mut self,
        session: SessionId,
        packet_id: u16,
        change: impl FnOnce(&mut Vec<Exchange>, usize) -> T,
    ) -> Option<T> {
        let exchanges = self.sent.get_mut(&session.0)?;
        let at = exchanges.iter().position(|e| e.packet_id == packet_id)?;
        self.pending.sent.insert(session.0);
        Some(change(exchanges, at))
    }

    fn finish(&mut self, message: u64, session: SessionId) -> Noted {
        if let Some(fresh) = self.pending.fresh.get_mut(&message) {
            fresh.targets.retain(|target| target.session != session);
            if !fresh.targets.is_empty() {
                return Noted::Lazy;
            }
            let weight = fresh.message.weight();
            let submission = fresh.submission;
            self.pending.fresh.remove(&message);
            self.pending.bytes = self.pending.bytes.saturating_sub(weight);
            return Noted::Elided(submission);
        }
        let Some(live) = self.live.get_mut(&message) else { return Noted::Lazy };
        let before = live.targets.len();
        live.targets.retain(|target| *target != session.0);
        if live.targets.len() == before {
            return Noted::Lazy;
        }
        let row = live.row;
        self.pending.acked.push((message, session, row));
        if live.targets.is_empty() {
            let len = u64::from(live.len);
            self.live.remove(&message);
            self.live_bytes = self.live_bytes.saturating_sub(len);
            if let Some(account) = self.rows.get_mut(&row) {
                account.live = account.live.saturating_sub(1);
                account.live_bytes = account.live_bytes.saturating_sub(len);
                if account.live == 0 {
                    self.pending.dead_rows.insert(row);
                }
            }
        }
        Noted::Lazy
    }

    fn end(&mut self, session: SessionId) {
        self.pending.sessions.insert(session.0, None);
        if self.received.remove(&session.0).is_some() {
            self.pending.received.insert(session.0);
        }
        if self.sent.remove(&session.0).is_some() {
            self.pending.sent.insert(session.0);
        }
    }

    /// Whether a commit would write anything.
    pub fn is_dirty(&self) -> bool {
        let pending = &self.pending;
        pending.urgent
            || !pending.fresh.is_empty()
            || !pending.acked.is_empty()
            || !pending.sent.is_empty()
    }

    /// Whether somebody waits for something other than messages that may yet be elided.
    pub fn is_urgent(&self) -> bool {
        self.pending.urgent
    }

    /// Messages that will be written.
    pub fn fresh(&self) -> usize {
        self.pending.fresh.len()
    }

    /// Bytes that will be written, roughly.
    pub fn pending_bytes(&self) -> usize {
        self.pending.bytes
    }

    /// Bytes of the messages in the file that have a receiver left.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Writes all that was noted.
    pub fn write(&mut self, txn: &WriteTransaction) -> Result<(), redb::Error> {
        let pending = std::mem::take(&mut self.pending);
        self.write_ids(txn, &pending)?;
        self.write_sessions(txn, &pending)?;
        self.write_exchanges(txn, &pending)?;
        write_retained(txn, &pending)?;
        self.write_messages(txn, pending)
    }

    fn write_ids(&mut self, txn: &WriteTransaction, pending: &Pending) -> Result<(), redb::Error> {
        if let Some((&last, _)) = pending.fresh.last_key_value()
            && last >= self.message_ids_spent
        {
            self.message_ids_spent = last.saturating_add(MESSAGE_ID_BLOCK);
            let spent = self.message_ids_spent.to_le_bytes();
            txn.open_table(META)?.insert("message_ids", &spent[..])?;
        }
        if let Some(&last) = pending.sessions.keys().max()
            && last >= self.session_ids_spent
        {
            self.session_ids_spent = last.saturating_add(SESSION_ID_BLOCK);
            let spent = self.session_ids_spent.to_le_bytes();
            txn.open_table(META)?.insert("session_ids", &spent[..])?;
        }
        Ok(())
    }

    fn write_sessions(&self, txn: &WriteTransaction, pending: &Pending) -> Result<(), redb::Error> {
        if !pending.subs.is_empty() || pending.sessions.values().any(Option::is_none) {
            let mut table = txn.open_table(SUBS)?;
            for ((session, filter), options) in &pending.subs {
                match options {
                    Some(options) => drop(table.insert((*session, &**filter), &**options)?),
                    None => drop(table.remove((*session, &**filter))?),
                }
            }
            for (&session, _) in pending.sessions.iter().filter(|(_, record)| record.is_none()) {
                table.retain_in((session, "")..(session.saturating_add(1), ""), |_, _| false)?;
            }
        }
        if !pending.sessions.is_empty() {
            let mut table = txn.open_table(SESSIONS)?;
            for (session, record) in &pending.sessions {
                match record {
                    Some(record) => drop(table.insert(session, &**record)?),
                    None => drop(table.remove(session)?),
                }
            }
        }
        Ok(())
    }

    fn write_exchanges(
        &mut self,
        txn: &WriteTransaction,
        pending: &Pending,
    ) -> Result<(), redb::Error> {
        if !pending.received.is_empty() {
            let mut table = txn.open_table(RX2)?;
            for session in &pending.received {
                match self.received.get(session).filter(|ids| !ids.is_empty()) {
                    Some(ids) => {
                        let packed = row::put_received(ids.iter().copied());
                        table.insert(session, &packed[..])?;
                    }
                    None => {
                        self.received.remove(session);
                        table.remove(session)?;
                    }
                }
            }
        }
        if !pending.sent.is_empty() {
            let mut table = txn.open_table(TX2)?;
            for session in &pending.sent {
                match self.sent.get(session).filter(|exchanges| !exchanges.is_empty()) {
                    Some(exchanges) => {
                        table.insert(session, &row::put_sent(exchanges.iter())[..])?;
                    }
                    None => {
                        self.sent.remove(session);
                        table.remove(session)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_messages(
        &mut self,
        txn: &WriteTransaction,
        pending: Pending,
    ) -> Result<(), redb::Error> {
        if pending.fresh.is_empty() && pending.acked.is_empty() {
            return Ok(());
        }
        let mut seg = txn.open_table(SEG)?;
        let mut ack = txn.open_table(ACK)?;
        let mut packer = Packer::default();
        for (id, fresh) in pending.fresh {
            let sessions = fresh.targets.iter().map(|target| target.session.0).collect();
            packer.add(id, &fresh.targets, sessions, |out| fresh.message.encode(out));
        }
        self.repack(&seg, &mut packer, &pending.dead_rows)?;
        for (bytes, packed) in packer.finish() {
            let row = self.next_row;
            self.next_row += 1;
            seg.insert(row, &bytes[..])?;
            self.enter(row, bytes.len(), packed);
        }
        let mut dead_rows = pending.dead_rows;
        dead_rows.extend(self.emptied.drain(..));
        for row in dead_rows {
            seg.remove(row)?;
            self.forget_row(row, |dead_ack| ack.remove(dead_ack).map(drop))?;
        }
        self.write_acks(&pending.acked, |number, packed| ack.insert(number, packed).map(drop))?;
        Ok(())
    }

    /// Enters a row that was written, and moves messages there that were in another.
    fn enter(&mut self, row: u64, bytes: usize, packed: Vec<Packed>) {
        let mut account = Row { bytes: bytes as u64, ..Row::default() };
        for Packed { id, len, targets } in packed {
            account.live += 1;
            account.live_bytes += u64::from(len);
            self.live_bytes += u64::from(len);
            if let Some(moved) = self.live.insert(id, Live { row, len, targets }) {
                self.live_bytes = self.live_bytes.saturating_sub(u64::from(moved.len));
                if let Some(old) = self.rows.get_mut(&moved.row) {
                    old.live = old.live.saturating_sub(1);
                    old.live_bytes = old.live_bytes.saturating_sub(u64::from(moved.len));
                    if old.live == 0 {
                        self.emptied.push(moved.row);
                    }
                }
            }
        }
        self.bytes += account.bytes;
        self.rows.insert(row, account);
    }

    fn forget_row(
        &mut self,
        row: u64,
        mut remove_ack: impl FnMut(u64) -> Result<(), redb::StorageError>,
    ) -> Result<(), redb::Error> {
        let Some(account) = self.rows.remove(&row) else { return Ok(()) };
        self.bytes = self.bytes.saturating_sub(account.bytes);
        for number in account.acks {
            let Some(mentions) = self.acks.get_mut(&number) else { continue };
            *mentions = mentions.saturating_sub(1);
            if *mentions == 0 {
                self.acks.remove(&number);
                remove_ack(number)?;
            }
        }
        Ok(())
    }

    fn write_acks(
        &mut self,
        acked: &[(u64, SessionId, u64)],
        insert: impl FnOnce(u64, &[u8]) -> Result<(), redb::StorageError>,
    ) -> Result<(), redb::Error> {
        let number = self.next_ack;
        let (mut packed, mut mentions) = (Vec::new(), 0);
        for &(message, session, row) in acked {
            let Some(account) = self.rows.get_mut(&row) else { continue };
            row::put_ack(&mut packed, message, session);
            if account.acks.last() != Some(&number) {
                account.acks.push(number);
                mentions += 1;
            }
        }
        if mentions > 0 {
            self.next_ack += 1;
            self.acks.insert(number, mentions);
            insert(number, &packed)?;
        }
        Ok(())
    }

    /// Copies what lives of old, mostly dead rows into this commit's, so that a slow receiver's
    /// messages are copied once and then lie dense.
    fn repack(
        &self,
        seg: &impl ReadableTable<u64, &'static [u8]>,
        packer: &mut Packer,
        dead: &FxHashSet<u64>,
    ) -> Result<(), redb::Error> {
        if self.bytes <= REPACK_FLOOR_BYTES.max(self.live_bytes + self.live_bytes / 2) {
            return Ok(());
        }
        let mut budget = packer.len() + ROW_BYTES;
        for (&row, account) in self.rows.iter().take(REPACK_LOOKS) {
            let is_sparse = account.live_bytes * 4 < account.bytes;
            let is_old = row + REPACK_AGE_ROWS < self.next_row;
            if !is_sparse || !is_old || dead.contains(&row) {
                continue;
            }
            let Some(bytes) = seg.get(row)? else { continue };
            let Ok(records) = row::records(bytes.value()) else { continue };
            for record in records {
                let Some(live) = self.live.get(&record.id).filter(|live| live.row == row) else {
                    continue;
                };
                let mut targets = record.targets;
                targets.retain(|target| live.targets.contains(&target.session.0));
                let body = record.body;
                packer.add(record.id, &targets, live.targets.clone(), |out| {
                    out.extend_from_slice(body);
                });
                budget = budget.saturating_sub(record.len);
            }
            if budget == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// What recovery enters.
impl Ledger {
    /// Identities below these are spent.
    pub(super) fn restore_ids(&mut self, messages: u64, sessions: u32) {
        self.message_ids_spent = messages;
        self.session_ids_spent = sessions;
    }

    /// A row that was found with these messages living in it.
    pub(super) fn restore_row(&mut self, row: u64, bytes: usize, packed: Vec<Packed>) {
        self.next_row = self.next_row.max(row + 1);
        if packed.is_empty() {
            self.pending.dead_rows.insert(row);
        }
        self.enter(row, bytes, packed);
    }

    /// An `ack` row that was found and mentions these rows; it goes with the last of them.
    pub(super) fn restore_ack(&mut self, number: u64, rows: &FxHashSet<u64>) {
        self.next_ack = self.next_ack.max(number + 1);
        let mut mentions = 0;
        for row in rows {
            if let Some(account) = self.rows.get_mut(row) {
                account.acks.push(number);
                mentions += 1;
            }
        }
        self.acks.insert(number, mentions);
    }

    /// QoS 2 exchanges that were found.
    pub(super) fn restore_exchanges(&mut self, id: u32, received: &[u16], sent: &[Exchange]) {
        if !received.is_empty() {
            self.received.insert(id, received.iter().copied().collect());
        }
        if !sent.is_empty() {
            self.sent.insert(id, sent.to_vec());
        }
    }
}
