//! Clients that people use, against one broker: every library in a program of its own below
//! `tests/clients`, all at once. `tests/clients/contract.py` says what a program is given and
//! prints, and what the checks are.
//!
//! `tests/run.sh` installs the libraries; `TEST_CLIENTS` says where they are if not in
//! `target/clients`. What is shown stands in `conformance/results/clients.md`; with
//! `CLIENTS_TABLE=write` it is written anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::listeners::{All, all, certificates};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TABLE: &str = "conformance/results/clients.md";
/// Seconds in which a program must end.
const PATIENCE_S: &str = "300";

/// As the programs print them, in the order of the table.
const VERSIONS: [&str; 3] = ["3.1", "3.1.1", "5"];
const TRANSPORTS: [&str; 6] = ["TCP", "TLS", "mTLS", "WS", "WSS", "unix"];
/// What a program may leave out without a word.
const OPTIONAL_TRANSPORTS: [&str; 2] = ["mTLS", "unix"];
const CHECKS: [&str; 8] = [
    "QoS 0",
    "QoS 1",
    "QoS 2",
    "retained",
    "will",
    "session resumed",
    "cut in flight",
    "shared subscription",
];
const CHECKS_OF_5: [&str; 6] = [
    "User Properties",
    "request and response",
    "message expiry",
    "reason of PUBACK",
    "reason of UNSUBACK",
    "reason of DISCONNECT",
];

const INTRODUCTION: &str = "\
# Real clients

What client libraries have been seen to do with Whimbrel, by version of MQTT and by transport.
Written by `CLIENTS_TABLE=write cargo test --test it real_clients`; each run of the tests compares.
mTLS is TLS with a Client's certificate, unix a unix socket. A minus is a check that the client
cannot do, for the reason that the number tells; an empty place is one that MQTT has in 5 only.

| check | what happens |
| --- | --- |
| QoS 0, 1, 2 | small and large messages, published and received with that QoS |
| retained | kept, sent to a new subscriber with RETAIN, cleared |
| will | published when the client is cut off, not when it disconnects |
| session resumed | messages published meanwhile arrive once and in order, with Session Present |
| cut in flight | two cuts amid a stream: QoS 1 arrives at least once, QoS 2 exactly once |
| shared subscription | two members, each message to exactly one of them |
| User Properties | arrive in order, repeated names too |
| request and response | by Response Topic and Correlation Data |
| message expiry | an expired message is not sent; the interval sent has shrunk |
| reason of PUBACK | 0x10 if nobody subscribes |
| reason of UNSUBACK | 0x11 if there was no subscription |
| reason of DISCONNECT | 0x8E when another takes the Session over |
";

enum Cell {
    Shown,
    Cannot(String),
    Failed(String),
}

/// What a program printed.
struct Report {
    /// Name and version of the client.
    client: String,
    /// By version, transport and check.
    cells: BTreeMap<(String, String, String), Cell>,
}

impl Report {
    fn parse(output: &str) -> Self {
        let mut report = Self { client: String::new(), cells: BTreeMap::new() };
        for line in output.lines() {
            let (kind, rest) = ["ok", "not ok", "skip", "client"]
                .iter()
                .find_map(|kind| Some((*kind, line.strip_prefix(kind)?.strip_prefix(' ')?)))
                .unwrap_or_else(|| panic!("no line of the contract: {line}"));
            if kind == "client" {
                report.client = rest.to_owned();
                continue;
            }
            let (cell, why) = rest.split_once(": ").unwrap_or((rest, ""));
            let parts: Vec<_> = cell.splitn(3, ' ').map(str::to_owned).collect();
            let [version, transport, check] = parts.try_into().unwrap();
            let cell = match kind {
                "ok" => Cell::Shown,
                "skip" => Cell::Cannot(why.to_owned()),
                _ => Cell::Failed(why.to_owned()),
            };
            let before = report.cells.insert((version, transport, check), cell);
            assert!(before.is_none(), "twice: {line}");
        }
        report
    }

