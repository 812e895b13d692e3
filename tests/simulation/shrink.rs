//! A history that breaks a promise, made as short as it goes.

use std::fmt::Write;

use crate::disk::Disk;
use crate::history::History;
use crate::plant::Fault;
use crate::world;

/// Leaves out steps as long as a promise is still broken.
fn shrink(history: &History, fault: Option<Fault>, disk: &Disk) -> History {
    let mut history = history.clone();
    let mut len = history.steps.len().div_ceil(2);
    loop {
        let mut at = 0;
        while at < history.steps.len() {
            let mut shorter = history.clone();
            let end = (at + len).min(shorter.steps.len());
            shorter.steps.drain(at..end);
            if world::run(&shorter, fault, disk).is_err() {
                history = shorter;
            } else {
                at += len;
            }
        }
        if len == 1 {
            return history;
        }
        len = len.div_ceil(2);
    }
}

/// What is to be told of a history that breaks a promise.
pub fn report(seed: u64, fault: Option<Fault>) -> String {
    let disk = world::empty_store();
    let history = History::new(seed);
    let Err(broken) = world::run(&history, fault, &disk) else {
        return format!("SIM_SEED={seed} breaks nothing when it is repeated");
    };
    let short = shrink(&history, fault, &disk);
    if std::env::var_os("SIM_TRACE").is_some() {
        world::show(&short, fault, &disk);
    }
    let why = world::run(&short, fault, &disk).err().unwrap_or_default();
    let mut text = format!("SIM_SEED={seed}: {broken}\n");
    let _ = writeln!(text, "the same in short, with a disk of {} ms: {why}", short.disk_ms);
    for step in &short.steps {
        let _ = writeln!(text, "  {:?}, then {} ms", step.deed, step.then_ms);
    }
    text
}
