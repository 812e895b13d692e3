//! What happens in a world, step by step, made from a seed.
//!
//! A step stands for itself: it does not depend on those before it, so that any of them can be
//! left out. One that makes no sense where it stands does nothing.

use crate::client::Acks;
use crate::packet::Filter;
use crate::pipe::{Cut, Link};
use crate::queues;
use crate::random::Random;

/// The Clients: their names, and whether they speak MQTT 5.0 or 3.1.1.
pub const CLIENTS: &[(&str, bool)] =
    &[("ann", true), ("bob", true), ("cat", true), ("dan", false), ("eve", false)];

const TOPICS: &[&str] = &["a", "a/b", "b", "q/1", "q/2"];

/// A message of a 3.1.1 Client says nothing of the subscription that it came by. So these Clients
/// have topics below `q/` only from one share group.
const FILTERS: &[&str] = &["a", "a/b", "a/#", "b", "+/b"];
const FILTERS_V5: &[&str] = &["a", "a/#", "a/+", "#", "+/b", "b", "q/#"];
const SHARED: &[&str] = &["$share/g/q/+"];
const SHARED_V5: &[&str] = &["$share/g/q/+", "$share/h/a/#", "$share/g/#"];

/// A Will without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub topic: &'static str,
    pub qos: u8,
    pub retain: bool,
    pub delay_s: u32,
}

/// A CONNECT and what the connection and the Client are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    pub clean_start: bool,
    pub expiry_s: u32,
    pub keep_alive_s: u16,
    pub receive_maximum: Option<u16>,
    pub will: Option<Will>,
    pub link: Link,
    pub acks: Acks,
    /// By a listener with `durability = "memory"`.
    pub in_memory: bool,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    Connect(usize, Connect),
    Disconnect {
        client: usize,
        will: bool,
        expiry_s: Option<u32>,
    },
    Cut {
        client: usize,
        how: Cut,
        loses: bool,
    },
    Stall(usize, bool),
    Acks(usize, Acks),
    Release(usize),
    Subscribe(usize, Vec<Filter>),
    Unsubscribe(usize, &'static str),
    /// `len` 0 clears what is retained.
    Publish {
        client: usize,
        topic: &'static str,
        qos: u8,
        retain: bool,
        expiry_s: Option<u32>,
        priority: Option<u8>,
        len: usize,
    },
    Ping(usize),
    /// The power is cut after so many turns of the runtime.
    PowerCut {
        yields: u64,
        seed: u64,
    },
    /// The power is cut when the disk is synced after so many syncs.
    PowerCutAtSync {
        syncs: u64,
        seed: u64,
    },
    /// The disk fails after so many operations, once or for so long.
    DiskError {
        operations: u64,
        for_ms: u64,
        forgets: bool,
    },
    /// The broker is stopped in good order and started again.
    Restart,
    /// Nothing for so long.
    Wait {
        ms: u64,
    },
}

/// A deed, and how long until the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub deed: Deed,
    pub then_ms: u64,
}

/// What a world goes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub seed: u64,
    /// Milliseconds that the disk takes for a commit.
    pub disk_ms: u64,
    /// Bytes that a queue keeps at hand; the rest is read from the store.
    pub at_hand_max: usize,
    /// With `durability = "written"`, where the process is killed instead of the power cut.
    pub is_written: bool,
    pub steps: Vec<Step>,
}

/// Session Expiry Interval of a Session that is to see the end.
pub const LONG_S: u32 = 100_000;

impl History {
    /// The history of a seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let disk_ms = random.pick(&[0, 0, 1, 5, 20]);
        let at_hand_max = random.pick(&[150, 1 << 20]);
        let is_written = random.one_in(4);
        // Some histories are calm, some have all that can happen in them.
        let cuts = random.below(4);
        let mut steps = vec![];
        for client in 0..CLIENTS.len() {
            if !random.one_in(4) {
                let connect = Deed::Connect(client, connect(client, &mut random));
                steps.push(Step { deed: connect, then_ms: random.below(8) });
                let subscribe = Deed::Subscribe(client, filters(client, &mut random));
                steps.push(Step { deed: subscribe, then_ms: random.below(4) });
            }
        }
        for _ in 0..random.below(50) + 20 {
            let deed = deed(cuts, &mut random);
            let then_ms = random.pick(&[0, 0, 0, 1, 1, 2, 3, 5, 12, 30]);
            steps.push(Step { deed, then_ms });
        }
        Self { seed, disk_ms, at_hand_max, is_written, steps }
    }
}

fn connect(client: usize, random: &mut Random) -> Connect {
    let (_, v5) = CLIENTS[client];
    let clean_start = random.one_in(4);
    let expiry_s = match v5 {
        true => random.pick(&[0, 2, 5, LONG_S, LONG_S, LONG_S, u32::MAX]),
        false => u32::MAX * u32::from(!clean_start),
    };
    let will = random.one_in(3).then(|| Will {
        topic: random.pick(TOPICS),
        qos: random.below(3) as u8,
        retain: random.one_in(4),
        delay_s: if v5 { random.pick(&[0, 0, 1, 3]) } else { 0 },
    });
    let link = Link {
        delay_up: random.pick(&[0, 0, 1, 3, 15]),
        delay_down: random.pick(&[0, 0, 1, 3, 15]),
        read_max: random.pick(&[3, 64, 4096, 4096]),
        capacity: random.pick(&[40, 300, 1 << 16, 1 << 16]),
    };
    Connect {
        clean_start,
        expiry_s,
        keep_alive_s: random.pick(&[0, 0, 2, 60]),
        receive_maximum: if v5 { random.pick(&[None, Some(1), Some(2), Some(5)]) } else { None },
        will,
        link,
        acks: acks(random),
        in_memory: random.one_in(6),
    }
}

