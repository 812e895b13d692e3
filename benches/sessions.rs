//! What it costs a running broker to remember Clients that are away: each connects, subscribes, and
//! leaves its Session behind. There may be more of them than a machine has descriptors.
//!
//!     cargo bench --bench sessions -- --port 1883 --pid 4711 --sessions 1000000
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, missing_docs)]

mod load;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use clap::Parser;
use load::{Client, cpu_of, memory_of};

#[derive(Clone, Parser)]
struct Args {
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// The broker's process, which is measured.
    #[arg(long)]
    pid: u32,
    #[arg(long, default_value_t = 1_000_000)]
    sessions: u32,
    /// Clients that are connected at the same time.
    #[arg(long, default_value_t = 500)]
    at_once: u32,
    /// How the broker is called in what is printed.
    #[arg(long, default_value = "broker")]
    broker: String,
    /// The core of this program.
    #[arg(long)]
    cpu: Option<usize>,
    /// Descendants of the process are not looked at; taken for the sake of other generators.
    #[arg(long, hide = true)]
    tree: bool,
    /// cargo's.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    load::run(args.cpu, load(args));
}

async fn load(args: Args) {
    let broker = SocketAddr::from(([127, 0, 0, 1], args.port));
    let next = Rc::new(Cell::new(0));
    let (begin, cpu, memory) = (Instant::now(), cpu_of(Some(args.pid)), memory_of(args.pid));
    let workers: Vec<_> = (0..args.at_once)
        .map(|_| tokio::task::spawn_local(come_and_go(broker, next.clone(), args.sessions)))
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let (elapsed, cpu) = (begin.elapsed(), cpu_of(Some(args.pid)) - cpu);
    let bytes = memory_of(args.pid).saturating_sub(memory) as f64;
    let sessions = f64::from(args.sessions);
    println!(
        "{{\"scenario\":\"sessions\",\"broker\":\"{}\",\"ok\":true,\"rate\":{:.0},\"cpu_us\":{:.3},\
         \"mem_bytes_per_unit\":{:.1}}}",
        args.broker,
        sessions / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / sessions,
        bytes / sessions,
    );
}

async fn come_and_go(broker: SocketAddr, next: Rc<Cell<u32>>, sessions: u32) {
    while next.get() < sessions {
        let number = next.replace(next.get() + 1);
        // An address has ports for thirty thousand connections in a minute.
        let from = [127, 0, 1, (number / 4_000 % 250) as u8 + 1];
        let client_id = format!("away-{number}");
        let mut client = Client::connect_from(from, broker, &client_id, false).await;
        client.subscribe(&format!("away/{number}"), 1).await;
        client.disconnect().await;
    }
}
