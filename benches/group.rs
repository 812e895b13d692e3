//! One share group or declared queue of a running broker: messages per second through it, how they
//! are shared out, and what becomes of what a consumer had that is killed.
//!
//!     cargo bench --bench group -- --port 1883 --pid 4711 --consumers 16
//!     cargo bench --bench group -- --port 1883 --consumers 4 --work-us 2000 --slow
//!     cargo bench --bench group -- --port 1883 --consumers 4 --work-us 2000 --kill
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, missing_docs)]

mod load;

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use load::{Client, Packet, cpu_of, put_puback, put_publish};
use tokio::io::AsyncWriteExt;

#[derive(Clone, Parser)]
struct Args {
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// The broker's process, whose CPU time is measured.
    #[arg(long)]
    pid: Option<u32>,
    /// What the consumers subscribe to, for `group/...`.
    #[arg(long, default_value = "$share/group/group/#")]
    filter: String,
    #[arg(long, default_value_t = 4)]
    consumers: usize,
    #[arg(long, default_value_t = 4)]
    publishers: usize,
    /// Messages that a publisher has not yet seen acknowledged.
    #[arg(long, default_value_t = 64)]
    window: u16,
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// How long a consumer works on each message, in microseconds.
    #[arg(long, default_value_t = 0)]
    work_us: u64,
    /// The last consumer works ten times as long.
    #[arg(long)]
    slow: bool,
    /// The last consumer acknowledges nothing, and is killed.
    #[arg(long)]
    kill: bool,
    /// The core of this program.
    #[arg(long)]
    core: Option<usize>,
    /// cargo's.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Default)]
struct Tally {
    /// How often each message came.
    came: Vec<u8>,
    came_all: u64,
    by_consumer: Vec<u64>,
    /// What the killed consumer had.
    held: HashSet<u64>,
    killed: Option<Instant>,
    back: Option<Duration>,
}

type Shared = Rc<RefCell<Tally>>;

fn main() {
    let args = Args::parse();
    load::run(args.core, load(args));
}

async fn load(args: Args) {
    let broker = SocketAddr::from(([127, 0, 0, 1], args.port));
    let tally = Shared::default();
    tally.borrow_mut().came = vec![0; args.messages as usize];
    tally.borrow_mut().by_consumer = vec![0; args.consumers];
    for number in 0..args.consumers {
        let mut client = Client::connect(broker, &format!("consumer-{number}"), true).await;
        client.subscribe(&args.filter, 1).await;
        let is_last = number + 1 == args.consumers;
        match is_last && args.kill {
            true => tokio::task::spawn_local(hold(client, tally.clone())),
            false => {
                let work_us = args.work_us * if is_last && args.slow { 10 } else { 1 };
                let work = Duration::from_micros(work_us);
                tokio::task::spawn_local(consume(client, number, work, tally.clone()))
            }
        };
    }
    let (begin, cpu) = (Instant::now(), cpu_of(args.pid));
    for number in 0..args.publishers {
        let client = Client::connect(broker, &format!("publisher-{number}"), true).await;
        tokio::task::spawn_local(publish(client, number as u64, args.clone()));
    }
    let (mut before, mut since) = (0, Instant::now());
    let mut last = begin.elapsed();
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let tally = tally.borrow();
        if tally.came_all != before {
            (before, since, last) = (tally.came_all, Instant::now(), begin.elapsed());
        }
        if tally.came.iter().all(|&n| n > 0) || since.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    let cpu = cpu_of(args.pid) - cpu;
    report(&args, &tally.borrow(), last, cpu);
}

fn report(args: &Args, tally: &Tally, elapsed: Duration, cpu: Duration) {
    let lost = tally.came.iter().filter(|&&n| n == 0).count();
    let twice = tally.came.iter().filter(|&&n| n > 1).count();
    let equal = args.consumers - usize::from(args.slow || args.kill);
    let shares = &tally.by_consumer[..equal];
    let (most, least) = (shares.iter().max().unwrap_or(&0), shares.iter().min().unwrap_or(&0));
    let mut said = format!(
        "{} consumers of {}: {:.0} messages/s, {:.2} us of the broker's CPU each, the most and \
         the least of equal consumers {most} and {least} ({:.2}), lost {lost}, twice {twice}",
        args.consumers,
        args.filter,
        tally.came_all as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / tally.came_all.max(1) as f64,
        *most as f64 / (*least).max(1) as f64,
    );
    if args.slow {
        said += &format!(", the slow one {}", tally.by_consumer[equal]);
    }
    if args.kill {
        said += &format!(
            ", the killed one had {}, the last of them came elsewhere after {:?}, {} never",
            tally.held.len(),
            tally.back.unwrap_or_default(),
            tally.held.iter().filter(|&&number| tally.came[number as usize] == 0).count(),
        );
    }
    println!("{said}");
}

async fn publish(mut client: Client, first: u64, args: Args) {
    let topic = format!("group/{first}");
    let mut payload = vec![b'x'; args.payload.max(8)];
    let mut next = first;
    let mut put = |out: &mut Vec<u8>, packet_id| {
        if next < args.messages {
            payload[..8].copy_from_slice(&next.to_le_bytes());
            put_publish(out, &topic, packet_id, &payload);
            next += args.publishers as u64;
        }
    };
    let mut out = Vec::new();
    (1..=args.window).for_each(|packet_id| put(&mut out, packet_id));
    while client.stream.write_all(&out).await.is_ok() {
        out.clear();
        let is_open = client.read(|packet| {
            if let Packet::PubAck(packet_id) = packet {
                put(&mut out, packet_id);
            }
        });
        if !is_open.await {
            return;
        }
    }
}

async fn consume(mut client: Client, number: usize, work: Duration, tally: Shared) {
    let mut came = Vec::new();
    loop {
        if !client.read(|packet| came.extend(message(packet))).await {
            return;
        }
        let mut out = Vec::new();
        for (packet_id, message) in came.drain(..) {
            if !work.is_zero() {
                tokio::time::sleep(work).await;
                if client.stream.write_all(&std::mem::take(&mut out)).await.is_err() {
                    return;
                }
            }
            put_puback(&mut out, packet_id);
            let tally = &mut *tally.borrow_mut();
            tally.came[message as usize] += 1;
            tally.came_all += 1;
            tally.by_consumer[number] += 1;
            let killed = tally.killed.filter(|_| tally.held.contains(&message));
            if let Some(killed) = killed {
                tally.back = Some(killed.elapsed());
            }
        }
        if client.stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// Takes what it is given, and is gone a second later.
async fn hold(mut client: Client, tally: Shared) {
    let mut came = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(1), async {
        while client.read(|packet| came.extend(message(packet))).await {}
    })
    .await;
    let tally = &mut *tally.borrow_mut();
    tally.held = came.into_iter().map(|(_, message)| message).collect();
    tally.killed = Some(Instant::now());
    // As the kernel ends the connections of a process that is killed.
    drop(client);
}

fn message(packet: Packet<'_>) -> Option<(u16, u64)> {
    let Packet::Publish { packet_id, payload } = packet else { return None };
    Some((packet_id, u64::from_le_bytes(payload.get(..8)?.try_into().ok()?)))
}
