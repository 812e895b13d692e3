//! What must survive: one file, one thread that writes it, one fsync for all that wait.
//!
//! [`Store::submit`] hands changes over and returns at once. The committer writes all that has
//! come in as one redb transaction and then answers. Promises:
//!
//! 1. Changes are on disk in the order in which they were submitted, and those of one submission
//!    together or not at all.
//! 2. Answers come in the order of submission, each after its changes are durable.
//! 3. A message whose receivers have all finished with it before it was written is not written;
//!    its answer comes all the same.
//! 4. What cannot be written is not answered: it waits until it can be ([`Health`]). Only a store
//!    that is closed meanwhile answers [`Outcome::Failed`].
//! 5. A page of messages is asked for after the changes that brought them, and finds them whether
//!    they are written or not ([`Store::fetch`]).
//!
//! The layout of the file is in [`tables`], of its rows in [`row`].

mod books;
pub mod change;
pub mod committer;
pub mod disk;
pub mod error;
mod file;
mod format;
pub mod ledger;
mod live;
mod migrate;
mod packer;
mod reader;
mod recover;
pub mod row;
mod rows;
mod shared;
mod staged;
pub mod tables;
pub mod tools;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::message::Message;
use crate::queue::{Stored, SubscriptionIds};
pub use change::{ATTEMPTS_MAX, Change, Lent, Target, Targets};
use committer::Committer;
pub use disk::Disk;
pub use error::OpenError;
pub use reader::Fetch;
use reader::Reader;
pub use recover::Look;
pub use shared::Bell;
pub(crate) use shared::Shared;
use tools::{Request, ToolError};

/// A Session or share group in the store; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u32);

/// How sure an acknowledged change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// On the disk: survives power loss.
    #[default]
    Fsync,
    /// With the operating system: survives the end of the process, not of the machine.
    Written,
    /// Nowhere: nothing survives.
    Memory,
}

/// Settings of the store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the file.
    pub directory: PathBuf,
    /// How sure an acknowledged change is.
    pub durability: Durability,
    /// Memory for redb's cache, in bytes; half of it is for what a commit writes. The system has
    /// the file's pages too, and full rows of messages wait beside it to be written ([`file`]), so
    /// little will do. What there is it fills: with 16 MiB each of 10,000 retained messages takes
    /// 220 bytes more.
    pub cache_bytes: usize,
    /// Least time between the beginnings of two commits, in microseconds: a commit costs 170 µs of
    /// CPU however small, so commits and not messages burn the core at a low rate.
    pub commit_interval_us: u64,
    /// How long a message is kept back whose receivers are all online and may finish with it
    /// before it need be written, in microseconds.
    pub hold_us: u64,
    /// How long what nobody waits for may stay in memory, in microseconds.
    pub lazy_us: u64,
    /// Bytes that wait to be written beyond which publishers are not read: the disk sets the pace.
    pub backlog_bytes_max: usize,
    /// Time between two attempts to use a file that could not be written, in microseconds.
    pub retry_us: u64,
    /// Free space of the disk below which messages are refused, in bytes.
    pub free_bytes_min: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("whimbrel-data"),
            durability: Durability::Fsync,
            cache_bytes: 256 << 10,
            commit_interval_us: 1_000,
            hold_us: 2_000,
            lazy_us: 50_000,
            backlog_bytes_max: 64 << 20,
            retry_us: 1_000_000,
            free_bytes_min: 64 << 20,
        }
    }
}

/// How a submission went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its changes are as sure as the settings say.
    Durable,
    /// They may be lost; nothing must be acknowledged.
    Failed,
}

/// What [`Store::submit`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// Nothing to wait for; no answer will come.
    Done,
    /// The answer will come.
    Pending,
}

/// What the store can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Health {
    /// Everything.
    Good = 0,
    /// The disk is nearly full: it takes what frees space and no new messages.
    Full = 1,
    /// It cannot be written now; what comes in waits.
    Down = 2,
    /// The file is damaged: the broker must end.
    Broken = 3,
}

