//! What the broker does while the process has less memory left than it should.
//!
//! What grows with what Clients do, and has no smaller bound of its own, stops growing: messages
//! that must be kept are refused as on a full disk, and so are new Sessions, subscriptions and
//! retained messages; who holds a large packet half sent is cut. What makes room goes on: Clients
//! come back to their Sessions and take what waits for them.

use super::Broker;
use super::mailbox::Mail;
use super::memory::Pressure;
use super::registry::Place;
use crate::store::Health;

impl Broker {
    /// Notes what memory the process uses. To be called some times a second.
    pub fn note_memory(&self, used: usize) {
        let Some(pressure) = self.memory.note(used) else { return };
        let max = self.options.memory_max;
        match pressure {
            Pressure::None => {
                tracing::info!("{used} bytes of memory are used, of memory_limit ({max}): enough");
            }
            Pressure::High => {
                tracing::warn!(
                    "{used} bytes of memory are used, of memory_limit ({max}): what is stored \
                     leaves memory, and messages that are not may be dropped; new ones are taken"
                );
                self.registry.lent().iter().for_each(|mailbox| mailbox.leave_to_store());
            }
            Pressure::Full => {
                tracing::error!(
                    "{used} bytes of memory are used, near memory_limit ({max}): messages that \
                     must be kept, new sessions and new subscriptions are refused until it is less"
                );
                self.metrics.memory_limit_reached.increment();
                for mailbox in self.registry.lent() {
                    mailbox.post(Mail::MemoryFull);
                }
            }
        }
    }

    /// Whether nothing must be added to what is kept.
    pub fn memory_is_full(&self) -> bool {
        self.memory.pressure() == Pressure::Full
    }

    /// Whether memory is short, so that less is kept ready.
    pub fn memory_is_short(&self) -> bool {
        self.memory.pressure() != Pressure::None
    }

    /// Whether messages that must be kept can be.
    pub fn takes_messages(&self) -> bool {
        self.store.health() == Health::Good && !self.memory_is_full()
    }

    /// Whether there is memory for a Client that comes in: while it is full, only for one that
    /// comes back to its Session and may take what waits there.
    pub fn has_room_for(&self, client_id: &str, clean_start: bool) -> bool {
        if !self.memory_is_full() {
            return true;
        }
        let comes_back = !clean_start
            && match self.registry.places.get(client_id).as_deref() {
                Some(Place::Parked(parked)) => !parked.is_over(self.now()),
                Some(Place::Lent { .. }) => true,
                None => false,
            };
        if !comes_back {
            self.metrics.connections_refused_for_memory.increment();
        }
        comes_back
    }
}
