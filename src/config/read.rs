//! A file becomes a [`Config`], or a list of everything that is wrong with it.

use std::path::Path;

use super::problem::Problem;
use super::{Config, mosquitto, whimbrel};

/// Reads a file: TOML or a mosquitto.conf.
pub fn read(path: &Path) -> Result<Config, Vec<Problem>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        vec![Problem { path: path.to_owned(), line: 0, what: format!("cannot read it: {error}") }]
    })?;
    parse(&text, path)
}

/// Whether a file is, or would be, a mosquitto.conf.
pub fn is_of_mosquitto(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    mosquitto::is_mosquitto(&text, path)
}

/// Reads a text that stands in `path`, in whichever of the two languages it is.
pub fn parse(text: &str, path: &Path) -> Result<Config, Vec<Problem>> {
    if mosquitto::is_mosquitto(text, path) {
        mosquitto::parse(text, path)
    } else {
        whimbrel::parse(text, path)
    }
}