fn acks(random: &mut Random) -> Acks {
    match random.below(8) {
        0..4 => Acks::Prompt,
        4 => Acks::Slow(random.below(10), random.below(60)),
        5 => Acks::Slow(random.below(60), random.below(10)),
        6 => Acks::Held,
        _ => Acks::Refused,
    }
}

fn filters(client: usize, random: &mut Random) -> Vec<Filter> {
    if random.one_in(3) {
        return vec![consumes(random.pick(queues::NAMES), random.pick(&[1, 1, 2]))];
    }
    let (_, v5) = CLIENTS[client];
    let first = name(client, random);
    let is_shared = |filter: &str| filter.starts_with("$share");
    let mut names = vec![first];
    // One Subscription Identifier names one share group or no share group.
    if !is_shared(first) && random.one_in(3) {
        names.extend(Some(name(client, random)).filter(|name| !is_shared(name) && *name != first));
    }
    let filter = |filter: &str| Filter {
        filter: filter.to_owned(),
        qos: random.pick(&[0, 1, 1, 2, 2]),
        no_local: v5 && !is_shared(filter) && random.one_in(4),
        retain_as_published: v5 && random.one_in(3),
        retain_handling: if v5 { random.pick(&[0, 0, 1, 2]) } else { 0 },
    };
    names.into_iter().map(filter).collect()
}

/// A consumer's subscription to a queue.
pub fn consumes(queue: &str, qos: u8) -> Filter {
    Filter {
        filter: queue.to_owned(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    }
}

fn name(client: usize, random: &mut Random) -> &'static str {
    let (_, v5) = CLIENTS[client];
    match (v5, random.one_in(3)) {
        (true, true) => random.pick(SHARED_V5),
        (true, false) => random.pick(FILTERS_V5),
        (false, true) => random.pick(SHARED),
        (false, false) => random.pick(FILTERS),
    }
}

fn deed(cuts: u64, random: &mut Random) -> Deed {
    let client = random.below(CLIENTS.len() as u64) as usize;
    let seed = random.next();
    match random.below(100) {
        0..48 => publish(client, random),
        48..60 => Deed::Connect(client, connect(client, random)),
        60..69 => Deed::Subscribe(client, filters(client, random)),
        69..72 if random.one_in(3) => Deed::Unsubscribe(client, random.pick(queues::NAMES)),
        69..72 => Deed::Unsubscribe(client, name(client, random)),
        72..76 => Deed::Acks(client, acks(random)),
        76..79 => Deed::Release(client),
        79..84 => {
            let how = random.pick(&[Cut::Closed, Cut::Closed, Cut::Reset, Cut::Silent]);
            Deed::Cut { client, how, loses: random.one_in(2) }
        }
        84..87 => {
            let (_, v5) = CLIENTS[client];
            let expiry_s = if v5 { random.pick(&[None, None, Some(0), Some(3)]) } else { None };
            Deed::Disconnect { client, will: v5 && random.one_in(3), expiry_s }
        }
        87..90 => Deed::Stall(client, random.one_in(2)),
        90 if cuts < 2 => Deed::Ping(client),
        91..94 => Deed::Wait { ms: random.pick(&[10, 100, 300, 1500, 4000]) },
        94..96 if cuts > 0 => Deed::PowerCut { yields: random.below(12), seed },
        96..98 if cuts > 0 => Deed::PowerCutAtSync { syncs: random.below(4), seed },
        98 if cuts > 1 => Deed::Restart,
        90 | 99 if cuts > 1 => Deed::DiskError {
            operations: random.below(60),
            for_ms: random.pick(&[0, 0, 10, 200]),
            forgets: random.one_in(2),
        },
        _ => publish(client, random),
    }
}

fn publish(client: usize, random: &mut Random) -> Deed {
    let (_, v5) = CLIENTS[client];
    if random.one_in(3) {
        let topic = random.pick(if v5 { queues::TOPICS_V5 } else { queues::TOPICS });
        let has_priority = v5 && topic == queues::PRIO_TOPIC;
        return Deed::Publish {
            client,
            topic,
            qos: random.pick(&[0, 1, 1, 2, 2]),
            retain: false,
            expiry_s: None,
            priority: if has_priority { random.pick(&[None, Some(3), Some(9)]) } else { None },
            len: random.pick(&[1, 1, 20, 200]),
        };
    }
    let retain = random.one_in(5);
    let clears = retain && random.one_in(4);
    Deed::Publish {
        client,
        topic: random.pick(TOPICS),
        // What has no payload cannot be told from its repetition.
        qos: if clears { random.below(2) as u8 } else { random.pick(&[0, 1, 1, 1, 2, 2, 2]) },
        retain,
        expiry_s: if v5 && random.one_in(6) {
            random.pick(&[Some(1), Some(2), Some(500)])
        } else {
            None
        },
        priority: None,
        len: if clears { 0 } else { random.pick(&[1, 1, 20, 200]) },
    }
}
