//! What ends by itself: Sessions, Wills that wait, retained messages with a lifetime, and what
//! declared queues keep or lend for a time.

use std::sync::Arc;

use super::Broker;
use super::registry::Place;
use super::timeline::Due;
use super::turn::Turn;
use crate::clock::Moment;
use crate::store::Change;

/// Sessions and Wills that are seen to at a time, and parts of the subscriptions of Sessions that
/// have many: about ten milliseconds.
const PARTS_MAX: usize = 128;

impl Broker {
    /// Does what is due. To be called about once a second, which is as precise as the protocol's
    /// intervals are, and again when it says that it has left something.
    pub fn expire(&self) -> bool {
        let now = self.now();
        let (mut turn, mut parts) = (Turn::default(), PARTS_MAX);
        while parts > 0
            && let Some(due) = self.expiry.take(now)
        {
            parts -= 1;
            match due {
                Due::Session { client_id, parting } => {
                    self.expire_session(&client_id, parting, &mut parts, &mut turn);
                }
                Due::Will { client_id, parting } => {
                    self.expire_will(&client_id, parting, now, &mut turn);
                }
            }
        }
        if parts == 0 {
            self.finish(&mut turn, None);
            return true;
        }
        self.expire_in_queues(now, &mut turn);
        for message in self.retained.expire(now) {
            turn.retained(&message);
        }
        self.finish(&mut turn, None);
        false
    }

    /// Ends a Session, as far as there are `parts` left for it; the rest is due again.
    fn expire_session(
        &self,
        client_id: &Arc<str>,
        parting: u64,
        parts: &mut usize,
        turn: &mut Turn,
    ) {
        let is_due = |place: &Place| matches!(place, Place::Parked(p) if p.parting == parting);
        // The place is locked for a part at a time.
        while let Some(Place::Parked(parked)) =
            self.registry.places.get_mut(client_id).as_deref_mut()
            && parked.parting == parting
            && self.end_some(client_id, parked)
        {
            *parts = parts.saturating_sub(1);
            if *parts == 0 {
                let end = Due::Session { client_id: client_id.clone(), parting };
                parked.timers.push(self.expiry.add(self.now(), end));
                return;
            }
        }
        if let Some(Place::Parked(parked)) = self.registry.remove_if(client_id, is_due) {
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
