//! What another broker has kept is taken over: mosquitto's file becomes Sessions, subscriptions,
//! retained messages and queues of ours.
//!
//! [`mosquitto`] reads the file, [`plan`] says what it means for us, and all of that is one
//! submission to the store: it is taken over wholly or not at all, also if the power fails. What
//! the store holds already is not touched: a Client or topic that is in both is an error.
//!
//! The file is read into memory, and the changes made of it take a few times as much.

pub mod mosquitto;
pub mod plan;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use thiserror::Error;

use crate::clock::Moment;
use crate::session::record::Record;
use crate::store::{Change, Durability, Health, OpenError, Options, Outcome, Recovered, Store};
use mosquitto::Unreadable;
use plan::Identities;

/// How often a store that takes its time is asked how it is.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is in the store and in the file, and is named; more are counted.
const NAMED_MAX: usize = 3;

/// Why nothing was taken over.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {error}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not good.
    #[error("{path}: {why}; nothing was imported", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: Unreadable,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is none.
    #[error(
        "the broker has no store: its durability is \"memory\" (in a mosquitto.conf: without \
         `persistence true`)"
    )]
    InMemory,
    /// Sessions or retained messages are in both.
    #[error(
        "the store has {what} already: {names}; an import overwrites nothing, and nothing was \
         imported"
    )]
    Exists {
        /// Of what.
        what: &'static str,
        /// Which.
        names: String,
    },
    /// More than any mosquitto writes.
    #[error("too many messages stand in another order than that of their arrival")]
    TooManyCopies,
    /// More than any mosquitto writes.
    #[error("too many Clients would get the messages whose PUBREL has not come")]
    TooManyReceivers,
    /// The disk does not take it.
    #[error("the store cannot be written ({0:?}); nothing was imported: is the disk full?")]
    Unwritable(Health),
}

/// How a file is taken over.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What has expired by now is left out.
    pub now: Moment,
    /// Whether the broker will know who its Clients are: only then a Session has an owner, since
    /// nobody could show to be the owner elsewhere.
    pub knows_users: bool,
}

/// What was taken over and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The file's version.
    pub version: u32,
    /// Sessions.
    pub sessions: u32,
    /// Their subscriptions.
    pub subscriptions: u32,
    /// Retained messages.
    pub retained: u32,
    /// Messages that wait, each as often as there are Clients that it waits for.
    pub deliveries: u32,
    /// Outgoing exchanges that have begun.
    pub in_flight: u32,
    /// Incoming exchanges of QoS 2 that have not ended.
    pub incoming: u32,
    /// What was left out, by the reason.
    pub left_out: BTreeMap<&'static str, u64>,
}

impl Report {
    fn leave_out(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.left_out.entry(what).or_default() += count;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, subscriptions, retained, deliveries, .. } = self;
        writeln!(f, "version of the file: {}", self.version)?;
        writeln!(f, "sessions: {sessions}\nsubscriptions: {subscriptions}")?;
        writeln!(f, "retained messages: {retained}\nmessages waiting: {deliveries}")?;
        writeln!(f, "Packet Identifiers in use toward Clients: {}", self.in_flight)?;
        writeln!(f, "QoS 2 identifiers in use by Clients: {}", self.incoming)?;
        for (what, count) in &self.left_out {
            writeln!(f, "left out, {what}: {count}")?;
        }
        Ok(())
    }
}

/// Takes over what is in mosquitto's file at `path`.
pub fn run(path: &Path, options: &Options, terms: Terms) -> Result<Report, ImportError> {
    if options.durability == Durability::Memory {
        return Err(ImportError::InMemory);
    }
    let unreadable = |error| ImportError::File { path: path.to_owned(), error };
    let file = std::fs::read(path).map_err(unreadable)?;
    let unreadable = |why| ImportError::Unreadable { path: path.to_owned(), why };
    let dump = mosquitto::read(&file).map_err(unreadable)?;
    let tell = |waiting: &mut Vec<mpsc::Sender<Outcome>>, outcome| {
        for waits in waiting.drain(..) {
            let _ = waits.send(outcome);
        }
    };
    let (store, recovered) = Store::open(options, Box::new(tell))?;
    let identities =
        Identities { message: || store.next_message_id(), session: || store.next_session_id() };
    let (changes, report) = plan::plan(&dump, terms, identities)?;
    refuse_what_exists(&changes, &recovered)?;
    write(&store, changes)?;
    Ok(report)
}

/// An error if something is in the store and in what is to be written.
fn refuse_what_exists(changes: &[Change], recovered: &Recovered) -> Result<(), ImportError> {
    let records = recovered.sessions.iter().filter_map(|session| Record::decode(&session.record));
    let held: HashSet<_> = records.map(|record| record.client_id).collect();
    let sessions = changes.iter().filter_map(|change| match change {
        Change::SessionPut { record, .. } => Some(Record::decode(record)?.client_id.to_string()),
        _ => None,
    });
    refuse("Sessions of these Clients", sessions.filter(|id| held.contains(&**id)))?;
    let held: HashSet<_> =
        recovered.retained.iter().map(|(message, _)| message.topic_str()).collect();
    let topics = changes.iter().filter_map(|change| match change {
        Change::Retained { topic, .. } => Some(topic.to_string()),
        _ => None,
    });
    refuse("retained messages of these topics", topics.filter(|topic| held.contains(&**topic)))
}

fn refuse(what: &'static str, mut both: impl Iterator<Item = String>) -> Result<(), ImportError> {
    let named: Vec<_> = both.by_ref().take(NAMED_MAX).map(|name| format!("{name:?}")).collect();
    if named.is_empty() {
        return Ok(());
    }
    let mut names = named.join(", ");
    let others = both.count();
    if others > 0 {
        names += &format!(" and {others} others");
    }
    Err(ImportError::Exists { what, names })
}

/// Has everything written; returns when it is as sure as the options say.
fn write(
    store: &Store<mpsc::Sender<Outcome>>,
    mut changes: Vec<Change>,
) -> Result<(), ImportError> {
    if changes.is_empty() {
        return Ok(());
    }
    let (sender, outcome) = mpsc::channel();
    store.submit(&mut changes, Some(sender));
    loop {
        match outcome.recv_timeout(PATIENCE) {
            Ok(Outcome::Durable) => return Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) if store.health() < Health::Down => {}
            // It would try for ever. What it says at its end counts.
            Err(mpsc::RecvTimeoutError::Timeout) => store.close(),
            Ok(Outcome::Failed) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(ImportError::Unwritable(store.health()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
