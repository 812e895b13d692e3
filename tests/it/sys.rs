//! The topics in which the broker speaks of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::broker::{Broker, free_port, program, run};
use crate::mosquitto::{OPEN, Served};
use crate::raw::{Client, Connect};

/// What the topics below `$SYS/` retain.
fn retained(port: u16) -> BTreeMap<String, String> {
    // What is published last of all: the rest is there then.
    let mut first = Client::v4(port, "sys-first");
    first.subscribe("$SYS/broker/load/connections/15min", 0);
    first.read_publish();
    first.disconnect();
    let mut client = Client::v4(port, "sys-reader");
    assert_eq!(client.subscribe("$SYS/#", 0), 0);
    let mut values = BTreeMap::new();
    // Retained messages come first, and something new comes within an interval.
    loop {
        let received = client.read_publish();
        if !received.retain() {
            return values;
        }
        values.insert(received.topic.clone(), received.text().to_owned());
    }
}

/// Waits for one value to be this.
fn await_value(port: u16, topic: &str, value: &str) {
    let mut client = Client::v4(port, "sys-waiter");
    assert_eq!(client.subscribe(&format!("$SYS/broker/{topic}"), 0), 0);
    while client.read_publish().text() != value {}
}

struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn mosquittos_topics_are_there() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = directory.path().join("mosquitto.conf");
    let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nsys_interval 1\n");
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("mosquitto");
    command.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
    let _mosquitto = Mosquitto(command.spawn().expect("mosquitto is installed"));
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // It says what has been the most only when there was something; so ask it again.
    await_value(port, "clients/maximum", "1");
    let theirs = retained(port);
    assert!(theirs.len() > 50, "{theirs:?}");
    let broker = Broker::start("sys_interval = \"100ms\"");
    let ours = retained(broker.port);
    for (topic, value) in &theirs {
        assert_eq!(ours.get(topic).map(|value| shape(value)), Some(shape(value)), "{topic}");
    }
    // Debian's is 2.0; this is new in 2.1.
    let new = ["$SYS/broker/connections/socket/count".to_owned()];
    let names: BTreeSet<String> = theirs.into_keys().chain(new).collect();
    assert_eq!(ours.into_keys().collect::<BTreeSet<_>>(), names);
}

/// How a value is written: numbers with their decimals, and who speaks.
fn shape(value: &str) -> String {
    let Some((number, decimals)) = value.split_once('.') else {
        let text = value.trim_start_matches(|c: char| c.is_ascii_digit());
        return text.replace("mosquitto", "whimbrel");
    };
    match number.parse::<u64>() {
        Ok(_) => format!(".{}", decimals.len()),
        // A version.
        Err(_) => {
            let text = number.trim_end_matches(|c: char| c.is_ascii_digit());
            text.replace("mosquitto", "whimbrel")
        }
    }
}

/// What is counted, by the real one and by ours that have the same Clients.
#[test]
fn counts_mean_what_they_mean_to_mosquitto() {
    let real = Path::new("/usr/sbin/mosquitto");
    if !real.exists() {
        return;
    }
    let counted = |program: Command| {
        let text = format!("{OPEN}sys_interval 1\nmax_queued_messages 2\n");
        let served = Served::of(program, &text);
        let port = served.port;
        let mut away = Client::connect(port, &Connect::v4("away").durable());
        away.subscribe("sys/a", 1);
        away.subscribe("sys/b", 1);
        away.disconnect();
        let mut member = Client::v4(port, "member");
        member.subscribe("$share/g/sys/c", 0);
        let mut client = Client::v4(port, "publisher");
        for _ in 0..30 {
            client.publish(2, "sys/a", "12345");
        }
        // 2.0 does not count those of QoS 2, and those to be retained.
        client.publish(2, "sys/nobody", "123");
        client.publish(0, "sys/nobody", "123");
        assert!(client.try_ping());
        await_value(port, "publish/messages/received", "32");
        await_value(port, "publish/bytes/received", "156");
        let values = retained(port);
        [
            "publish/messages/received",
            "publish/bytes/received",
            "clients/disconnected",
            "clients/inactive",
            "clients/expired",
            "shared_subscriptions/count",
        ]
        .map(|topic| (topic, values.get(&format!("$SYS/broker/{topic}")).cloned()))
    };
    assert_eq!(counted(program()), counted(Command::new(real)));
}

