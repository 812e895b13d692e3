//! The laws of the house, held: order of the modules, homes of the packages, pure rooms, sizes.
//!
//! Each rule is a function over a text, and has a test that it finds what it is for.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Lines of a file that are not tests.
const FILE_LINES_MAX: usize = 700;
/// A table may be longer: every row is a line or a compact block.
const TABLES: &[&str] = &[
    "codec/property.rs",
    "codec/reason.rs",
    "config/settings.rs",
    "config/settings/access.rs",
    "config/mosquitto/options.rs",
];
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 100;

/// Words that must not land.
const BANNED: &[&str] = &["todo!", "unimplemented!", "FIXME", "XXX", "dbg!", "allow(dead_code)"];

/// Modules without runtime, lock, clock, log, randomness or file.
const PURE: &[&str] = &["topic", "codec", "message", "queue", "session"];
const IMPURE: &[&str] = &[
    "tokio",
    "parking_lot",
    "tracing",
    "std::fs",
    "std::net",
    "std::thread",
    "std::time",
    "RandomState",
    "Instant",
    "SystemTime",
];

/// Packages and the modules that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("redb", &["store"]),
    ("nix", &["process"]),
    ("sd_notify", &["server"]),
    ("rustls", &["net"]),
    ("tokio_rustls", &["net"]),
    ("tungstenite", &["net"]),
    ("x509_parser", &["net", "access"]),
    ("ring", &["access"]),
    ("ureq", &["access"]),
    ("serde_json", &["access"]),
    ("socket2", &["net"]),
    ("toml", &["config"]),
    ("clap", &["cli"]),
    ("jiff", &["journal"]),
    ("syslog_tracing", &["journal"]),
    ("tracing_subscriber", &["journal"]),
    ("rpassword", &["cli"]),
    ("argon2", &["access"]),
    ("pbkdf2", &["access"]),
    ("sha2", &["access"]),
    ("hmac", &["access"]),
    ("subtle", &["access"]),
    ("base64ct", &["access"]),
    ("stringprep", &["access"]),
    ("getrandom", &["access"]),
    ("dashmap", &["broker"]),
    ("tokio", &["net", "wire", "broker", "connection", "control", "server"]),
];

struct Source {
    path: PathBuf,
    /// The top-level module.
    module: String,
    /// Without its tests.
    code: String,
}

/// The part of a file before its tests.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap()
}

/// A line without its comment.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let relative = path.strip_prefix(&root).unwrap().to_owned();
            if relative.file_name().unwrap() == "tests.rs" {
                continue;
            }
            let module = relative.iter().next().unwrap().to_str().unwrap();
            let module = module.trim_end_matches(".rs").to_owned();
            found.push(Source { path: relative, module, code: without_tests(&text).to_owned() });
        }
    }
    assert!(found.len() > 50);
    found
}

fn lawful_order() -> Vec<String> {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let lib = lib.unwrap();
    let name = |line: &str| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned());
    lib.lines().filter_map(name).collect()
}

/// The modules that a text names by `crate::`, also within braces.
fn named_modules(code: &str) -> BTreeSet<String> {
    let code: String = code.lines().map(code_of).collect::<Vec<_>>().join("\n");
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let group = rest.strip_prefix('{').map(|rest| rest.split('}').next().unwrap());
        for path in group.unwrap_or(rest).split(if group.is_some() { ',' } else { '\n' }) {
            let word: String =
                path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !word.is_empty() {
                named.insert(word);
            }
            if group.is_none() {
                break;
            }
        }
    }
    named
}

/// Modules that `module` names and that do not stand before it.
fn unlawful(order: &[String], module: &str, code: &str) -> Vec<String> {
    let Some(own) = order.iter().position(|m| m == module) else { return vec![] };
    let place = |name: &String| order.iter().position(|m| m == name);
    named_modules(code).into_iter().filter(|name| place(name).is_some_and(|at| at > own)).collect()
}

/// Whether a text names a package: as a path's first part.
fn names_package(code: &str, package: &str) -> bool {
    code.lines().map(code_of).any(|line| {
        line.match_indices(&format!("{package}::")).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
    })
}

