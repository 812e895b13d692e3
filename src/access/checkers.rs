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

use super::case::Case;

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

#[derive(Default)]
struct Waiting {
    cases: VecDeque<Box<Case>>,
    is_closed: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

impl Shared {
    fn next(&self) -> Option<Box<Case>> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.is_closed {
                return None;
            }
            if let Some(case) = waiting.cases.pop_front() {
                return Some(case);
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
                while let Some(case) = shared.next() {
                    case.carry_out();
                }
            };
            let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
            thread.spawn(work)?;
        }
        Ok(checkers)
    }

    /// Has a Client judged, or turns it away when too many wait.
    pub(super) fn submit(&self, case: Box<Case>) {
        let mut waiting = self.shared.waiting.lock();
        if waiting.cases.len() >= self.waiting_max {
            // Those who gave up must not keep others out.
            waiting.cases.retain(|case| case.is_awaited());
            if waiting.cases.len() >= self.waiting_max {
                drop(waiting);
                return case.turn_away();
            }
        }
        waiting.cases.push_back(case);
        drop(waiting);
        self.shared.bell.notify_one();
    }
}

impl Drop for Checkers {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting.lock();
        waiting.is_closed = true;
        let left = std::mem::take(&mut waiting.cases);
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
    use std::sync::Weak;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::access::book::Directory;
    use crate::access::case::Method;
    use crate::access::file::PasswordFile;
    use crate::access::password::argon2id;
    use crate::access::users::Users;
    use crate::access::verdict::{Answer, Denied, Identity, Shown, Verdict};
    use crate::codec::ReasonCode;

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

    fn users() -> Arc<[Method]> {
        let hash = argon2id(b"sesame", &[1; 16]).unwrap();
        let file = PasswordFile::parse(&format!("ali:{hash}")).unwrap();
        Arc::new([Method::Passwords(Arc::new(Directory::new(Users::new(file, [7; 32]))))])
    }

    fn case(
        users: &Arc<[Method]>,
        password: &str,
        is_awaited: bool,
    ) -> (Box<Case>, Receiver<Verdict>) {
        let (verdicts, receiver) = channel();
        let answer = Box::new(Asked { verdicts, is_awaited: Arc::new(is_awaited.into()) });
        let password = Some(password.as_bytes().into());
        let shown = Shown { username: Some("ali".into()), password, ..Shown::default() };
        let case =
            Case::new(users.clone(), shown, Ok(Identity::default()), answer, Weak::default());
        (case, receiver)
    }

    #[test]
    fn passwords_are_judged_by_a_thread() {
        let (users, checkers) =
            (users(), Checkers::start("password", &Options::default()).unwrap());
        for (password, is_right) in [("sesame", true), ("simsim", false)] {
            let (case, verdict) = case(&users, password, true);
            checkers.submit(case);
            assert_eq!(verdict.recv().unwrap().is_ok(), is_right, "{password}");
        }
    }

    #[test]
    fn who_does_not_wait_any_more_is_passed_over() {
        let (users, checkers) =
            (users(), Checkers::start("password", &Options::default()).unwrap());
        let (case, verdict) = case(&users, "sesame", false);
        checkers.submit(case);
        assert!(verdict.recv().is_err());
    }

    #[test]
    fn one_too_many_is_turned_away_unless_somebody_gave_up() {
        let users = users();
        // Without threads, so that all wait.
        let shared = Arc::new(Shared::default());
        let checkers = Checkers { shared, waiting_max: 2, threads: 0 };
        let (first, kept) = case(&users, "sesame", true);
        let (second, given_up) = case(&users, "sesame", false);
        checkers.submit(first);
        checkers.submit(second);
        let (third, waits) = case(&users, "sesame", true);
        checkers.submit(third);
        assert!(waits.try_recv().is_err());
        let (fourth, verdict) = case(&users, "sesame", true);
        checkers.submit(fourth);
        let busy = |denied: Denied| denied.reason == ReasonCode::ServerBusy;
        assert!(verdict.recv().unwrap().is_err_and(busy));
        assert!(given_up.recv().is_err(), "it was dropped");
        // The end answers nobody.
        drop(checkers);
        assert!(kept.recv().is_err());
    }
}
