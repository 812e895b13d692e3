//! What an operator may do with a store, from one read transaction: look at it, check it, copy it.
//!
//! The transaction sees the store as it was at one commit, so all of this is consistent also while
//! the broker writes on.

use std::fmt;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, Value,
};
use rustc_hash::{FxHashMap, FxHashSet};
use thiserror::Error;

use super::disk::{FILE, PRIVATE};
use super::row;
use super::tables::{self, ACK, LENT, META, RETAINED, RX2, SEG, SESSIONS, SUBS, TX2};
use super::{OpenError, Options, disk};
use crate::message::Message;

/// Rows that are copied in one transaction.
const COPIED_AT_ONCE: usize = 10_000;

/// Problems that are named; more are counted.
const NAMED_MAX: usize = 20;

/// Why a tool could not do its work.
#[derive(Debug, Error)]
pub enum ToolError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be read, or the copy not written.
    #[error("{0}")]
    Database(#[from] redb::Error),
    /// There is something where the copy should go.
    #[error(
        "{path} is there already; a backup overwrites nothing, nor what an earlier one has left \
         unfinished", path = .0.display()
    )]
    Exists(PathBuf),
    /// The copy cannot be put in its place.
    #[error("cannot write {path}: {error}", path = .path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// There is no store.
    #[error("there is no store in {path}", path = .0.display())]
    Missing(PathBuf),
    /// The broker keeps everything in memory.
    #[error("the broker has no store: its durability is \"memory\"")]
    InMemory,
    /// The broker cannot read its store now.
    #[error("the store cannot be read now; the broker's log says why")]
    Unreadable,
    /// Something is wrong with the store.
    #[error("{0}")]
    Unsound(Problems),
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// What is in the store.
    Stats,
    /// Whether it adds up.
    Check,
    /// A copy in this file.
    Backup(PathBuf),
}

impl Request {
    /// Does it on the store as one transaction sees it; what to tell the operator.
    pub(super) fn carry_out(
        &self,
        txn: &ReadTransaction,
        options: &Options,
    ) -> Result<String, ToolError> {
        match self {
            Self::Stats => Ok(check(txn)?.0.to_string()),
            Self::Check => verdict(check(txn)?),
            Self::Backup(path) => {
                let bytes = backup(txn, path, options)?;
                Ok(format!("{}: {bytes} bytes\n", path.display()))
            }
        }
    }

    /// Does it on a store that no broker has open.
    pub fn carry_out_offline(&self, options: &Options) -> Result<String, ToolError> {
        let mut database = open(options)?;
        // Where redb finds what cannot be it may panic.
        let done = catch_unwind(AssertUnwindSafe(|| {
            if *self == Self::Check && !database.check_integrity()? {
                return Err(ToolError::Unsound(Problems::of_pages()));
            }
            self.carry_out(&database.begin_read()?, options)
        }));
        done.unwrap_or_else(|_| Err(ToolError::Unsound(Problems::of_pages())))
    }
}

/// What an operator is told of a check.
fn verdict((stats, problems): (Stats, Problems)) -> Result<String, ToolError> {
    match problems.count {
        0 => Ok(format!("sound: {} messages, {} sessions\n", stats.messages, stats.sessions)),
        _ => Err(ToolError::Unsound(problems)),
    }
}

macro_rules! from_redb {
    ($($error:ident,)+) => {
        $(impl From<redb::$error> for ToolError {
            fn from(error: redb::$error) -> Self {
                Self::Database(error.into())
            }
        })+
    };
}

from_redb! { StorageError, TableError, TransactionError, CommitError, DatabaseError, }

