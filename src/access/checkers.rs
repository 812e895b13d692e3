//! The threads that check who Clients are. That takes long, for passwords by design, and a
//! connection's thread has others to serve meanwhile.
//!
//! Who waits is bounded; who comes then is told at once that the Server is busy. A Client that
//! does not wait any more is passed over.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// Settings of the threads.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many there are.
    pub threads: usize,
    /// Passwords that may wait for a thread.
    pub waiting_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads: cores.div_ceil(2), waiting_max: 1000 }
    }
}

/// What is done for a Client that waits.
pub(super) trait Job: Send + 'static {
    /// Whether the Client still does.
    fn is_awaited(&self) -> bool;

    /// Does it, unless nobody waits any more.
    fn carry_out(self: Box<Self>);

    /// Tells the Client that too many wait.
    fn turn_away(self: Box<Self>);
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Box<dyn Job>>,
    is_closed: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

impl Shared {
    fn next(&self) -> Option<Box<dyn Job>> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.is_closed {
                return None;
            }
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            self.bell.wait(&mut waiting);
        }
    }
}

/// The threads; dropped, they end, and what waits is not answered. They are not waited for: one
/// that waits for somebody else must not hold up the broker's end, and may be the one that drops
/// this.
pub struct Checkers {
    shared: Arc<Shared>,
    waiting_max: usize,
    threads: usize,
}

impl Checkers {
    /// Starts the threads, which have this name and a number.
    pub fn start(name: &str, options: &Options) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (threads, waiting_max) = (options.threads.max(1), options.waiting_max);
        let checkers = Self { shared, waiting_max, threads };
        for number in 0..threads {
            let shared = checkers.shared.clone();
            let work = move || {
                while let Some(job) = shared.next() {
                    job.carry_out();
                }
            };
            let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
            thread.spawn(work)?;
        }
        Ok(checkers)
    }

    /// Has the job done, or turns the Client away when too many wait.
    pub(super) fn submit(&self, job: Box<dyn Job>) {
        let mut waiting = self.shared.waiting.lock();
        if waiting.jobs.len() >= self.waiting_max {
            // Those who gave up must not keep others out.
            waiting.jobs.retain(|job| job.is_awaited());
            if waiting.jobs.len() >= self.waiting_max {
                drop(waiting);
                return job.turn_away();
            }
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.shared.bell.notify_one();
    }
}

impl Drop for Checkers {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting.lock();
        waiting.is_closed = true;
        let left = std::mem::take(&mut waiting.jobs);
        drop(waiting);
        drop(left);
        self.shared.bell.notify_all();
    }
}

impl fmt::Debug for Checkers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkers({} threads)", self.threads)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Fate {
        Done,
        TurnedAway,
    }

    struct Noted {
        fate: Sender<Fate>,
        is_awaited: bool,
    }

    impl Job for Noted {
        fn is_awaited(&self) -> bool {
            self.is_awaited
        }

        fn carry_out(self: Box<Self>) {
            self.fate.send(Fate::Done).unwrap();
        }

        fn turn_away(self: Box<Self>) {
            self.fate.send(Fate::TurnedAway).unwrap();
        }
    }

    fn job(is_awaited: bool) -> (Box<Noted>, Receiver<Fate>) {
        let (fate, receiver) = channel();
        (Box::new(Noted { fate, is_awaited }), receiver)
    }

    #[test]
    fn jobs_are_done_by_a_thread() {
        let checkers = Checkers::start("password", &Options::default()).unwrap();
        let (job, fate) = job(true);
        checkers.submit(job);
        assert_eq!(fate.recv().unwrap(), Fate::Done);
    }

    #[test]
    fn one_too_many_is_turned_away_unless_somebody_gave_up() {
        // Without threads, so that all wait.
        let shared = Arc::new(Shared::default());
        let checkers = Checkers { shared, waiting_max: 2, threads: 0 };
        let (first, kept) = job(true);
        let (second, given_up) = job(false);
        checkers.submit(first);
        checkers.submit(second);
        let (third, waits) = job(true);
        checkers.submit(third);
        assert!(waits.try_recv().is_err());
        let (fourth, fate) = job(true);
        checkers.submit(fourth);
        assert_eq!(fate.recv().unwrap(), Fate::TurnedAway);
        assert!(given_up.recv().is_err(), "it was dropped");
        // The end answers nobody.
        drop(checkers);
        assert!(kept.recv().is_err());
    }
}
