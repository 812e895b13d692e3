//! libFuzzer's program for all targets; the environment's `FUZZ_TARGET` chooses one.
//!
//! With `FUZZ_UNPACK` it only writes the inputs to begin with to that directory, and beside it a
//! dictionary; with `FUZZ_PACK` it only keeps the inputs of that directory instead of those that are
//! kept, with `FUZZ_REMEMBER` beside them and for ever.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use targets::{corpus, seeds};

/// Bytes of the file of one target's inputs.
const KEPT_BYTES_MAX: usize = 48 << 10;

static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

fn choose() -> fn(&[u8]) {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    let target = targets::TARGETS.iter().find(|(known, _)| *known == name);
    let (name, function) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    let told: [(_, fn(&str, &Path)); 3] =
        [("FUZZ_UNPACK", unpack), ("FUZZ_PACK", pack), ("FUZZ_REMEMBER", remember)];
    for (variable, act) in told {
        if let Some(directory) = std::env::var_os(variable) {
            act(name, Path::new(&directory));
            std::process::exit(0);
        }
    }
    *function
}

fn file(target: &str) -> PathBuf {
    corpus::file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), target)
}

fn kept(target: &str) -> String {
    std::fs::read_to_string(file(target)).unwrap_or_default()
}

fn unpack(target: &str, directory: &Path) {
    let inputs = corpus::parse(&kept(target)).into_iter().chain(seeds::of(target));
    for (number, input) in inputs.enumerate() {
        std::fs::write(directory.join(format!("kept-{number:04}")), input).expect("can be written");
    }
    let word = |word: &[u8]| {
        let bytes: String = word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("\"{bytes}\"\n")
    };
    let words: String = seeds::words(target).into_iter().map(word).collect();
    std::fs::write(directory.with_extension("dict"), words).expect("can be written");
}

/// Above this line of a file stands what broke a promise once, below it what reaches much code.
const MARK: &str = "# Found by fuzzing:\n";

fn inputs(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let read = |entry: std::io::Result<DirEntry>| std::fs::read(entry?.path());
    entries.map(|entry| corpus::escape(&read(entry).expect("an input")) + "\n").collect()
}

/// Adds the directory's inputs above the mark.
fn remember(target: &str, directory: &Path) {
    let text = kept(target);
    let (above, below) = text.split_once(MARK).unwrap_or_default();
    let new = |line: &String| !above.lines().any(|known| known == line.trim_end());
    let new: String = inputs(directory).into_iter().filter(new).collect();
    std::fs::write(file(target), format!("{above}{new}{MARK}{below}")).expect("can be written");
}

/// Puts the directory's inputs below the mark, the short ones first, while there is room.
fn pack(target: &str, directory: &Path) {
    let text = kept(target);
    let (above, _) = text.split_once(MARK).unwrap_or_default();
    let mut lines: Vec<String> = inputs(directory).into_iter().collect();
    lines.sort_by_key(String::len);
    let mut text = format!("{above}{MARK}");
    for line in lines {
        if text.len() + line.len() <= KEPT_BYTES_MAX {
            text.push_str(&line);
        }
    }
    std::fs::write(file(target), text).expect("can be written");
}

fuzz_target!(init: { let _ = CHOSEN.set(choose()); }, |bytes: &[u8]| {
    CHOSEN.get().expect("set at the start")(bytes);
});
