//! Inputs that are kept: one a line, what is not printable escaped as in Rust's byte strings;
//! lines that begin with `#` are comments.

use std::path::{Path, PathBuf};

/// The file of a target's inputs in the repository.
pub fn file(repository: &Path, target: &str) -> PathBuf {
    repository.join("tests/data/fuzz").join(target).with_extension("txt")
}

/// The inputs in a text.
pub fn parse(text: &str) -> Vec<Vec<u8>> {
    text.lines().filter(|line| !line.starts_with('#')).map(unescape).collect()
}

/// An input as a line; `\#` for the first character of a comment.
pub fn escape(bytes: &[u8]) -> String {
    let line = bytes.escape_ascii().to_string();
    match line.strip_prefix('#') {
        Some(rest) => format!("\\x23{rest}"),
        None => line,
    }
}

fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = line.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match (byte, (byte == b'\\').then(|| bytes.next()).flatten()) {
            (_, Some(b't')) => b'\t',
            (_, Some(b'r')) => b'\r',
            (_, Some(b'n')) => b'\n',
            (_, Some(b'x')) => {
                let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).expect("two hexadecimal digits after \\x")
            }
            (_, Some(quoted)) => quoted,
            (byte, None) => byte,
        });
    }
    out
}

#[test]
fn every_input_can_be_a_line() {
    let all: Vec<u8> = (0..=255).collect();
    for input in [&all[..], b"", b"#", b"\\#", b"\\x41"] {
        assert_eq!(parse(&format!("{}\n", escape(input))), [input]);
    }
}
