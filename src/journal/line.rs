//! How an event becomes a line: time, level, text, fields.
//!
//! The same words as the library's own format, which takes twice the instructions: its two lines
//! were a third of what a Client costs that comes, says something and goes.

use std::cell::RefCell;
use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::{Look, Timestamp, strftime};
use crate::clock::since_1970;

/// Bytes of a line that is neither short nor long.
const USUAL_LEN: usize = 256;

/// The line of an event, with its end; at a terminal in `colours`.
pub(super) fn line(
    event: &Event<'_>,
    look: Look,
    timestamp: &Timestamp,
    colours: bool,
) -> Result<String, std::fmt::Error> {
    let mut line = Draft { text: String::with_capacity(USUAL_LEN), colours, result: Ok(()) };
    let level = *event.metadata().level();
    match look {
        Look::Own => line.begin(timestamp, level),
        Look::Mosquitto => line.begin_as_mosquitto(timestamp, level),
    }
    let start = line.text.len();
    event.record(&mut Fields { line: &mut line, start });
    line.result?;
    line.text.push('\n');
    Ok(line.text)
}

/// A line as far as it is written.
struct Draft {
    text: String,
    colours: bool,
    result: std::fmt::Result,
}

impl Draft {
    fn begin(&mut self, timestamp: &Timestamp, level: Level) {
        let (word, colour) = match level {
            Level::ERROR => ("ERROR", "31"),
            Level::WARN => (" WARN", "33"),
            Level::INFO => (" INFO", "32"),
            Level::DEBUG => ("DEBUG", "34"),
            Level::TRACE => ("TRACE", "35"),
        };
        self.colour("2");
        let is_stamped = self.stamp(timestamp, now);
        self.colour("0");
        self.text.push_str(if is_stamped { " " } else { "" });
        self.in_colour(colour, word);
        self.text.push(' ');
    }

    fn begin_as_mosquitto(&mut self, timestamp: &Timestamp, level: Level) {
        if self.stamp(timestamp, unix) {
            self.text.push_str(": ");
        }
        // What is looked for in its log.
        self.text.push_str(match level {
            Level::ERROR => "Error: ",
            Level::WARN => "Warning: ",
            _ => "",
        });
    }

    /// Adds the time, where it is the look's as `own` does; false: none is wanted.
    fn stamp(&mut self, timestamp: &Timestamp, own: fn(&mut String)) -> bool {
        match timestamp {
            Timestamp::None => return false,
            Timestamp::Own => own(&mut self.text),
            Timestamp::Unix => unix(&mut self.text),
            Timestamp::Strftime(format) => {
                self.text.push_str(&strftime(format).unwrap_or_default());
            }
        }
        true
    }

    fn in_colour(&mut self, colour: &str, text: &str) {
        self.colour(colour);
        self.text.push_str(text);
        self.colour("0");
    }

    /// A colour, or whatever else a terminal makes of that number; 0 is its usual one.
    fn colour(&mut self, number: &str) {
        if self.colours {
            self.text.extend(["\x1b[", number, "m"]);
        }
    }
}

/// Adds an event's text and fields to its line.
struct Fields<'a> {
    line: &'a mut Draft,
    /// Where they begin.
    start: usize,
}

impl Fields<'_> {
    /// Adds a field; what would command a terminal in it is escaped: some of it comes from Clients.
    fn add(&mut self, field: &Field, write: impl FnOnce(&mut String) -> std::fmt::Result) {
        let name = field.name();
        // Where a line comes from that was made by `log`.
        if self.line.result.is_err() || name.starts_with("log.") {
            return;
        }
        if self.line.text.len() > self.start {
            self.line.text.push(' ');
        }
        if name != "message" {
            let name = name.strip_prefix("r#").unwrap_or(name);
            self.line.in_colour("3", name);
            self.line.in_colour("2", "=");
        }
        let from = self.line.text.len();
        self.line.result = write(&mut self.line.text);
        escape(&mut self.line.text, from);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, |text| write!(text, "{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.add(field, |text| text.write_str(value)),
            _ => self.add(field, |text| write!(text, "{value:?}")),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, |text| text.write_str(if value { "true" } else { "false" }));
    }
}

/// Escapes control characters in the text from there on; lines may be broken.
fn escape(text: &mut String, from: usize) {
    let is_command = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    // The control characters beyond ASCII are two bytes, of which this is the first.
    let may_be_command = |byte: u8| byte.is_ascii_control() || byte == 0xC2;
    let Some(rest) = text.as_bytes().get(from..) else { return };
    // All are looked at, many at a time.
    if !rest.iter().fold(false, |found, &byte| found | may_be_command(byte)) {
        return;
    }
    let rest = text.split_off(from);
    for c in rest.chars() {
        if is_command(c) {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
}

thread_local! {
    /// The second that was written last, and how.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// Adds the seconds since 1970.
fn unix(text: &mut String) {
    text.push_str(&since_1970().as_secs().to_string());
}

/// Adds date and time, UTC, to the microsecond.
fn now(text: &mut String) {
    let time = since_1970();
    let (second, mut micros) = (time.as_secs(), time.subsec_micros());
    SECOND.with_borrow_mut(|(last, written)| {
        if *last != second || written.is_empty() {
            let time =
                i64::try_from(second).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
            *written = time.unwrap_or_default().to_string();
            written.pop(); // The zone.
            *last = second;
        }
        text.push_str(written);
    });
    let mut digits = *b".000000Z";
    for digit in digits.iter_mut().skip(1).rev().skip(1) {
        *digit += (micros % 10) as u8;
        micros /= 10;
    }
    text.push_str(std::str::from_utf8(&digits).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_escaped() {
        let mut text = String::from("\x1b[1mours ");
        let from = text.len();
        text.push_str("red \x1b[31m bell \x07 next \u{9b}31m, é, line\n");
        escape(&mut text, from);
        assert_eq!(text, "\x1b[1mours red \\u{1b}[31m bell \\u{7} next \\u{9b}31m, é, line\n");
    }

    #[test]
    fn time_is_written_to_the_microsecond() {
        let mut text = String::new();
        for _ in 0..2 {
            text.clear();
            now(&mut text);
            let read: jiff::Timestamp = text.parse().unwrap();
            assert!(since_1970().as_secs().abs_diff(read.as_second() as u64) <= 1, "{text}");
        }
        assert_eq!(text.len(), "2026-11-27T13:50:33.012345Z".len());
    }
}
