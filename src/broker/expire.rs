//! What ends by itself: Sessions, Wills that wait, retained messages with a lifetime.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Broker;
use super::registry::Place;
use super::turn::Turn;
use crate::clock::Moment;
use crate::store::Change;

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

    fn take(&self, now: Moment) -> Vec<Due> {
        let mut timeline = self.0.lock();
        let later = timeline.due.split_off(&(now.after_ms(1), 0));
        std::mem::replace(&mut timeline.due, later).into_values().collect()
    }
}

impl Broker {
    /// Does what is due. To be called about once a second, which is as precise as the protocol's
    /// intervals are.
    pub fn expire(&self) {
        let now = self.now();
        let mut turn = Turn::default();
        for due in self.expiry.take(now) {
            match due {
                Due::Session { client_id, parting } => {
                    self.expire_session(&client_id, parting, &mut turn);
                }
                Due::Will { client_id, parting } => {
                    self.expire_will(&client_id, parting, now, &mut turn);
                }
            }
        }
        for message in self.retained.expire(now) {
            turn.retained(&message);
        }
        self.finish(&mut turn, None);
    }

    fn expire_session(&self, client_id: &Arc<str>, parting: u64, turn: &mut Turn) {
        let is_due = |place: &Place| matches!(place, Place::Parked(p) if p.parting == parting);
        let removed = self.registry.places.remove_if(client_id, |_, place| is_due(place));
        if let Some((_, Place::Parked(parked))) = removed {
            tracing::info!(client = ?client_id, "session expired");
            self.end_parked(*parked, turn);
        }
    }

    fn expire_will(&self, client_id: &Arc<str>, parting: u64, now: Moment, turn: &mut Turn) {
        let (will, key) = match self.registry.places.get_mut(client_id).as_deref_mut() {
            Some(Place::Parked(parked)) if parked.parting == parting => {
                let stored = parked.mailbox.stored();
                let will = parked.session.take_will();
                if let (Some(_), Some(session)) = (&will, stored) {
                    let record = parked.session.record(Some(parked.since));
                    turn.change(Change::SessionPut { session, record: record.encode() });
                }
                (will, parked.mailbox.key())
            }
            _ => return,
        };
        if let Some(will) = will {
            self.publish_will(&will, client_id, key, now, turn);
        }
    }
}
