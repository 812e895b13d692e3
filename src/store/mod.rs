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
//! 4. After an error nothing more is acknowledged: every answer is [`Outcome::Failed`].
//!
//! The layout of the file is in [`tables`], of its rows in [`row`].

pub mod committer;
pub mod error;
pub mod ledger;
mod packer;
pub mod recover;
pub mod row;
pub mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use crate::message::Message;
use crate::queue::SubscriptionIds;
use committer::Committer;
pub use error::OpenError;
use ledger::Ledger;

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
    /// Memory for redb's cache, in bytes.
    pub cache_bytes: usize,
    /// Least time between the beginnings of two commits, in microseconds: a commit costs 170 µs of
    /// CPU however small, so commits and not messages burn the core at a low rate.
    pub commit_interval_us: u64,
    /// How long a message is kept back whose receivers are all online and may finish with it
    /// before it need be written, in microseconds.
    pub hold_us: u64,
    /// How long what nobody waits for may stay in memory, in microseconds.
    pub lazy_us: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("whimbrel-data"),
            durability: Durability::Fsync,
            cache_bytes: 64 << 20,
            commit_interval_us: 1_000,
            hold_us: 2_000,
            lazy_us: 50_000,
        }
    }
}

/// Who is to get a message.
#[derive(Clone, Debug)]
pub struct Target {
    /// The Session or share group.
    pub session: SessionId,
    /// The caller's: kept and given back.
    pub flags: u8,
    /// Whether it may finish with the message right away.
    pub online: bool,
    /// Identifiers of the subscriptions that matched.
    pub subscription_ids: SubscriptionIds,
}

/// Who is to get a message: most have one receiver.
pub type Targets = SmallVec<[Target; 1]>;

/// Something that must survive.
#[derive(Clone, Debug)]
pub enum Change {
    /// A message for these receivers; stored once however many they are.
    Message {
        /// The message, with an identity from [`Store::next_message_id`].
        message: Message,
        /// Its receivers.
        targets: Targets,
    },
    /// A receiver has finished with a message.
    Finished {
        /// The message's identity.
        message: u64,
        /// The receiver.
        session: SessionId,
    },
    /// A Session or share group is new or has changed.
    SessionPut {
        /// Which.
        session: SessionId,
        /// The caller's: kept and given back.
        record: Box<[u8]>,
    },
    /// A Session or share group has ended. Its messages are finished one by one.
    SessionEnded {
        /// Which.
        session: SessionId,
    },
    /// A subscription is new or has changed.
    Subscribed {
        /// Whose.
        session: SessionId,
        /// The whole Topic Filter.
        filter: Box<str>,
        /// The caller's: kept and given back.
        options: Box<[u8]>,
    },
    /// A subscription has ended.
    Unsubscribed {
        /// Whose.
        session: SessionId,
        /// The whole Topic Filter.
        filter: Box<str>,
    },
    /// What a topic retains is another message, or nothing.
    Retained {
        /// The topic.
        topic: Box<str>,
        /// The message, and a number that stands for its publisher: kept and given back.
        kept: Option<(Message, u64)>,
    },
    /// QoS 2: a message with this Packet Identifier has been received.
    Received {
        /// From whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
    },
    /// QoS 2: the sender has released the Packet Identifier.
    Released {
        /// From whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
    },
    /// QoS 2: a Packet Identifier is bound to a message that will be sent.
    Sent {
        /// To whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
        /// The message.
        message: u64,
        /// In whose queue the message is: the Session's or a share group's.
        queue: SessionId,
    },
    /// QoS 2: the receiver has the message; only the Packet Identifier is kept.
    Relayed {
        /// To whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
    },
    /// QoS 2: the exchange is over.
    Completed {
        /// To whom.
        session: SessionId,
        /// The identifier.
        packet_id: u16,
    },
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

/// What was found in the file.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Sessions and share groups.
    pub sessions: Vec<RecoveredSession>,
    /// The retained messages, with their publishers.
    pub retained: Vec<(Message, u64)>,
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
    /// QoS 2 identifiers in use toward the receiver, in the order of sending; without a message
    /// where the receiver has it.
    pub sent: Vec<(u16, Option<Waiting>)>,
    /// Messages that wait, in order; without those in `sent`.
    pub queue: Vec<Waiting>,
}

/// A message that waits for a receiver.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The message.
    pub message: Message,
    /// In whose queue it is.
    pub queue: SessionId,
    /// The caller's flags of this target.
    pub flags: u8,
    /// Identifiers of the subscriptions that matched.
    pub subscription_ids: SubscriptionIds,
}

