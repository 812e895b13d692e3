//! What the file says at the start: who there is, and what waits for whom.
//!
//! Acknowledgements are read first, then the messages: a receiver that has finished, or is no
//! more, is left out. Messages stay in the file; only those that were on their way with QoS 2 are
//! read.

use std::collections::BTreeMap;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use rustc_hash::{FxHashMap, FxHashSet};

use super::ledger::Ledger;
use super::live::Sessions;
use super::packer::Packed;
use super::row::{self, DamagedRow, Exchange};
use super::tables::{ACK, LENT, META, RETAINED, RX2, SEG, SESSIONS, SUBS, TX2, u32_of, u64_of};
use super::{Recovered, RecoveredSession, SessionId, Target, Waiting};
use crate::message::Message;
use crate::queue::{Stored, earlier, seconds};

/// Why the file cannot be read through.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error("{0}")]
    Database(#[from] redb::Error),
    #[error("{0}")]
    Row(#[from] DamagedRow),
}

impl From<redb::StorageError> for RecoverError {
    fn from(error: redb::StorageError) -> Self {
        Self::Database(error.into())
    }
}

/// The first identities that are not spent.
pub(super) struct Ids {
    pub(super) next_message: u64,
    pub(super) next_session: u32,
}

pub(super) fn recover(
    database: &Database,
    ledger: &mut Ledger,
) -> Result<(Recovered, Ids), RecoverError> {
    let txn = database.begin_read().map_err(redb::Error::from)?;
    let table = |error: redb::TableError| RecoverError::Database(error.into());
    let mut sessions = BTreeMap::new();
    for entry in txn.open_table(SESSIONS).map_err(table)?.iter()? {
        let (id, record) = entry?;
        sessions.insert(id.value(), session(id.value(), record.value()));
    }
    for entry in txn.open_table(SUBS).map_err(table)?.iter()? {
        let (key, options) = entry?;
        let (id, filter) = key.value();
        if let Some(session) = sessions.get_mut(&id) {
            session.subscriptions.push((filter.into(), options.value().into()));
        }
    }
    let mut retained = Vec::new();
    for entry in txn.open_table(RETAINED).map_err(table)?.iter()? {
        retained.push(row::retained(entry?.1.value())?);
    }
    let mut sent: FxHashMap<u32, Vec<Exchange>> = FxHashMap::default();
    for entry in txn.open_table(TX2).map_err(table)?.iter()? {
        let (id, exchanges) = entry?;
        sent.insert(id.value(), row::sent(exchanges.value())?);
    }
    for entry in txn.open_table(RX2).map_err(table)?.iter()? {
        let (id, ids) = entry?;
        if let Some(session) = sessions.get_mut(&id.value()) {
            session.received = row::received(ids.value())?;
        }
    }
    let acks = txn.open_table(ACK).map_err(table)?;
    let seg = txn.open_table(SEG).map_err(table)?;
    let mut bound = Bound::new(&sent);
    messages(&seg, &acks, &mut sessions, &mut bound, ledger)?;
    settle(&mut sessions, &sent, &bound, ledger);
    lent(&txn, &mut sessions, ledger)?;

    let meta = txn.open_table(META).map_err(table)?;
    let spent = |name| meta.get(name);
    let next_message = spent("message_ids")?.map_or(0, |value| u64_of(value.value())).max(1);
    let next_session = spent("session_ids")?.map_or(0, |value| u32_of(value.value())).max(1);
    ledger.restore_ids(next_message, next_session);
    let sessions = sessions.into_values().collect();
    drop((acks, seg, meta));
    let file = Look(Some(txn));
    Ok((Recovered { sessions, retained, file }, Ids { next_message, next_session }))
}

/// The file as it was at the start, for who needs more of messages than where they are.
#[derive(Default)]
pub struct Look(Option<ReadTransaction>);

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Look")
    }
}

