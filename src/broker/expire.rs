//! What ends by itself: Sessions, Wills that wait, retained messages with a lifetime, and what
//! declared queues keep or lend for a time.

use std::sync::Arc;

use super::Broker;
use super::registry::Place;
use super::timeline::Due;
use super::turn::Turn;
use crate::clock::Moment;
use crate::store::Change;

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
        self.expire_in_queues(now, &mut turn);
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
            self.metrics.sessions_expired.increment();
            self.end_parked(*parked, turn);
        }
    }

    fn expire_will(&self, client_id: &Arc<str>, parting: u64, now: Moment, turn: &mut Turn) {
        let (will, mailbox) = match self.registry.places.get_mut(client_id).as_deref_mut() {
            Some(Place::Parked(parked)) if parked.parting == parting => {
                let stored = parked.mailbox.stored();
                let will = parked.session.take_will();
                if let (Some(_), Some(session)) = (&will, stored) {
                    let owner = parked.mailbox.guard().subject.username.clone();
                    let record = parked.session.record(Some(parked.since), owner);
                    turn.change(Change::SessionPut { session, record: record.encode() });
                }
                (will, parked.mailbox.clone())
            }
            _ => return,
        };
        if let Some(will) = will {
            self.publish_will(&will, &mailbox, now, turn);
        }
    }
}
