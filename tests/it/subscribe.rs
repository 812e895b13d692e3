//! SUBSCRIBE, UNSUBSCRIBE and what matches.

use crate::broker::shared;
use crate::raw::{Client, Connect, field, packet};

fn received(filter: &str, topics: &[&str]) -> Vec<String> {
    let mut client = Client::v4(shared(), &format!("sub-{filter}"));
    client.subscribe(filter, 0);
    for topic in topics {
        client.publish(0, topic, "x");
    }
    client.subscribe("sub/fence", 0);
    client.publish(0, "sub/fence", "end");
    let topics = std::iter::from_fn(|| Some(client.receive()).filter(|r| r.text() != "end"));
    topics.map(|received| received.topic).collect()
}

/// [MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.1-3, MQTT-4.7.3-4]
#[test]
fn wildcards_match_as_the_specification_says() {
    let topics = ["w", "w/", "w/a", "w/a/b", "w//b", "W/a", "wx/a", "/w"];
    assert_eq!(received("w/#", &topics), ["w", "w/", "w/a", "w/a/b", "w//b"]);
    assert_eq!(received("w/+", &topics), ["w/", "w/a"]);
    assert_eq!(received("w/+/b", &topics), ["w/a/b", "w//b"]);
    assert_eq!(received("+/w", &topics), ["/w"]);
    assert_eq!(received("w/a", &topics), ["w/a"]);
    assert_eq!(received("ü/+/😀", &["ü/ñ/😀", "u/ñ/😀"]), ["ü/ñ/😀"]);
}

/// [MQTT-4.7.2-1]
#[test]
fn leading_wildcards_do_not_match_dollar_topics() {
    let topics = ["$own/a", "dollar/a"];
    assert_eq!(received("$own/#", &topics), ["$own/a"]);
    assert_eq!(received("+/a", &topics), ["dollar/a"]);
}

/// [MQTT-3.3.4-2, MQTT-3.3.4-4, MQTT-3.3.5-1]
#[test]
fn overlapping_subscriptions_bring_one_copy_with_all_identifiers() {
    let mut client = Client::v5(shared(), "sub-overlap");
    client.subscribe_with(&[0x0B, 1], "sub/overlap/#", 0);
    client.subscribe_with(&[0x0B, 2], "sub/overlap/+", 2);
    client.subscribe_with(&[], "sub/overlap/a", 1);
    let mut sender = Client::v5(shared(), "sub-overlap-s");
    sender.publish(4, "sub/overlap/a", "x");
    let received = client.receive();
    assert_eq!(received.qos(), 2);
    let mut ids: Vec<_> = received.properties.chunks(2).map(|c| (c[0], c[1])).collect();
    ids.sort();
    assert_eq!(ids, [(0x0B, 1), (0x0B, 2)]);
    client.expect_nothing();
}

/// [MQTT-3.8.4-3]
#[test]
fn a_second_subscription_to_a_filter_replaces_the_first() {
    let mut client = Client::v5(shared(), "sub-replace");
    client.subscribe_with(&[0x0B, 1], "sub/replace", 2);
    client.subscribe_with(&[0x0B, 9], "sub/replace", 0);
    client.publish(0, "sub/replace", "x");
    let received = client.receive();
    assert_eq!((received.qos(), received.properties), (0, vec![0x0B, 9]));
    client.expect_nothing();
}

/// [MQTT-3.8.3-3]
#[test]
fn no_local_keeps_ones_own_messages_away() {
    let mut client = Client::v5(shared(), "sub-nolocal");
    client.subscribe("sub/nolocal", 0b100);
    client.publish(0, "sub/nolocal", "mine");
    Client::v5(shared(), "sub-nolocal-s").publish(0, "sub/nolocal", "yours");
    assert_eq!(client.receive().text(), "yours");
    client.expect_nothing();
}

/// [MQTT-3.3.1-12, MQTT-3.3.1-13]
#[test]
fn retain_is_kept_only_where_it_is_asked_for() {
    let mut client = Client::v5(shared(), "sub-rap");
    client.subscribe("sub/rap/kept", 0b1000);
    client.subscribe("sub/rap/cleared", 0);
    client.publish(1, "sub/rap/kept", "x");
    client.publish(1, "sub/rap/cleared", "x");
    assert!(client.receive().retain());
    assert!(!client.receive().retain());
}

/// [MQTT-3.8.4-6, MQTT-3.9.3-1]
#[test]
fn a_suback_has_a_reason_for_each_filter_in_order() {
    let mut client = Client::v5(shared(), "sub-many");
    let filters = [field("a"), vec![2], field("b/#"), vec![0], field("c"), vec![1]].concat();
    client.send(&packet(0x82, &[&[0, 5, 0], &filters]));
    client.expect(&[0x90, 6, 0, 5, 0, 2, 0, 1]);
    client.send(&packet(0xA2, &[&[0, 6, 0], &field("b/#"), &field("nope"), &field("a")]));
    client.expect(&[0xB0, 6, 0, 6, 0, 0, 0x11, 0]);
}

/// [MQTT-3.10.4-1, MQTT-3.10.4-5] and 3.1.1's UNSUBACK without payload
#[test]
fn an_unsubscribed_filter_brings_nothing() {
    let mut client = Client::v4(shared(), "sub-unsub");
    client.subscribe("sub/unsub", 1);
    assert_eq!(client.unsubscribe("sub/unsub"), [0xB0, 2, 0, 78]);
    assert_eq!(client.unsubscribe("sub/unsub"), [0xB0, 2, 0, 78]);
    client.publish(2, "sub/unsub", "x");
    client.expect_nothing();
}

#[test]
fn a_filter_of_too_many_levels_is_refused() {
    let deep = vec!["a"; 201].join("/");
    let mut client = Client::v5(shared(), "sub-deep");
    assert_eq!(client.subscribe(&deep, 0), 0x8F);
    let mut client = Client::connect(shared(), &Connect::v4("sub-deep"));
    assert_eq!(client.subscribe(&deep, 0), 0x80);
    let publish = client.publish_bytes(2, &deep, 1, &[], "x");
    client.send(&publish);
    client.expect_close(0);
    let mut client = Client::v5(shared(), "sub-deep");
    let publish = client.publish_bytes(2, &deep, 1, &[], "x");
    client.send(&publish);
    client.expect(&[0x40, 3, 0, 1, 0x90]);
}
