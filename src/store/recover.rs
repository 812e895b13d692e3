//! What the file says at the start: who there is, and what waits for whom.
//!
//! Acknowledgements are read first, then the messages: a receiver that has finished, or is no
//! more, is left out, and a message without receivers is not loaded.

use std::collections::BTreeMap;

use redb::{Database, ReadableDatabase, ReadableTable};
use rustc_hash::{FxHashMap, FxHashSet};

use super::ledger::Ledger;
use super::packer::Packed;
use super::row::{self, DamagedRow, Exchange};
use super::tables::{ACK, META, RETAINED, RX2, SEG, SESSIONS, SUBS, TX2, u32_of, u64_of};
use super::{Recovered, RecoveredSession, SessionId, Waiting};
use crate::message::Message;

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

/// A message that is still wanted by somebody.
type Bodies = FxHashMap<u64, Message>;

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
    let waiting = messages(&seg, &acks, &sessions, ledger)?;
    settle(&mut sessions, &sent, waiting, ledger);

    let meta = txn.open_table(META).map_err(table)?;
    let spent = |name| meta.get(name);
    let next_message = spent("message_ids")?.map_or(0, |value| u64_of(value.value())).max(1);
    let next_session = spent("session_ids")?.map_or(0, |value| u32_of(value.value())).max(1);
    ledger.restore_ids(next_message, next_session);
    let sessions = sessions.into_values().collect();
    Ok((Recovered { sessions, retained }, Ids { next_message, next_session }))
}

fn session(id: u32, record: &[u8]) -> RecoveredSession {
    RecoveredSession {
        id: SessionId(id),
        record: record.into(),
        subscriptions: Vec::new(),
        received: Vec::new(),
        sent: Vec::new(),
        queue: Vec::new(),
    }
}

/// Who waits for what, by receiver and in the order of the messages.
type WaitingBySession = FxHashMap<u32, BTreeMap<u64, Waiting>>;

fn messages(
    seg: &impl ReadableTable<u64, &'static [u8]>,
    acks: &impl ReadableTable<u64, &'static [u8]>,
    sessions: &BTreeMap<u32, RecoveredSession>,
    ledger: &mut Ledger,
) -> Result<WaitingBySession, RecoverError> {
    let mut finished: FxHashSet<(u64, u32)> = FxHashSet::default();
    for entry in acks.iter()? {
        finished.extend(row::acks(entry?.1.value())?.into_iter().map(|(m, s)| (m, s.0)));
    }
    let mut waiting = WaitingBySession::default();
    let mut row_of: FxHashMap<u64, u64> = FxHashMap::default();
    let mut bodies = Bodies::default();
    for entry in seg.iter()? {
        let (number, bytes) = entry?;
        let mut packed = Vec::new();
        for record in row::records(bytes.value())? {
            row_of.insert(record.id, number.value());
            let left: Vec<_> = record
                .targets
                .into_iter()
                .filter(|target| {
                    let session = target.session.0;
                    sessions.contains_key(&session) && !finished.contains(&(record.id, session))
                })
                .collect();
            if left.is_empty() {
                continue;
            }
            let message = Message::decode(record.id, record.body).ok_or(DamagedRow("seg"))?;
            let len = u32::try_from(record.len).unwrap_or(u32::MAX);
            packed.push(Packed {
                id: record.id,
                len,
                targets: left.iter().map(|target| target.session.0).collect(),
            });
            for target in left {
                let one = Waiting {
                    message: message.clone(),
                    queue: target.session,
                    flags: target.flags,
                    subscription_ids: target.subscription_ids,
                };
                waiting.entry(target.session.0).or_default().insert(record.id, one);
            }
            bodies.insert(record.id, message);
        }
        ledger.restore_row(number.value(), bytes.value().len(), packed);
    }
    for entry in acks.iter()? {
        let (number, bytes) = entry?;
        let rows = row::acks(bytes.value())?;
        let rows = rows.iter().filter_map(|(message, _)| row_of.get(message).copied()).collect();
        ledger.restore_ack(number.value(), &rows);
    }
    Ok(waiting)
}

/// Gives each Session what waits for it. What is bound to a Packet Identifier of a Session is
/// not in a queue any more: neither in its own nor in that of the share group it came from.
fn settle(
    sessions: &mut BTreeMap<u32, RecoveredSession>,
    sent: &FxHashMap<u32, Vec<Exchange>>,
    mut waiting: WaitingBySession,
    ledger: &mut Ledger,
) {
    for (id, exchanges) in sent {
        let Some(session) = sessions.get_mut(id) else { continue };
        for exchange in exchanges {
            let bound = waiting
                .get_mut(&exchange.queue.0)
                .and_then(|queue| queue.remove(&exchange.message));
            session.sent.push((exchange.packet_id, bound));
        }
    }
    for (id, session) in sessions {
        let exchanges = sent.get(id).map_or(&[][..], |exchanges| &exchanges[..]);
        ledger.restore_exchanges(*id, &session.received, exchanges);
        session.queue = waiting.remove(id).unwrap_or_default().into_values().collect();
    }
}
