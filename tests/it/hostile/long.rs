//! The heavier siege: run only when it is asked for, since it takes three minutes and all of the
//! machine.
//!
//!     HOSTILE=long cargo test --test it hostile::long -- --nocapture
//!
//! `WHIMBREL_PROGRAM=path` runs another build of the broker than the one of the tests. A pair of
//! Clients exchanges a message of QoS 1 every 5 ms before, during and after each attack; printed
//! are the time from before PUBLISH is sent to after it has arrived, and the broker's memory.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::Siege;
use crate::passwd::set;
use crate::raw::{Client, Connect, field, packet};

/// Connections that say nothing.
const IDLE: usize = 10_000;

/// How long each attack lasts.
const ATTACK: Duration = Duration::from_secs(10);

/// A connection from one of many addresses, so that ports do not run out.
fn from_somewhere(n: usize, port: u16) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    let address = [127, 0, 0, 2 + (n / 2000 % 200) as u8];
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
    Ok(socket.into())
}

/// The well-behaved pair.
struct Pair {
    sender: Client,
    receiver: Client,
}

impl Pair {
    /// One of each worker: the second of two that connect one after the other.
    fn new(port: u16, name: &str) -> Self {
        let mut receiver = Client::v5(port, &format!("{name}-receiver"));
        receiver.subscribe(&format!("pair/{name}"), 1);
        let sender = Client::v4(port, &format!("{name}-sender"));
        // However long it takes, it is to be measured.
        for client in [&sender, &receiver] {
            client.stream().set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        }
        Self { sender, receiver }
    }

    /// Messages until `is_over`; how long each took.
    fn exchange(&mut self, name: &str, is_over: impl Fn(usize) -> bool) -> Vec<Duration> {
        let mut taken = vec![];
        while !is_over(taken.len()) {
            let begin = Instant::now();
            let publish = self.sender.publish_bytes(2, &format!("pair/{name}"), 1, &[], "x");
            self.sender.send(&publish);
            assert_eq!(self.receiver.receive().text(), "x");
            taken.push(begin.elapsed());
            assert_eq!(self.sender.read()[0], 0x40);
            std::thread::sleep(Duration::from_millis(5));
        }
        taken
    }
}

fn report(what: &str, siege: &Siege, mut taken: Vec<Duration>) {
    taken.sort();
    let at = |part: usize| taken[(taken.len() - 1) * part / 1000];
    println!(
        "{what:32} {:6} messages: p50 {:9.3?} p99 {:9.3?} max {:9.3?}; RSS {:6} KiB",
        taken.len(),
        at(500),
        at(990),
        at(1000),
        siege.broker.rss_kib(),
    );
}

/// Runs an attack on so many threads, each again and again until the time is over, while the
/// pair exchanges messages; how often it was carried out.
fn under(
    siege: &mut Siege,
    what: &str,
    threads: usize,
    attack: impl Fn(usize) + Sync,
) -> Vec<Duration> {
    let is_over = AtomicBool::new(false);
    let rounds = AtomicUsize::new(0);
    let mut pair = Pair::new(siege.port, "long");
    let taken = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    attack(rounds.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
        let begin = Instant::now();
        let taken = pair.exchange("long", |_| begin.elapsed() > ATTACK);
        is_over.store(true, Ordering::Relaxed);
        taken
    });
    println!("{what}: {} times", rounds.load(Ordering::Relaxed));
    report(what, siege, taken.clone());
    siege.check();
    taken
}

/// Whether a long siege is asked for; it then has all descriptors that it may have.
fn is_asked_for() -> bool {
    if std::env::var("HOSTILE").as_deref() != Ok("long") {
        println!("not asked for: HOSTILE=long");
        return false;
    }
    let (soft, hard) = rlimit::Resource::NOFILE.get().unwrap();
    rlimit::Resource::NOFILE.set(hard, hard).unwrap();
    println!("descriptors: {soft} raised to {hard}");
    true
}

