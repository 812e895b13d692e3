//! The register of the standards' statements is true: every row names code, tests and dialogues
//! that exist, and no row that binds a Server is called checked without a test.
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

/// Each version's register and how many statements its standard numbers.
const REGISTERS: [(&str, &str, usize); 2] =
    [("5", "conformance/mqtt5.toml", 251), ("3.1.1", "conformance/mqtt311.toml", 141)];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn register((_, path, count): (&str, &str, usize)) -> Vec<Statement> {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let register: Register = toml::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
    let ids: BTreeSet<_> = register.statement.iter().map(|row| row.id.clone()).collect();
    assert_eq!((register.statement.len(), ids.len()), (count, count), "{path}");
    register.statement
}

fn statements() -> Vec<Statement> {
    REGISTERS.into_iter().flat_map(register).collect()
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
    if let Some(name) = test.strip_prefix("dialogue::") {
        return root().join(format!("conformance/dialogues/{name}.txt")).exists();
    }
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
                let mut words = text.split(|c: char| c != '_' && !c.is_alphanumeric());
                assert!(words.any(|word| word == last), "{id}: {file} has no {name}");
            }
        }
    }
}

#[test]
fn no_statement_is_unchecked() {
    let unchecked: Vec<String> =
        statements().into_iter().filter(|row| row.state == "unchecked").map(|row| row.id).collect();
    assert!(unchecked.is_empty(), "without a test that shows the whole: {unchecked:?}");
}

/// What the dialogues show, such as `5:MQTT-3.1.0-1`, each with the name of its dialogue.
fn shown() -> BTreeSet<(String, String)> {
    let mut shown = BTreeSet::new();
    for entry in fs::read_dir(root().join("conformance/dialogues")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let ids = text.lines().filter_map(|line| line.strip_prefix("shows "));
            let ids = ids.flat_map(str::split_whitespace);
            shown.extend(ids.map(|id| (id.to_owned(), format!("dialogue::{name}"))));
        }
    }
    // Whatever a dialogue says about a section has no row.
    shown.retain(|(id, _)| id.contains(":MQTT-"));
    assert!(shown.len() > 25);
    shown
}

/// `conformance/run.sh` writes both.
#[test]
fn the_readme_tells_the_results() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut pages = 0;
    for entry in fs::read_dir(root().join("conformance/results")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = format!("conformance/results/{name}");
        let page = fs::read_to_string(root().join(&path)).unwrap();
        if !page.contains("Of the dialogues") {
            continue;
        }
        let title = page.lines().next().unwrap().trim_start_matches("# ");
        let rows = |result: &str| {
            page.lines().filter(|line| line.contains(&format!(" | {result} | "))).count()
        };
        let (ok, failed, skipped) = (rows("ok"), rows("failed"), rows("skipped"));
        let row = format!("| [{title}]({path}) | {ok} | {failed} | {skipped} |\n");
        assert!(readme.contains(&row), "README.md does not say {row}");
        assert!(!page.contains("Not explained"), "{path} has a failure without an explanation");
        pages += 1;
    }
    assert!(pages >= 2);
}

#[test]
fn rows_and_dialogues_name_each_other() {
    let mut named = BTreeSet::new();
    for register_of_version in REGISTERS {
        for row in register(register_of_version) {
            let id = format!("{}:{}", register_of_version.0, row.id);
            let tests = row.tests.into_iter().filter(|test| test.starts_with("dialogue::"));
            named.extend(tests.map(|test| (id.clone(), test)));
        }
    }
    let shown = shown();
    let unknown: Vec<_> = named.difference(&shown).collect();
    assert!(unknown.is_empty(), "rows name dialogues that do not show them: {unknown:?}");
    let unnamed: Vec<_> = shown.difference(&named).collect();
    assert!(unnamed.is_empty(), "dialogues show what is no row or does not name them: {unnamed:?}");
}
