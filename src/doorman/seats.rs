//! How many are in: connections from an address, Clients of a user.
//!
//! Exact, not forgotten for want of room: each entry belongs to a connection that is there.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Address, Doorman};
use crate::metrics::Metrics;
use crate::net::transport::Origin;

/// Nobody else is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Who is in.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    by_address: HashMap<Address, u32>,
    /// Connections of each Client of a user, by the hash of its identifier: of two, one is about
    /// to take the other's place [MQTT-3.1.4-3].
    by_user: HashMap<Arc<str>, HashMap<u64, u32>>,
}

/// Counted as long as it is there.
#[derive(Debug)]
pub struct Seat {
    doorman: Arc<Doorman>,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Address(Address),
    User(Arc<str>, u64),
}

impl Doorman {
    /// A seat for a connection from there, where they are counted.
    pub fn seat(self: &Arc<Self>, peer: Origin, metrics: &Metrics) -> Result<Option<Seat>, Full> {
        let max = self.options().address_connections_max;
        let Some(address) = (max > 0).then(|| self.address(peer)).flatten() else {
            return Ok(None);
        };
        let mut taken = self.seats.0.lock();
        let count = taken.by_address.entry(address).or_default();
        if *count >= max {
            metrics.connections_refused_too_many.increment();
            tracing::debug!(%address, "not let in: has {max} connections");
            return Err(Full);
        }
        *count += 1;
        Ok(Some(Seat { doorman: self.clone(), of: Of::Address(address) }))
    }

    /// A seat for a Client of this user, where they are counted.
    pub fn seat_user(
        self: &Arc<Self>,
        user: Option<&Arc<str>>,
        client_id: &str,
        metrics: &Metrics,
    ) -> Result<Option<Seat>, Full> {
        let max = self.options().user_connections_max as usize;
        let Some(user) = user.filter(|_| max > 0) else { return Ok(None) };
        let client = self.hash(client_id);
        let mut taken = self.seats.0.lock();
        let clients = taken.by_user.entry(user.clone()).or_default();
        if clients.len() >= max && !clients.contains_key(&client) {
            metrics.connections_refused_too_many.increment();
            return Err(Full);
        }
        *clients.entry(client).or_default() += 1;
        Ok(Some(Seat { doorman: self.clone(), of: Of::User(user.clone(), client) }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.doorman.seats.0.lock();
        match &self.of {
            Of::Address(address) => {
                leave(&mut taken.by_address, address);
            }
            Of::User(user, client) => {
                if let Some(clients) = taken.by_user.get_mut(user) {
                    leave(clients, client);
                    if clients.is_empty() {
                        taken.by_user.remove(user);
                    }
                }
            }
        }
    }
}

/// One less; who has none left is not kept.
fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doorman::Options;
    use crate::net::transport::Peer;

    #[test]
    fn seats_are_free_again_when_they_are_left() {
        let options =
            Options { address_connections_max: 2, user_connections_max: 2, ..Options::default() };
        let (doorman, metrics) = (Arc::new(Doorman::new(options)), Metrics::default());
        let peer = |text: &str| Peer::direct(Some(text.parse().unwrap())).origin();
        let seat = |text| doorman.seat(peer(text), &metrics);
        let first = seat("192.0.2.7:1").unwrap();
        let _second = seat("192.0.2.7:2").unwrap();
        assert_eq!(seat("192.0.2.7:3").unwrap_err(), Full);
        assert!(seat("192.0.2.8:3").is_ok() && seat("127.0.0.1:3").unwrap().is_none());
        drop(first);
        assert!(seat("192.0.2.7:3").is_ok());

        let user = |user: &str, id| doorman.seat_user(Some(&user.into()), id, &metrics);
        let one = user("ali", "1").unwrap();
        let two = user("ali", "2").unwrap();
        // It takes a place that the same Client has.
        let again = user("ali", "2").unwrap();
        assert_eq!(user("ali", "3").unwrap_err(), Full);
        drop(two);
        assert_eq!(user("ali", "3").unwrap_err(), Full);
        assert!(user("baba", "3").is_ok());
        assert!(doorman.seat_user(None, "4", &metrics).unwrap().is_none());
        drop(again);
        assert!(user("ali", "3").is_ok());
        drop(one);
        assert_eq!(metrics.connections_refused_too_many.value(), 3);
        assert!(doorman.seats.0.lock().by_user.is_empty());
    }
}
