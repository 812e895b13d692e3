//! At the end, when everybody is connected and nothing more happens: what should have come.

use super::Model;
use super::session::Sure;
use super::track::Via;
use crate::history::CLIENTS;

/// A message with a shorter life may have expired on its way.
const LIVES_S: u32 = 100;

impl Model {
    /// Whether everything has come that must; the error is what has not.
    pub fn verdict(&self) -> Result<(), String> {
        for (client, session) in self.sessions.iter().enumerate() {
            let name = CLIENTS[client].0;
            if session.exists == Sure::No || !session.is_online() {
                continue;
            }
            for ((number, via), track) in &session.tracks {
                if track.must && !track.is_there() && self.lives(*number) {
                    let what = match via {
                        Via::Handed(_) => "the retained message",
                        _ => "message",
                    };
                    return Err(format!("{name} has not got {what} {number}"));
                }
            }
        }
        for (filter, group) in &self.groups {
            for (number, track) in &group.tracks {
                if track.must && !track.is_there() && self.lives(*number) {
                    return Err(format!("nobody of {filter} has got message {number}"));
                }
            }
        }
        if self.queues.must_be_empty {
            self.queue_verdict()?;
        }
        for (number, conn) in self.conns.iter().filter(|(_, conn)| conn.open && !conn.ended) {
            let name = CLIENTS[conn.client].0;
            let waits_for = [
                ("PUBACK", conn.pubacks.len()),
                ("PUBREC", conn.pubrecs.len()),
                ("PUBREL", conn.pubrels.len()),
                ("PUBCOMP", conn.pubcomps.len()),
                ("SUBACK", conn.subacks.len()),
                ("UNSUBACK", conn.unsubacks.len()),
                ("PINGRESP", conn.pings),
            ];
            if let Some((what, count)) = waits_for.into_iter().find(|(_, count)| *count > 0) {
                return Err(format!("{name}, connection {number}: {count} {what} did not come"));
            }
        }
        Ok(())
    }

    fn lives(&self, number: u32) -> bool {
        let expiry_s = self.messages.get(&number).and_then(|message| message.expiry_s);
        expiry_s.is_none_or(|s| s > LIVES_S)
    }
}
