//! A disk that takes no more: nothing is acknowledged that is not on it, nobody is cut off who is
//! served without it, and everything goes on when there is room again.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::raw::{Client, Connect};

/// A broker whose files may grow to so many KiB.
fn broker(kib: u32) -> Broker {
    Broker::start_limited(&format!("-S -f {}", kib * 2), "min_free_space = 0")
}

/// From now on its files may grow to so many bytes, and nothing beyond may be written.
fn limit(broker: &Broker, bytes: &str) {
    let (limit, pid) = (format!("--fsize={bytes}:"), broker.pid().to_string());
    let status = Command::new("prlimit").args([&*limit, "--pid", &pid]).status();
    assert!(status.unwrap().success());
}

fn wait_for_log(broker: &Broker, line: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !broker.log().contains(line) {
        assert!(Instant::now() < deadline, "no {line:?} in the log\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Publishes to an offline Session until the disk is full; how many were acknowledged.
fn fill(client: &mut Client, broker: &Broker) -> u32 {
    let payload = "x".repeat(20_000);
    for n in 0.. {
        let bytes = client.publish_bytes(2, "full/t", 1, &[], format!("{n} {payload}"));
        client.send(&bytes);
        loop {
            if client.has_bytes(Duration::from_millis(5)) {
                client.expect(&[0x40, 2, 0, 1]);
                break;
            }
            if broker.log().contains("the store cannot be written") {
                // Enough for the log; what the store may have freed is of no use to it.
                limit(broker, "12288");
                return n;
            }
        }
        assert!(n < 10_000, "the limit does not hold");
    }
    0
}

#[test]
fn a_full_disk_acknowledges_nothing_and_goes_on_when_there_is_room() {
    let mut broker = broker(8_000);
    let away = Connect::v4("full-away").durable();
    Client::connect(broker.port, &away).subscribe("full/#", 1);
    let mut present = Client::v4(broker.port, "full-present");
    present.subscribe("live/#", 1);
    let mut old = Client::v4(broker.port, "full-old");
    let acknowledged = fill(&mut old, &broker);
    assert!(acknowledged > 100, "{acknowledged}");

    // An MQTT 5.0 publisher is told, an older one waits; both are served without the disk.
    let mut new = Client::v5(broker.port, "full-new");
    let bytes = new.publish_bytes(2, "full/t", 7, &[], "refused");
    new.send(&bytes);
    new.expect(&[0x40, 3, 0, 7, 0x97]);
    new.publish(2, "live/t", "to who is here");
    assert_eq!(present.receive().text(), "to who is here");
    let mut held = Client::v4(broker.port, "full-held");
    let bytes = held.publish_bytes(2, "full/t", 8, &[], "held");
    held.send(&bytes);
    let refused = Client::connect_with(broker.port, &Connect::v5("full-more").durable()).1;
    assert_eq!(refused[3], 0x97, "a Session that must survive cannot begin");
    present.expect_nothing();
    assert!(!held.has_bytes(Duration::from_millis(300)) && !old.has_bytes(Duration::ZERO));

    limit(&broker, "unlimited");
    old.expect(&[0x40, 2, 0, 1]);
    held.expect(&[0x40, 2, 0, 8]);
    new.publish(2, "full/t", "new");
    wait_for_log(&broker, "the store is written again");
    assert_eq!(broker.log().matches("until it can, nothing is").count(), 1);
    broker.kill_and_restart();
    let mut client = Client::connect(broker.port, &away);
    for n in 0..=acknowledged {
        assert_eq!(client.receive().text().split(' ').next().unwrap(), n.to_string());
    }
    for expected in ["held", "new"] {
        assert_eq!(client.receive().text(), expected);
    }
    client.expect_nothing();
}

#[test]
fn a_full_disk_still_gives_out_what_is_on_it() {
    let broker = broker(8_000);
    let slow = Connect::v5("given").durable().with(&[0x21, 0, 1]);
    let mut slow = Client::connect(broker.port, &slow);
    slow.subscribe("full/#", 1);
    let mut sender = Client::v4(broker.port, "given-s");
    let acknowledged = fill(&mut sender, &broker);
    let pages = 20.min(acknowledged);
    for n in 0..pages {
        assert_eq!(slow.receive().text().split(' ').next().unwrap(), n.to_string());
    }
}

#[test]
fn a_disk_without_room_to_spare_is_said_to_be_full() {
    let broker = Broker::start("min_free_space = \"500000 GiB\"");
    Client::connect(broker.port, &Connect::v4("spare").durable()).subscribe("spare", 1);
    wait_for_log(&broker, "less than min_free_space");
    let mut client = Client::v5(broker.port, "spare-s");
    let bytes = client.publish_bytes(2, "spare", 7, &[], "x");
    client.send(&bytes);
    client.expect(&[0x40, 3, 0, 7, 0x97]);
    client.publish(2, "nobody/durable", "x");
    let mut old = Client::v4(broker.port, "spare-old");
    let bytes = old.publish_bytes(2, "spare", 7, &[], "x");
    old.send(&bytes);
    client.expect_nothing();
    assert!(!old.has_bytes(Duration::from_millis(100)));
}