impl Look {
    /// Shows the messages that were stored for these receivers, also those that they have finished
    /// with. Fails when the file cannot be read.
    pub fn for_each_message(
        &self,
        receivers: &FxHashSet<SessionId>,
        mut show: impl FnMut(SessionId, &Message),
    ) -> Result<(), redb::Error> {
        let Some(txn) = self.0.as_ref().filter(|_| !receivers.is_empty()) else { return Ok(()) };
        for entry in txn.open_table(SEG)?.iter()? {
            for record in row::records(entry?.1.value()).map_while(Result::ok) {
                let of = |target: &Target| receivers.contains(&target.session);
                let wanted = record.targets().filter(of).map(|target| target.session);
                let wanted: Vec<_> = wanted.collect();
                if wanted.is_empty() {
                    continue;
                }
                if let Some(message) = Message::decode(record.id, record.body) {
                    wanted.into_iter().for_each(|session| show(session, &message));
                }
            }
        }
        Ok(())
    }
}

fn lent(
    txn: &ReadTransaction,
    sessions: &mut BTreeMap<u32, RecoveredSession>,
    ledger: &mut Ledger,
) -> Result<(), RecoverError> {
    let table = txn.open_table(LENT).map_err(|error| RecoverError::Database(error.into()))?;
    for entry in table.iter()? {
        let (key, lent) = entry?;
        let (id, _) = key.value();
        let mut session = sessions.get_mut(&id);
        for (message, lent) in row::lent(lent.value())? {
            // What is of no use any more is taken out of the file.
            if ledger.restore_lent(id, message, lent)
                && let Some(session) = &mut session
            {
                session.lent.push((message, lent));
            }
        }
    }
    Ok(())
}

fn session(id: u32, record: &[u8]) -> RecoveredSession {
    RecoveredSession {
        id: SessionId(id),
        record: record.into(),
        subscriptions: Vec::new(),
        received: Vec::new(),
        sent: Vec::new(),
        queue: Vec::new(),
        lent: Vec::new(),
    }
}

/// Messages that are bound to a Packet Identifier.
struct Bound {
    /// By their identity and the queue they were in.
    messages: FxHashMap<(u64, u32), Option<Message>>,
    /// The last that each Session has taken from its own queue: what is older was taken before.
    last: FxHashMap<u32, u64>,
}

impl Bound {
    fn new(sent: &FxHashMap<u32, Vec<Exchange>>) -> Self {
        let exchanges = sent.values().flatten();
        let messages =
            exchanges.map(|exchange| ((exchange.message, exchange.queue.0), None)).collect();
        let last = sent.iter().filter_map(|(&session, exchanges)| {
            let own = exchanges.iter().filter(|exchange| exchange.queue.0 == session);
            Some((session, own.map(|exchange| exchange.message).max()?))
        });
        Self { messages, last: last.collect() }
    }

    /// Whether a Session had taken a message that is not bound.
    fn is_passed(&self, message: u64, session: u32) -> bool {
        self.last.get(&session).is_some_and(|&last| message < last)
    }

    /// The place for a message that is bound.
    fn place(&mut self, message: u64, queue: u32) -> Option<&mut Option<Message>> {
        self.messages.get_mut(&(message, queue))
    }

    /// What an exchange still has to send.
    fn waiting(&self, exchange: &Exchange) -> Option<Waiting> {
        let Exchange { message, queue, flags, ref subscription_ids, .. } = *exchange;
        let message = self.messages.get(&(message, queue.0))?.clone()?;
        Some(Waiting { message, queue, flags, subscription_ids: subscription_ids.clone() })
    }
}

