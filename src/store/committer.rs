//! The thread that writes: takes what has come in, decides when to commit, and answers.
//!
//! When to commit:
//! * something urgent waits: as soon as `commit_interval_us` have passed since the last commit
//!   began; at once when few wait and as many have come as were answered last, since who waits for
//!   an answer before it goes on is then here, and nobody would join;
//! * only messages wait that may be elided: after `hold_us`;
//! * nobody waits (acknowledgements alone): after `lazy_us`;
//! * a batch is full: at once.
//!
//! When a commit fails, nothing is acknowledged and nothing is forgotten: what was noted stays
//! noted while the file is opened again and read through, again and again until it works. Whether
//! the commit that failed is in the file nobody knows; so all of it is made again.
//!
//! It runs on a thread of the operating system and not of the async runtime, so that an fsync
//! keeps nobody from being served. A simulation has no such thread and calls [`Committer::step`]
//! itself, with its own time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redb::{Database, ReadableDatabase};

use super::books;
use super::ledger::{Ledger, Located, Noted};
use super::reader::{Fetch, Job, Reader};
use super::{Answer, Change, Disk, Health, OpenError, Options, Outcome, Shared};
use crate::clock::Stopwatch;

/// Messages in one commit at most: keeps a commit of small ones below about 20 ms. With a quarter
/// of it a thousand busy publishers come to 0.8 of the messages a second: fewer share an fsync.
const BATCH_MESSAGES_MAX: usize = 20_000;

/// Bytes in one commit at most: rows of so many are gathered before they are written (`file.rs`).
const BATCH_BYTES_MAX: usize = 7 << 20;

/// Above this much live data the file is written so that it opens in milliseconds after a crash;
/// below it, reading it through takes less than a second and each commit is cheaper.
const QUICK_REPAIR_BYTES: u64 = 256 << 20;

/// Least time between two looks at the free space of the disk, in microseconds.
const SPACE_US: u64 = 100_000;

/// While something is held back, how often the inbox is looked at, in microseconds.
const LOOK_US: u64 = 1_000;

/// No more than this many who wait are few: for them the committer looks at each submission as it
/// comes and does not wait for more. With many that would cost more than it gains.
const FEW: usize = 16;

/// A submission that is not answered yet.
struct Waiting<A> {
    answer: Option<A>,
    /// Messages of it that may still be elided; it waits for the commit when `urgent`.
    held: u32,
    urgent: bool,
}

/// When [`Committer::step`] is to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// After so many microseconds at the latest.
    Within(u64),
    /// When the bell rings.
    AtTheBell,
    /// Never: the store is closed and everything is written.
    Never,
}

/// See the head of this file.
pub struct Committer<A> {
    disk: Box<dyn Disk>,
    /// `None` only while it cannot be opened.
    database: Option<Database>,
    ledger: Ledger,
    options: Options,
    shared: Arc<Shared<A>>,
    reader: Reader,
    answer: Answer<A>,
    waiting: VecDeque<Waiting<A>>,
    /// The number of the submission at the front of `waiting`.
    first: u64,
    /// How many of `waiting` want an answer.
    asking: usize,
    /// How many were answered at once last.
    answered: usize,
    /// What the clock of the steps shows.
    now_us: u64,
    last_commit_us: u64,
    /// When the oldest change that is not written came in.
    dirty_since_us: Option<u64>,
    /// When the file is to be tried again, if it could not be written.
    retry_at_us: Option<u64>,
    /// When pages that could not be read are tried again.
    read_again_at_us: u64,
    space_seen_us: Option<u64>,
    answers: Vec<A>,
    /// What was taken from the inbox; between steps empty, kept for its memory.
    changes: Vec<Change>,
    submissions: Vec<(usize, Option<A>)>,
    fetches: Vec<Fetch>,
}

