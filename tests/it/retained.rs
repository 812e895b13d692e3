//! Retained messages.

use crate::broker::{Broker, shared};
use crate::raw::Client;

/// [MQTT-3.3.1-5, MQTT-3.3.1-8]
#[test]
fn a_new_subscription_gets_the_last_retained_message() {
    let mut sender = Client::v4(shared(), "ret-s");
    sender.publish(1, "ret/last", "old");
    sender.publish(3, "ret/last", "new");
    sender.publish(2, "ret/last", "not retained");
    let mut client = Client::v4(shared(), "ret-r");
    client.subscribe("ret/#", 1);
    let received = client.receive();
    assert_eq!((received.text(), received.qos(), received.retain()), ("new", 1, true));
    client.expect_nothing();
}

/// [MQTT-3.3.1-6, MQTT-3.3.1-7]
#[test]
fn an_empty_retained_message_clears_and_is_delivered_itself() {
    let mut client = Client::v4(shared(), "retc-r");
    client.subscribe("retc", 0);
    client.publish(1, "retc", "x");
    client.publish(1, "retc", "");
    assert_eq!(client.receive().text(), "x");
    let received = client.receive();
    assert_eq!((received.text(), received.retain()), ("", false));
    client.subscribe("retc", 0);
    client.expect_nothing();
}

/// [MQTT-3.3.1-9, MQTT-3.3.1-10, MQTT-3.3.1-11]
#[test]
fn retain_handling_decides_what_a_subscription_brings() {
    let mut client = Client::v5(shared(), "reth-r");
    client.publish(1, "reth", "x");
    client.subscribe("reth", 0x20);
    client.expect_nothing();
    client.subscribe("reth", 0x10);
    client.expect_nothing();
    client.subscribe("reth", 0);
    assert!(client.receive().retain());
    client.unsubscribe("reth");
    client.subscribe("reth", 0x10);
    assert!(client.receive().retain());
    client.subscribe("reth", 0x10);
    client.expect_nothing();
}

#[test]
fn a_retained_message_carries_the_identifier_of_its_subscription() {
    let mut client = Client::v5(shared(), "reti-r");
    client.publish(1, "reti", "x");
    client.subscribe_with(&[0x0B, 5], "#", 0x20);
    client.subscribe_with(&[0x0B, 6], "reti", 0);
    assert_eq!(client.receive().properties, [0x0B, 6]);
}

#[test]
fn many_retained_messages_reach_a_wildcard_subscription() {
    let mut client = Client::v4(shared(), "retm-r");
    for n in 0..3000 {
        client.publish(1, &format!("retm/{n}"), "x");
    }
    client.subscribe("retm/+", 0);
    let mut topics: Vec<_> = (0..3000).map(|_| client.receive().topic).collect();
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 3000);
    client.expect_nothing();
}

#[test]
fn beyond_the_limit_the_publisher_is_told() {
    let broker = Broker::start("max_retained_messages = 1");
    let mut client = Client::v5(broker.port, "x");
    client.subscribe("#", 0);
    client.publish(1, "one", "x");
    client.receive();
    let publish = client.publish_bytes(3, "two", 1, &[], "x");
    client.send(&publish);
    client.expect(&[0x40, 3, 0, 1, 0x97]);
}

#[test]
fn more_retained_messages_than_a_queue_holds_reach_a_subscriber() {
    let broker = Broker::start("max_queued_messages = 10");
    let mut client = Client::v4(broker.port, "x");
    for n in 0..500 {
        client.publish(3, &format!("many/{n}"), "x");
    }
    client.subscribe("many/#", 1);
    let mut topics: Vec<_> = (0..500).map(|_| client.receive().topic).collect();
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 500);
    client.expect_nothing();
}

/// [MQTT-4.6.0-5]
#[test]
fn what_was_published_before_subscribing_again_comes_before_the_retained_message() {
    let mut client = Client::v4(shared(), "reto");
    client.subscribe("reto", 0);
    let mut bytes = client.publish_bytes(1, "reto", 0, &[], "1");
    bytes.extend(client.publish_bytes(1, "reto", 0, &[], "2"));
    bytes.extend([0x82, 9, 0, 1, 0, 4, b'r', b'e', b't', b'o', 0]);
    client.send(&bytes);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let packet = client.read();
        if packet[0] >> 4 == 3 {
            seen.push((packet[packet.len() - 1], packet[0] & 1));
        }
    }
    assert_eq!(seen, [(b'1', 0), (b'2', 0), (b'2', 1)]);
}

/// [MQTT-3.3.1-5]: who cannot be refused does not leave a value that is no longer true.
#[test]
fn a_qos_0_message_that_cannot_be_retained_takes_the_old_one_away() {
    let broker = Broker::start("max_retained_bytes = 2000");
    let mut client = Client::v4(broker.port, "x");
    client.subscribe("big", 0);
    client.publish(1, "big", "old");
    client.receive();
    client.publish(1, "big", "x".repeat(3000));
    assert_eq!(client.receive().payload.len(), 3000);
    client.subscribe("big", 0);
    client.expect_nothing();
}

/// [MQTT-3.8.3-3]
#[test]
fn no_local_holds_for_what_is_retained() {
    let mut broker = Broker::start("");
    for round in 0..2 {
        let mut own = Client::v5(broker.port, "retnl-own");
        if round == 0 {
            own.publish(3, "retnl", "x");
        }
        own.subscribe("retnl", 0x04);
        own.expect_nothing();
        let mut other = Client::v5(broker.port, "retnl-other");
        other.subscribe("retnl", 0x04);
        assert_eq!(other.receive().text(), "x");
        broker.kill_and_restart();
    }
}

/// A message reaches a new subscription as it is published or as a retained one, never as both.
#[test]
fn who_subscribes_while_messages_are_retained_gets_each_once() {
    let port = shared();
    let publisher = std::thread::spawn(move || {
        let mut client = Client::v4(port, "retx-p");
        for n in 0..400 {
            client.publish(3, "retx", n.to_string());
        }
    });
    let mut numbers = 0;
    while numbers < 50 {
        let mut client = Client::v4(port, &format!("retx-{numbers}"));
        client.subscribe("retx", 1);
        let mut last = None;
        client.subscribe(&format!("retx-end/{numbers}"), 0);
        client.publish(0, &format!("retx-end/{numbers}"), "");
        loop {
            let received = client.receive();
            if received.topic != "retx" {
                break;
            }
            let number: u32 = received.text().parse().unwrap();
            assert!(last.is_none_or(|last| number == last + 1), "{last:?} {number}");
            last = Some(number);
        }
        numbers += 1;
    }
    publisher.join().unwrap();
}
