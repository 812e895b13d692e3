//! How many messages of QoS 1 a running broker acknowledges for a durable Session, how soon, and
//! at what CPU time; or, with `--disk`, what the disk itself allows: the same bytes appended to a
//! file with one fdatasync for each group.
//!
//!     cargo bench --bench durable -- --port 1883 --pid 4711 --publishers 1000 --window 20
//!     cargo bench --bench durable -- --disk /var/lib --group 1000
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, missing_docs)]

mod load;

use std::cell::RefCell;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use load::{Client, Packet, cpu_of, percentile, put_puback, put_publish, stay_on};
use tokio::io::AsyncWriteExt;

#[derive(Clone, Parser)]
struct Args {
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// The broker's process, whose CPU time is measured.
    #[arg(long)]
    pid: Option<u32>,
    #[arg(long, default_value_t = 1000)]
    publishers: usize,
    /// Messages that a publisher has not yet seen acknowledged.
    #[arg(long, default_value_t = 1)]
    window: u16,
    /// Whether the durable Session's Client is connected; else it is away.
    #[arg(long)]
    connected: bool,
    #[arg(long, default_value_t = 256)]
    payload: usize,
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The core of this program.
    #[arg(long)]
    core: Option<usize>,
    /// Append to a file in this directory instead.
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Messages for one fdatasync.
    #[arg(long, default_value_t = 1000)]
    group: usize,
    /// cargo's.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is counted between warm-up and end.
#[derive(Default)]
struct Tally {
    is_on: bool,
    is_over: bool,
    latencies_us: Vec<u32>,
    received: u64,
}

type Shared = Rc<RefCell<Tally>>;

fn main() {
    let args = Args::parse();
    if let Some(directory) = &args.disk {
        stay_on(args.core);
        return disk(directory, &args);
    }
    load::run(args.core, load(args));
}

async fn load(args: Args) {
    let broker = SocketAddr::from(([127, 0, 0, 1], args.port));
    let tally = Shared::default();
    let mut receiver = Client::connect(broker, "durable-receiver", false).await;
    receiver.subscribe("durable/#", 1).await;
    if args.connected {
        tokio::task::spawn_local(receive(receiver, tally.clone()));
    } else {
        receiver.disconnect().await;
    }
    for number in 0..args.publishers {
        let client_id = format!("durable-{number}");
        let client = Client::connect(broker, &client_id, true).await;
        let topic = format!("durable/{number}");
        tokio::task::spawn_local(publish(client, topic, args.clone(), tally.clone()));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    tally.borrow_mut().is_on = true;
    let (begin, cpu) = (Instant::now(), cpu_of(args.pid));
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    tally.borrow_mut().is_on = false;
    let (elapsed, cpu) = (begin.elapsed(), cpu_of(args.pid) - cpu);
    tally.borrow_mut().is_over = true;
    let mut tally = tally.borrow_mut();
    tally.latencies_us.sort_unstable();
    let all = &tally.latencies_us;
    println!(
        "{} publishers, window {}, receiver {}: {:.0} acknowledged/s, p50 {} us, p99 {} us, broker \
         {:.2} us of CPU each ({:.2} cores), {:.0} received/s",
        args.publishers,
        args.window,
        if args.connected { "connected" } else { "away" },
        all.len() as f64 / elapsed.as_secs_f64(),
        percentile(all, 50),
        percentile(all, 99),
        cpu.as_secs_f64() * 1e6 / all.len() as f64,
        cpu.as_secs_f64() / elapsed.as_secs_f64(),
        tally.received as f64 / elapsed.as_secs_f64(),
    );
}

async fn publish(mut client: Client, topic: String, args: Args, tally: Shared) {
    let payload = vec![b'x'; args.payload];
    // By Packet Identifier less one.
    let mut sent = vec![Instant::now(); usize::from(args.window)];
    let mut out = Vec::new();
    (1..=args.window).for_each(|packet_id| put_publish(&mut out, &topic, packet_id, &payload));
    loop {
        client.stream.write_all(&out).await.unwrap();
        out.clear();
        let is_open = client
            .read(|packet| {
                let Packet::PubAck(packet_id) = packet else { return };
                let sent = &mut sent[usize::from(packet_id) - 1];
                let mut tally = tally.borrow_mut();
                if tally.is_on {
                    tally.latencies_us.push(sent.elapsed().as_micros() as u32);
                }
                *sent = Instant::now();
                put_publish(&mut out, &topic, packet_id, &payload);
            })
            .await;
        if !is_open || tally.borrow().is_over {
            return;
        }
    }
}

async fn receive(mut client: Client, tally: Shared) {
    let mut out = Vec::new();
    loop {
        let is_open = client
            .read(|packet| {
                let Packet::Publish { packet_id, .. } = packet else { return };
                put_puback(&mut out, packet_id);
                let mut tally = tally.borrow_mut();
                tally.received += u64::from(tally.is_on);
            })
            .await;
        if !is_open || client.stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}

fn disk(directory: &Path, args: &Args) {
    let path = directory.join("durable-bench");
    let mut file = std::fs::File::create(&path).unwrap();
    // About what a message with its topic takes in the store.
    let group = vec![b'x'; (args.payload + 40) * args.group];
    let (begin, mut groups) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(args.seconds) {
        file.write_all(&group).unwrap();
        file.sync_data().unwrap();
        groups += 1;
    }
    let rate = (groups * args.group) as f64 / begin.elapsed().as_secs_f64();
    println!("append + fdatasync, groups of {}: {rate:.0} messages/s", args.group);
    std::fs::remove_file(&path).unwrap();
}
