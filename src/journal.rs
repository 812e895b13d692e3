//! The log: where it goes, which of it, and how a line looks.
//!
//! Everybody writes by `tracing`; this is the one place that reads it. Two looks: our own, and
//! mosquitto's, whose lines are what scripts and log watchers of its users look for. All of it can
//! be changed while the broker runs ([`Journal::change`]), except the look.

mod line;
mod outbox;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use syslog_tracing::{Facility, Syslog, SyslogWriter};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::clock::Clock;
use crate::process::user::open_to_write;
use outbox::{Outbox, Sinks};

/// The target of events that mosquitto calls notices: Clients that come and go.
pub const NOTICE: &str = "whimbrel::notice";

/// Lines that wait to be published; what comes beyond them is counted and lost.
const TOLD_MAX: usize = 1000;

/// Bytes of them; the last may reach beyond it.
const TOLD_BYTES_MAX: usize = 256 << 10;

/// Bytes of a line that is published; the rest is cut off.
const TOLD_LINE_MAX: usize = 4 << 10;

/// Lines that are published in one go.
const TOLD_AT_ONCE: usize = 64;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, to whose end they are added.
    File(PathBuf),
    /// The system's log.
    Syslog,
    /// Topics of the broker's own, one for each kind but [`kind::DEBUG`]: see [`Journal::told`].
    Topic,
}

/// What stands before a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Timestamp {
    /// Date and time, or nothing where the journal of systemd has its own.
    #[default]
    Own,
    /// Nothing.
    None,
    /// Seconds since 1970.
    Unix,
    /// Date and time in a format of strftime.
    Strftime(String),
}

/// The mosquitto whose manners are kept in its place.
pub const IN_PLACE_OF: &str = "2.1.2";

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// Time, level, text.
    #[default]
    Own,
    /// As mosquitto's: time, colon, text.
    Mosquitto,
}

/// Kinds of events, as bits.
pub mod kind {
    /// Errors.
    pub const ERROR: u8 = 1;
    /// Warnings.
    pub const WARNING: u8 = 1 << 1;
    /// Clients that come and go.
    pub const NOTICE: u8 = 1 << 2;
    /// Other information.
    pub const INFORMATION: u8 = 1 << 3;
    /// Everything else.
    pub const DEBUG: u8 = 1 << 4;
    /// All of them.
    pub const ALL: u8 = 0x1F;
    /// Without the last.
    pub const DEFAULT: u8 = ALL & !DEBUG;
}

/// Settings of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Least level, or a filter as RUST_LOG has it.
    pub filter: String,
    /// The kinds of events that are written, of those that pass the filter.
    pub kinds: u8,
    /// Where they go; nowhere if empty.
    pub destinations: Vec<Destination>,
    /// local0 to local7 of the system's log; daemon if not given.
    pub facility: Option<u8>,
    /// What stands before a line.
    pub timestamp: Timestamp,
    /// How a line looks.
    pub look: Look,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            filter: "info".into(),
            kinds: kind::ALL,
            destinations: vec![Destination::Stderr],
            facility: None,
            timestamp: Timestamp::Own,
            look: Look::Own,
        }
    }
}

/// Whether a text is a format of strftime that can be used.
pub fn is_strftime(format: &str) -> bool {
    !format.chars().any(char::is_control) && strftime(format).is_some()
}

fn strftime(format: &str) -> Option<String> {
    let ms = i64::try_from(Clock::system().now().unix_ms()).ok()?;
    let now = jiff::Timestamp::from_millisecond(ms).ok()?;
    let now = now.to_zoned_datetime(jiff::tz::TimeZone::system());
    jiff::fmt::strtime::format(format, &now).ok()
}

/// The log that runs; when one of its copies is dropped, what is gathered is written.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    filter: reload::Handle<EnvFilter, Registry>,
}

struct Shared {
    look: Look,
    /// Whether it is looked at on a terminal.
    colours: bool,
    options: RwLock<Options>,
    form: RwLock<(u8, Timestamp)>,
    outbox: Arc<Outbox>,
    ways: RwLock<Ways>,
    telling: Mutex<Telling>,
}

/// A line that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its kind.
    pub kind: u8,
    /// With what stands before it, without its end.
    pub line: Box<str>,
}

/// Lines that are to be published.
#[derive(Default)]
struct Telling {
    lines: VecDeque<Told>,
    bytes: usize,
    lost: u64,
}