impl<A: Send + 'static> Committer<A> {
    pub(super) fn new(
        disk: Box<dyn Disk>,
        (database, ledger): (Database, Ledger),
        options: &Options,
        (shared, reader): (Arc<Shared<A>>, Reader),
        answer: Answer<A>,
    ) -> Self {
        Self {
            disk,
            database: Some(database),
            ledger,
            options: options.clone(),
            shared,
            reader,
            answer,
            waiting: VecDeque::new(),
            first: 0,
            asking: 0,
            answered: 0,
            now_us: 0,
            last_commit_us: 0,
            dirty_since_us: None,
            retry_at_us: None,
            read_again_at_us: 0,
            space_seen_us: None,
            answers: Vec::new(),
            changes: Vec::new(),
            submissions: Vec::new(),
            fetches: Vec::new(),
        }
    }

    /// Steps until the store is closed; the thread's whole life.
    pub(super) fn run(mut self) {
        let clock = Stopwatch::start();
        loop {
            match self.step(clock.elapsed_us()) {
                Next::Within(us) => self.wait(us.min(LOOK_US)),
                Next::AtTheBell => self.sleep(),
                Next::Never => return,
            }
        }
    }

    /// Waits for a submission, but not longer than this.
    fn wait(&self, us: u64) {
        let mut inbox = self.shared.inbox.lock();
        if us > 0 && !inbox.has_mail() && !inbox.closing {
            inbox.committer_sleeps = self.answered.max(self.asking) <= FEW;
            self.shared.bell.wait_for(&mut inbox, Duration::from_micros(us));
        }
    }

    /// Waits until it is woken.
    fn sleep(&self) {
        let mut inbox = self.shared.inbox.lock();
        while inbox.committer_sleeps && !inbox.closing {
            self.shared.bell.wait(&mut inbox);
        }
    }

    /// Takes what has come in, commits if it is time, answers. Time is that of any clock that
    /// does not go back, in microseconds.
    pub fn step(&mut self, now_us: u64) -> Next {
        self.now_us = now_us;
        let closing = self.take_inbox();
        self.note();
        if self.retry_at_us.is_some_and(|at| at <= now_us || closing) {
            self.try_again();
        }
        if self.shared.health() == Health::Full {
            self.look_at_space();
        }
        self.answer_elided();
        self.fetch();
        if self.due_in_us() == Some(0) || (closing && self.ledger.is_dirty()) {
            self.commit();
        }
        let pending = self.ledger.pending_bytes();
        self.shared.pending_bytes.store(pending, Ordering::Relaxed);
        let (messages, bytes) = self.ledger.holds();
        self.shared.held_messages.store(messages, Ordering::Relaxed);
        self.shared.held_bytes.store(bytes, Ordering::Relaxed);
        self.next(closing)
    }

    fn next(&mut self, closing: bool) -> Next {
        let due_us = self.due_in_us();
        let mut inbox = self.shared.inbox.lock();
        if inbox.has_mail() || inbox.closing != closing {
            return Next::Within(0);
        }
        if closing {
            drop(inbox);
            // What could not be written up to here will not be.
            self.answer_first(self.waiting.len(), Outcome::Failed);
            return Next::Never;
        }
        let due_us = match self.shared.health() {
            // Whether there is room again is looked at also when nothing comes in.
            Health::Full => Some(due_us.unwrap_or(self.options.retry_us)),
            _ if !inbox.fetches_later.is_empty() => Some(due_us.unwrap_or(self.options.retry_us)),
            _ => due_us,
        };
        if due_us.is_none() {
            inbox.committer_sleeps = true;
        }
        due_us.map_or(Next::AtTheBell, Next::Within)
    }

    /// Takes what has come in; true: it is time to end.
    fn take_inbox(&mut self) -> bool {
        let mut inbox = self.shared.inbox.lock();
        inbox.committer_sleeps = false;
        std::mem::swap(&mut inbox.changes, &mut self.changes);
        std::mem::swap(&mut inbox.submissions, &mut self.submissions);
        std::mem::swap(&mut inbox.fetches, &mut self.fetches);
        if self.now_us >= self.read_again_at_us {
            self.fetches.append(&mut inbox.fetches_later);
            self.read_again_at_us = self.now_us + self.options.retry_us;
        }
        self.shared.inbox_bytes.store(0, Ordering::Relaxed);
        for onlooker in inbox.onlookers.drain(..) {
            // Who does not get it is told by the end of the channel.
            if let Some(Ok(txn)) = self.database.as_ref().map(ReadableDatabase::begin_read) {
                drop(onlooker.try_send(txn));
            }
        }
        inbox.closing
    }

    /// Has the pages read that were asked for.
    fn fetch(&mut self) {
        for fetch in std::mem::take(&mut self.fetches) {
            let locate = |&id: &u64| self.ledger.locate(id, fetch.queue);
            let located: Vec<Located> = fetch.ids.iter().map(locate).collect();
            let is_in_file = located.iter().any(|located| matches!(located, Located::Row(_)));
            let txn = match &self.database {
                Some(database) if is_in_file => database.begin_read().map(Some).ok(),
                Some(_) => Some(None),
                None => None,
            };
            // While the books are not to be believed, nobody knows where anything is.
            match txn.filter(|_| self.retry_at_us.is_none()) {
                Some(txn) => self.reader.read(Job { fetch, located, txn }, &self.shared),
                None => self.shared.inbox.lock().fetches_later.push(fetch),
            }
        }
    }

    fn note(&mut self) {
        let mut submissions = std::mem::take(&mut self.submissions);
        let mut taken = std::mem::take(&mut self.changes);
        let mut changes = taken.drain(..);
        let mut start = 0;
        for (end, answer) in submissions.drain(..) {
            let number = self.first + self.waiting.len() as u64;
            self.asking += usize::from(answer.is_some());
            self.waiting.push_back(Waiting { answer, held: 0, urgent: false });
            for change in changes.by_ref().take(end - start) {
                match self.ledger.note(change, number) {
                    Noted::Lazy => {}
                    Noted::Urgent => self.with(number, |waiting| waiting.urgent = true),
                    Noted::Held => self.with(number, |waiting| waiting.held += 1),
                    Noted::Elided(of) => {
                        self.with(of, |waiting| waiting.held = waiting.held.saturating_sub(1));
                    }
                }
            }
            start = end;
            if self.ledger.fresh() >= BATCH_MESSAGES_MAX
                || self.ledger.pending_bytes() >= BATCH_BYTES_MAX
            {
                self.commit();
            }
        }
        drop(changes);
        (self.changes, self.submissions) = (taken, submissions);
        if self.dirty_since_us.is_none() && self.ledger.is_dirty() {
            self.dirty_since_us = Some(self.now_us);
        }
    }

    /// Changes the account of a submission that is not answered yet.
    fn with(&mut self, number: u64, change: impl FnOnce(&mut Waiting<A>)) {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(waiting) = at.and_then(|at| self.waiting.get_mut(at)) {
            change(waiting);
        }
    }

    /// Microseconds until the next commit or attempt; `None` while nothing is to be done.
    fn due_in_us(&self) -> Option<u64> {
        if let Some(at) = self.retry_at_us {
            return Some(at.saturating_sub(self.now_us).max(1));
        }
        let since = self.dirty_since_us?;
        if !self.ledger.is_dirty() {
            return None;
        }
        let is_few = self.asking <= FEW && self.answered <= self.asking;
        let at = if self.ledger.is_urgent() && is_few {
            self.now_us
        } else if self.ledger.is_urgent() {
            self.last_commit_us + self.options.commit_interval_us
        } else if self.ledger.fresh() > 0 {
            since + self.options.hold_us
        } else {
            since + self.options.lazy_us
        };
        Some(at.saturating_sub(self.now_us))
    }

    fn commit(&mut self) {
        if self.retry_at_us.is_some() {
            return;
        }
        self.last_commit_us = self.now_us;
        self.dirty_since_us = None;
        match self.write() {
            Ok(()) => {
                self.look_at_space();
                self.answer_first(self.waiting.len(), Outcome::Durable);
            }
            Err(error) => self.go_down(&error.to_string()),
        }
    }

    fn write(&mut self) -> Result<(), redb::Error> {
        let Some(database) = &self.database else {
            return Err(redb::Error::PreviousIo);
        };
        let mut txn = database.begin_write()?;
        txn.set_durability(redb::Durability::Immediate)?;
        txn.set_quick_repair(self.ledger.live_bytes() > QUICK_REPAIR_BYTES);
        self.ledger.write(&txn)?;
        txn.commit()?;
        self.ledger.written();
        Ok(())
    }

    /// The file cannot be written. What was noted stays noted.
    fn go_down(&mut self, error: &str) {
        self.ledger.broken();
        self.retry_at_us = Some(self.now_us + self.options.retry_us);
        if self.shared.set_health(Health::Down) {
            tracing::error!(
                "the store cannot be written: {error}; until it can, nothing is acknowledged that \
                 must survive: free space or repair the disk"
            );
        }
    }

    /// Opens the file again, reads the books anew, and writes what it lacks.
    fn try_again(&mut self) {
        self.retry_at_us = Some(self.now_us + self.options.retry_us);
        if self.shared.health() == Health::Broken {
            return;
        }
        self.database = None;
        let ledger = match books::open(&*self.disk, &self.options) {
            Ok((database, ledger, _)) => {
                self.database = Some(database);
                ledger
            }
            Err(error @ (OpenError::Damaged { .. } | OpenError::Newer { .. })) => {
                if self.shared.set_health(Health::Broken) {
                    tracing::error!("{error}");
                }
                return;
            }
            Err(error) => {
                tracing::debug!("the store cannot be opened again: {error}");
                return;
            }
        };
        let former = std::mem::replace(&mut self.ledger, ledger);
        self.ledger.adopt(former);
        self.retry_at_us = None;
        if let Err(error) = self.write() {
            self.go_down(&error.to_string());
            return;
        }
        self.shared.set_health(Health::Good);
        tracing::info!("the store is written again");
        (self.space_seen_us, self.read_again_at_us) = (None, 0);
        self.look_at_space();
        self.answer_first(self.waiting.len(), Outcome::Durable);
    }

    /// Has publishers refused before the disk is full, because an error costs more.
    fn look_at_space(&mut self) {
        if self.space_seen_us.is_some_and(|seen| self.now_us < seen + SPACE_US) {
            return;
        }
        self.space_seen_us = Some(self.now_us);
        let Some(free) = self.disk.free_bytes(&self.options) else { return };
        let is_full = free < self.options.free_bytes_min;
        let health = if is_full { Health::Full } else { Health::Good };
        if self.shared.set_health(health) {
            let (min, path) = (self.options.free_bytes_min, self.options.directory.display());
            if is_full {
                tracing::error!(
                    "{free} bytes are free where {path} is, less than min_free_space ({min}): \
                     messages of QoS 1 and 2 that must be stored are refused until there are more"
                );
            } else {
                tracing::info!("{free} bytes are free where {path} is: messages are taken again");
            }
        }
    }

    /// Answers those at the front that wait for nothing any more: answers come in order.
    fn answer_elided(&mut self) {
        let is_free = |waiting: &&Waiting<A>| waiting.held == 0 && !waiting.urgent;
        let free = self.waiting.iter().take_while(is_free).count();
        self.answer_first(free, Outcome::Durable);
    }

    fn answer_first(&mut self, count: usize, outcome: Outcome) {
        self.first += count as u64;
        self.answers.extend(self.waiting.drain(..count).filter_map(|waiting| waiting.answer));
        if !self.answers.is_empty() {
            self.answered = self.answers.len();
            self.asking = self.asking.saturating_sub(self.answered);
            (self.answer)(&mut self.answers, outcome);
            self.answers.clear();
        }
    }
}
