//! SIGHUP opens, changes and closes listeners, and drops nobody; a file that is not good changes
//! nothing.

use std::net::TcpStream;
use std::time::Duration;

use crate::broker::{Broker, free_port, program, run};
use crate::listeners::certificates;
use crate::raw::{Client, Connect};

const SOON: Duration = Duration::from_secs(20);
const DONE: &str = "SIGHUP: the configuration was read again";
const NOTHING: &str = "SIGHUP: nothing is changed: ";

fn listener(port: u16, more: &str) -> String {
    format!("[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\n{more}\n")
}

/// Whether anybody listens.
fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn answer(port: u16, connect: &Connect) -> u8 {
    Client::connect_with(port, connect).1[3]
}

#[test]
fn listeners_come_and_go_and_nobody_is_dropped() {
    let (first, second) = (free_port(), free_port());
    let broker = Broker::start_with("", &listener(first, ""));
    let begin = broker.config();
    let mut kept = Client::v5(broker.port, "kept");
    let mut orphan = Client::v5(first, "orphan");
    orphan.subscribe("t", 1);
    // The one goes and another comes.
    broker.reload(&begin.replace(&first.to_string(), &second.to_string()), DONE);
    assert!(!is_open(first) && is_open(second) && is_open(broker.port));
    assert!(broker.log().contains("1 connections stay until they end"), "{}", broker.log());
    let mut new = Client::v5(second, "new");
    new.publish(2, "t", "still there");
    assert_eq!(orphan.receive().text(), "still there");
    kept.expect_nothing();
    // And back.
    broker.reload(&begin, DONE);
    assert!(is_open(first) && !is_open(second));
    new.publish(2, "t", "again");
    assert_eq!(orphan.receive().text(), "again");
    kept.expect_nothing();
}

#[test]
fn a_listener_changes_for_who_comes_from_then_on() {
    let port = free_port();
    let broker = Broker::start_with("", &listener(port, "max_connections = 1"));
    let begin = broker.config();
    let mut before = Client::v5(port, "before");
    let other = |id: &str| {
        let mut client = Client::open(port, true);
        client.try_connect(&Connect::v5(id))
    };
    assert!(!other("one too many"));
    // The one that is there counts also then.
    let more = begin.replace("max_connections = 1", "max_connections = 2\nmax_qos = 1");
    broker.reload(&more, DONE);
    let (mut second, connack) = Client::connect_with(port, &Connect::v5("second"));
    assert!(connack.windows(2).any(|bytes| bytes == [0x24, 1]), "{connack:02x?}");
    assert!(!other("third"));
    before.publish(4, "t", "as before");
    second.expect_nothing();
    // What holds for all listeners unless they say otherwise.
    broker.reload(&format!("max_topic_alias = 3\n{more}"), DONE);
    let (_, connack) = Client::connect_with(broker.port, &Connect::v5("alias"));
    assert!(connack.windows(3).any(|bytes| bytes == [0x22, 0, 3]), "{connack:02x?}");
    // TLS where there was none.
    let c = certificates().display();
    let tls = format!("certfile = \"{c}/server.pem\"\nkeyfile = \"{c}/server.key\"");
    broker.reload(&begin.replace("max_connections = 1", &tls), DONE);
    let mut openssl = std::process::Command::new("sh");
    let command = format!("timeout 5 openssl s_client -connect 127.0.0.1:{port} </dev/null");
    let (_, output) = run(openssl.arg("-c").arg(command), SOON);
    assert!(output.contains("BEGIN CERTIFICATE"), "{output}");
    before.expect_nothing();
    second.expect_nothing();
}

#[test]
fn users_and_rules_come_where_there_were_none() {
    let port = free_port();
    let broker = Broker::start_with("", &listener(port, ""));
    let (directory, begin) = (broker.directory().to_owned(), broker.config());
    let mut before = Client::v4(port, "before");
    before.subscribe("t", 0);
    let users = directory.join("users");
    let mut passwd = program();
    passwd.args(["passwd", "-c", "-b"]).arg(&users).args(["ali", "secret"]);
    assert_eq!(run(&mut passwd, SOON).0, Some(0));
    std::fs::write(directory.join("acl"), "user ali\ntopic write t\n").unwrap();
    let strict =
        format!("{begin}password_file = \"users\"\nacl_file = \"acl\"\nstored_users = true\n");
    broker.reload(&strict, DONE);
    assert_eq!(answer(port, &Connect::v4("nobody")), 5);
    assert_eq!(answer(port, &Connect::v4("x").user("ali", "wrong")), 4);
    let mut ali = Client::connect(port, &Connect::v5("ali").user("ali", "secret"));
    ali.send(&ali.publish_bytes(2, "u", 7, &[], "x"));
    assert_eq!(ali.answer()[..5], [0x40, 3, 0, 7, 0x87]);
    ali.publish(2, "t", "x");
    assert_eq!(before.receive().text(), "x");
    // The other listener is as it was.
    Client::v4(broker.port, "other").publish(2, "t", "y");
    assert_eq!(before.receive().text(), "y");
    // The broker's own users are known to its tool.
    let mut tool = program();
    tool.args(["user", "list", "--directory"]).arg(directory.join("data"));
    assert_eq!(run(&mut tool, SOON), (Some(0), String::new()));
}

