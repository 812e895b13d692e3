//! A store of an earlier format is brought to this one when it is opened: in one transaction, so
//! that a crash leaves it as it was or as it shall be.
//!
//! What the formats added:
//! * 2: an exchange (`tx2`) says how its message is sent. For one of a share group that is not how
//!   the group has it.

use std::path::Path;

use redb::{Database, ReadableTable, WriteTransaction};
use rustc_hash::FxHashMap;

use super::Target;
use super::error::OpenError;
use super::recover::RecoverError;
use super::row;
use super::tables::{self, FORMAT, SEG, TX2};

/// Brings a store of format `found`, which is lower than ours, to ours.
pub(super) fn migrate(database: &Database, found: u32, path: &Path) -> Result<(), OpenError> {
    rewrite(database, found).map_err(|error| match error {
        RecoverError::Database(error) => OpenError::of_error(path, &error),
        RecoverError::Row(error) => OpenError::damaged(path, error),
    })?;
    tracing::info!("{}: store format {found} was brought to {FORMAT}", path.display());
    Ok(())
}

fn rewrite(database: &Database, found: u32) -> Result<(), RecoverError> {
    let write = database.begin_write().map_err(redb::Error::from)?;
    tables::make(&write)?;
    if found < 2 {
        complete_exchanges(&write)?;
    }
    write.commit().map_err(redb::Error::from)?;
    Ok(())
}

/// Format 1 kept identity and queue of an exchange alone: what is missing is taken from the queue.
fn complete_exchanges(write: &WriteTransaction) -> Result<(), RecoverError> {
    let mut table = write.open_table(TX2).map_err(redb::Error::from)?;
    let mut rows = Vec::new();
    for entry in table.iter()? {
        let (session, exchanges) = entry?;
        rows.push((session.value(), row::sent_1(exchanges.value())?));
    }
    let exchanges = rows.iter().flat_map(|(_, exchanges)| exchanges);
    let mut targets: FxHashMap<(u64, u32), Option<Target>> =
        exchanges.map(|exchange| ((exchange.message, exchange.queue.0), None)).collect();
    if !targets.is_empty() {
        find(write, &mut targets)?;
    }
    for (session, mut exchanges) in rows {
        for exchange in &mut exchanges {
            let target = targets.get(&(exchange.message, exchange.queue.0));
            if let Some(target) = target.and_then(Option::as_ref) {
                exchange.flags = target.flags;
                exchange.subscription_ids.clone_from(&target.subscription_ids);
            }
        }
        table.insert(session, &row::put_sent(exchanges.iter())[..])?;
    }
    Ok(())
}

/// Finds these targets, by message and queue, among the messages.
fn find(
    write: &WriteTransaction,
    targets: &mut FxHashMap<(u64, u32), Option<Target>>,
) -> Result<(), RecoverError> {
    for entry in write.open_table(SEG).map_err(redb::Error::from)?.iter()? {
        for record in row::records(entry?.1.value()) {
            let record = record?;
            for target in record.targets() {
                if let Some(place) = targets.get_mut(&(record.id, target.session.0)) {
                    *place = Some(target);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::SubscriptionIds;
    use crate::store::SessionId;
    use crate::store::row::Exchange;
    use redb::{ReadableDatabase, backends::InMemoryBackend};

    fn target(session: u32, flags: u8) -> Target {
        let subscription_ids: SubscriptionIds =
            Some(triomphe::ThinArc::from_header_and_slice((), &[3, 4]));
        let session = SessionId(session);
        Target { session, flags, online: false, expires_s: 0, subscription_ids }
    }

    /// A store of format 1: message 9 is on its way to Session 5 from the queue of 7, and 8 has
    /// arrived.
    fn format_1() -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(tables::META).unwrap().insert("format", &[1, 0, 0, 0][..]).unwrap();
        let mut seg = Vec::new();
        row::put_record(&mut seg, 9, [target(6, 1), target(7, 6)].iter(), |out| out.push(1));
        write.open_table(SEG).unwrap().insert(1, &seg[..]).unwrap();
        let mut sent = Vec::new();
        for (packet_id, message) in [(1_u16, 9_u64), (2, 0)] {
            sent.extend_from_slice(&packet_id.to_le_bytes());
            sent.extend_from_slice(&message.to_le_bytes());
            sent.extend_from_slice(&7_u32.to_le_bytes());
        }
        write.open_table(TX2).unwrap().insert(5, &sent[..]).unwrap();
        write.commit().unwrap();
        database
    }

    #[test]
    fn exchanges_of_format_1_are_completed_from_their_queues() {
        let database = format_1();
        migrate(&database, 1, Path::new("x")).unwrap();
        let read = database.begin_read().unwrap();
        let meta = read.open_table(tables::META).unwrap();
        assert_eq!(tables::u32_of(meta.get("format").unwrap().unwrap().value()), FORMAT);
        let table = read.open_table(TX2).unwrap();
        let exchanges = row::sent(table.get(5).unwrap().unwrap().value()).unwrap();
        let Target { flags, subscription_ids, .. } = target(7, 6);
        let (message, queue) = (9, SessionId(7));
        let first = Exchange { packet_id: 1, message, queue, flags, subscription_ids };
        let (message, flags, subscription_ids) = (0, 0, None);
        let second = Exchange { packet_id: 2, message, queue, flags, subscription_ids };
        assert_eq!(exchanges, [first, second]);
        // Tables that were not there yet are made.
        read.open_table(tables::RX2).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_left_as_it_is() {
        let database = format_1();
        let write = database.begin_write().unwrap();
        write.open_table(TX2).unwrap().insert(6, &[1, 2, 3][..]).unwrap();
        write.commit().unwrap();
        let refused = migrate(&database, 1, Path::new("x"));
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{refused:?}");
        let read = database.begin_read().unwrap();
        let meta = read.open_table(tables::META).unwrap();
        assert_eq!(tables::u32_of(meta.get("format").unwrap().unwrap().value()), 1);
    }
}