    fn cell(&self, version: &str, transport: &str, check: &str) -> Option<&Cell> {
        self.cells.get(&(version.to_owned(), transport.to_owned(), check.to_owned()))
    }

    fn columns(&self) -> Vec<(&'static str, &'static str)> {
        let reported = |transport: &&str| {
            !OPTIONAL_TRANSPORTS.contains(transport)
                || self.cells.keys().any(|(_, reported, _)| reported == transport)
        };
        let of = |version| TRANSPORTS.into_iter().filter(reported).map(move |t| (version, t));
        VERSIONS.into_iter().flat_map(of).collect()
    }

    /// Checks that failed or were not made, with what the broker logged of each.
    fn failures(&self, log: &str) -> Vec<String> {
        let mut failures = vec![];
        for (version, transport) in self.columns() {
            for check in checks(version) {
                let why = match self.cell(version, transport, check) {
                    Some(Cell::Shown | Cell::Cannot(_)) => continue,
                    Some(Cell::Failed(why)) => why,
                    None => "not reported",
                };
                // As the contract makes Client Identifiers.
                let name = self.client.rsplit_once(' ').map_or("", |(name, _)| name);
                let ids = format!("{name}/{version}/{transport}/{check}/").replace(' ', "-");
                let logged = log.lines().filter(|line| line.contains(&ids));
                let what = format!("{} {version} {transport} {check}: {why}", self.client);
                failures.push(std::iter::once(&*what).chain(logged).collect::<Vec<_>>().join("\n"));
            }
        }
        failures
    }

    fn table(&self) -> String {
        let columns = self.columns();
        let mut reasons: Vec<&str> = vec![];
        let mut table = format!("\n## {}\n\n| |", self.client);
        for (version, transport) in &columns {
            write!(table, " {version} {transport} |").unwrap();
        }
        writeln!(table, "\n| --- |{}", " --- |".repeat(columns.len())).unwrap();
        for check in checks("5") {
            write!(table, "| {check} |").unwrap();
            for (version, transport) in &columns {
                match self.cell(version, transport, check) {
                    Some(Cell::Shown) => table.push_str(" ok |"),
                    Some(Cell::Cannot(why)) => {
                        let known = reasons.iter().position(|reason| reason == why);
                        let number = known.unwrap_or_else(|| {
                            reasons.push(why);
                            reasons.len() - 1
                        });
                        write!(table, " -{} |", number + 1).unwrap();
                    }
                    Some(Cell::Failed(_)) => table.push_str(" FAILED |"),
                    None => table.push_str(" |"),
                }
            }
            table.push('\n');
        }
        for (at, reason) in reasons.iter().enumerate() {
            let gap = if at == 0 { "\n" } else { "" };
            writeln!(table, "{gap}{}. {reason}", at + 1).unwrap();
        }
        table
    }
}

fn checks(version: &str) -> impl Iterator<Item = &'static str> {
    let of_5 = if version == "5" { &CHECKS_OF_5[..] } else { &[] };
    CHECKS.iter().chain(of_5).copied()
}

pub fn clients() -> PathBuf {
    let default = PathBuf::from(ROOT).join("target/clients");
    std::env::var_os("TEST_CLIENTS").map_or(default, PathBuf::from)
}

