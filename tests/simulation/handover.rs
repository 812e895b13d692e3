//! What a Session that ends gives back to its share group: the store must know before another
//! member does, for the power may be cut as soon as that one acts on it. In the histories both
//! happen in one turn of one thread; here the disk is looked at in between.

use std::sync::Arc;
use std::task::{Wake, Waker};

use parking_lot::Mutex;
use whimbrel::broker::{self, Waiter};
use whimbrel::store::{self, Store};

use crate::disk::Disk;
use crate::packet::{Filter, Packet};
use crate::stage::{Member, Stage, Writer, publish, write};

/// Commits what the store has been told when it is rung, and keeps what is then on the disk.
struct Spy {
    writer: Writer,
    disk: Disk,
    seen: Mutex<Option<Disk>>,
}

impl Wake for Spy {
    fn wake(self: Arc<Self>) {
        if let Some(mut writer) = self.writer.try_lock() {
            write(&mut writer);
            self.seen.lock().get_or_insert_with(|| self.disk.copy());
        }
    }
}

fn join(member: &mut Member) {
    let filter = Filter {
        filter: "$share/g/q".into(),
        qos: 2,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    };
    member.send(Packet::Subscribe { id: 1, subscription_id: None, filters: vec![filter] });
}

/// The group has a member that is away.
fn keep_durable(stage: &mut Stage) {
    let mut keeper = stage.connect("keeper", 100);
    join(&mut keeper);
    stage.commit(&mut [&mut keeper]);
    keeper.send(Packet::Disconnect { reason: 0, expiry_s: None });
}

/// A member of the group holds a message until that is durable, which it is not yet; with one that
/// is there to join, and the publisher.
fn one_holds(stage: &mut Stage, expiry_s: u32) -> [Member; 3] {
    keep_durable(stage);
    let mut first = stage.connect("first", expiry_s);
    join(&mut first);
    stage.commit(&mut [&mut first]);
    let second = stage.connect("second", 100);
    let mut publisher = stage.connect("publisher", 0);
    publisher.send(Packet::Publish(publish("q", 2, b"once")));
    let _ = first.turn(Waker::noop());
    assert!(!first.is_sent(b"once"), "it left before it was durable");
    [first, second, publisher]
}

/// Whether the store on a disk says that a Session has something in flight, or that one had which
/// is not stored.
fn has_in_flight(disk: Disk) -> bool {
    let answer = Box::new(broker::recover::answer);
    let opened = Store::<Waiter>::open_on(move || disk.clone(), &store::Options::default(), answer);
    let (_store, recovered) = opened.unwrap();
    recovered.sessions.iter().any(|session| {
        !session.sent.is_empty() || session.lent.iter().any(|(_, lent)| lent.is_bound)
    })
}

fn gives_back_in_order(expiry_s: u32) {
    let mut stage = Stage::new();
    let [mut first, mut second, _publisher] = one_holds(&mut stage, expiry_s);
    join(&mut second);
    let (writer, disk) = (stage.writer.clone(), stage.disk.clone());
    let spy = Arc::new(Spy { writer, disk, seen: Mutex::default() });
    let _ = second.turn(&Waker::from(spy.clone()));
    first.send(Packet::Disconnect { reason: 0, expiry_s: (expiry_s > 0).then_some(0) });
    let seen = spy.seen.lock().take();
    assert!(seen.is_some(), "the second member is told of nothing");
    assert!(
        !seen.is_some_and(has_in_flight),
        "another member is told of what the store has for the first"
    );
    stage.commit(&mut [&mut second]);
    assert!(second.is_sent(b"once"), "the second member does not get it");
}

#[tokio::test]
async fn what_a_session_that_ends_held_is_not_its_own_when_another_hears_of_it() {
    gives_back_in_order(100);
    gives_back_in_order(0);
}

/// Sent to who does not look any more, it would be nobody's.
#[tokio::test]
async fn what_is_held_for_who_says_goodbye_is_not_sent_to_it() {
    let mut stage = Stage::new();
    let [mut first, mut second, mut publisher] = one_holds(&mut stage, 0);
    // What it is held for has been done when DISCONNECT is read, but no turn has seen it.
    write(&mut stage.writer.lock());
    first.send(Packet::Disconnect { reason: 0, expiry_s: None });
    assert!(!first.is_sent(b"once"));
    join(&mut second);
    stage.commit(&mut [&mut second, &mut publisher]);
    assert!(second.is_sent(b"once"), "the second member does not get it");
}