#[test]
fn counts_are_those_of_what_was_done() {
    let broker = Broker::start("sys_interval = \"50ms\"\nmax_queued_messages = 2");
    let port = broker.port;
    let mut away = Client::connect(port, &Connect::v4("sys-away").durable());
    away.subscribe("sys/a", 1);
    away.subscribe("$share/g/sys/b", 1);
    away.disconnect();
    let mut client = Client::v4(port, "sys-publisher");
    for _ in 0..5 {
        client.publish(2, "sys/a", "12345");
    }
    client.publish(3, "sys/kept", "x");
    // CONNECT, two SUBSCRIBE and DISCONNECT; CONNECT and six PUBLISH; CONNECT and SUBSCRIBE of
    // who waits.
    await_value(port, "messages/received", "13");
    let values = retained(port);
    let value = |topic: &str| values[&format!("$SYS/broker/{topic}")].as_str();
    assert_eq!(value("publish/messages/received"), "6");
    assert_eq!(value("publish/bytes/received"), "26");
    assert_eq!(value("publish/messages/dropped"), "3");
    assert_eq!(value("clients/expired"), "0");
    assert_eq!(value("shared_subscriptions/count"), "1");
    // One of them is the subscription of who asked last.
    assert!(["1", "2"].contains(&value("subscriptions/count")));
    assert_eq!(value("retained messages/count"), (values.len() + 1).to_string());
    assert_ne!(value("load/messages/received/1min"), "0.00");
    assert!(value("heap/current").parse::<u64>().unwrap() > 1 << 20);
    assert!(value("heap/maximum").parse::<u64>().unwrap() > 1 << 20);
    assert!(value("version").starts_with("whimbrel version "));
    drop(client);
    await_value(port, "clients/disconnected", "1");
    await_value(port, "clients/connected", "1");
}

#[test]
fn nothing_is_published_without_an_interval() {
    let broker = Broker::start("sys_interval = 0");
    let mut client = Client::v4(broker.port, "sys-none");
    client.subscribe("$SYS/#", 0);
    client.expect_nothing();
}

#[test]
fn a_wildcard_does_not_reach_them() {
    let broker = Broker::start("sys_interval = \"20ms\"");
    let mut client = Client::v4(broker.port, "sys-all");
    client.subscribe("#", 0);
    await_value(broker.port, "uptime", "1 seconds");
    client.expect_nothing();
}

#[test]
fn clients_do_not_publish_among_them() {
    let port = crate::broker::shared();
    let mut client = Client::v5(port, "sys-forger");
    let forged = client.publish_bytes(2, "$SYS/broker/uptime", 7, &[], "0");
    client.send(&forged);
    client.expect(&[0x40, 3, 0, 7, 0x87]);
    // What only begins alike is anybody's.
    let allowed = client.publish_bytes(2, "$SYSTEM/x", 8, &[], "0");
    client.send(&allowed);
    assert_eq!(client.read()[..4], [0x40, 3, 0, 8]);
    // Who cannot be told goes on.
    let mut old = Client::v4(port, "sys-forger-old");
    old.publish(3, "$SYS/forged", "0");
    old.subscribe("$SYS/forged", 0);
    old.expect_nothing();
    let will = Connect::v5("sys-will").will(0, &[], "$SYS/broker/uptime", "0");
    let (_, connack) = Client::connect_with(port, &will);
    assert_eq!(connack[3], 0x87);
}

#[test]
fn they_are_not_stored() {
    let mut broker = Broker::start("sys_interval = \"20ms\"");
    await_value(broker.port, "uptime", "1 seconds");
    let directory = broker.directory().join("data");
    broker.terminate();
    while broker.is_running() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut stats = program();
    stats.args(["store", "stats", "--directory"]).arg(directory);
    let (_, output) = run(&mut stats, Duration::from_secs(20));
    assert!(output.contains("retained messages: 0\n"), "{output}");
}