fn build(command: &mut Command) {
    let output = command.output().expect("tests/run.sh installs it");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A script and what runs it.
fn script(program: &str, name: &str) -> Vec<String> {
    vec![program.to_owned(), format!("{ROOT}/tests/clients/{name}")]
}

fn paho_c() -> Vec<String> {
    let program = clients().join("paho_c");
    let source = format!("{ROOT}/tests/clients/paho_c.c");
    let flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"];
    build(Command::new("cc").args(flags).arg("-o").arg(&program).args([&source, "-lpaho-mqtt3cs"]));
    vec![program.display().to_string()]
}

fn rumqttc() -> Vec<String> {
    let target = clients().join("rumqttc");
    let manifest = format!("{ROOT}/tests/clients/rumqttc/Cargo.toml");
    let arguments = ["build", "--quiet", "--locked", "--manifest-path", &manifest, "--target-dir"];
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo says of this package would make it build that one's packages anew.
    let of_package =
        |name: &String| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for name in std::env::vars().map(|(name, _)| name).filter(of_package) {
        cargo.env_remove(name);
    }
    build(cargo.args(arguments).arg(&target));
    vec![target.join("debug/rumqttc-checks").display().to_string()]
}

/// The programs, in the order of the table.
const PROGRAMS: [fn() -> Vec<String>; 7] = [
    || script("python3", "mosquitto.py"),
    || script("python3", "paho_mqtt.py"),
    || script("python3", "aiomqtt_client.py"),
    || script("python3", "gmqtt_client.py"),
    || script("node", "mqttjs.js"),
    rumqttc,
    paho_c,
];

fn run(program: &[String], ports: &All) -> Report {
    let port = |port: u16| port.to_string();
    let certificate = |name| certificates().join(name);
    let output = Command::new("timeout")
        .arg(PATIENCE_S)
        .args(program)
        .env("PYTHONPATH", clients().join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NODE_PATH", clients().join("node_modules"))
        .env("CA", certificate("ca.pem"))
        .env("CERT", certificate("client.pem"))
        .env("KEY", certificate("client.key"))
        .env("TCP", port(ports.broker.port))
        .env("TLS", port(ports.tls))
        .env("MTLS", port(ports.mutual))
        .env("WS", port(ports.ws))
        .env("WSS", port(ports.wss))
        .env("UNIX", &ports.socket)
        .output()
        .unwrap();
    let (out, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program:?}: {}\n{out}\n{errors}", output.status);
    Report::parse(&out)
}

/// Without the headings, which name the versions that happen to be installed.
fn without_versions(table: &str) -> String {
    table.lines().filter(|line| !line.starts_with("## ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_client_passes_every_check_it_can() {
    let ports = all();
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let ports = &ports;
        let running: Vec<_> =
            PROGRAMS.map(|program| scope.spawn(move || run(&program(), ports))).into();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let log = ports.broker.log();
    // Or else all of its log would follow what failed, and bury it.
    drop(ports);
    let failures: Vec<_> = reports.iter().flat_map(|report| report.failures(&log)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let table = reports.iter().map(Report::table).collect::<String>();
    let table = format!("{INTRODUCTION}{table}");
    let path = PathBuf::from(ROOT).join(TABLE);
    if std::env::var("CLIENTS_TABLE").is_ok_and(|what| what == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &table).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(without_versions(&stored), without_versions(&table), "CLIENTS_TABLE=write");
}

#[test]
fn a_report_shows_what_failed_and_what_is_missing() {
    let mut lines = String::from("client c 1\nnot ok 5 TCP will: too late: x\n");
    for version in VERSIONS {
        for transport in ["TCP", "TLS", "WS", "WSS"] {
            for check in checks(version) {
                match (version, transport, check) {
                    ("5", "TCP", "will") | ("3.1", "WSS", "QoS 2") => {}
                    (_, "WS", _) => writeln!(lines, "skip {version} WS {check}: no WS").unwrap(),
                    _ => writeln!(lines, "ok {version} {transport} {check}").unwrap(),
                }
            }
        }
    }
    let report = Report::parse(&lines);
    let log = "a client=\"c/5/TCP/will/s\"\nb client=\"c/5/TCP/QoS-2/s\"";
    let expected = [
        "c 1 3.1 WSS QoS 2: not reported",
        "c 1 5 TCP will: too late: x\na client=\"c/5/TCP/will/s\"",
    ];
    assert_eq!(report.failures(log), expected);
    let table = report.table();
    assert!(table.contains("| QoS 0 | ok | ok | -1 | ok | ok |"), "{table}");
    assert!(table.contains("FAILED") && table.ends_with("\n1. no WS\n"), "{table}");
}
