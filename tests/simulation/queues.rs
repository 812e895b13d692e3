//! The declared queues of every world.

use whimbrel::queue::Overflow;
use whimbrel::queue::declaration::{Declaration, LastValue, OnReject};

use crate::packet::PRIORITY;

/// The topic of dead letters.
pub const DEAD: &str = "$q/dead/work";

/// How often a message of `work` is handed out.
pub const WORK_MAX: u32 = 3;

/// The queue that rejects, and how many messages it holds.
pub const TIGHT: &str = "$queue/tight";
pub const TIGHT_MAX: usize = 3;

/// What a consumer of `lease` has time for, in milliseconds.
pub const LEASE_MS: u64 = 800;

/// How long a message waits in `brief`, in seconds.
pub const BRIEF_S: u32 = 2;

/// The queue that goes by priority, and what goes into it.
pub const PRIO: &str = "$queue/prio";
pub const PRIO_TOPIC: &str = "$q/prio/1";

/// What consumers subscribe to.
pub const NAMES: &[&str] = &[
    "$queue/jobs",
    "$queue/work",
    "$queue/dead",
    TIGHT,
    "$queue/lease",
    "$queue/last",
    "$queue/brief",
    PRIO,
];

/// What goes into them; the last rejects, which Clients of 3.1.1 cannot be told.
pub const TOPICS: &[&str] =
    &["$q/jobs/1", "$q/work/1", "$q/lease/1", "$q/last/1", "$q/last/2", "$q/brief/1", PRIO_TOPIC];
pub const TOPICS_V5: &[&str] = &[
    "$q/jobs/1",
    "$q/work/1",
    "$q/lease/1",
    "$q/last/1",
    "$q/brief/1",
    "$q/tight/1",
    PRIO_TOPIC,
    PRIO_TOPIC,
];

/// See the head of this file.
pub fn declarations() -> Vec<Declaration> {
    let queue = |name: &str| {
        let filter = format!("$q/{name}/+").into();
        Declaration { name: name.into(), filter, ..Declaration::default() }
    };
    vec![
        queue("jobs"),
        Declaration {
            deliveries_max: Some(WORK_MAX as u8),
            dead_letter: Some(DEAD.into()),
            on_reject: Some(OnReject::Requeue),
            ..queue("work")
        },
        queue("dead"),
        Declaration { last_value: Some(LastValue::Topic), ..queue("last") },
        Declaration { priority: Some(PRIORITY.into()), ..queue("prio") },
        Declaration { message_ttl_s: Some(BRIEF_S), ..queue("brief") },
        Declaration { lease_ms: Some(LEASE_MS), ..queue("lease") },
        Declaration { messages_max: Some(TIGHT_MAX), overflow: Overflow::Reject, ..queue("tight") },
    ]
}
