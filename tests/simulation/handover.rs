//! What a Session that ends gives back to its share group: the store must know before another
//! member does, for the power may be cut as soon as that one acts on it. In the histories both
//! happen in one turn of one thread; here the disk is looked at in between.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use whimbrel::access::{Access, Anonymous};
use whimbrel::broker::{self, Broker, Waiter};
use whimbrel::clock::{Clock, Moment};
use whimbrel::connection;
use whimbrel::net::transport::{Peer, Transport};
use whimbrel::store::committer::Committer;
use whimbrel::store::{self, Store};

use crate::disk::Disk;
use crate::log::Log;
use crate::packet::{Connect, Filter, Packet, Publish};
use crate::pipe::{Link, Pipe, pipe};
use crate::plant::Plant;
use crate::world;

/// The store's writer and its time in microseconds.
type Writer = Arc<Mutex<(Committer<Waiter>, u64)>>;

fn write((committer, now_us): &mut (Committer<Waiter>, u64)) {
    *now_us += 1_000_000;
    committer.step(*now_us);
}

/// A connection that is driven by hand.
struct Member {
    pipe: Pipe,
    served: Pin<Box<dyn Future<Output = ()>>>,
}

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

impl Member {
    fn send(&mut self, packet: Packet) {
        self.pipe.send(packet);
        let _ = self.turn(Waker::noop());
    }

    fn turn(&mut self, waker: &Waker) -> Poll<()> {
        self.served.as_mut().poll(&mut Context::from_waker(waker))
    }

    fn received(&self) -> Vec<Packet> {
        self.pipe.receive().0
    }

    fn is_sent(&self, payload: &[u8]) -> bool {
        self.received().iter().any(|p| matches!(p, Packet::Publish(p) if p.payload == payload))
    }
}

/// A broker on a disk, whose store commits when it is told to.
struct Stage {
    broker: Arc<Broker>,
    options: Arc<connection::Options>,
    writer: Writer,
    disk: Disk,
    log: Log,
    next: usize,
}

impl Stage {
    fn new() -> Self {
        let (disk, log) = (world::empty_store(), Log::new());
        let (same, answer) = (disk.clone(), Box::new(broker::recover::answer));
        let options = store::Options::default();
        let opened = Store::open_stepped(move || same.opened(), &options, answer, Box::new(|| ()));
        let (store, committer, recovered) = opened.unwrap();
        let clock = Clock::Other(Box::new(|| Moment::from_unix_ms(1_700_000_000_000)));
        let (broker, _) = Broker::on(broker::Options::default(), clock, store, recovered);
        let options = Arc::new(connection::Options {
            connect_timeout: std::time::Duration::from_secs(10),
            access: Arc::new(Access::unproven(Anonymous::Allowed)),
            doorman: Arc::default(),
            in_memory: false,
            admission: connection::Admission::default(),
        });
        let writer = Arc::new(Mutex::new((committer, 0)));
        Self { broker, options, writer, disk, log, next: 0 }
    }

    fn commit(&self, members: &mut [&mut Member]) {
        for _ in 0..3 {
            for member in members.iter_mut() {
                let _ = member.turn(Waker::noop());
            }
            write(&mut self.writer.lock());
        }
        for member in members {
            let _ = member.turn(Waker::noop());
        }
    }

    fn connect(&mut self, client_id: &str, expiry_s: u32) -> Member {
        self.next += 1;
        let context = (&self.log, self.disk.power(), &Plant::default());
        let (near, far) = pipe(self.next, true, Link::GOOD, context);
        let far = Transport::Other(Box::new(far));
        let (broker, options) = (self.broker.clone(), self.options.clone());
        let served = connection::serve_stream(far, Peer::direct(None), broker, options);
        let served: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            let _ = served.await;
        });
        let mut member = Member { pipe: near, served };
        member.send(Packet::Connect(Connect {
            client_id: client_id.into(),
            clean_start: false,
            keep_alive_s: 0,
            expiry_s,
            receive_maximum: None,
            will: None,
        }));
        self.commit(&mut [&mut member]);
        member
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
    // One that is away, so that the group is durable.
    let mut keeper = stage.connect("keeper", 100);
    join(&mut keeper);
    stage.commit(&mut [&mut keeper]);
    keeper.send(Packet::Disconnect { reason: 0, expiry_s: None });
    let mut first = stage.connect("first", expiry_s);
    join(&mut first);
    stage.commit(&mut [&mut first]);
    let mut second = stage.connect("second", 100);
    let mut publisher = stage.connect("publisher", 0);
    publisher.send(Packet::Publish(Publish {
        dup: false,
        qos: 2,
        retain: false,
        topic: "q".into(),
        id: 1,
        expiry_s: None,
        subscription_ids: vec![],
        count: None,
        reason: None,
        payload: b"once".into(),
    }));
    // The first member holds it until that is durable, which it is not yet.
    let _ = first.turn(Waker::noop());
    assert!(!first.is_sent(b"once"), "it left before it was durable");
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
