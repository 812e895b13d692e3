//! Configuration files: any text becomes a configuration or problems that an operator can use.

use std::net::IpAddr;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use whimbrel::config::mosquitto::is_mosquitto;
use whimbrel::config::problem::Problem;
use whimbrel::config::read::parse;

/// The text of a file.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if asks_for_names(text) {
        return;
    }
    match parse(text, Path::new("w.toml")) {
        Ok(config) => {
            config.openings().expect("a configuration without problems can be opened");
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                at_its_line(text, &problem);
                assert!(!problem.what.trim().is_empty());
                let said = problem.to_string();
                assert!(!said.contains(|c: char| c.is_control()), "not one line: {said:?}");
            }
        }
    }
}

/// Where a key stands as it is, it stands in the line that is said.
fn at_its_line(text: &str, problem: &Problem) {
    let Some(number) = problem.line.checked_sub(1) else { return };
    let line = text.split('\n').nth(number).unwrap_or_else(|| panic!("{problem}: no such line"));
    let after = problem.what.strip_prefix("unknown key `");
    let after = after.or_else(|| problem.what.strip_prefix("unknown option `"));
    let Some((key, _)) = after.and_then(|after| after.split_once('`')) else { return };
    // It may be written with escapes.
    if !text.contains('\\') && !text.contains(|c: char| c.is_control() && c != '\n') {
        assert!(line.contains(key), "{problem}: not in {line:?}");
    }
}

/// Whether a host's address would be asked for on the network.
fn asks_for_names(text: &str) -> bool {
    if is_mosquitto(text, Path::new("w.toml")) {
        return text.lines().any(line_asks);
    }
    let Ok(table) = DeTable::parse(text) else { return false };
    let Some(DeValue::Array(listeners)) = table.get_ref().get("listener").map(|v| v.get_ref())
    else {
        return false;
    };
    listeners.iter().any(|listener| {
        let table = listener.get_ref().as_table();
        let host = table.and_then(|table| table.get("bind_address"));
        host.and_then(|host| host.get_ref().as_str()).is_some_and(is_name)
    })
}

fn is_name(host: &str) -> bool {
    host != "localhost" && host.parse::<IpAddr>().is_err()
}

/// As above, for a line of a mosquitto.conf; also whether it would read a directory.
fn line_asks(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["include_dir", ..] => true,
        ["bind_address", ..] => is_name(words[1..].join(" ").as_str()),
        ["listener", port, host, ..] => port != "0" && is_name(host),
        _ => false,
    }
}
