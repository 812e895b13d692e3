//! Histories of a simulated world: many Clients, the real connections, Sessions, router, queues
//! and store, on one thread and in virtual time, on a network that delays, stalls and breaks and
//! a disk that loses what was not synced. A model knows who must receive what.
//!
//! `SIM_SEED=n` repeats one history, with `SIM_TRACE=1` it is shown packet by packet;
//! `SIM_HISTORIES=n` runs so many, from the seed `SIM_FROM` on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod client;
mod disk;
mod handover;
mod heard;
mod history;
mod log;
mod model;
mod packet;
mod pipe;
mod plant;
mod queues;
mod random;
mod shrink;
mod stage;
mod takeover;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use history::History;
use plant::Fault;

/// Histories that are run where nothing else is asked for.
const HISTORIES: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs histories on all cores and returns the seeds of those that break a promise in a way that
/// `counts`, with what is broken, until there are so many.
fn failing(
    seeds: std::ops::Range<u64>,
    fault: Option<Fault>,
    counts: impl Fn(&str) -> bool + Sync,
    enough: usize,
) -> Vec<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let found = parking_lot::Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let disk = world::empty_store();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || found.lock().len() >= enough {
                        return;
                    }
                    let outcome = world::run(&History::new(seed), fault, &disk);
                    if let Some(broken) = outcome.err().filter(|broken| counts(broken)) {
                        found.lock().push((seed, broken));
                    }
                }
            });
        }
    });
    let mut found = found.into_inner();
    found.sort_unstable();
    found
}

#[test]
fn every_promise_is_kept_whatever_happens() {
    let from = number("SIM_FROM").unwrap_or(0);
    let seeds = match (number("SIM_SEED"), number("SIM_HISTORIES")) {
        (Some(seed), _) => seed..seed + 1,
        (None, histories) => from..from + histories.unwrap_or(HISTORIES),
    };
    let enough = number("SIM_ENOUGH").unwrap_or(1) as usize;
    let failing = failing(seeds, None, |_| true, enough);
    if let Some((seed, _)) = failing.first() {
        for (seed, broken) in &failing {
            println!("seed {seed}: {broken}");
        }
        panic!("{}", shrink::report(*seed, None));
    }
}

#[test]
fn a_seed_gives_the_same_history_again() {
    let disk = world::empty_store();
    for seed in 0..50 {
        let digest = || world::digest(&History::new(seed), &disk);
        assert_eq!(digest(), digest(), "seed {seed}");
    }
}

/// So many histories at most show whether the checks find a fault; most are found in a tenth.
const PLANTED: u64 = 2_000;

/// So many of them must show it.
const FOUND: usize = 5;

/// A fault must be found, and for what it is: `as_what` says what is told of it.
fn is_found(fault: Fault, as_what: &[&str]) {
    let is_it = |broken: &str| as_what.iter().any(|what| broken.contains(what));
    let found = failing(0..PLANTED, Some(fault), is_it, FOUND);
    let last = found.last().map_or(PLANTED, |(seed, _)| *seed);
    println!("{fault:?}: found {} times up to seed {last}: {found:#?}", found.len());
    assert!(found.len() >= FOUND, "{fault:?}: found only {} times as {as_what:?}", found.len());
}

const LOST: &[&str] = &["has not got", "nobody of"];

#[test]
fn a_broker_that_acknowledges_before_it_commits_is_found_out() {
    is_found(Fault::AcknowledgesEarly, LOST);
}

#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    let is_lost = ["has not got", "nobody of", "Session Present", "nothing brings it"];
    is_found(Fault::SkipsFsync, &is_lost);
}

#[test]
fn a_listener_that_keeps_nothing_is_found_out() {
    is_found(Fault::MixesListeners, &["has not got", "Session Present is false"]);
}

#[test]
fn a_packet_identifier_used_twice_is_found_out() {
    is_found(Fault::ReusesIdentifier, &["the identifier belongs to"]);
}

#[test]
fn a_pubrel_that_is_forgotten_is_found_out() {
    is_found(Fault::ForgetsPubRel, &["waits for [] {"]);
}

#[test]
fn a_puback_that_is_not_noticed_is_found_out() {
    is_found(Fault::ForgetsPubAck, &["it was acknowledged before"]);
}

#[test]
fn a_message_of_qos_2_that_is_sent_twice_is_found_out() {
    is_found(Fault::SendsTwice, &["it is under way", "twice"]);
}

#[test]
fn a_message_that_is_lost_is_found_out() {
    is_found(Fault::LosesMessage, LOST);
}

#[test]
fn messages_in_the_wrong_order_are_found_out() {
    is_found(Fault::Reorders, &["a later message of its publisher came before it"]);
}

#[test]
fn messages_of_a_share_group_in_the_wrong_order_are_found_out() {
    is_found(Fault::ReordersShared, &["a later message came before it to the same member"]);
}

#[test]
fn a_retain_flag_that_is_forgotten_is_found_out() {
    is_found(Fault::ForgetsRetain, &["RETAIN should be {true}", "nothing brings it"]);
}

#[test]
fn a_dup_flag_that_is_forgotten_is_found_out() {
    is_found(Fault::ForgetsDup, &["it was sent before"]);
}

#[test]
fn subscription_identifiers_that_are_forgotten_are_found_out() {
    let as_what = ["its subscriptions should be", "nothing brings it"];
    is_found(Fault::ForgetsSubscriptionIds, &as_what);
}

#[test]
fn a_will_delay_interval_that_is_ignored_is_found_out() {
    is_found(Fault::IgnoresWillDelay, &["of a Will that is not due"]);
}

#[test]
fn a_session_that_is_not_taken_over_is_found_out() {
    is_found(Fault::KeepsBoth, &["another connection has the Session"]);
}

#[test]
fn a_priority_that_is_ignored_is_found_out() {
    is_found(Fault::IgnoresPriority, &["what is to come later came before it"]);
}