fn messages(
    seg: &impl ReadableTable<u64, &'static [u8]>,
    acks: &impl ReadableTable<u64, &'static [u8]>,
    sessions: &mut BTreeMap<u32, RecoveredSession>,
    bound: &mut Bound,
    ledger: &mut Ledger,
) -> Result<(), RecoverError> {
    let mut finished: FxHashSet<(u64, u32)> = FxHashSet::default();
    // The rows of messages that somebody has finished with.
    let mut row_of: FxHashMap<u64, Option<u64>> = FxHashMap::default();
    for entry in acks.iter()? {
        for (message, session) in row::acks(entry?.1.value())? {
            finished.insert((message, session.0));
            row_of.insert(message, None);
        }
    }
    for entry in seg.iter()? {
        let (number, bytes) = entry?;
        let (mut packed, mut live_bytes) = (Vec::new(), 0);
        for record in row::records(bytes.value()) {
            let record = record?;
            if let Some(row) = row_of.get_mut(&record.id) {
                *row = Some(number.value());
            }
            let is_finished = |session| finished.contains(&(record.id, session));
            let left = enter(&record, is_finished, sessions, bound)?;
            if !left.is_empty() {
                packed.push(Packed { id: record.id, sessions: left });
                live_bytes += record.len;
            }
        }
        ledger.restore_row(number.value(), bytes.value().len(), live_bytes, packed);
    }
    for entry in acks.iter()? {
        let (number, bytes) = entry?;
        let mentioned = row::acks(bytes.value())?;
        let row = |message: &u64| row_of.get(message).copied().flatten();
        let rows = mentioned.iter().filter_map(|(message, _)| row(message)).collect();
        ledger.restore_ack(number.value(), &rows);
    }
    Ok(())
}

/// Enters a message where it waits, or where it is bound; who has yet to finish with it.
fn enter(
    record: &row::Record<'_>,
    is_finished: impl Fn(u32) -> bool,
    sessions: &mut BTreeMap<u32, RecoveredSession>,
    bound: &mut Bound,
) -> Result<Sessions, DamagedRow> {
    let mut left = Sessions::new();
    for target in record.targets() {
        let id = target.session.0;
        let Some(session) = sessions.get_mut(&id).filter(|_| !is_finished(id)) else { continue };
        left.push(id);
        let decode = || Message::decode(record.id, record.body).ok_or(DamagedRow("seg"));
        if let Some(place) = bound.place(record.id, id) {
            *place = Some(decode()?);
            continue;
        }
        if bound.is_passed(record.id, id) {
            let Target { session: queue, flags, subscription_ids, .. } = target;
            let waiting = Waiting { message: decode()?, queue, flags, subscription_ids };
            session.sent.push((None, Some(waiting)));
            continue;
        }
        let (weight, expires_at) = Message::weigh_encoded(record.body).ok_or(DamagedRow("seg"))?;
        let expires_s = earlier(seconds(expires_at), target.expires_s);
        session.queue.push(Stored::new(record.id, weight, expires_s, target.flags));
    }
    Ok(left)
}

/// Gives each Session its exchanges, with what it had taken between them, and puts what waits for
/// it in order. What is bound to a Packet Identifier of a Session is not in a queue any more:
/// neither in its own nor in that of the share group it came from.
fn settle(
    sessions: &mut BTreeMap<u32, RecoveredSession>,
    sent: &FxHashMap<u32, Vec<Exchange>>,
    bound: &Bound,
    ledger: &mut Ledger,
) {
    for (id, session) in sessions {
        let exchanges = sent.get(id).map_or(&[][..], |exchanges| &exchanges[..]);
        let mut passed = std::mem::take(&mut session.sent);
        passed.sort_by_key(|(_, waiting)| waiting.as_ref().map(|waiting| waiting.message.id()));
        let mut passed = passed.into_iter().peekable();
        // Exchanges stand in the order of sending, which need not be that of identities: a message
        // between them goes behind the last that is older.
        let own = |exchange: &Exchange| if exchange.queue.0 == *id { exchange.message } else { 0 };
        let mut older: Vec<u64> = exchanges.iter().rev().map(own).collect();
        let mut oldest = u64::MAX;
        for message in &mut older {
            if *message != 0 {
                oldest = oldest.min(*message);
            }
            *message = oldest;
        }
        for (exchange, oldest) in exchanges.iter().zip(older.into_iter().rev()) {
            let is_before = |(_, passed): &(_, Option<Waiting>)| {
                passed.as_ref().is_some_and(|passed| passed.message.id() < oldest)
            };
            while let Some(before) = passed.next_if(is_before) {
                session.sent.push(before);
            }
            session.sent.push((Some(exchange.packet_id), bound.waiting(exchange)));
        }
        session.sent.extend(passed);
        ledger.restore_exchanges(*id, &session.received, exchanges);
        // Rows that were written together hold older messages too, moved there.
        session.queue.sort_unstable_by_key(|stored| stored.id);
        session.queue.shrink_to_fit();
    }
}
