//! What is due, by time.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Moment;

/// Something to be done at its time, unless it has become void.
#[derive(Debug)]
pub enum Due {
    /// The Session ends if its Client has not come back since this parting.
    Session {
        /// Whose.
        client_id: Arc<str>,
        /// Which parting.
        parting: u64,
    },
    /// The Will is published if the Client has not come back since this parting.
    Will {
        /// Whose.
        client_id: Arc<str>,
        /// Which parting.
        parting: u64,
    },
}

/// Names something that was added to [`Expiry`].
#[derive(Clone, Copy, Debug)]
pub struct Timer(Moment, u64);

/// What is due, by time.
#[derive(Debug, Default)]
pub struct Expiry(Mutex<Timeline>);

#[derive(Debug, Default)]
struct Timeline {
    due: BTreeMap<(Moment, u64), Due>,
    next: u64,
}

impl Expiry {
    /// Adds something to be done.
    pub fn add(&self, at: Moment, due: Due) -> Timer {
        let mut timeline = self.0.lock();
        let timer = Timer(at, timeline.next);
        timeline.next += 1;
        timeline.due.insert((timer.0, timer.1), due);
        timer
    }

    /// Forgets what has become void.
    pub fn cancel(&self, timer: Timer) {
        self.0.lock().due.remove(&(timer.0, timer.1));
    }

    /// Takes what is due first.
    pub fn take(&self, now: Moment) -> Option<Due> {
        let mut timeline = self.0.lock();
        let first = timeline.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