/// Tells those who wait; called by the committer with all answers of a commit.
pub type Answer<A> = Box<dyn Fn(&mut Vec<A>, Outcome) + Send>;

/// What has come in and was not yet taken by the committer.
#[derive(Debug)]
pub(crate) struct Inbox<A> {
    pub(crate) changes: Vec<Change>,
    /// Ends of submissions in `changes`, with who waits.
    pub(crate) submissions: Vec<(usize, Option<A>)>,
    /// Whether the committer sleeps with nothing to do, so that it must be woken.
    pub(crate) committer_sleeps: bool,
    pub(crate) closing: bool,
}

impl<A> Default for Inbox<A> {
    fn default() -> Self {
        Self {
            changes: Vec::new(),
            submissions: Vec::new(),
            committer_sleeps: false,
            closing: false,
        }
    }
}

/// Called when the committer is to be stepped again.
pub type Bell = Box<dyn Fn() + Send + Sync>;

/// The inbox and its bell.
pub(crate) struct Shared<A> {
    pub(crate) inbox: Mutex<Inbox<A>>,
    /// Wakes the committer's thread.
    pub(crate) bell: Condvar,
    /// Wakes who steps the committer, where it has no thread.
    stepper: Option<Bell>,
}

impl<A> Shared<A> {
    fn new(stepper: Option<Bell>) -> Arc<Self> {
        Arc::new(Self { inbox: Mutex::default(), bell: Condvar::new(), stepper })
    }

    fn ring(&self) {
        self.bell.notify_one();
        if let Some(stepper) = &self.stepper {
            stepper();
        }
    }

    fn close(&self) {
        self.inbox.lock().closing = true;
        self.ring();
    }
}

/// The store.
pub struct Store<A> {
    shared: Arc<Shared<A>>,
    committer: Mutex<Option<JoinHandle<()>>>,
    next_message_id: AtomicU64,
    next_session_id: AtomicU32,
    is_memory: bool,
}

impl<A: Send + 'static> Store<A> {
    /// Opens the store of a directory, or begins one.
    pub fn open(options: &Options, answer: Answer<A>) -> Result<(Self, Recovered), OpenError> {
        if options.durability == Durability::Memory {
            return Ok((Self::memory(), Recovered::default()));
        }
        let database = tables::open(options)?;
        Self::start(database, options, answer)
    }

    /// Opens a store on any storage: for simulations and fault tests.
    pub fn open_on(
        storage: impl redb::StorageBackend,
        options: &Options,
        answer: Answer<A>,
    ) -> Result<(Self, Recovered), OpenError> {
        let database = tables::open_on(storage, options, Path::new("(storage)"))?;
        Self::start(database, options, answer)
    }

    /// Opens a store on any storage whose committer has no thread: it works when it is stepped,
    /// and `bell` says when it wants to be. For simulations.
    pub fn open_stepped(
        storage: impl redb::StorageBackend,
        options: &Options,
        answer: Answer<A>,
        bell: Bell,
    ) -> Result<(Self, Committer<A>, Recovered), OpenError> {
        let database = tables::open_on(storage, options, Path::new("(storage)"))?;
        Self::recovered(database, options, answer, Some(bell))
    }

    fn start(
        database: redb::Database,
        options: &Options,
        answer: Answer<A>,
    ) -> Result<(Self, Recovered), OpenError> {
        let (store, committer, recovered) = Self::recovered(database, options, answer, None)?;
        let committer = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || committer.run())
            .map_err(OpenError::Thread)?;
        *store.committer.lock() = Some(committer);
        Ok((store, recovered))
    }

    fn recovered(
        database: redb::Database,
        options: &Options,
        answer: Answer<A>,
        stepper: Option<Bell>,
    ) -> Result<(Self, Committer<A>, Recovered), OpenError> {
        let mut ledger = Ledger::default();
        let (recovered, ids) = recover::recover(&database, &mut ledger)
            .map_err(|error| OpenError::damaged(&options.directory, error))?;
        let shared = Shared::new(stepper);
        let committer = Committer::new(database, ledger, options, shared.clone(), answer);
        let store = Self {
            shared,
            committer: Mutex::new(None),
            next_message_id: AtomicU64::new(ids.next_message),
            next_session_id: AtomicU32::new(ids.next_session),
            is_memory: false,
        };
        Ok((store, committer, recovered))
    }

    fn memory() -> Self {
        Self {
            shared: Shared::new(None),
            committer: Mutex::new(None),
            next_message_id: AtomicU64::new(1),
            next_session_id: AtomicU32::new(1),
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