impl Health {
    fn from_u8(byte: u8) -> Self {
        [Self::Good, Self::Full, Self::Down].get(usize::from(byte)).copied().unwrap_or(Self::Broken)
    }
}

/// What was found in the file.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Sessions and share groups.
    pub sessions: Vec<RecoveredSession>,
    /// The retained messages, with their publishers.
    pub retained: Vec<(Message, u64)>,
    /// The file as it was.
    pub file: Look,
}

/// A Session or share group as it was.
#[derive(Debug)]
pub struct RecoveredSession {
    /// Which.
    pub id: SessionId,
    /// The caller's bytes.
    pub record: Box<[u8]>,
    /// Topic Filters and the caller's bytes for each.
    pub subscriptions: Vec<(Box<str>, Box<[u8]>)>,
    /// QoS 2 identifiers that were received and not released.
    pub received: Vec<u16>,
    /// Identifiers in use toward the receiver, in the order of sending; without a message where
    /// the receiver has it, without an identifier where a QoS 1 message was on its way before
    /// others that are here, and nobody has noted its identifier.
    pub sent: Vec<(Option<u16>, Option<Waiting>)>,
    /// Messages that wait, in order; without those in `sent`.
    pub queue: Vec<Stored>,
    /// Messages that were handed out, whether they are in `queue` or with somebody.
    pub lent: Vec<(u64, Lent)>,
}

/// A message that is bound to a Packet Identifier.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The message.
    pub message: Message,
    /// In whose queue it is.
    pub queue: SessionId,
    /// The caller's flags of the exchange.
    pub flags: u8,
    /// Identifiers of the subscriptions that matched.
    pub subscription_ids: SubscriptionIds,
}

/// Tells those who wait; called by the committer with all answers of a commit.
pub type Answer<A> = Box<dyn Fn(&mut Vec<A>, Outcome) + Send>;

/// Longest time in which the committer lets somebody look at the store.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// The store.
pub struct Store<A> {
    shared: Arc<Shared<A>>,
    committer: Mutex<Option<JoinHandle<()>>>,
    next_message_id: AtomicU64,
    next_session_id: AtomicU32,
    options: Options,
    is_memory: bool,
}

