//! A Client of a running broker that takes all it can get, for as long as it is told: what others
//! notice of it is measured by another program meanwhile.
//!
//!     cargo bench --bench neighbour -- --port 1883 --kind flood --qos 1 --seconds 5 &
//!     mqload pubsub --port 1883 --pubs 20 --rate 2000
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, missing_docs)]

mod load;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use load::{Client, Packet, put_puback, put_publish_of, put_subscribe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Kind {
    /// Publishes as fast as it is read, to a subscriber that takes everything.
    Flood,
    /// The same to a subscriber that reads nothing.
    Stuck,
    /// Subscribes to everything that is retained, again and again, and takes it.
    Greedy,
}

#[derive(Clone, Parser)]
struct Args {
    #[arg(long, default_value_t = 1883)]
    port: u16,
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long, default_value_t = 0)]
    qos: u8,
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// Messages that are retained for the greedy one.
    #[arg(long, default_value_t = 10_000)]
    retained: u32,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// The core of this program.
    #[arg(long)]
    core: Option<usize>,
    /// cargo's.
    #[arg(long, hide = true)]
    bench: bool,
}

const TOPIC: &str = "neighbour";

type Count = Rc<Cell<u64>>;

fn main() {
    let args = Args::parse();
    load::run(args.core, load(args));
}

async fn load(args: Args) {
    let broker = SocketAddr::from(([127, 0, 0, 1], args.port));
    let came = Count::default();
    let time = Duration::from_secs(args.seconds);
    if args.kind == Kind::Greedy {
        retain(broker, &args, args.payload).await;
        println!("ready");
        let _ = timeout(time, ask(broker, args.clone(), came.clone())).await;
        println!("{} retained messages taken in a second", came.get() / args.seconds);
        retain(broker, &args, 0).await;
        return;
    }
    let mut subscriber = Client::connect(broker, "neighbour-subscriber", true).await;
    subscriber.subscribe(TOPIC, args.qos).await;
    if args.kind == Kind::Flood {
        tokio::task::spawn_local(take(subscriber, came.clone()));
    } else {
        tokio::task::spawn_local(async move {
            std::future::pending::<()>().await;
            drop(subscriber);
        });
    }
    println!("ready");
    let sent = timeout(time, flood(broker, &args)).await;
    assert!(sent.is_err(), "the broker ended the connection");
    println!("{} messages taken in a second", came.get() / args.seconds);
}

/// Publishes without end.
async fn flood(broker: SocketAddr, args: &Args) {
    let client = Client::connect(broker, "neighbour-publisher", true).await;
    let (mut acks, mut stream) = client.stream.into_split();
    tokio::task::spawn_local(async move {
        let mut discarded = vec![0; 1 << 16];
        while acks.read(&mut discarded).await.is_ok_and(|read| read > 0) {}
    });
    let mut out = Vec::new();
    let payload = vec![b'x'; args.payload];
    let mut packet_ids = (1..=u16::MAX).cycle();
    loop {
        out.clear();
        while out.len() < 32 << 10 {
            let packet_id = (args.qos > 0).then(|| packet_ids.next().unwrap());
            put_publish_of(&mut out, TOPIC, packet_id, false, &payload);
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// Takes everything.
async fn take(mut client: Client, came: Count) {
    let mut out = Vec::new();
    loop {
        let is_open = client.read(|packet| {
            let Packet::Publish { packet_id, .. } = packet else { return };
            came.set(came.get() + 1);
            if packet_id > 0 {
                put_puback(&mut out, packet_id);
            }
        });
        if !is_open.await || client.stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}

/// Retains a message for each of the topics, or with an empty payload removes them.
async fn retain(broker: SocketAddr, args: &Args, payload: usize) {
    let mut client = Client::connect(broker, "neighbour-publisher", true).await;
    let payload = vec![b'x'; payload];
    for first in (0..args.retained).step_by(500) {
        let mut out = Vec::new();
        let last = (first + 500).min(args.retained);
        for number in first..last {
            let packet_id = Some((number - first) as u16 + 1);
            put_publish_of(&mut out, &format!("{TOPIC}/{number}"), packet_id, true, &payload);
        }
        client.stream.write_all(&out).await.unwrap();
        let mut acks = 0;
        while acks < last - first {
            assert!(client.read(|_| acks += 1).await, "the broker ended the connection");
        }
    }
    client.disconnect().await;
}

/// Subscribes again and again.
async fn ask(broker: SocketAddr, args: Args, came: Count) {
    let mut client = Client::connect(broker, "neighbour-greedy", true).await;
    let mut out = Vec::new();
    loop {
        put_subscribe(&mut out, 1, &format!("{TOPIC}/#"), args.qos);
        let mut left = args.retained;
        while left > 0 {
            client.stream.write_all(&out).await.unwrap();
            out.clear();
            let is_open = client.read(|packet| {
                let Packet::Publish { packet_id, .. } = packet else { return };
                left -= 1;
                came.set(came.get() + 1);
                if packet_id > 0 {
                    put_puback(&mut out, packet_id);
                }
            });
            assert!(is_open.await, "the broker ended the connection");
        }
    }
}
