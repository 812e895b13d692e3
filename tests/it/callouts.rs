//! A service of Python's that says who Clients are and what they may do.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::acl::{READ_AGAIN, hang_up};
use crate::broker::{Broker, free_port, program, run};
use crate::listeners::certificates;
use crate::passwd::set;
use crate::raw::{Client, Connect};
use crate::service::Service;
use crate::tokens::{token, wait_for};

const SOON: Duration = Duration::from_secs(30);

const ANSWERS: &str = r#"{
    "ali": {"result": "allow"},
    "baba": {"result": "deny", "reason": "he is out"},
    "cassim": {"result": "ignore"},
    "root": {"result": "allow", "superuser": true},
    "alias": {"result": "allow", "username": "ali"},
    "narrow": {"result": "allow", "publish": ["up/%c"], "subscribe": ["down/+"]},
    "reader": {"result": "allow", "roles": ["reader"]},
    "brief": {"result": "allow", "expires_in": 1},
    "broken": {"result": "allow", "publsh": []},
    "": {"result": "ignore"}
}"#;

fn service() -> Service {
    let service = Service::start();
    service.put("answers", ANSWERS);
    service
}

/// A `[[callout]]`.
fn callout(service: &Service, settings: &str) -> String {
    let url = service.url("/judge");
    format!("[[callout]]\nname = \"s\"\nurl = \"{url}\"\n{settings}\n")
}

fn broker(service: &Service, settings: &str) -> Broker {
    Broker::start_with("log_level = \"trace\"", &callout(service, settings))
}

fn code(port: u16, connect: &Connect, user: &str, password: &str) -> u8 {
    Client::connect_with(port, &connect.clone().user(user, password)).1[3]
}

fn connack(port: u16, user: &str, password: &str) -> u8 {
    code(port, &Connect::v5(""), user, password)
}

/// Publishes with QoS 1; the Reason Code.
fn publish(client: &mut Client, topic: &str) -> u8 {
    let bytes = client.publish_bytes(2, topic, 7, &[], "x");
    client.send(&bytes);
    client.answer().get(4).copied().unwrap_or_default()
}

