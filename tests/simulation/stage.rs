//! A broker whose turns are taken by hand, one connection and one commit at a time, and whose
//! clock stands still.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

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
use crate::packet::{Connect, Packet, Publish};
use crate::pipe::{Link, Pipe, pipe};
use crate::plant::Plant;
use crate::world;

/// The store's writer and its time in microseconds.
pub type Writer = Arc<Mutex<(Committer<Waiter>, u64)>>;

/// Commits, if there is something to commit and the disk lets it.
pub fn write((committer, now_us): &mut (Committer<Waiter>, u64)) {
    *now_us += 1_000_000;
    committer.step(*now_us);
}

/// A first PUBLISH with nothing special.
pub fn publish(topic: &str, qos: u8, payload: &[u8]) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic.into(),
        id: 1,
        expiry_s: None,
        subscription_ids: vec![],
        count: None,
        reason: None,
        priority: None,
        payload: payload.into(),
    }
}

/// A connection that is driven by hand.
pub struct Member {
    pipe: Pipe,
    served: Pin<Box<dyn Future<Output = ()>>>,
}

impl Member {
    pub fn send(&mut self, packet: Packet) {
        self.pipe.send(packet);
        let _ = self.turn(Waker::noop());
    }

    pub fn turn(&mut self, waker: &Waker) -> Poll<()> {
        self.served.as_mut().poll(&mut Context::from_waker(waker))
    }

    pub fn received(&self) -> Vec<Packet> {
        self.pipe.receive().0
    }

    pub fn is_sent(&self, payload: &[u8]) -> bool {
        self.received().iter().any(|p| matches!(p, Packet::Publish(p) if p.payload == payload))
    }
}

/// A broker on a disk, whose store commits when it is told to.
pub struct Stage {
    broker: Arc<Broker>,
    options: Arc<connection::Options>,
    pub writer: Writer,
    pub disk: Disk,
    log: Log,
    next: usize,
}

impl Stage {
    pub fn new() -> Self {
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

    pub fn commit(&self, members: &mut [&mut Member]) {
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

    pub fn connect(&mut self, client_id: &str, expiry_s: u32) -> Member {
        let connect = Connect {
            client_id: client_id.into(),
            clean_start: false,
            keep_alive_s: 0,
            expiry_s,
            receive_maximum: None,
            will: None,
        };
        let mut member = self.open(true, connect);
        self.commit(&mut [&mut member]);
        member
    }

    /// A connection that has sent CONNECT.
    pub fn open(&mut self, v5: bool, connect: Connect) -> Member {
        self.next += 1;
        let context = (&self.log, self.disk.power(), &Plant::default());
        let (near, far) = pipe(self.next, v5, Link::GOOD, context);
        let far = Transport::Other(Box::new(far));
        let (broker, options) = (self.broker.clone(), self.options.clone());
        let served = connection::serve_stream(far, Peer::direct(None), broker, options);
        let served: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            let _ = served.await;
        });
        let mut member = Member { pipe: near, served };
        member.send(Packet::Connect(connect));
        member
    }
}