impl Telling {
    fn add(&mut self, kind: u8, line: &[u8]) {
        if self.lines.len() >= TOLD_MAX || self.bytes >= TOLD_BYTES_MAX {
            self.lost += 1;
            return;
        }
        let line: Box<str> = match line.get(..TOLD_LINE_MAX) {
            Some(start) => format!("{}...", String::from_utf8_lossy(start)).into(),
            None => String::from_utf8_lossy(line).trim_end().into(),
        };
        self.bytes += line.len();
        self.lines.push_back(Told { kind, line });
    }

    fn take(&mut self) -> Vec<Told> {
        let count = self.lines.len().min(TOLD_AT_ONCE);
        let mut lines: Vec<_> = self.lines.drain(..count).collect();
        self.bytes -= lines.iter().map(|told| told.line.len()).sum::<usize>();
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            let line = format!("{lost} lines of the log were too many to be published").into();
            lines.push(Told { kind: kind::WARNING, line });
        }
        lines
    }
}

/// Where lines go one by one, beside the [`Outbox`].
#[derive(Default)]
struct Ways {
    topic: bool,
    syslog: Option<Syslog>,
}

/// Opens what can be opened; the rest is said. Where nothing is left, standard error is better
/// than silence.
fn open(options: &Options) -> (Sinks, Ways, Vec<String>) {
    let (mut sinks, mut ways, mut wrong) = (Sinks::default(), Ways::default(), Vec::new());
    for destination in &options.destinations {
        match destination {
            Destination::Stdout => sinks.stdout = true,
            Destination::Stderr => sinks.stderr = true,
            Destination::Topic => ways.topic = true,
            Destination::File(path) => {
                match open_to_write(path, File::options().create(true).append(true)) {
                    Ok(file) => sinks.files.push(file),
                    Err(error) => wrong.push(format!("cannot log to {}: {error}", path.display())),
                }
            }
            Destination::Syslog => {
                let facility = facility(options.facility);
                let with_pid = syslog_tracing::Options::LOG_PID;
                ways.syslog = Syslog::new(c"whimbrel", with_pid, facility);
                if ways.syslog.is_none() {
                    wrong.push("cannot log to syslog".into());
                }
            }
        }
    }
    sinks.stderr |= !wrong.is_empty();
    (sinks, ways, wrong)
}

fn facility(local: Option<u8>) -> Facility {
    match local {
        None => Facility::Daemon,
        Some(0) => Facility::Local0,
        Some(1) => Facility::Local1,
        Some(2) => Facility::Local2,
        Some(3) => Facility::Local3,
        Some(4) => Facility::Local4,
        Some(5) => Facility::Local5,
        Some(6) => Facility::Local6,
        Some(_) => Facility::Local7,
    }
}

impl Journal {
    /// Begins to log; once in a process.
    pub fn start(options: &Options) -> Self {
        let (sinks, ways, wrong) = open(options);
        let form = RwLock::new(form(options));
        let (look, kept) = (options.look, RwLock::new(options.clone()));
        let (outbox, ways, telling) = (Outbox::open(sinks), RwLock::new(ways), Mutex::default());
        let colours = options.destinations == [Destination::Stderr] && {
            io::stderr().is_terminal() && options.look == Look::Own
        };
        let shared = Shared { look, colours, options: kept, form, outbox, ways, telling };
        let (shared, (filter, handle)) = (Arc::new(shared), reload::Layer::new(filter(options)));
        let layer = fmt::layer()
            .event_format(Form(shared.clone()))
            .with_writer(Destinations(shared.clone()));
        if let Err(error) = tracing_subscriber::registry().with(filter).with(layer).try_init() {
            eprintln!("whimbrel: no log: {error}");
        }
        for wrong in wrong {
            tracing::error!("{wrong}; logging to standard error");
        }
        Self { shared, filter: handle }
    }

    /// The next lines that [`Destination::Topic`] is to have, as many as are published in one go.
    pub fn told(&self) -> Vec<Told> {
        self.shared.telling.lock().take()
    }

    /// Opens files anew: they may have been moved away.
    pub fn reopen(&self) {
        let options = self.shared.options.read().clone();
        self.change(&options);
    }

