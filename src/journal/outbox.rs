//! Where lines go, and when.
//!
//! Who has a line writes it. But a system call for each is a good part of what a Client costs that
//! comes and goes; so when lines come in crowds ([`CROWD`]), they are gathered, and a thread, the
//! scribe, writes them together. Warnings and errors wait for nobody: who has one writes it, behind
//! what was gathered. So does who has a line when much is gathered: where lines cannot be written
//! as fast as they come, it waits, and none is lost.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::Stopwatch;

/// More lines than this in a [`WINDOW_US`] are a crowd.
const CROWD: u32 = 64;
const WINDOW_US: u64 = 100_000;

/// How long lines are gathered; a process that is killed loses so much of what it had to say.
const PAUSE: Duration = Duration::from_millis(20);

/// Bytes that are gathered before they are written without waiting for the scribe.
const GATHERED_MAX: usize = 16 << 10;

/// The streams and files that lines are written to.
#[derive(Default)]
pub(super) struct Sinks {
    pub stdout: bool,
    pub stderr: bool,
    pub files: Vec<File>,
}

impl Sinks {
    /// Lines that cannot be written are lost; the broker goes on.
    fn write(&mut self, lines: &[u8]) {
        if self.stdout {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(lines).and_then(|()| stdout.flush());
        }
        if self.stderr {
            let _ = io::stderr().write_all(lines);
        }
        for file in &mut self.files {
            let _ = file.write_all(lines);
        }
    }
}

#[derive(Default)]
struct Gathered {
    lines: Vec<u8>,
    has_scribe: bool,
    scribe_sleeps: bool,
    /// When the window ends in which lines are counted.
    until_us: u64,
    count: u32,
}

impl Gathered {
    /// Whether this line comes in a crowd.
    fn is_crowd(&mut self, now_us: u64) -> bool {
        if now_us >= self.until_us {
            (self.until_us, self.count) = (now_us.saturating_add(WINDOW_US), 0);
        }
        self.count = self.count.saturating_add(1);
        self.count > CROWD
    }
}

/// See the head of this file.
pub(super) struct Outbox {
    /// Locked before `gathered` by who writes, so that lines stay in order.
    sinks: Mutex<Sinks>,
    gathered: Mutex<Gathered>,
    bell: Condvar,
    clock: Stopwatch,
}

impl Outbox {
    /// An outbox with its scribe; without one where there is no thread to be had.
    pub fn open(sinks: Sinks) -> Arc<Self> {
        let (sinks, gathered) = (Mutex::new(sinks), Mutex::default());
        let (bell, clock) = (Condvar::new(), Stopwatch::start());
        let outbox = Arc::new(Self { sinks, gathered, bell, clock });
        let its = outbox.clone();
        let scribe = std::thread::Builder::new().name("scribe".into());
        outbox.gathered.lock().has_scribe = scribe.spawn(move || its.serve()).is_ok();
        outbox
    }

    /// Lines go elsewhere from now on.
    pub fn replace(&self, sinks: Sinks) {
        self.write_out();
        *self.sinks.lock() = sinks;
    }

    /// Adds a line; but for one that comes in a crowd and is not urgent, it is written when this
    /// returns.
    pub fn add(&self, line: &[u8], is_urgent: bool) {
        let mut gathered = self.gathered.lock();
        gathered.lines.extend_from_slice(line);
        let is_crowd = gathered.is_crowd(self.clock.elapsed_us());
        let is_full = gathered.lines.len() >= GATHERED_MAX;
        if is_urgent || !is_crowd || is_full || !gathered.has_scribe {
            drop(gathered);
            return self.write_out();
        }
        if std::mem::take(&mut gathered.scribe_sleeps) {
            drop(gathered);
            self.bell.notify_one();
        }
    }

    /// Writes what is gathered.
    pub fn write_out(&self) {
        let mut sinks = self.sinks.lock();
        let lines = std::mem::take(&mut self.gathered.lock().lines);
        sinks.write(&lines);
    }

    /// The scribe's life, which is the process's.
    fn serve(&self) {
        loop {
            let mut gathered = self.gathered.lock();
            while gathered.lines.is_empty() {
                gathered.scribe_sleeps = true;
                self.bell.wait(&mut gathered);
            }
            drop(gathered);
            std::thread::sleep(PAUSE);
            self.write_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of several threads, some of them urgent, and all of them there once each, in the order
    /// of each thread.
    #[test]
    fn lines_stay_whole_and_in_order_and_none_is_lost() {
        let mut file = tempfile::tempfile().unwrap();
        let files = vec![file.try_clone().unwrap()];
        let outbox = Outbox::open(Sinks { files, ..Sinks::default() });
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let outbox = &outbox;
                scope.spawn(move || {
                    for n in 0..2_000 {
                        outbox.add(format!("{thread} {n}\n").as_bytes(), n % 97 == 0);
                    }
                });
            }
        });
        outbox.write_out();
        let mut written = String::new();
        io::Seek::rewind(&mut file).unwrap();
        io::Read::read_to_string(&mut file, &mut written).unwrap();
        for thread in 0..3 {
            let start = format!("{thread} ");
            let numbers = written.lines().filter_map(|line| line.strip_prefix(&start));
            assert!(numbers.map(|n| n.parse::<u32>().unwrap()).eq(0..2_000));
        }
        assert_eq!(written.lines().count(), 6_000);
    }

    /// A line by itself is written when it has been added; those of a crowd are with the next
    /// urgent one at the latest.
    #[test]
    fn only_a_crowd_is_gathered() {
        let file = tempfile::tempfile().unwrap();
        let files = vec![file.try_clone().unwrap()];
        let outbox = Outbox::open(Sinks { files, ..Sinks::default() });
        let written = || file.metadata().unwrap().len();
        outbox.add(b"a\n", false);
        assert_eq!(written(), 2);
        for _ in 0..2 * CROWD {
            outbox.add(b"b\n", false);
        }
        outbox.add(b"c\n", true);
        assert_eq!(written(), 4 + 4 * u64::from(CROWD));
    }
}
