//! How soon the broker is there again after SIGKILL with many Sessions that are away and many
//! messages that wait for them, and whether all of them come, in order.
//!
//!     cargo bench --bench start -- --sessions 100000 --messages 1000000
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, missing_docs)]

mod load;

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use load::{Client, Packet, put_puback, put_publish};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

#[derive(Clone, Parser)]
struct Args {
    #[arg(long, default_value_t = 100_000)]
    sessions: usize,
    #[arg(long, default_value_t = 1_000_000)]
    messages: usize,
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// How often the broker is killed and started.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where the store is made.
    #[arg(long, default_value = "target/tmp")]
    directory: PathBuf,
    /// cargo's.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Clients at a time.
const WAVE: usize = 500;

/// Messages that are under way to the broker.
const WINDOW: u16 = 1_000;

fn main() {
    load::run(None, run(Args::parse()));
}

async fn run(args: Args) {
    std::fs::create_dir_all(&args.directory).unwrap();
    let directory = tempfile::tempdir_in(&args.directory).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let broker = SocketAddr::from(([127, 0, 0, 1], port));
    let settings = directory.path().join("whimbrel.toml");
    let text = format!(
        "persistence_location = {:?}\nmax_queued_messages = 10000000\nmax_queued_bytes = \"8 \
         GiB\"\n[[listener]]\nport = {port}\n",
        directory.path()
    );
    std::fs::write(&settings, text).unwrap();

    let mut process = Broker::start(&settings);
    first_answer(broker).await;
    waves(args.sessions, move |number| async move {
        let mut client = Client::connect(broker, &format!("start-{number}"), false).await;
        client.subscribe(&format!("start/{number}"), 1).await;
        client.disconnect().await;
    })
    .await;
    publish(broker, &args).await;
    for _ in 0..args.rounds {
        drop(process);
        let begin = Instant::now();
        process = Broker::start(&settings);
        first_answer(broker).await;
        let took = begin.elapsed();
        let memory = resident_bytes(process.0.id());
        println!(
            "{} sessions, {} messages: first PUBACK {:.2} s after the start, {} MiB",
            args.sessions,
            args.messages,
            took.as_secs_f64(),
            memory >> 20
        );
    }
    drain(broker, &args).await;
}

/// The process, which is killed when this is dropped.
struct Broker(Child);

impl Broker {
    fn start(settings: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_whimbrel"));
        command.arg("-c").arg(settings).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Waits until a message of QoS 1 is acknowledged.
async fn first_answer(broker: SocketAddr) {
    while tokio::net::TcpStream::connect(broker).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut client = Client::connect(broker, "start", true).await;
    let mut out = Vec::new();
    put_publish(&mut out, "first", 1, b"x");
    client.stream.write_all(&out).await.unwrap();
    let mut is_answered = false;
    while !is_answered {
        assert!(client.read(|packet| is_answered = matches!(packet, Packet::PubAck(1))).await);
    }
    client.disconnect().await;
}

/// Does something for each number, some at a time.
async fn waves<F: Future<Output = ()> + 'static>(count: usize, one: impl Fn(usize) -> F) {
    let mut wave = JoinSet::new();
    for number in 0..count {
        if wave.len() >= WAVE {
            wave.join_next().await.unwrap().unwrap();
        }
        wave.spawn_local(one(number));
    }
    while let Some(ended) = wave.join_next().await {
        ended.unwrap();
    }
}

/// Publishes to all Sessions in turn, and waits for every PUBACK.
async fn publish(broker: SocketAddr, args: &Args) {
    let mut client = Client::connect(broker, "start-publisher", true).await;
    let (mut sent, mut acknowledged) = (0, 0);
    let mut out = Vec::new();
    let mut payload = vec![b'x'; args.payload.max(8)];
    let mut put = |out: &mut Vec<u8>, packet_id| {
        if sent < args.messages {
            payload[..8].copy_from_slice(&(sent as u64).to_be_bytes());
            put_publish(out, &format!("start/{}", sent % args.sessions), packet_id, &payload);
            sent += 1;
        }
    };
    (1..=WINDOW).for_each(|packet_id| put(&mut out, packet_id));
    while acknowledged < args.messages {
        client.stream.write_all(&out).await.unwrap();
        out.clear();
        let is_open = client
            .read(|packet| {
                if let Packet::PubAck(packet_id) = packet {
                    acknowledged += 1;
                    put(&mut out, packet_id);
                }
            })
            .await;
        assert!(is_open);
    }
    client.disconnect().await;
}

/// Lets every Client come back and take what waits, and checks that it is all, once and in order.
async fn drain(broker: SocketAddr, args: &Args) {
    let came = Rc::new(RefCell::new(0));
    let args = args.clone();
    let begin = Instant::now();
    waves(args.sessions, |number| {
        let (came, args) = (came.clone(), args.clone());
        async move {
            let mut expected: Vec<u64> =
                (number..args.messages).step_by(args.sessions).map(|n| n as u64).rev().collect();
            let mut client = Client::connect(broker, &format!("start-{number}"), false).await;
            let mut out = Vec::new();
            while !expected.is_empty() {
                let is_open = client
                    .read(|packet| {
                        let Packet::Publish { packet_id, payload } = packet else { return };
                        let id = u64::from_be_bytes(payload[..8].try_into().unwrap());
                        assert_eq!(expected.pop(), Some(id), "to the Client {number}");
                        put_puback(&mut out, packet_id);
                        *came.borrow_mut() += 1;
                    })
                    .await;
                assert!(is_open, "{} are missing for the Client {number}", expected.len());
                client.stream.write_all(&out).await.unwrap();
                out.clear();
            }
            client.disconnect().await;
        }
    })
    .await;
    println!(
        "all {} came, once and in order, in {:.1} s",
        came.borrow(),
        begin.elapsed().as_secs_f64()
    );
}

/// What a process has of memory, in bytes.
fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