#[test]
fn a_listener_takes_the_place_of_one_that_is_in_its_way() {
    let port = free_port();
    let broker = Broker::start_with("", &listener(port, ""));
    let begin = broker.config();
    let mut before = Client::v4(port, "before");
    let everywhere = begin.replace(&listener(port, ""), &format!("[[listener]]\nport = {port}\n"));
    assert_ne!(everywhere, begin);
    broker.reload(&everywhere, DONE);
    assert!(TcpStream::connect(("127.0.0.2", port)).is_ok());
    before.expect_nothing();
    // Back, but together with what cannot be: the one that went comes again.
    let taken = std::net::TcpListener::bind("127.0.0.3:0").unwrap();
    let address = taken.local_addr().unwrap();
    let other =
        format!("{begin}[[listener]]\nport = {}\nbind_address = \"127.0.0.3\"\n", address.port());
    broker.reload(&other, NOTHING);
    assert!(TcpStream::connect(("127.0.0.2", port)).is_ok());
    Client::v4(port, "after").publish(2, "t", "x");
}

#[test]
fn a_displacement_that_fails_leaves_what_was_there() {
    let port = free_port();
    let broker = Broker::start_with("", &listener(port, ""));
    let begin = broker.config();
    // Somebody else holds the port on another address, so that all of them cannot be had.
    let taken = std::net::TcpListener::bind(("127.0.0.9", port)).unwrap();
    let everywhere = begin.replace(&listener(port, ""), &format!("[[listener]]\nport = {port}\n"));
    broker.reload(&everywhere, NOTHING);
    assert!(broker.log().contains("it is in use"), "{}", broker.log());
    Client::v4(port, "still").publish(2, "t", "x");
    drop(taken);
    broker.reload(&everywhere, DONE);
    assert!(TcpStream::connect(("127.0.0.9", port)).is_ok());
}

#[test]
fn what_is_not_good_changes_nothing_at_all() {
    let (port, other) = (free_port(), free_port());
    let broker = Broker::start_with("", &listener(port, ""));
    let begin = broker.config();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    std::fs::write(broker.directory().join("bad"), "no user\n").unwrap();
    let without = begin.replace(&listener(port, ""), "");
    assert_ne!(without, begin);
    // Each takes a listener away, adds one, and is wrong somewhere.
    for wrong in [
        listener(taken_port, ""),
        listener(free_port(), "certfile = \"none.pem\"\nkeyfile = \"none.key\""),
        listener(free_port(), "password_file = \"bad\""),
        listener(free_port(), "colour = \"blue\""),
    ] {
        broker.reload(&format!("max_qos = 0\n{without}{}{wrong}", listener(other, "")), NOTHING);
        assert!(is_open(port) && !is_open(other), "{wrong}\n{}", broker.log());
        assert!(!broker.log().contains(&format!("listening on 127.0.0.1:{other}")));
        let (_, connack) = Client::connect_with(port, &Connect::v5("x"));
        assert!(!connack.windows(2).any(|bytes| bytes == [0x24, 0]), "{connack:02x?}");
    }
    // What needs a restart is named, and the rest is taken over.
    broker.reload(&format!("commit_interval = \"7ms\"\n{without}"), DONE);
    assert!(broker.log().contains("SIGHUP: `commit_interval` is changed and needs a restart"));
    assert!(!is_open(port));
}

#[test]
fn a_check_says_what_would_change() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let old = "commit_interval = \"2ms\"\nmax_queued_messages = 5\n[[listener]]\nport = 1\n\
               [[listener]]\nport = 2\nmax_connections = 4\n[[role]]\nname = \"r\"\n\
               everybody = true\n[[role.rule]]\nallow = \"publish\"\ntopic = \"a\"\n\
               [[role.rule]]\ndeny = \"publish\"\ntopic = \"b\"\n";
    let new = old
        .replace("2ms", "3ms")
        .replace("= 5", "= 6")
        .replace("port = 1", "port = 3")
        .replace("max_connections = 4", "max_connections = 5")
        .replace("topic = \"a\"", "topic = \"c\"");
    std::fs::write(path("old.toml"), old).unwrap();
    std::fs::write(path("new.toml"), new).unwrap();
    let check = |new: &str| {
        let mut check = program();
        check.arg("--check-config").arg("-c").arg(path(new)).arg("--against").arg(path("old.toml"));
        run(&mut check, SOON)
    };
    let lines = "commit_interval: needs a restart\nlistener 1: removed, at once\n\
                 listener 2: max_connections: for new connections\nlistener 3: added, at once\n\
                 max_queued_messages: at once\nrole r: topic: at once\n";
    let expected = format!("{lines}{}: ok\n", path("new.toml").display());
    assert_eq!(check("new.toml"), (Some(0), expected));
    let expected = format!("no setting differs\n{}: ok\n", path("old.toml").display());
    assert_eq!(check("old.toml"), (Some(0), expected));
    // Alone it would mean nothing.
    let (status, output) = run(program().arg("--against").arg(path("old.toml")), SOON);
    assert_eq!(status, Some(2), "{output}");
}
