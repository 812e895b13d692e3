//! The thread that writes: takes what has come in, decides when to commit, and answers.
//!
//! When to commit:
//! * something urgent waits: as soon as `commit_interval_us` have passed since the last commit
//!   began;
//! * only messages wait that may be elided: after `hold_us`;
//! * nobody waits (acknowledgements alone): after `lazy_us`;
//! * a batch is full: at once.
//!
//! It runs on a thread of the operating system and not of the async runtime, so that an fsync
//! keeps nobody from being served. A simulation has no such thread and calls [`Committer::step`]
//! itself, with its own time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use redb::Database;

use super::ledger::{Ledger, Noted};
use super::{Answer, Change, Options, Outcome, Shared};
use crate::clock::Stopwatch;

/// Messages in one commit at most: keeps a commit below about 10 ms.
const BATCH_MESSAGES_MAX: usize = 5_000;

/// Bytes in one commit at most.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Above this much live data the file is written so that it opens in milliseconds after a crash;
/// below it, reading it through takes less than a second and each commit is cheaper.
const QUICK_REPAIR_BYTES: u64 = 256 << 20;

/// While something is held back, how often the inbox is looked at, in microseconds.
const LOOK_US: u64 = 1_000;

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
    database: Database,
    ledger: Ledger,
    options: Options,
    shared: Arc<Shared<A>>,
    answer: Answer<A>,
    waiting: VecDeque<Waiting<A>>,
    /// The number of the submission at the front of `waiting`.
    first: u64,
    /// What the clock of the steps shows.
    now_us: u64,
    last_commit_us: u64,
    /// When the oldest change that is not written came in.
    dirty_since_us: Option<u64>,
    failed: bool,
    answers: Vec<A>,
    /// What was taken from the inbox; between steps empty, kept for its memory.
    changes: Vec<Change>,
    submissions: Vec<(usize, Option<A>)>,
}

impl<A: Send + 'static> Committer<A> {
    pub(super) fn new(
        database: Database,
        ledger: Ledger,
        options: &Options,
        shared: Arc<Shared<A>>,
        answer: Answer<A>,
    ) -> Self {
        Self {
            database,
            ledger,
            options: options.clone(),
            shared,
            answer,
            waiting: VecDeque::new(),
            first: 0,
            now_us: 0,
            last_commit_us: 0,
            dirty_since_us: None,
            failed: false,
            answers: Vec::new(),
            changes: Vec::new(),
            submissions: Vec::new(),
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
        if us > 0 && inbox.submissions.is_empty() && !inbox.closing {
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
        self.answer_elided();
        if self.commit_due_in_us() == Some(0) || (closing && self.ledger.is_dirty()) {
            self.commit();
        }
        let due_us = self.commit_due_in_us();
        let mut inbox = self.shared.inbox.lock();
        if !inbox.submissions.is_empty() || inbox.closing != closing {
            return Next::Within(0);
        }
        if closing {
            return Next::Never;
        }
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
        inbox.closing
    }

    fn note(&mut self) {
        let mut submissions = std::mem::take(&mut self.submissions);
        let mut taken = std::mem::take(&mut self.changes);
        let mut changes = taken.drain(..);
        let mut start = 0;
        for (end, answer) in submissions.drain(..) {
            let number = self.first + self.waiting.len() as u64;
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

    /// Microseconds until the next commit; `None` while nothing is to be written.
    fn commit_due_in_us(&self) -> Option<u64> {
        let since = self.dirty_since_us?;
        if !self.ledger.is_dirty() {
            return None;
        }
        let at = if self.ledger.is_urgent() {
            self.last_commit_us + self.options.commit_interval_us
        } else if self.ledger.fresh() > 0 {
            since + self.options.hold_us
        } else {
            since + self.options.lazy_us
        };
        Some(at.saturating_sub(self.now_us))
    }

    fn commit(&mut self) {
        self.last_commit_us = self.now_us;
        self.dirty_since_us = None;
        if !self.failed
            && let Err(error) = self.write()
        {
            self.failed = true;
            tracing::error!(
                "the store cannot be written: {error}; nothing is acknowledged from now on; \
                 free space or repair the disk, then restart the broker"
            );
        }
        self.answer_first(self.waiting.len());
    }

    fn write(&mut self) -> Result<(), redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(redb::Durability::Immediate)?;
        txn.set_quick_repair(self.ledger.live_bytes() > QUICK_REPAIR_BYTES);
        self.ledger.write(&txn)?;
        txn.commit()?;
        Ok(())
    }

    /// Answers those at the front that wait for nothing any more: answers come in order.
    fn answer_elided(&mut self) {
        let is_free = |waiting: &&Waiting<A>| waiting.held == 0 && !waiting.urgent;
        let free = self.waiting.iter().take_while(is_free).count();
        self.answer_first(free);
    }

    fn answer_first(&mut self, count: usize) {
        self.first += count as u64;
        self.answers.extend(self.waiting.drain(..count).filter_map(|waiting| waiting.answer));
        if !self.answers.is_empty() {
            let outcome = if self.failed { Outcome::Failed } else { Outcome::Durable };
            (self.answer)(&mut self.answers, outcome);
            self.answers.clear();
        }
    }
}