/// What comes before CONNECT, or instead of it.
#[test]
fn a_long_siege_of_the_door_is_survived() {
    if !is_asked_for() {
        return;
    }
    let mut siege = Siege::begin("");
    let (port, tls, ws, wss) = (siege.port, siege.tls, siege.ws, siege.wss);
    let held = Mutex::new(VecDeque::new());
    under(&mut siege, "CONNECT, a byte now and then", 4, |n| {
        let mut stream = from_somewhere(n, port).unwrap();
        for byte in &Connect::v5("slow").bytes()[..8] {
            let _ = stream.write_all(&[*byte]);
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut held = held.lock().unwrap();
        held.push_back(stream);
        if held.len() > 2000 {
            held.pop_front();
        }
    });
    held.into_inner().unwrap().clear();
    // 9 MiB of which 1 comes.
    let giant = [&[0x30, 0x80, 0x80, 0xC0, 0x04, 0, 1, b'g', 0][..], &vec![b'x'; 1 << 20]].concat();
    under(&mut siege, "PUBLISH, giant and unfinished", 4, |n| {
        let mut client = Client::over(from_somewhere(n, port).unwrap(), true);
        client.try_send(&Connect::v5(&format!("giant-{n}")).bytes());
        assert_eq!(client.read()[3], 0);
        client.try_send(&giant);
    });
    under(&mut siege, "random bytes on every listener", 4, |n| {
        let mut stream = from_somewhere(n, [port, tls, ws, wss][n % 4]).unwrap();
        let mut random = n as u64 + 1;
        let bytes: Vec<u8> = (0..2000)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as u8
            })
            .collect();
        let _ = stream.write_all(&bytes);
    });
    siege.survived(512);
}