#[test]
fn a_service_lets_in_refuses_or_says_nothing() {
    let service = service();
    let broker = broker(&service, "");
    let codes = |connect: &Connect| {
        ["ali", "baba", "cassim", "nobody"]
            .map(|user| code(broker.port, connect, user, "open sesame"))
    };
    assert_eq!(codes(&Connect::v5("")), [0, 0x86, 0x86, 0x86]);
    assert_eq!(codes(&Connect::v4("")), [0, 4, 4, 4]);
    wait_for(&broker, "user \"baba\" not let in: callout `s`: \"he is out\": Bad User Name");
    assert!(!broker.log().contains("open sesame"), "{}", broker.log());
    // Who shows nothing is asked about too.
    let silent = || Client::connect_with(broker.port, &Connect::v5("silent")).1[3];
    assert_eq!(silent(), 0x87);
    service.put("answers", r#"{"": {"result": "allow"}}"#);
    assert_eq!(silent(), 0);
    service.put("answers", r#"{"": {"result": "deny"}}"#);
    assert_eq!(silent(), 0x87);
    let alias = ANSWERS;
    service.put("answers", alias);
    let mine = Connect::v5("mine").durable();
    let owner = |user| code(broker.port, &mine, user, "");
    assert_eq!((owner("ali"), owner("alias"), owner("root")), (0, 0, 0x87));
}

#[test]
fn a_service_is_shown_what_the_client_has_shown() {
    let service = service();
    let c = certificates().display();
    let tls = free_port();
    let listeners = format!(
        "{}bearer_file = '{}'\n[[listener]]\nport = {tls}\nbind_address = \"127.0.0.1\"\n\
         certfile = '{c}/server.pem'\nkeyfile = '{c}/server.key'\ncafile = '{c}/ca.pem'\n",
        callout(&service, ""),
        bearer(&service).display()
    );
    let broker = Broker::start_with("log_level = \"trace\"", &listeners);
    let last = || service.asked().pop().unwrap();
    assert_eq!(code(broker.port, &Connect::v5("the id"), "ali", "s\"esame"), 0);
    let asked = last();
    for part in [
        r#"["/judge", "Bearer us", {"#.to_owned(),
        r#""client_id": "the id", "username": "ali", "password": "s\"esame""#.into(),
        r#""password_base64": null, "address": "127.0.0.1", "port": "#.into(),
        format!(r#""listener": "{}", "certificate_subject": null"#, broker.port),
    ] {
        assert!(asked.contains(&part), "{part} is not in {asked}");
    }
    let v4 = |id: &str| Connect { username: Some("ali".into()), ..Connect::v4(id) };
    assert_eq!(Client::connect_with(broker.port, &v4("")).1[3], 0);
    let nothing = r#""client_id": null, "username": "ali", "password": null"#;
    assert!(last().contains(nothing), "{}", last());
    let mut publish = Command::new("mosquitto_pub");
    publish.args(["-h", "localhost", "-p", &tls.to_string(), "-t", "t", "-m", "x", "-i", "m"]);
    publish.args(["-u", "ali", "-P", "x", "--cafile", &format!("{c}/ca.pem")]);
    publish.args(["--cert", &format!("{c}/client.pem"), "--key", &format!("{c}/client.key")]);
    let (status, output) = run(&mut publish, SOON);
    assert_eq!(status, Some(0), "{output}");
    let subject = format!(r#""listener": "{tls}", "certificate_subject": "CN=client-1""#);
    assert!(last().contains(&subject), "{}", last());
    let log = broker.log();
    assert!(!log.contains("Bearer us") && !log.contains("esame"), "{log}");
}

/// A file with what the broker shows of itself.
fn bearer(service: &Service) -> std::path::PathBuf {
    service.put("bearer", "us\n");
    service.path("bearer")
}

#[test]
fn a_service_says_what_a_client_may_do() {
    let service = service();
    let roles = "[[role]]\nname = \"reader\"\n[[role.rule]]\nallow = [\"subscribe\"]\n\
                 topic = \"read/#\"\n";
    let broker = broker(&service, roles);
    let come =
        |id: &str, user: &str| Client::connect(broker.port, &Connect::v5(id).user(user, "x"));
    let mut narrow = come("c", "narrow");
    assert_eq!((publish(&mut narrow, "up/c"), publish(&mut narrow, "up/d")), (0x10, 0x87));
    assert_eq!((narrow.subscribe("down/x", 0), narrow.subscribe("#", 0)), (0, 0x87));
    let mut reader = come("r", "reader");
    assert_eq!((reader.subscribe("read/x", 0), reader.subscribe("down/x", 0)), (0, 0x87));
    let mut root = come("root", "root");
    assert_eq!((publish(&mut root, "any"), root.subscribe("#", 0)), (0x10, 0));
    let mut ali = come("a", "ali");
    assert_eq!((publish(&mut ali, "any"), ali.subscribe("read/x", 0)), (0x87, 0x87));
}

#[test]
fn a_connection_ends_when_the_service_said() {
    let service = service();
    let broker = broker(&service, "cache_ttl = \"1h\"");
    let brief = || Client::connect(broker.port, &Connect::v5("").user("brief", "x"));
    brief().expect_close(0x87);
    wait_for(&broker, "its proof of identity has expired");
    // What is kept ends too.
    brief().expect_close(0x87);
    assert_eq!(service.asked().len(), 2);
}

#[test]
fn a_service_that_does_not_answer_lets_nobody_in() {
    let mut service = service();
    let broker = broker(&service, "timeout = \"1s\"");
    assert_eq!(connack(broker.port, "ali", "x"), 0);
    let refused = || {
        assert_eq!(connack(broker.port, "ali", "x"), 0x88);
        assert_eq!(code(broker.port, &Connect::v4(""), "ali", "x"), 3);
    };
    service.put("status", "500");
    refused();
    wait_for(&broker, "no answer: it answers 500 Internal Server Error; Clients are refused");
    service.put("status", "302");
    refused();
    service.remove("status");
    assert_eq!(connack(broker.port, "ali", "x"), 0);
    wait_for(&broker, "it answers again");
    assert_eq!(connack(broker.port, "broken", "x"), 0x88);
    wait_for(&broker, "its answer is not as it must be: \"unknown field `publsh`");
    service.put("answers", "{\"\": \"<html>\"}");
    refused();
    service.put("answers", &format!("{{\"\": \"{}\"}}", "x".repeat(3 << 20)));
    refused();
    service.put("answers", ANSWERS);
    assert_eq!(connack(broker.port, "ali", "x"), 0);
    service.put("hang", "");
    refused();
    service.remove("hang");
    service.stop();
    refused();
    service.resume();
    assert_eq!(connack(broker.port, "ali", "x"), 0);
    // Once for each time that it began to fail.
    assert_eq!(broker.log().matches("Clients are refused").count(), 3);
}

#[test]
fn others_are_served_while_a_service_hangs_and_few_wait_for_it() {
    let service = service();
    let settings = "timeout = \"60s\"\nmax_requests = 2\n";
    let open = free_port();
    let listeners = format!(
        "{}[[listener]]\nport = {open}\nbind_address = \"127.0.0.1\"\nauthentication = \"t\"\n\
         [[token]]\nname = \"t\"\nkey_file = '{}'\n",
        callout(&service, settings),
        crate::tokens::keys().join("p256.pem").display()
    );
    let above = "workers = 1\npassword_threads = 1\nmax_waiting_passwords = 3\n\
                 connect_timeout = \"300s\"\nauthentication = \"s\"";
    let broker = Broker::start_with(above, &listeners);
    service.put("hang", "");
    let ask = |_| {
        let mut client = Client::open(broker.port, true);
        client.send(&Connect::v5("").user("ali", "x").bytes());
        client
    };
    let mut asked: Vec<Client> = (0..2).map(ask).collect();
    let deadline = Instant::now() + SOON;
    while service.asked().len() < 2 {
        assert!(Instant::now() < deadline, "{}", broker.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    // Two are asked about, and three may wait, beside those on their way there.
    asked.extend((0..20).map(ask));
    let mut codes = vec![];
    while codes.len() < 12 {
        assert!(Instant::now() < deadline, "{codes:02x?}");
        asked.retain_mut(|client| {
            let is_silent = client.is_silent();
            if !is_silent {
                codes.push(client.read()[3]);
            }
            is_silent
        });
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(codes.iter().all(|code| *code == 0x89), "{codes:02x?}");
    assert_eq!(service.asked().len(), 2);
    let mut other = Client::connect(open, &Connect::v5("").user("", &token("ali")));
    assert!(other.try_ping());
    service.remove("hang");
    let last: Vec<u8> = asked.iter_mut().map(|client| client.read()[3]).collect();
    let let_in = last.iter().filter(|code| **code == 0).count();
    assert!(let_in >= 5 && last.iter().all(|code| matches!(code, 0 | 0x89)), "{last:02x?}");
    assert_eq!(service.asked().len(), let_in);
}

/// Waits for requests, then ends the broker, which must not wait for the answers.
fn end_while_asking(service: &Service, mut broker: Broker) {
    let deadline = Instant::now() + SOON;
    while service.asked().is_empty() {
        assert!(Instant::now() < deadline, "{}", broker.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    broker.terminate();
    while broker.is_running() {
        assert!(Instant::now() < deadline, "{}", broker.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(broker.log().contains("stopped") && !broker.log().contains("panicked"));
}

#[test]
fn a_request_that_hangs_does_not_hold_up_the_end() {
    let above = "connect_timeout = \"1h\"\nshutdown_timeout = \"100ms\"";
    let service = service();
    service.put("hang", "");
    let broker = Broker::start_with(above, &callout(&service, "timeout = \"1h\""));
    let mut asked = Client::open(broker.port, true);
    asked.send(&Connect::v5("").user("ali", "x").bytes());
    end_while_asking(&service, broker);
    assert_eq!(asked.try_read(), None);
    let keys = Service::start();
    keys.put("hang", "");
    let url = keys.url("/keys");
    let fetching = format!("[[token]]\nname = \"t\"\nkeys_url = \"{url}\"\nkeys_timeout = \"1h\"");
    end_while_asking(&keys, Broker::start_with(above, &fetching));
}

#[test]
fn answers_are_kept_for_who_shows_the_same_until_sighup() {
    let service = service();
    let broker = broker(&service, "cache_ttl = \"1h\"\ntimeout = \"60s\"");
    let asked = |user: &str, password: &str| {
        let before = service.asked().len();
        let code = code(broker.port, &Connect::v5("same"), user, password);
        (code, service.asked().len() - before)
    };
    assert_eq!((asked("ali", "x"), asked("ali", "x")), ((0, 1), (0, 0)));
    assert_eq!((asked("baba", "x"), asked("baba", "x")), ((0x86, 1), (0x86, 0)));
    assert_eq!(asked("ali", "y"), (0, 1));
    assert_eq!((asked("broken", "x"), asked("broken", "x")), ((0x88, 1), (0x88, 1)));
    let mut other = Client::connect(broker.port, &Connect::v5("other").user("ali", "x"));
    assert_eq!(asked("ali", "x"), (0, 0));
    let long = format!("{{\"result\": \"allow\", \"roles\": [\"{}\"]}}", "x".repeat(16 << 10));
    service.put("answers", &format!("{{\"long\": {long}}}"));
    assert_eq!((asked("long", "x"), asked("long", "x")), ((0, 1), (0, 1)));
    service.put("answers", r#"{"": {"result": "deny"}}"#);
    assert_eq!(asked("ali", "x"), (0, 0));
    hang_up(&broker, READ_AGAIN);
    assert_eq!(asked("ali", "x"), (0x86, 1));
    assert!(other.try_ping());
    // What was asked before SIGHUP is not kept when it is answered after it.
    service.put("hang", "");
    let before = service.asked().len();
    let mut late = Client::open(broker.port, true);
    late.send(&Connect::v5("same").user("ali", "late").bytes());
    let deadline = Instant::now() + SOON;
    while service.asked().len() == before {
        assert!(Instant::now() < deadline, "{}", broker.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    hang_up(&broker, READ_AGAIN);
    service.remove("hang");
    assert_eq!(late.read()[3], 0x86);
    assert_eq!(asked("ali", "late"), (0x86, 1));
}

#[test]
fn another_service_is_asked_on_sighup() {
    let [first, second] = [service(), service()];
    first.put("answers", r#"{"": {"result": "allow"}}"#);
    second.put("answers", r#"{"ali": {"result": "allow"}, "": {"result": "deny"}}"#);
    let table = |service: &Service, more: &str| {
        format!("[[callout]]\nname = \"s\"\nurl = \"{}\"\n{more}", service.url("/"))
    };
    let of_first = table(&first, "cache_ttl = \"1m\"\n");
    let broker = Broker::start_with("allow_anonymous = false", &of_first);
    let codes = || ["ali", "baba"].map(|user| connack(broker.port, user, "x"));
    let mut kept = Client::connect(broker.port, &Connect::v5("kept").user("baba", "x"));
    assert_eq!(codes(), [0, 0]);
    let begin = broker.config();
    let bad = begin.replace(&of_first, &table(&second, "cafile = \"/nowhere\"\n"));
    broker.reload(&bad, "nothing is changed");
    assert_eq!(codes(), [0, 0]);
    let before = first.asked().len();
    broker.reload(&begin.replace(&of_first, &table(&second, "max_requests = 2\n")), READ_AGAIN);
    assert_eq!(codes(), [0, 0x86]);
    assert_eq!((first.asked().len(), second.asked().len()), (before, 2));
    broker.reload(&begin.replace(&of_first, ""), READ_AGAIN);
    assert_eq!(codes(), [0x86, 0x86]);
    assert!(kept.try_ping());
    assert!(!broker.log().contains("needs a restart"), "{}", broker.log());
}

#[test]
fn a_service_is_asked_in_its_turn() {
    let service = service();
    let directory = TempDir::new().unwrap();
    let users = directory.path().join("users");
    set(&["-cb"], &users, &["ali", "sesame"], "");
    set(&["-b"], &users, &["cassim", "sesame"], "");
    let first = free_port();
    let listeners = format!(
        "{}[[listener]]\nport = {first}\nbind_address = \"127.0.0.1\"\n\
         authentication = [\"s\", \"passwords\"]\n",
        callout(&service, "")
    );
    let settings = format!("password_file = '{}'", users.display());
    let broker = Broker::start_with(&settings, &listeners);
    let codes = |port| {
        [("ali", "sesame"), ("ali", "x"), ("cassim", "sesame"), ("cassim", "x"), ("root", "x")]
            .map(|(user, password)| connack(port, user, password))
    };
    // What the file knows it decides; the service is asked about the others.
    assert_eq!(codes(broker.port), [0, 0x86, 0, 0x86, 0]);
    assert_eq!(service.asked().len(), 1);
    assert_eq!(codes(first), [0, 0, 0, 0x86, 0]);
    assert_eq!(service.asked().len(), 6);
}

#[test]
fn mosquittos_and_pahos_clients_come_in_by_a_service() {
    let service = service();
    let answer = r#"{"": {"result": "allow", "publish": ["up/#"], "subscribe": ["up/#"]}}"#;
    service.put("answers", answer);
    let broker = broker(&service, "");
    let port = broker.port.to_string();
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let mut publish = Command::new("mosquitto_pub");
        publish.args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-t", "up/x", "-m", "x"]);
        let (status, output) = run(publish.args(["-q", "1", "-u", "x", "-P", "y"]), SOON);
        assert_eq!(status, Some(0), "{version}: {output}");
    }
    crate::tokens::paho_comes_in(&port, "any password");
}

#[test]
fn a_service_over_tls_must_be_vouched_for() {
    let service = Service::start_tls();
    service.put("answers", ANSWERS);
    let ca = certificates().join("ca.pem");
    let trusting = broker(&service, &format!("cafile = '{}'", ca.display()));
    assert_eq!(connack(trusting.port, "ali", "x"), 0);
    let other = broker(&service, "");
    assert_eq!(connack(other.port, "ali", "x"), 0x88);
    assert_eq!(service.asked().len(), 1);
}

#[test]
fn settings_of_a_callout_that_cannot_be_are_said() {
    let directory = TempDir::new().unwrap();
    let check = |text: &str| said(directory.path(), text);
    let url = "url = \"http://localhost/\"";
    for (text, expected) in [
        ("[[callout]]\nname = \"s\"".to_owned(), "w.toml:1: a callout needs `url`"),
        (format!("[[callout]]\n{url}"), "w.toml:1: a callout needs `name`"),
        (
            format!("[[callout]]\nname = \"t\"\n{url}\n[[token]]\nname = \"t\"\nkey_file = \"k\""),
            "two methods called \"t\"",
        ),
        (
            format!("[[callout]]\nname = \"s\"\n{url}\ncafile = \"none.pem\""),
            "none.pem: no certificate can be read",
        ),
        (
            format!("[[callout]]\nname = \"s\"\n{url}\nbearer_file = \"none\""),
            "none: cannot read it",
        ),
    ] {
        let output = check(&text);
        assert!(output.contains(expected), "{text}: {output}");
    }
}

fn said(directory: &Path, text: &str) -> String {
    let config = directory.join("w.toml");
    std::fs::write(&config, format!("{text}\n[[listener]]\nport = 1\n")).unwrap();
    let (status, output) = run(program().arg("--check-config").arg("-c").arg(&config), SOON);
    assert_eq!(status, Some(1), "{output}");
    output
}