/// What is in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stats {
    /// The layout's number.
    format: u32,
    /// Sessions and share groups.
    sessions: u64,
    /// Subscriptions of all Sessions.
    subscriptions: u64,
    /// Topics that retain a message.
    retained: u64,
    /// Messages that wait for somebody.
    messages: u64,
    /// Receivers that they wait for, together.
    deliveries: u64,
    /// Bytes of the messages that wait.
    message_bytes: u64,
    /// Bytes of all rows of messages, with what nobody waits for any more.
    row_bytes: u64,
    /// Rows of messages.
    rows: u64,
    /// Rows of acknowledgements.
    acknowledgement_rows: u64,
    /// QoS 2 identifiers that were received and not released, and that are in use toward Clients.
    qos2_identifiers: u64,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("format", u64::from(self.format)),
            ("sessions and share groups", self.sessions),
            ("subscriptions", self.subscriptions),
            ("retained messages", self.retained),
            ("messages waiting", self.messages),
            ("deliveries waiting", self.deliveries),
            ("bytes of messages waiting", self.message_bytes),
            ("bytes of message rows", self.row_bytes),
            ("message rows", self.rows),
            ("acknowledgement rows", self.acknowledgement_rows),
            ("QoS 2 identifiers in use", self.qos2_identifiers),
        ];
        lines.iter().try_for_each(|(name, value)| writeln!(f, "{name}: {value}"))
    }
}

/// What is wrong with a store; nothing when it is sound.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    named: Vec<String>,
    count: usize,
}

impl Problems {
    fn add(&mut self, problem: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(problem());
        }
    }

    fn of_pages() -> Self {
        Self { named: vec!["pages are damaged: restore it from a backup".into()], count: 1 }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named.iter().try_for_each(|problem| writeln!(f, "{problem}"))?;
        match self.count - self.named.len() {
            0 => Ok(()),
            more => writeln!(f, "and {more} more"),
        }
    }
}

/// Opens the store that lies in the directory of the options and that no broker has open. One that
/// was not closed is repaired as a broker would, but in memory.
fn open(options: &Options) -> Result<Database, ToolError> {
    if !options.directory.join(FILE).exists() {
        return Err(ToolError::Missing(options.directory.clone()));
    }
    Ok(disk::look(options)?)
}

/// Counts what is in a store, and says what does not add up.
fn check(txn: &ReadTransaction) -> Result<(Stats, Problems), ToolError> {
    let (mut stats, mut problems) = (Stats::default(), Problems::default());
    let format = txn.open_table(META)?.get("format")?.map(|value| tables::u32_of(value.value()));
    stats.format = format.unwrap_or(0);
    let mut sessions = FxHashSet::default();
    for entry in txn.open_table(SESSIONS)?.iter()? {
        sessions.insert(entry?.0.value());
    }
    stats.sessions = sessions.len() as u64;
    for entry in txn.open_table(SUBS)?.iter()? {
        let key = entry?.0;
        let (session, filter) = key.value();
        stats.subscriptions += 1;
        if !sessions.contains(&session) {
            problems.add(|| format!("subscription {filter:?} of session {session}, which is none"));
        }
    }
    for entry in txn.open_table(RETAINED)?.iter()? {
        let (topic, message) = entry?;
        stats.retained += 1;
        if row::retained(message.value()).is_err() {
            problems.add(|| format!("the message that {:?} retains is damaged", topic.value()));
        }
    }
    for entry in txn.open_table(RX2)?.iter()? {
        let (session, ids) = entry?;
        match row::received(ids.value()) {
            Ok(ids) => stats.qos2_identifiers += ids.len() as u64,
            Err(error) => problems.add(|| format!("{error}: session {}", session.value())),
        }
    }
    for entry in txn.open_table(TX2)?.iter()? {
        let (session, exchanges) = entry?;
        match row::sent(exchanges.value()) {
            Ok(exchanges) => stats.qos2_identifiers += exchanges.len() as u64,
            Err(error) => problems.add(|| format!("{error}: session {}", session.value())),
        }
    }
    for entry in txn.open_table(LENT)?.iter()? {
        let (key, lent) = entry?;
        if let Err(error) = row::lent(lent.value()) {
            problems.add(|| format!("{error}: queue {}", key.value().0));
        }
    }
    check_messages(txn, &sessions, &mut stats, &mut problems)?;
    Ok((stats, problems))
}

