//! The threads that check passwords. That takes long by design, and a connection's thread has
//! others to serve meanwhile.
//!
//! Who waits is bounded; who comes then is told at once that the Server is busy. A Client that
//! does not wait any more is passed over.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::Answer;
use super::users::{Question, Users};
use crate::codec::ReasonCode;

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

/// A password to be checked.
pub(super) struct Job {
    pub users: Arc<Users>,
    pub question: Question,
    pub answer: Box<dyn Answer>,
}

impl Job {
    fn carry_out(self) {
        if !self.answer.is_awaited() {
            return;
        }
        let verdict = match self.users.answer(&self.question) {
            true => Ok(self.question.identity()),
            false => Err(ReasonCode::BadUserNameOrPassword),
        };
        self.answer.give(verdict);
    }
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

impl Shared {
    fn next(&self) -> Option<Job> {
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

/// The threads; dropped, they end, and what waits is not answered.
pub struct Checkers {
    shared: Arc<Shared>,
    waiting_max: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Checkers {
    /// Starts the threads.
    pub fn start(options: &Options) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut checkers = Self { shared, waiting_max: options.waiting_max, threads: Vec::new() };
        for number in 0..options.threads.max(1) {
            let shared = checkers.shared.clone();
            let work = move || {
                while let Some(job) = shared.next() {
                    job.carry_out();
                }
            };
            let thread = std::thread::Builder::new().name(format!("password-{number}"));
            checkers.threads.push(thread.spawn(work)?);
        }
        Ok(checkers)
    }

    /// Has a password checked; gives it back when too many wait.
    pub(super) fn submit(&self, job: Job) -> Result<(), Job> {
        let mut waiting = self.shared.waiting.lock();
        if waiting.jobs.len() >= self.waiting_max {
            // Those who gave up must not keep others out.
            waiting.jobs.retain(|job| job.answer.is_awaited());
            if waiting.jobs.len() >= self.waiting_max {
                return Err(job);
            }
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.shared.bell.notify_one();
        Ok(())
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
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Checkers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkers({} threads)", self.threads.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::access::Verdict;
    use crate::access::file::PasswordFile;
    use crate::access::password::argon2id;

    struct Asked {
        verdicts: Sender<Verdict>,
        is_awaited: Arc<AtomicBool>,
    }

    impl Answer for Asked {
        fn is_awaited(&self) -> bool {
            self.is_awaited.load(Ordering::Relaxed)
        }

        fn give(self: Box<Self>, verdict: Verdict) {
            self.verdicts.send(verdict).unwrap();
        }
    }

    fn users() -> Arc<Users> {
        let hash = argon2id(b"sesame", &[1; 16]).unwrap();
        Arc::new(Users::new(PasswordFile::parse(&format!("ali:{hash}")).unwrap(), [7; 32]))
    }

    fn job(users: &Arc<Users>, password: &str, is_awaited: bool) -> (Job, Receiver<Verdict>) {
        let (verdicts, receiver) = channel();
        let answer = Box::new(Asked { verdicts, is_awaited: Arc::new(is_awaited.into()) });
        let question = users.question("ali", Some(password.as_bytes()));
        (Job { users: users.clone(), question, answer }, receiver)
    }

    #[test]
    fn passwords_are_judged_by_a_thread() {
        let (users, checkers) = (users(), Checkers::start(&Options::default()).unwrap());
        for (password, is_right) in [("sesame", true), ("simsim", false)] {
            let (job, verdict) = job(&users, password, true);
            assert!(checkers.submit(job).is_ok());
            assert_eq!(verdict.recv().unwrap().is_ok(), is_right, "{password}");
        }
    }

    #[test]
    fn who_does_not_wait_any_more_is_passed_over() {
        let (users, checkers) = (users(), Checkers::start(&Options::default()).unwrap());
        let (job, verdict) = job(&users, "sesame", false);
        assert!(checkers.submit(job).is_ok());
        assert!(verdict.recv().is_err());
    }

    #[test]
    fn one_too_many_is_given_back_unless_somebody_gave_up() {
        let users = users();
        // Without threads, so that all wait.
        let shared = Arc::new(Shared::default());
        let checkers = Checkers { shared, waiting_max: 2, threads: Vec::new() };
        let (first, kept) = job(&users, "sesame", true);
        let (second, given_up) = job(&users, "sesame", false);
        assert!(checkers.submit(first).is_ok() && checkers.submit(second).is_ok());
        assert!(checkers.submit(job(&users, "sesame", true).0).is_ok());
        assert!(checkers.submit(job(&users, "sesame", true).0).is_err());
        assert!(given_up.recv().is_err(), "it was dropped");
        // The end answers nobody.
        drop(checkers);
        assert!(kept.recv().is_err());
    }
}
