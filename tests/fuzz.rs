//! Replays the inputs that fuzzing has found (`tests/data/fuzz/`) and those that it begins with.
//! `tests/fuzz.sh` looks for new ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::path::Path;

use targets::{TARGETS, corpus, seeds};

/// The bytes of all files together.
const KEPT_BYTES_MAX: usize = 300 << 10;

#[test]
fn every_input_that_is_kept_is_handled() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut kept_bytes, mut failed) = (0, vec![]);
    for (name, run) in TARGETS {
        let text = std::fs::read_to_string(corpus::file(repository, name))
            .expect("a file for each target");
        kept_bytes += text.len();
        let inputs = corpus::parse(&text);
        assert!(!inputs.is_empty(), "{name}");
        for input in inputs {
            if std::panic::catch_unwind(|| run(&input)).is_err() {
                failed.push(format!("{name}: {}", corpus::escape(&input)));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(kept_bytes <= KEPT_BYTES_MAX, "{kept_bytes} bytes are too many to keep");
}

#[test]
fn the_script_knows_every_target() {
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    let script = include_str!("fuzz.sh");
    assert!(script.contains(&format!("all=\"{}\"", names.join(" "))), "{names:?}");
}

#[test]
fn every_target_has_inputs_and_words_to_begin_with() {
    for (name, run) in TARGETS {
        let seeds = seeds::of(name);
        assert!(!seeds.is_empty(), "{name}");
        for seed in seeds {
            run(&seed);
        }
    }
    assert!(seeds::words("config").contains(&&b"durability"[..]));
}