impl<A: Send + 'static> Store<A> {
    /// Opens the store of a directory, or begins one.
    pub fn open(options: &Options, answer: Answer<A>) -> Result<(Self, Recovered), OpenError> {
        if options.durability == Durability::Memory {
            return Ok((Self::memory(options), Recovered::default()));
        }
        Self::open_on(disk::Directory, options, answer)
    }

    /// Opens a store on any disk: for fault tests.
    pub fn open_on(
        disk: impl Disk,
        options: &Options,
        answer: Answer<A>,
    ) -> Result<(Self, Recovered), OpenError> {
        let shared = Shared::new(None);
        let reader = Reader::start(shared.clone()).map_err(OpenError::Thread)?;
        let (store, committer, recovered) =
            Self::recovered(Box::new(disk), options, answer, (shared, reader))?;
        let committer = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || committer.run())
            .map_err(OpenError::Thread)?;
        *store.committer.lock() = Some(committer);
        Ok((store, recovered))
    }

    /// Opens a store on any disk, whose committer has no thread: it works when it is stepped,
    /// and `bell` says when it wants to be. For simulations.
    pub fn open_stepped(
        disk: impl Disk,
        options: &Options,
        answer: Answer<A>,
        bell: Bell,
    ) -> Result<(Self, Committer<A>, Recovered), OpenError> {
        let shared = Shared::new(Some(bell));
        Self::recovered(Box::new(disk), options, answer, (shared, Reader::Here))
    }

    fn recovered(
        disk: Box<dyn Disk>,
        options: &Options,
        answer: Answer<A>,
        (shared, reader): (Arc<Shared<A>>, Reader),
    ) -> Result<(Self, Committer<A>, Recovered), OpenError> {
        let (database, ledger, (recovered, ids)) = books::open(&*disk, options)?;
        let books = (database, ledger);
        let committer = Committer::new(disk, books, options, (shared.clone(), reader), answer);
        let store = Self {
            shared,
            committer: Mutex::new(None),
            next_message_id: AtomicU64::new(ids.next_message),
            next_session_id: AtomicU32::new(ids.next_session),
            options: options.clone(),
            is_memory: false,
        };
        Ok((store, committer, recovered))
    }

    fn memory(options: &Options) -> Self {
        Self {
            shared: Shared::new(None),
            committer: Mutex::new(None),
            next_message_id: AtomicU64::new(1),
            next_session_id: AtomicU32::new(1),
            options: options.clone(),
            is_memory: true,
        }
    }

    /// Takes all of `changes` as one submission; `answer` will be told when it is durable, unless
    /// there is nothing to wait for.
    pub fn submit(&self, changes: &mut Vec<Change>, answer: Option<A>) -> Submitted {
        if self.is_memory || changes.is_empty() {
            changes.clear();
            return Submitted::Done;
        }
        let bytes = changes.iter().map(Change::weight).sum();
        self.shared.inbox_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut inbox = self.shared.inbox.lock();
        inbox.changes.append(changes);
        let end = inbox.changes.len();
        inbox.submissions.push((end, answer));
        let wake = std::mem::take(&mut inbox.committer_sleeps);
        drop(inbox);
        if wake {
            self.shared.ring();
        }
        Submitted::Pending
    }

    /// Asks for a page of messages that wait in a queue.
    pub fn fetch(&self, fetch: Fetch) {
        let mut inbox = self.shared.inbox.lock();
        inbox.fetches.push(fetch);
        let wake = std::mem::take(&mut inbox.committer_sleeps);
        drop(inbox);
        if wake {
            self.shared.ring();
        }
    }

    /// Does what an operator asks for, while the broker goes on. Takes as long as it takes to read
    /// the store.
    pub fn carry_out(&self, request: &Request) -> Result<String, ToolError> {
        if self.is_memory {
            return Err(ToolError::InMemory);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let mut inbox = self.shared.inbox.lock();
        inbox.onlookers.push(sender);
        let wake = std::mem::take(&mut inbox.committer_sleeps);
        drop(inbox);
        if wake {
            self.shared.ring();
        }
        let txn = receiver.recv_timeout(LOOK_TIMEOUT).map_err(|_| ToolError::Unreadable)?;
        request.carry_out(&txn, &self.options)
    }

    /// Whether messages can be read back, so that queues need not keep them.
    pub fn keeps_messages(&self) -> bool {
        !self.is_memory
    }

    /// What the store can do now.
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Whether so much waits to be written that no more should be taken in.
    pub fn is_crowded(&self) -> bool {
        let waiting = self.shared.inbox_bytes.load(Ordering::Relaxed)
            + self.shared.pending_bytes.load(Ordering::Relaxed);
        waiting > self.options.backlog_bytes_max || self.health() >= Health::Down
    }

    /// Messages that have a receiver left, and their bytes, as of the last commit.
    pub fn holds(&self) -> (u64, u64) {
        let Shared { held_messages, held_bytes, .. } = &*self.shared;
        (held_messages.load(Ordering::Relaxed), held_bytes.load(Ordering::Relaxed))
    }

    /// An identity that no message has had or will have.
    pub fn next_message_id(&self) -> u64 {
        self.next_message_id.fetch_add(1, Ordering::Relaxed)
    }

    /// An identity that no Session or share group has had or will have.
    pub fn next_session_id(&self) -> SessionId {
        SessionId(self.next_session_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Commits all that waits and ends the committer.
    pub fn close(&self) {
        self.shared.close();
        if let Some(committer) = self.committer.lock().take()
            && committer.join().is_err()
        {
            tracing::error!("the committer ended by a panic");
        }
    }
}

impl<A> Drop for Store<A> {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(committer) = self.committer.lock().take() {
            let _ = committer.join();
        }
    }
}