fn check_messages(
    txn: &ReadTransaction,
    sessions: &FxHashSet<u32>,
    stats: &mut Stats,
    problems: &mut Problems,
) -> Result<(), ToolError> {
    let mut finished: FxHashSet<(u64, u32)> = FxHashSet::default();
    for entry in txn.open_table(ACK)?.iter()? {
        let (number, acks) = entry?;
        stats.acknowledgement_rows += 1;
        match row::acks(acks.value()) {
            Ok(acks) => finished.extend(acks.into_iter().map(|(message, s)| (message, s.0))),
            Err(error) => problems.add(|| format!("{error}: {}", number.value())),
        }
    }
    let mut seen: FxHashMap<u64, u64> = FxHashMap::default();
    for entry in txn.open_table(SEG)?.iter()? {
        let (number, bytes) = entry?;
        stats.rows += 1;
        stats.row_bytes += bytes.value().len() as u64;
        for record in row::records(bytes.value()) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    problems.add(|| format!("{error}: {}", number.value()));
                    break;
                }
            };
            let is_waited_for = |session: u32| {
                sessions.contains(&session) && !finished.contains(&(record.id, session))
            };
            let waiting = record.targets().filter(|t| is_waited_for(t.session.0)).count();
            if waiting == 0 {
                continue;
            }
            stats.messages += 1;
            stats.deliveries += waiting as u64;
            stats.message_bytes += record.len as u64;
            if Message::decode(record.id, record.body).is_none() {
                problems.add(|| format!("message {} is damaged", record.id));
            }
            if let Some(other) = seen.insert(record.id, number.value()) {
                problems.add(|| {
                    format!("message {} is in rows {other} and {}", record.id, number.value())
                });
            }
        }
    }
    Ok(())
}

/// Copies a store to a file that is not there yet: whole or not at all.
fn backup(txn: &ReadTransaction, path: &Path, options: &Options) -> Result<u64, ToolError> {
    if path.exists() {
        return Err(ToolError::Exists(path.to_owned()));
    }
    let unwritable = |error| ToolError::Write { path: path.to_owned(), error };
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(&partial)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => ToolError::Exists(partial.clone()),
            _ => unwritable(error),
        })?;
    if let Err(error) = copy_all(txn, file, options) {
        let _ = std::fs::remove_file(&partial);
        return Err(match error {
            ToolError::Database(redb::Error::Io(error)) => unwritable(error),
            other => other,
        });
    }
    // Not over a file that has come meanwhile.
    std::fs::hard_link(&partial, path).map_err(unwritable)?;
    std::fs::remove_file(&partial).map_err(unwritable)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = std::fs::File::open(directory.unwrap_or(Path::new("."))).map_err(unwritable)?;
    directory.sync_all().map_err(unwritable)?;
    Ok(std::fs::metadata(path).map_err(unwritable)?.len())
}

fn copy_all(
    txn: &ReadTransaction,
    file: std::fs::File,
    options: &Options,
) -> Result<(), ToolError> {
    let mut copy = Database::builder()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(redb::backends::FileBackend::new(file)?)?;
    copy_table(txn, &copy, SESSIONS)?;
    copy_table(txn, &copy, SUBS)?;
    copy_table(txn, &copy, RETAINED)?;
    copy_table(txn, &copy, SEG)?;
    copy_table(txn, &copy, ACK)?;
    copy_table(txn, &copy, RX2)?;
    copy_table(txn, &copy, TX2)?;
    copy_table(txn, &copy, LENT)?;
    // Last: without a format it is no store.
    copy_table(txn, &copy, META)?;
    copy.compact().map_err(redb::Error::from)?;
    copy.close()?;
    Ok(())
}

fn copy_table<K: Key + 'static, V: Value + 'static>(
    txn: &ReadTransaction,
    copy: &Database,
    definition: TableDefinition<'static, K, V>,
) -> Result<(), ToolError> {
    let from = txn.open_table(definition)?;
    let mut rows = from.iter()?;
    let mut left = from.len()?;
    loop {
        let write = copy.begin_write()?;
        {
            let mut to = write.open_table(definition)?;
            for entry in rows.by_ref().take(COPIED_AT_ONCE) {
                let (key, value) = entry?;
                to.insert(key.value(), value.value())?;
                left = left.saturating_sub(1);
            }
        }
        write.commit()?;
        if left == 0 {
            return Ok(());
        }
    }
}
