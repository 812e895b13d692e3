//! What the store and its committer share: the inbox, its bell, and figures.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use parking_lot::{Condvar, Mutex};
use redb::ReadTransaction;

use super::{Change, Fetch, Health};

/// What has come in and was not yet taken by the committer.
pub(crate) struct Inbox<A> {
    pub(super) changes: Vec<Change>,
    /// Ends of submissions in `changes`, with who waits.
    pub(super) submissions: Vec<(usize, Option<A>)>,
    pub(super) fetches: Vec<Fetch>,
    /// Those that could not be read when they came.
    pub(super) fetches_later: Vec<Fetch>,
    /// Who waits for a look at the store as it is.
    pub(super) onlookers: Vec<mpsc::SyncSender<ReadTransaction>>,
    /// Whether the committer sleeps with nothing to do, so that it must be woken.
    pub(super) committer_sleeps: bool,
    pub(super) closing: bool,
}

impl<A> Default for Inbox<A> {
    fn default() -> Self {
        Self {
            changes: Vec::new(),
            submissions: Vec::new(),
            fetches: Vec::new(),
            fetches_later: Vec::new(),
            onlookers: Vec::new(),
            committer_sleeps: false,
            closing: false,
        }
    }
}

impl<A> Inbox<A> {
    pub(super) fn has_mail(&self) -> bool {
        !self.submissions.is_empty() || !self.fetches.is_empty() || !self.onlookers.is_empty()
    }
}

/// Called when the committer is to be stepped again.
pub type Bell = Box<dyn Fn() + Send + Sync>;

/// The inbox and its bell.
pub(crate) struct Shared<A> {
    pub(super) inbox: Mutex<Inbox<A>>,
    /// Wakes the committer's thread.
    pub(super) bell: Condvar,
    /// Wakes who steps the committer, where it has no thread.
    pub(super) stepper: Option<Bell>,
    pub(super) health: AtomicU8,
    /// Bytes of the changes in the inbox.
    pub(super) inbox_bytes: AtomicUsize,
    /// Bytes that the committer has taken and not written.
    pub(super) pending_bytes: AtomicUsize,
    /// Messages that have a receiver left, as the committer saw it last, and their bytes.
    pub(super) held_messages: AtomicU64,
    pub(super) held_bytes: AtomicU64,
}

impl<A> Shared<A> {
    pub(super) fn new(stepper: Option<Bell>) -> Arc<Self> {
        Arc::new(Self {
            inbox: Mutex::default(),
            bell: Condvar::new(),
            stepper,
            health: AtomicU8::new(0),
            inbox_bytes: AtomicUsize::new(0),
            pending_bytes: AtomicUsize::new(0),
            held_messages: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
        })
    }

    pub(super) fn health(&self) -> Health {
        Health::from_u8(self.health.load(Ordering::Relaxed))
    }

    /// True: it was another before.
    pub(super) fn set_health(&self, health: Health) -> bool {
        self.health.swap(health as u8, Ordering::Relaxed) != health as u8
    }

    pub(super) fn ring(&self) {
        self.bell.notify_one();
        if let Some(stepper) = &self.stepper {
            stepper();
        }
    }

    pub(super) fn close(&self) {
        self.inbox.lock().closing = true;
        self.ring();
    }
}
