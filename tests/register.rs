//! The register of the standards' statements is true: every row names code and tests that exist,
//! and no row that binds a Server is called checked without a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    statement: Vec<Statement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    id: String,
    asks: String,
    binds: String,
    obeyed: Vec<String>,
    tests: Vec<String>,
    state: String,
    note: Option<String>,
}

/// Each register and how many statements its standard numbers.
const REGISTERS: [(&str, usize); 2] =
    [("conformance/mqtt5.toml", 251), ("conformance/mqtt311.toml", 141)];

/// Rows that bind a Server and have no test that shows the whole of them. To become zero.
const UNCHECKED_MAX: usize = 82;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn statements() -> Vec<Statement> {
    let read = |(path, count): (&str, usize)| {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let register: Register = toml::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let ids: BTreeSet<_> = register.statement.iter().map(|row| row.id.clone()).collect();
        assert_eq!((register.statement.len(), ids.len()), (count, count), "{path}");
        register.statement
    };
    REGISTERS.into_iter().flat_map(read).collect()
}

/// The files in which a test named `lib::session::tests::name` may be.
fn files_of(module: &[&str]) -> Vec<PathBuf> {
    let mut base = match module.first() {
        Some(&"lib") => root().join("src"),
        Some(first) => root().join("tests").join(first),
        None => return Vec::new(),
    };
    let mut files = vec![base.with_extension("rs"), base.join("main.rs")];
    for part in &module[1..] {
        base.push(part);
        files.push(base.with_extension("rs"));
        files.push(base.join("mod.rs"));
    }
    files
}

fn exists(test: &str) -> bool {
    let path: Vec<&str> = test.split("::").collect();
    let Some((name, module)) = path.split_last() else { return false };
    let has_it = |file: PathBuf| {
        fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {name}(")))
    };
    files_of(module).into_iter().any(has_it)
}

#[test]
fn every_row_is_whole_and_names_what_exists() {
    for row in statements() {
        let Statement { id, asks, binds, obeyed, tests, state, note } = row;
        assert!(!asks.is_empty() && note.is_none_or(|note| !note.is_empty()), "{id}");
        assert!(["server", "client", "both"].contains(&&*binds), "{id}: binds {binds}");
        let is_clients = binds == "client";
        assert_eq!(state == "client only", is_clients, "{id}: {binds}, {state}");
        assert_eq!(state == "checked", !tests.is_empty() && !is_clients, "{id}: {state}");
        for test in &tests {
            assert!(exists(test), "{id}: there is no test {test}");
        }
        for place in &obeyed {
            let (file, names) = place.split_once(": ").unwrap_or((place, ""));
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            assert!(!text.is_empty(), "{id}: there is no file {file}");
            for name in names.split(", ").filter(|name| !name.is_empty()) {
                let last = name.rsplit("::").next().unwrap();
                assert!(text.contains(last), "{id}: {file} has no {name}");
            }
        }
    }
}

#[test]
fn no_more_statements_are_unchecked_than_before() {
    let unchecked: Vec<String> =
        statements().into_iter().filter(|row| row.state == "unchecked").map(|row| row.id).collect();
    assert!(unchecked.len() <= UNCHECKED_MAX, "{}: {unchecked:?}", unchecked.len());
}
