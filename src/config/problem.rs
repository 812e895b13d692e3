//! What can be wrong with a file, in whichever language it is.

use std::fmt;
use std::path::PathBuf;

use super::{Config, Listener};

/// Something wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong and what to write instead.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.what),
        }
    }
}

/// What is wrong with settings that are good each for itself.
pub(super) fn contradictions(config: &Config) -> Vec<String> {
    let mut said = duplicates(config);
    said.extend(config.doorman.check().err());
    said
}

/// Listeners in the same place.
fn duplicates(config: &Config) -> Vec<String> {
    let mut said = Vec::new();
    for (at, listener) in config.listeners.iter().enumerate() {
        let same = |other: &&Listener| {
            other.port == listener.port
                && other.bind_address == listener.bind_address
                && other.socket == listener.socket
                && other.interface == listener.interface
                && other.domain == listener.domain
                && other.port != Some(0)
        };
        if config.listeners.iter().take(at).any(|other| same(&other)) {
            let place = match (&listener.socket, listener.port) {
                (Some(path), _) => path.display().to_string(),
                (None, port) => format!("port {}", port.unwrap_or(0)),
            };
            said.push(format!("two listeners on {place}"));
        }
    }
    said
}

/// The known name that a wrong one most resembles, if one does.
pub(super) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .map(|(_, known)| known)
}
