//! Nothing acknowledged is ever lost, and QoS 2 is exactly once: the real program is loaded over
//! real sockets and killed with SIGKILL at random moments, over and over, on the same store, and
//! a record outside of it says what was acknowledged ([`record`]).
//!
//! `CRASH_SEED=` repeats the choices of a run, though not its timing; `CRASH_CYCLES=` makes it
//! longer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod broker;
mod cast;
mod field;
mod link;
mod planted;
mod publisher;
mod random;
#[path = "../it/raw.rs"]
#[allow(dead_code, reason = "shared with the other tests of the program")]
mod raw;
mod receiver;
mod record;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use field::{Options, Report};
use record::{Fault, Violation};

fn number_from(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {value}")))
}

fn play(settings: &'static str, ends: usize, patience: Duration) -> (u64, Report) {
    let seed =
        number_from("CRASH_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    (seed, field::play(&Options { settings, ends, seed, patience }))
}

/// Plays with settings under which everything survives the end of the process.
fn nothing_is_lost(settings: &'static str, ends: usize) {
    let (seed, report) = play(settings, ends, Duration::from_secs(20));
    let Report { violations, totals, ends, log } = report;
    println!("{settings:?}: seed {seed}, ended (killed, starting, stopped) {ends:?}, {totals:?}");
    let first: Vec<_> = violations.iter().take(20).map(ToString::to_string).collect();
    assert!(
        first.is_empty(),
        "{} violations with CRASH_SEED={seed}; the first:\n{}\n--- the broker's log\n{log}",
        violations.len(),
        first.join("\n"),
    );
    // Something was tried.
    let each = [totals.accepted, totals.delivered, totals.repeated, totals.resumed];
    let rarer = [totals.retained, totals.due, totals.not_due];
    assert!(each.iter().chain(&rarer).all(|count| *count > 0), "{totals:?}");
}

#[test]
fn nothing_acknowledged_is_lost_when_the_broker_is_killed() {
    nothing_is_lost("durability = \"fsync\"", number_from("CRASH_CYCLES").unwrap_or(100) as usize);
}

/// With rare commits: what is acknowledged too early is lost in most kills.
#[test]
fn what_is_written_survives_the_end_of_the_process() {
    let settings = "durability = \"written\"\ncommit_interval = \"20ms\"";
    nothing_is_lost(settings, number_from("CRASH_CYCLES").unwrap_or(50) as usize);
}

/// The checker sees what it is for.
#[test]
fn a_broker_that_forgets_is_found_out() {
    let (_, report) = play("durability = \"memory\"", 10, Duration::from_millis(500));
    let is_found = |fault: Fault, about: &str| {
        let is_it = |found: &Violation| found.fault == fault && found.what.contains(about);
        assert!(report.violations.iter().any(is_it), "{fault:?} of {about} is not reported");
    };
    is_found(Fault::SessionLost, "publisher");
    is_found(Fault::SessionLost, "away");
    is_found(Fault::MessageLost, "to away");
    is_found(Fault::MessageLost, "to group");
    is_found(Fault::RetainedLost, "r/");
}
