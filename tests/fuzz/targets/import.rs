//! Another broker's file: whatever is in it, what is planned adds up.

use std::collections::{HashMap, HashSet};

use whimbrel::clock::Moment;
use whimbrel::import::plan::{Identities, plan};
use whimbrel::import::{Terms, mosquitto};
use whimbrel::store::Change;
use whimbrel::store::SessionId;

/// The bytes are a file.
pub fn run(bytes: &[u8]) {
    let Ok(dump) = mosquitto::read(bytes) else { return };
    let (mut messages, mut sessions) = (0, 0);
    let message = || {
        messages += 1;
        messages
    };
    let session = || {
        sessions += 1;
        SessionId(sessions)
    };
    let terms =
        Terms { now: Moment::from_unix_ms(1 << 40), knows_users: bytes.len().is_multiple_of(2) };
    let Ok((changes, report)) = plan(&dump, terms, Identities { message, session }) else { return };
    let (mut put, mut last, mut deliveries) = (HashSet::new(), 0, 0);
    let mut waiting: HashMap<u64, HashSet<SessionId>> = HashMap::new();
    let mut bound = HashSet::new();
    for change in &changes {
        match change {
            Change::SessionPut { session, .. } => assert!(put.insert(*session)),
            Change::Subscribed { session, .. } | Change::Received { session, .. } => {
                assert!(put.contains(session));
            }
            Change::Message { message, targets } => {
                assert!(message.id() > last && message.expires_at() > terms.now);
                last = message.id();
                deliveries += targets.len();
                let receivers: HashSet<_> = targets.iter().map(|target| target.session).collect();
                assert!(receivers.len() == targets.len() && receivers.is_subset(&put));
                waiting.insert(last, receivers);
            }
            Change::Sent { session, packet_id, message, .. } => {
                assert!(*packet_id != 0 && bound.insert((*session, *packet_id)));
                assert!(*message == 0 || waiting[message].contains(session));
            }
            Change::Retained { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(put.len(), report.sessions as usize);
    assert_eq!(deliveries, report.deliveries as usize);
}