    /// Changes what can be changed, and opens files anew: they may have been moved away.
    pub fn change(&self, options: &Options) {
        *self.shared.options.write() = options.clone();
        *self.shared.form.write() = form(options);
        let mut ways = self.shared.ways.write();
        // There can be one only.
        ways.syslog = None;
        let (sinks, opened, wrong) = open(options);
        *ways = opened;
        drop(ways);
        self.shared.outbox.replace(sinks);
        if let Err(error) = self.filter.reload(filter(options)) {
            tracing::error!("the log's filter stays as it was: {error}");
        }
        for wrong in wrong {
            tracing::error!("{wrong}; logging to standard error");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.outbox.write_out();
    }
}

/// Which kinds of events are written, and what stands before a line: no time where the journal of
/// systemd has its own.
fn form(options: &Options) -> (u8, Timestamp) {
    let timestamp = match options.timestamp {
        Timestamp::Own if options.look == Look::Own => {
            std::env::var_os("JOURNAL_STREAM").map_or(Timestamp::Own, |_| Timestamp::None)
        }
        ref timestamp => timestamp.clone(),
    };
    (options.kinds, timestamp)
}

/// Which events are logged. Of TLS only what is asked for: what peers do wrong there the broker
/// says itself, and what the library warns of beside that comes with every connection of some.
fn filter(options: &Options) -> EnvFilter {
    match &*options.filter {
        level @ ("info" | "warn") => EnvFilter::new(format!("{level},rustls=error")),
        other => EnvFilter::new(other),
    }
}

/// How events become lines.
struct Form(Arc<Shared>);

/// The bit of an event.
fn kind_of(metadata: &Metadata<'_>) -> u8 {
    match *metadata.level() {
        Level::ERROR => kind::ERROR,
        Level::WARN => kind::WARNING,
        Level::INFO if metadata.target() == NOTICE => kind::NOTICE,
        Level::INFO => kind::INFORMATION,
        _ => kind::DEBUG,
    }
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let form = self.0.form.read();
        let (kinds, timestamp) = &*form;
        if kinds & kind_of(event.metadata()) == 0 {
            return Ok(());
        }
        writer.write_str(&line::line(event, self.0.look, timestamp, self.0.colours)?)
    }
}

/// Where lines go.
struct Destinations(Arc<Shared>);

/// One event's way to them.
struct Line<'a> {
    shared: &'a Shared,
    kind: u8,
    syslog: Option<SyslogWriter>,
}

impl<'a> MakeWriter<'a> for Destinations {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { shared: &self.0, kind: kind::DEBUG, syslog: None }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        let ways = self.0.ways.read();
        let syslog = ways.syslog.as_ref().map(|syslog| syslog.make_writer_for(metadata));
        Line { shared: &self.0, kind: kind_of(metadata), syslog }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // To publish a line makes lines of that kind.
        if self.kind != kind::DEBUG && self.shared.ways.read().topic {
            self.shared.telling.lock().add(self.kind, line);
        }
        let is_urgent = matches!(self.kind, kind::ERROR | kind::WARNING);
        self.shared.outbox.add(line, is_urgent);
        if let Some(mut syslog) = self.syslog.take() {
            let _ = syslog.write_all(line).and_then(|()| syslog.flush());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        // Dropped, it would send an empty line for an event of a kind that is not wanted.
        std::mem::forget(self.syslog.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_those_that_wait_are_counted() {
        let mut telling = Telling::default();
        for _ in 0..TOLD_MAX + 2 {
            telling.add(kind::NOTICE, b"1: line\n");
        }
        let mut told = telling.take();
        assert_eq!(told.len(), TOLD_AT_ONCE + 1);
        assert_eq!(told.first().map(|told| &*told.line), Some("1: line"));
        let last = told.pop().unwrap();
        assert!(last.kind == kind::WARNING && last.line.starts_with("2 lines"), "{last:?}");
        let rest = std::iter::repeat_with(|| telling.take().len()).take_while(|count| *count > 0);
        assert_eq!(rest.sum::<usize>(), TOLD_MAX - TOLD_AT_ONCE);
        assert_eq!(telling.bytes, 0);
    }

    #[test]
    fn long_lines_that_wait_are_cut_and_fewer() {
        let mut telling = Telling::default();
        let line = "\u{e9}".repeat(TOLD_LINE_MAX);
        for _ in 0..TOLD_MAX {
            telling.add(kind::NOTICE, line.as_bytes());
        }
        assert!(telling.bytes < TOLD_BYTES_MAX + 2 * TOLD_LINE_MAX);
        assert_eq!(telling.lost, (TOLD_MAX - telling.lines.len()) as u64);
        let told = telling.take();
        assert!(told.iter().all(|told| told.line.len() < TOLD_LINE_MAX + 8), "{told:?}");
    }
}
