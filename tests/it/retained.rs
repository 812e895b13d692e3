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
