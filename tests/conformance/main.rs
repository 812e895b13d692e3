//! The dialogues of `conformance/dialogues`, played with a real broker over real sockets.
//!
//! Without anything else Whimbrel is started and must pass them all. With `BROKER=host:port` they
//! are played with the broker there, `REPORT=path` writes a page of results, `BROKER_NAME` is its
//! title and chooses the `differs` sentences, and `DIALOGUE=text` plays those whose names have it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    missing_docs
)]

#[path = "../it/broker.rs"]
#[allow(dead_code, reason = "shared with the tests that need all of it")]
mod broker;

mod books;
mod connection;
mod decode;
mod dialogue;
mod encode;
mod expect;
mod language;
mod packet;
mod play;
mod report;
mod second;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use broker::Broker;
use dialogue::Header;
use packet::Version;
use play::Failure;
use report::{Outcome, Played};

/// Most of a dialogue's time is spent waiting.
const AT_ONCE: usize = 16;

struct Dialogue {
    name: String,
    text: String,
    header: Header,
}

fn file_of(name: &str) -> String {
    format!("conformance/dialogues/{name}.txt")
}

/// All dialogues, read and understood, in order of their names.
fn dialogues() -> Vec<Dialogue> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/dialogues");
    let mut found = vec![];
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mistaken =
            |e: dialogue::Mistake| -> ! { panic!("{}:{}: {}", file_of(&name), e.line, e.what) };
        let header = dialogue::header(&text).unwrap_or_else(|e| mistaken(e));
        for &version in &header.versions {
            dialogue::steps(&text, version, "unique").unwrap_or_else(|e| mistaken(e));
        }
        found.push(Dialogue { name, text, header });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Different for every play of every run, and short enough for MQTT 3.1.
fn unique(number: usize) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut seed = now.as_micros() as u64;
    let mut text = String::from("d");
    for _ in 0..8 {
        text.push(char::from(b"0123456789abcdefghijklmnopqrstuv"[(seed & 31) as usize]));
        seed >>= 5;
    }
    format!("{text}{number}")
}

fn play_one(dialogue: &Dialogue, version: Version, number: usize, at: Target) -> Outcome {
    let unique = unique(number);
    let steps = dialogue::steps(&dialogue.text, version, &unique).unwrap();
    let settings = &dialogue.header.settings;
    let own = match at {
        Target::Foreign(_) if !settings.is_empty() => {
            return Outcome::Skipped(format!("needs `{}`", settings.join("`, `")));
        }
        Target::Whimbrel(_) if !settings.is_empty() => Some(Broker::start(&settings.join("\n"))),
        _ => None,
    };
    let address = match (&own, at) {
        (Some(broker), _) => SocketAddr::from(([127, 0, 0, 1], broker.port)),
        (None, Target::Whimbrel(address) | Target::Foreign(address)) => address,
    };
    match play::play(address, version, &steps) {
        Ok(()) => Outcome::Ok,
        Err(mut failure) => {
            for text in [&mut failure.what, &mut failure.step, &mut failure.with] {
                *text = text.replace(&unique, "{t}");
            }
            Outcome::Failed(failure)
        }
    }
}

#[derive(Clone, Copy)]
enum Target {
    Whimbrel(SocketAddr),
    Foreign(SocketAddr),
}

/// Plays all, several at once; the results in the dialogues' order.
fn play_all(dialogues: &[Dialogue], target: Target) -> Vec<Played<'_>> {
    let plays: Vec<(&Dialogue, Version)> = dialogues
        .iter()
        .flat_map(|dialogue| dialogue.header.versions.iter().map(move |&v| (dialogue, v)))
        .collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(dialogue, version)) = plays.get(number) else { break };
                    let outcome = play_one(dialogue, version, number, target);
                    let Dialogue { name, header, .. } = dialogue;
                    let played = Played { name, header, version, outcome };
                    results.lock().unwrap().push((number, played));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, played)| played).collect()
}

#[test]
fn every_dialogue_goes_as_written() {
    let mut dialogues = dialogues();
    if let Ok(part) = std::env::var("DIALOGUE") {
        dialogues.retain(|dialogue| dialogue.name.contains(&part));
    }
    assert!(!dialogues.is_empty(), "there is no such dialogue");
    let foreign = std::env::var("BROKER").ok();
    let own = foreign.is_none().then(|| Broker::start(""));
    let target = match (&own, &foreign) {
        (Some(broker), _) => Target::Whimbrel(SocketAddr::from(([127, 0, 0, 1], broker.port))),
        (None, address) => {
            let address = address.as_deref().unwrap_or_default();
            let mut found = address.to_socket_addrs().unwrap_or_else(|e| panic!("{address}: {e}"));
            Target::Foreign(found.next().expect("an address"))
        }
    };
    let name = std::env::var("BROKER_NAME").unwrap_or_else(|_| {
        if foreign.is_some() { "another broker".into() } else { "Whimbrel".into() }
    });
    let played = play_all(&dialogues, target);
    if let Ok(path) = std::env::var("REPORT") {
        std::fs::write(path, report::page(&name, &played)).unwrap();
    }
    // Its log would hide the differences.
    drop(own);
    let failures: Vec<String> = played.iter().filter_map(explained).collect();
    assert!(failures.is_empty(), "\n{}\n{}", failures.join("\n"), report::summary(&played));
}

fn explained(played: &Played) -> Option<String> {
    let Outcome::Failed(failure) = &played.outcome else { return None };
    Some(Failure::explained(failure, &file_of(played.name), played.version))
}