/// Functions that are too long: their first lines.
fn long_functions(code: &str) -> Vec<String> {
    let lines: Vec<&str> = code.lines().collect();
    let mut long = vec![];
    for (at, line) in lines.iter().enumerate() {
        let is_function = line.trim_start().split(' ').take(4).any(|word| word == "fn");
        if !is_function || line.trim_end().ends_with(';') || line.trim_start().starts_with("//") {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let len = lines[at..].iter().position(|line| **line == end).unwrap_or(0);
        if len > FUNCTION_LINES_MAX {
            long.push(line.trim().to_owned());
        }
    }
    long
}

#[test]
fn a_module_names_only_modules_that_stand_before_it() {
    let order = lawful_order();
    for source in sources() {
        let bad = unlawful(&order, &source.module, &source.code);
        assert!(bad.is_empty(), "{}: names {bad:?}, which stands above it", source.path.display());
    }
    let order = ["low".to_owned(), "high".to_owned()];
    assert_eq!(unlawful(&order, "low", "use crate::high::X;"), ["high"]);
    assert_eq!(unlawful(&order, "low", "use crate::{low, high};"), ["high"]);
    assert!(unlawful(&order, "high", "use crate::low::X; // crate::high").is_empty());
}

#[test]
fn every_module_is_in_the_list() {
    let order = lawful_order();
    for source in sources() {
        let listed = order.contains(&source.module) || ["lib", "main"].contains(&&*source.module);
        assert!(listed, "{} is in no module of src/lib.rs", source.path.display());
    }
}

#[test]
fn each_package_has_one_home() {
    for source in sources() {
        for (package, homes) in HOMES {
            let at_home = homes.contains(&&*source.module);
            let named = names_package(&source.code, package);
            assert!(at_home || !named, "{}: {package} lives in {homes:?}", source.path.display());
        }
    }
    assert!(names_package("use redb::Database;", "redb"));
    assert!(!names_package("use crate::redb::Database; // redb::x", "redb"));
}

#[test]
fn pure_rooms_are_pure() {
    for source in sources().iter().filter(|source| PURE.contains(&&*source.module)) {
        for line in source.code.lines().map(code_of) {
            let impure = IMPURE.iter().find(|word| line.contains(**word));
            assert!(impure.is_none(), "{}: {line}", source.path.display());
        }
    }
}

/// `FxHasher` has no secret: who chooses the keys can make them collide, and n of them cost n².
/// The two files named keep so few that it does not matter.
#[test]
fn maps_of_texts_that_peers_choose_are_hashed_with_a_seed() {
    const FEW: &[&str] = &["broker/publish.rs", "session/alias.rs"];
    let is_bad = |code: &str| {
        code.lines().map(code_of).any(|line| {
            ["FxHashMap<Box<", "FxHashSet<Box<", "FxHashMap<Arc<str>", "FxHashMap<(u32, Box<"]
                .iter()
                .any(|word| line.contains(word))
        })
    };
    for source in sources() {
        let is_few = FEW.iter().any(|file| source.path == Path::new(file));
        assert!(is_few || !is_bad(&source.code), "{}: Fx over texts", source.path.display());
    }
    assert!(is_bad("struct S(FxHashMap<Box<str>, u8>);"));
}

#[test]
fn files_functions_and_lines_keep_their_sizes() {
    for source in sources() {
        let path = source.path.display();
        let is_table = TABLES.iter().any(|table| source.path == Path::new(table));
        assert!(is_table || source.code.lines().count() <= FILE_LINES_MAX, "{path} is too long");
        let long = long_functions(&source.code);
        assert!(long.is_empty(), "{path}: functions of more than 70 lines: {long:?}");
        for (number, line) in source.code.lines().enumerate() {
            let is_row = is_table;
            let fits = is_row || line.chars().count() <= LINE_CHARS_MAX;
            assert!(fits, "{path}:{}: a line of more than 100 characters", number + 1);
        }
    }
    let long = format!("fn f() {{\n{}}}\n", "    x();\n".repeat(71));
    assert_eq!(long_functions(&long), ["fn f() {"]);
    assert!(long_functions("fn f() {\n    x();\n}\n").is_empty());
}

#[test]
fn every_file_begins_with_its_contract_and_has_nothing_unfinished() {
    for source in sources() {
        let path = source.path.display();
        assert!(source.code.starts_with("//! "), "{path} does not say what it is for");
        for word in BANNED {
            assert!(!source.code.contains(word), "{path}: {word}");
        }
    }
}

/// Connections that are made, not accepted.
fn makes_connections(code: &str) -> bool {
    let made = ["TcpStream::connect", "TcpSocket", "connect_timeout(", "connect_async"];
    code.lines().map(code_of).any(|line| made.iter().any(|name| line.contains(name)))
}

/// [MQTT-7.0.0-1] speaks of Servers that do.
#[test]
fn no_connection_to_another_server_is_made() {
    for source in sources() {
        assert!(!makes_connections(&source.code), "{}", source.path.display());
    }
    assert!(makes_connections("let s = tokio::net::TcpStream::connect(address);"));
    assert!(!makes_connections("// TcpStream::connect\nUnixStream::connect(path)"));
}
