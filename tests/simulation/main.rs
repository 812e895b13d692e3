//! Histories of a simulated world: many Clients, the real connections, Sessions, router, queues
//! and store, on one thread and in virtual time, on a network that delays, stalls and breaks and
//! a disk that loses what was not synced. A model knows who must receive what.
//!
//! `SIM_SEED=n` repeats one history, with `SIM_TRACE=1` it is shown packet by packet; `SIM_HISTORIES=n` runs
//! so many.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod client;
mod disk;
mod history;
mod log;
mod model;
mod packet;
mod pipe;
mod plant;
mod random;
mod shrink;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use history::History;
use plant::Fault;

/// Histories that are run where nothing else is asked for.
const HISTORIES: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs histories on all cores and returns the seeds of those that break a promise, with what is broken,
/// until there are so many.
fn failing(seeds: std::ops::Range<u64>, fault: Option<Fault>, enough: usize) -> Vec<(u64, String)> {
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
                    if let Err(broken) = world::run(&History::new(seed), fault, &disk) {
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
    let seeds = match (number("SIM_SEED"), number("SIM_HISTORIES")) {
        (Some(seed), _) => seed..seed + 1,
        (None, histories) => 0..histories.unwrap_or(HISTORIES),
    };
    let enough = number("SIM_ENOUGH").unwrap_or(1) as usize;
    let failing = failing(seeds, None, enough);
    if let Some((seed, _)) = failing.first() {
        for (seed, broken) in &failing {
            println!("seed {seed}: {broken}");
        }
        panic!("{}", shrink::report(*seed, None));
    }
}

/// So many histories show whether the checks find a fault.
const PLANTED: u64 = 200;

/// A fault must be found, and for what it is: `as_what` says what is told of it. The counts are
/// far below those that are found, so that other histories find it too.
fn is_found(fault: Fault, as_what: &[&str], at_least: usize) {
    let mut found = failing(0..PLANTED, Some(fault), usize::MAX);
    let all = found.len();
    found.retain(|(_, broken)| as_what.iter().any(|what| broken.contains(what)));
    let counts = format!("{fault:?}: found in {all} of {PLANTED} histories, {} as", found.len());
    println!("{counts} {as_what:?}, first: {:?}", found.first());
    assert!(found.len() >= at_least, "{counts} {as_what:?}");
}

const LOST: &[&str] = &["has not got", "nobody of"];

#[test]
fn a_broker_that_acknowledges_before_it_commits_is_found_out() {
    is_found(Fault::AcknowledgesEarly, LOST, 3);
}

#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    let is_lost = ["has not got", "nobody of", "Session Present", "nothing brings it"];
    is_found(Fault::SkipsFsync, &is_lost, 10);
}

#[test]
fn a_packet_identifier_used_twice_is_found_out() {
    is_found(Fault::ReusesIdentifier, &["the identifier belongs to"], 5);
}

#[test]
fn a_pubrel_that_is_forgotten_is_found_out() {
    is_found(Fault::ForgetsPubRel, &["waits for [] {"], 5);
}

#[test]
fn a_puback_that_is_not_noticed_is_found_out() {
    is_found(Fault::ForgetsPubAck, &["it was acknowledged before"], 5);
}

#[test]
fn a_message_of_qos_2_that_is_sent_twice_is_found_out() {
    is_found(Fault::SendsTwice, &["it is under way", "twice"], 5);
}

#[test]
fn a_message_that_is_lost_is_found_out() {
    is_found(Fault::LosesMessage, LOST, 15);
}

#[test]
fn messages_in_the_wrong_order_are_found_out() {
    is_found(Fault::Reorders, &["a later message of its publisher came before it"], 3);
}

#[test]
fn a_retain_flag_that_is_forgotten_is_found_out() {
    is_found(Fault::ForgetsRetain, &["RETAIN should be {true}", "nothing brings it"], 20);
}

#[test]
fn a_dup_flag_that_is_forgotten_is_found_out() {
    is_found(Fault::ForgetsDup, &["it was sent before"], 5);
}
