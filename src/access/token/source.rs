//! Keys that an address gives: fetched at the start, from time to time, and when a token is signed
//! with a key that nobody has seen. A thread does that; who waits for a key waits with it.
//!
//! Whoever sends tokens can name unknown keys, so that they are looked for is bounded in time, and
//! those who wait are bounded in number. What was fetched stays in use when fetching fails.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::key::Keys;
use crate::access::checkers::Job;
use crate::access::http::Http;
use crate::clock::{Clock, Moment};
use crate::metrics::Proofs;

/// Least time between two fetches that unknown keys cause, in milliseconds.
const UNKNOWN_PAUSE_MS: u64 = 5_000;

/// Time to the next attempt after one that failed.
const RETRY: Duration = Duration::from_secs(30);

/// Clients that may wait for a key.
const WAITING_MAX: usize = 1000;

/// Where keys come from, and what is done with them.
pub(super) struct Options {
    pub name: Arc<str>,
    pub url: String,
    pub http: Http,
    /// Time between two fetches that nobody asked for.
    pub interval: Duration,
}

/// What the thread and those who ask share.
struct Shared {
    options: Options,
    keys: Arc<RwLock<Arc<Keys>>>,
    counts: Arc<Proofs>,
    clock: Clock,
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Box<dyn Job>>,
    /// Whether the thread is to fetch, once more if it is fetching.
    is_wanted: bool,
    is_fetching: bool,
    began_at: Option<Moment>,
    has_failed: bool,
    is_closed: bool,
}

/// An address and its thread, which is told to end when this is dropped. It is not waited for: a
/// fetch that hangs must not hold up the broker's end, and this may be the thread that drops it.
pub(super) struct Source {
    shared: Arc<Shared>,
}

impl Source {
    /// Begins to fetch.
    pub fn start(
        options: Options,
        keys: Arc<RwLock<Arc<Keys>>>,
        counts: Arc<Proofs>,
    ) -> io::Result<Self> {
        let state = Mutex::new(State { is_wanted: true, ..State::default() });
        let (clock, bell) = (Clock::system(), Condvar::new());
        let shared = Arc::new(Shared { options, keys, counts, clock, state, bell });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("token-keys".into());
        thread.spawn(move || own.keep())?;
        Ok(Self { shared })
    }

    /// Has the job done when keys have been fetched, or turns the Client away when too many wait;
    /// gives it back if none will be, or some were a moment ago.
    pub fn wait<J: Job>(&self, job: Box<J>) -> Result<(), Box<J>> {
        let mut state = self.shared.state.lock();
        let now = self.shared.clock.now();
        let is_rested = state.began_at.is_none_or(|at| now.since(at) >= UNKNOWN_PAUSE_MS);
        let is_coming = state.is_wanted || state.is_fetching;
        if state.is_closed || !is_coming && !is_rested {
            return Err(job);
        }
        if state.waiting.len() >= WAITING_MAX {
            state.waiting.retain(|job| job.is_awaited());
            if state.waiting.len() >= WAITING_MAX {
                drop(state);
                job.turn_away();
                return Ok(());
            }
        }
        state.waiting.push(job);
        state.is_wanted |= !is_coming;
        drop(state);
        self.shared.bell.notify_one();
        Ok(())
    }

    /// Ends the fetching; who waits is judged by the keys that are there.
    pub fn close(&self) {
        self.shared.state.lock().is_closed = true;
        self.shared.bell.notify_one();
    }

    /// Has the keys fetched now.
    pub fn refresh(&self) {
        self.shared.state.lock().is_wanted = true;
        self.shared.bell.notify_one();
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shared.options.url)
    }
}