/// Passwords are guessed by those who do not wait for an answer; first nothing is done about it,
/// then what is done by default to who is not exempt.
#[test]
fn a_long_siege_of_guesses_is_survived() {
    if !is_asked_for() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("passwords");
    set(&["-c", "-b"], &file, &["ali", "sesame"], "");
    let users = format!(
        "password_file = '{}'\nallow_anonymous = true\nexempt_networks = [\"127.0.0.1\"]\n",
        file.display()
    );
    let nothing = "failed_login_delay = 0\nmax_failed_logins = 0\n";
    for (what, more) in [("guesses, nothing done", nothing), ("guesses, delays and bans", "")] {
        let mut siege = Siege::begin(&format!("{users}{more}"));
        let port = siege.port;
        let quiet = Pair::new(port, "quiet").exchange("quiet", |n| n == 1000);
        report("before", &siege, quiet);
        let [judged, busy, shut_out] = [(); 3].map(|()| AtomicUsize::new(0));
        under(&mut siege, what, 16, |n| {
            let mut stream = from_somewhere(n, port).unwrap();
            let guess = Connect::v5("guess").user("ali", &n.to_string());
            let _ = stream.write_all(&guess.bytes());
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let mut connack = [0; 16];
            let counter = match stream.read(&mut connack).map(|len| (len, connack[3])) {
                Ok((1.., 0x86)) => &judged,
                Ok((1.., 0x89)) => &busy,
                Ok((1.., 0x8A) | (0, _)) => &shut_out,
                Ok((_, code)) => panic!("{code:#x}"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Shut out with the guess unread.
                Err(_) => &shut_out,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let bans = siege.broker.log().matches("banned for").count();
        println!(
            "{} guesses judged, {} told that the broker is busy, {} shut out, {bans} addresses banned",
            judged.into_inner(),
            busy.into_inner(),
            shut_out.into_inner()
        );
        assert_eq!(bans > 0, more.is_empty());
        let ali = Connect::v5("ali").user("ali", "sesame");
        assert!(Client::open(port, true).try_connect(&ali), "who knows it comes in");
        siege.survived(512);
    }
}

/// Clients come, subscribe to very many filters with one packet, and go.
fn subscribe(siege: &mut Siege, rules: &str) {
    let port = siege.port;
    let bomb = |filters: usize, name: &str| {
        let filters = (0..filters).flat_map(|n| [field(format!("{name}/{n}/+")), vec![0]].concat());
        packet(0x82, &[&[0, 1, 0], &filters.collect::<Vec<u8>>()])
    };
    for filters in [1_000, 10_000, 100_000] {
        let what = format!("SUBSCRIBE, {filters} filters{rules}");
        under(siege, &what, 2, |n| {
            let name = format!("bomb-{n}");
            let mut client = Client::v5(port, &name);
            client.stream().set_read_timeout(Some(Duration::from_secs(120))).unwrap();
            client.send(&bomb(filters, &name));
            assert_eq!(client.answer()[0], 0x90);
        });
    }
}

/// The same where each filter is judged by so many rules.
#[test]
fn a_long_siege_of_subscriptions_under_rules_is_survived() {
    if !is_asked_for() {
        return;
    }
    for rules in [10, 1_000] {
        let denials = (1..rules).map(|n| {
            format!("[[role.rule]]\ndeny = \"subscribe\"\ntopic = \"bomb-0/+/{n}/%c/#\"\n")
        });
        let all =
            "[[role.rule]]\nallow = [\"publish\", \"subscribe\", \"receive\"]\ntopic = \"#\"\n";
        let role = "[[role]]\nname = \"all\"\neverybody = true\n".to_owned();
        let mut siege = Siege::begin_with("", &(role + &denials.collect::<String>() + all));
        let quiet = Pair::new(siege.port, "quiet").exchange("quiet", |n| n == 1000);
        report("before", &siege, quiet);
        subscribe(&mut siege, &format!(", {rules} rules"));
        siege.survived(512);
    }
}

#[test]
fn a_long_siege_is_survived() {
    if !is_asked_for() {
        return;
    }
    // Longer than the attack, so that the idle ones stay.
    let mut siege = Siege::begin("connect_timeout = \"60s\"");
    let port = siege.port;
    let quiet = Pair::new(port, "quiet").exchange("quiet", |n| n == 1000);
    report("before", &siege, quiet);

    let mut pair = Pair::new(port, "idle");
    let (idle, taken) = std::thread::scope(|scope| {
        let opener =
            scope.spawn(|| (0..IDLE).map(|n| from_somewhere(n, port).unwrap()).collect::<Vec<_>>());
        let taken = pair.exchange("idle", |_| opener.is_finished());
        (opener.join().unwrap(), taken)
    });
    report("while 10,000 say nothing come", &siege, taken);
    report("with them there", &siege, pair.exchange("idle", |n| n == 1000));

    under(&mut siege, "CONNECT, same identifier", 4, |n| {
        let mut client = Client::over(from_somewhere(n, port).unwrap(), true);
        client.try_send(&Connect::v5("flood").bytes());
        let _ = client.try_read();
    });
    under(&mut siege, "CONNECT, other identifiers", 4, |n| {
        let mut client = Client::over(from_somewhere(n, port).unwrap(), true);
        client.try_send(&Connect::v5(&format!("flood-{n}")).bytes());
        assert_eq!(client.read()[3], 0);
    });
    under(&mut siege, "CONNECT, Sessions that stay", 4, |n| {
        let mut client = Client::over(from_somewhere(n, port).unwrap(), true);
        client.try_send(&Connect::v5(&format!("stay-{}", n % 1000)).durable().bytes());
        assert_eq!(client.read()[3], 0);
    });
    subscribe(&mut siege, "");
    under(&mut siege, "PINGREQ without end", 2, |n| {
        let mut client = Client::v5(port, &format!("ping-{n}"));
        let pings = [0xC0, 0].repeat(50_000);
        client.send(&pings);
        for _ in 0..50_000 {
            client.expect(&[0xD0, 0]);
        }
    });
    drop(idle);
    let mut pair = Pair::new(port, "after");
    report("after", &siege, pair.exchange("after", |n| n == 1000));
    siege.survived(512);
}
