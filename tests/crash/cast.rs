//! Who takes part.
//!
//! Four publishers have three topics each: `m/0/1` for QoS 1, `m/0/2` for QoS 2, and `r/0`, which
//! retains. What publisher 3 sends goes only to receivers who are there and answer at once, so
//! that the store may leave it out; the others' is waited for by somebody.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use tokio::task::JoinSet;

use crate::field::{Field, Stage};
use crate::publisher::{Outlet, Publisher};
use crate::raw::Connect;
use crate::receiver::{FENCE, Presence, Receiver, Subscription};
use crate::record::{Audience, Client, Topic};

use Presence::{Always, Away, ComesAndGoes, Late};

const PUBLISHERS: usize = 4;

/// Name, version, QoS, presence, longest delay of acknowledgements in ms, Receive Maximum, filters.
type Habit = (&'static str, u8, u8, Presence, u64, u16, &'static [&'static str]);

const RECEIVERS: &[Habit] = &[
    ("prompt-5", 5, 2, Always, 0, 0, &["m/#"]),
    ("prompt-4", 4, 1, Always, 0, 0, &["m/3/+", "m/2/#"]),
    ("slow-5", 5, 2, Always, 30, 10, &["m/0/2", "m/1/+"]),
    ("slow-4", 4, 2, Always, 30, 0, &["m/1/#"]),
    ("guest-4", 4, 2, ComesAndGoes, 5, 0, &["m/0/+", "m/2/+"]),
    ("guest-5", 5, 1, ComesAndGoes, 5, 20, &["m/0/+", "m/1/2"]),
    ("away-5", 5, 2, Away, 0, 0, &["m/0/#"]),
    ("away-4", 4, 1, Away, 0, 0, &["m/1/+"]),
    ("late-4", 4, 2, Late, 0, 0, &["m/2/2"]),
];

/// Receivers that subscribe and unsubscribe.
const TOGGLING: &[Habit] = &[
    ("fickle-4", 4, 1, Always, 0, 0, &["m/0/#", "m/1/#", "m/2/1"]),
    ("fickle-5", 5, 2, ComesAndGoes, 3, 0, &["m/0/1", "m/1/2", "m/2/#", "m/0/2"]),
];

/// Share groups and declared queues: what is subscribed to, the filter, QoS, members; the last one
/// joins and leaves.
const GROUPS: &[(&str, &str, u8, &[Habit])] = &[
    (
        "$share/group-1/m/+/1",
        "m/+/1",
        1,
        &[
            ("least-a", 4, 1, Always, 3, 0, &[]),
            ("least-b", 5, 1, ComesAndGoes, 20, 8, &[]),
            ("least-c", 5, 1, ComesAndGoes, 5, 0, &[]),
        ],
    ),
    (
        "$share/group-2/m/+/2",
        "m/+/2",
        2,
        &[
            ("exact-a", 5, 2, ComesAndGoes, 10, 12, &[]),
            ("exact-b", 4, 2, ComesAndGoes, 2, 0, &[]),
            ("exact-c", 4, 2, Always, 5, 0, &[]),
        ],
    ),
    (
        "$queue/least",
        "m/+/1",
        1,
        &[
            ("worker-a", 4, 1, Always, 10, 5, &[]),
            ("worker-b", 5, 1, ComesAndGoes, 20, 8, &[]),
            ("worker-c", 5, 1, ComesAndGoes, 5, 0, &[]),
        ],
    ),
    (
        "$share/exact/m/+/2",
        "m/+/2",
        2,
        &[
            ("clerk-a", 5, 2, ComesAndGoes, 10, 12, &[]),
            ("clerk-b", 4, 2, ComesAndGoes, 2, 0, &[]),
            ("clerk-c", 5, 2, Always, 5, 3, &[]),
        ],
    ),
];

/// The declared queues among them. The second is known by its name as a share group.
pub const QUEUES: &str = "[[queue]]\nname = \"least\"\nfilter = \"m/+/1\"\nlease = \"2s\"\n\
     strategy = \"least-inflight\"\n\
     [[queue]]\nname = \"exact\"\nfilter = \"m/+/2\"\nstrategy = \"hash-topic\"\n";

/// Those who take part, by what the course of the test must know of them.
pub struct Cast {
    pub publishers: usize,
    pub retained: Vec<(Topic, String)>,
    receivers: Vec<(Client, Audience, Presence)>,
    groups: Vec<Audience>,
}

/// Whose queues are drained.
pub struct Due {
    pub clients: Vec<Client>,
    pub groups: Vec<Audience>,
    pub audiences: Vec<Audience>,
}

impl Cast {
    pub fn due(&self, stage: Stage) -> Due {
        let is_due = |presence: Presence| stage == Stage::DrainAll || presence != Late;
        let due = self.receivers.iter().filter(|(.., presence)| is_due(*presence));
        let groups = self.groups.clone();
        let clients = due.clone().map(|(client, ..)| *client).collect();
        let mut audiences: Vec<_> = due.map(|(_, audience, _)| *audience).collect();
        audiences.dedup();
        Due { clients, groups, audiences }
    }
}

/// Lets everybody enter the field.
pub fn enter(field: &Rc<Field>, actors: &mut JoinSet<()>) -> Cast {
    let mut cast =
        Cast { publishers: PUBLISHERS, retained: vec![], receivers: vec![], groups: vec![] };
    for number in 0..PUBLISHERS {
        actors.spawn_local(publisher(field, number, &mut cast).run());
    }
    for (habit, toggles) in
        RECEIVERS.iter().zip(std::iter::repeat(false)).chain(TOGGLING.iter().zip([true; 2]))
    {
        let (name, _, qos, .., filters) = *habit;
        let audience = field.record().audience(name, qos == 2, false);
        let subscription =
            |filter: &&str| Subscription::new(filter, qos, toggles).recorded(audience, filter);
        let subscriptions = filters.iter().map(subscription).collect();
        let receiver = receiver(field, habit, audience, subscriptions, &mut cast);
        actors.spawn_local(receiver.run());
    }
    for (shared, filter, qos, members) in GROUPS {
        let group = field.record().audience(&format!("group {shared}"), *qos == 2, true);
        cast.groups.push(group);
        for (at, member) in members.iter().enumerate() {
            let mut subscription = Subscription::new(shared, *qos, at + 1 == members.len());
            if at == 0 {
                // The group is held to what its first member was told.
                subscription = subscription.recorded(group, filter);
            }
            let receiver = receiver(field, member, group, vec![subscription], &mut cast);
            actors.spawn_local(receiver.run());
        }
    }
    cast
}

fn publisher(field: &Rc<Field>, number: usize, cast: &mut Cast) -> Publisher {
    let name = format!("publisher-{number}");
    let connect = if number.is_multiple_of(2) { Connect::v4(&name) } else { Connect::v5(&name) };
    let outlet = |name: String, qos: u8, retain: bool| Outlet {
        topic: field.record().topic(&name, qos),
        name,
        qos,
        retain,
    };
    let outlets = vec![
        outlet(format!("m/{number}/1"), 1, false),
        outlet(format!("m/{number}/2"), 2, false),
        outlet(format!("r/{number}"), 1 + number as u8 / 2, true),
    ];
    cast.retained.push((outlets[2].topic, outlets[2].name.clone()));
    let client = field.record().client(&name);
    Publisher::new(field, client, connect.durable(), outlets)
}

fn receiver(
    field: &Rc<Field>,
    habit: &Habit,
    audience: Audience,
    mut subscriptions: Vec<Subscription>,
    cast: &mut Cast,
) -> Receiver {
    let (name, level, _, presence, delay_ms, receive_maximum, _) = *habit;
    let mut connect = Connect { level, ..Connect::v4(name) }.durable();
    if receive_maximum > 0 {
        let [high, low] = receive_maximum.to_be_bytes();
        connect = connect.with(&[0x21, high, low]);
    }
    subscriptions.push(Subscription::new(FENCE, 1, false));
    let client = field.record().client(name);
    cast.receivers.push((client, audience, presence));
    field.subscriptions_due.set(field.subscriptions_due.get() + subscriptions.len());
    Receiver {
        field: field.clone(),
        client,
        connect,
        presence,
        delay_ms,
        audience,
        subscriptions,
        received: HashSet::new(),
        answers: VecDeque::new(),
    }
}