impl Shared {
    fn keep(&self) {
        loop {
            let mut state = self.state.lock();
            (state.is_wanted, state.is_fetching) = (false, true);
            state.began_at = Some(self.clock.now());
            drop(state);
            let fetched = self.fetch();
            let is_good = fetched.is_ok();
            self.note(fetched);
            let mut state = self.state.lock();
            state.is_fetching = false;
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(Job::carry_out);
            let interval = self.options.interval;
            if !self.rest(if is_good { interval } else { interval.min(RETRY) }) {
                let waiting = std::mem::take(&mut self.state.lock().waiting);
                waiting.into_iter().for_each(Job::carry_out);
                return;
            }
        }
    }

    /// Waits until it is time to fetch again; false: for ever.
    fn rest(&self, longest: Duration) -> bool {
        let mut state = self.state.lock();
        while !state.is_wanted && !state.is_closed {
            if self.bell.wait_for(&mut state, longest).timed_out() {
                break;
            }
        }
        !state.is_closed
    }

    fn fetch(&self) -> Result<Keys, String> {
        let text = self.options.http.get(&self.options.url)?;
        Keys::of_json(&text, false)
    }

    /// Takes over what was fetched; says when fetching begins to fail and when it ends to.
    fn note(&self, fetched: Result<Keys, String>) {
        let name = &*self.options.name;
        let had_failed = std::mem::replace(&mut self.state.lock().has_failed, fetched.is_err());
        match fetched {
            Ok(keys) => {
                self.counts.key_fetches.increment();
                let number = keys.len();
                let before = std::mem::replace(&mut *self.keys.write(), Arc::new(keys)).len();
                if had_failed || before != number {
                    tracing::info!(token = name, "keys fetched: {number}");
                }
            }
            Err(why) => {
                self.counts.key_fetches_failed.increment();
                let number = self.keys.read().len();
                if had_failed {
                    tracing::debug!(token = name, "keys cannot be fetched: {why}");
                } else {
                    tracing::warn!(
                        token = name,
                        "keys cannot be fetched: {why}; those fetched before, {number}, stay in use"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::access::http;

    /// Says whether it was turned away; it is not carried out here.
    struct Noted {
        turned_away: Sender<()>,
        is_awaited: bool,
    }

    impl Job for Noted {
        fn is_awaited(&self) -> bool {
            self.is_awaited
        }

        fn carry_out(self: Box<Self>) {}

        fn turn_away(self: Box<Self>) {
            self.turned_away.send(()).unwrap();
        }
    }

    /// Without a thread, so that all wait.
    fn source(clock: Clock) -> Source {
        let http = http::Options { authorities: None, deadline: RETRY, kept_max: 1 };
        let http = Http::new(&http).unwrap();
        let (name, url, interval) = ("device".into(), String::new(), RETRY);
        let options = Options { name, url, http, interval };
        let (keys, counts, state, bell) = Default::default();
        Source { shared: Arc::new(Shared { options, keys, counts, clock, state, bell }) }
    }

    #[test]
    fn one_too_many_is_turned_away_unless_somebody_gave_up() {
        let source = source(Clock::system());
        let (turned_away, told) = channel();
        let wait = |is_awaited| {
            let job = Noted { turned_away: turned_away.clone(), is_awaited };
            assert!(source.wait(Box::new(job)).is_ok());
        };
        wait(false);
        (0..WAITING_MAX).for_each(|_| wait(true));
        assert!(told.try_recv().is_err());
        wait(true);
        assert!(told.try_recv().is_ok());
    }

    #[test]
    fn nobody_waits_for_keys_that_were_fetched_a_moment_ago() {
        let source = source(Clock::manual(Moment::from_unix_ms(0)));
        let clock = &source.shared.clock;
        source.shared.state.lock().began_at = Some(clock.now());
        let (turned_away, told) = channel();
        let wait = || {
            let job = Noted { turned_away: turned_away.clone(), is_awaited: true };
            source.wait(Box::new(job))
        };
        assert!(wait().is_err());
        clock.set(clock.now().after_ms(UNKNOWN_PAUSE_MS));
        assert!(wait().is_ok() && wait().is_ok());
        assert!(told.try_recv().is_err());
    }
}
