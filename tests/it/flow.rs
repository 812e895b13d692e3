//! Limits that the two sides set each other.

use crate::broker::{Broker, shared};
use crate::raw::{Client, Connect};

/// [MQTT-3.3.4-9, MQTT-4.9.0-1]
#[test]
fn no_more_messages_are_in_flight_than_the_client_allows() {
    let connect = Connect::v5("flow-rm").with(&[0x21, 0, 3]);
    let mut client = Client::connect(shared(), &connect);
    client.subscribe("flow/rm", 2);
    let mut sender = Client::v4(shared(), "flow-rm-s");
    for n in 0..6 {
        sender.publish(if n % 2 == 0 { 2 } else { 4 }, "flow/rm", n.to_string());
    }
    let in_flight: Vec<_> = (0..3).map(|_| client.read_publish()).collect();
    client.expect_nothing();
    // QoS 0 is not held up by a full window.
    sender.publish(0, "flow/rm", "zero");
    assert_eq!(client.read_publish().text(), "zero");
    let [high, low] = in_flight[1].id.to_be_bytes();
    client.send(&[0x50, 2, high, low]);
    client.expect(&[0x62, 2, high, low]);
    client.expect_nothing();
    client.send(&[0x70, 2, high, low]);
    assert_eq!(client.read_publish().text(), "3");
    client.expect_nothing();
}

/// [MQTT-3.3.4-7], section 4.9
#[test]
fn a_client_that_exceeds_the_receive_maximum_is_cut() {
    let broker = Broker::start("receive_maximum = 2");
    let mut client = Client::v5(broker.port, "x");
    client.subscribe("t", 0);
    for id in 1..=2 {
        let publish = client.publish_bytes(4, "t", id, &[], "x");
        client.send(&publish);
    }
    let mut answers: Vec<_> = (0..4).map(|_| client.read()[0] >> 4).collect();
    answers.sort();
    assert_eq!(answers, [3, 3, 5, 5]);
    let publish = client.publish_bytes(4, "t", 3, &[], "x");
    client.send(&publish);
    client.expect_close(0x93);
}

/// [MQTT-3.3.2-8, MQTT-3.3.2-9, MQTT-3.3.2-10]
#[test]
fn a_topic_alias_stands_for_a_topic() {
    let mut receiver = Client::v4(shared(), "flow-alias-r");
    receiver.subscribe("flow/alias/#", 0);
    let mut client = Client::v5(shared(), "flow-alias");
    for (topic, payload) in [("flow/alias/a", "1"), ("", "2"), ("flow/alias/b", "3"), ("", "4")] {
        let publish = client.publish_bytes(0, topic, 0, &[0x23, 0, 5], payload);
        client.send(&publish);
    }
    let topics: Vec<_> = (0..4).map(|_| receiver.receive().topic).collect();
    assert_eq!(topics, ["flow/alias/a", "flow/alias/a", "flow/alias/b", "flow/alias/b"]);
}

#[test]
fn a_bad_topic_alias_is_an_error() {
    for (properties, topic, reason) in [
        (&[0x23, 0, 0][..], "t", 0x94),
        (&[0x23, 0xFF, 0xFF], "t", 0x94),
        (&[0x23, 0, 9], "", 0x82),
        (&[], "", 0x82),
    ] {
        let mut client = Client::v5(shared(), "flow-alias-bad");
        let publish = client.publish_bytes(0, topic, 0, properties, "x");
        client.send(&publish);
        client.expect_close(reason);
    }
}

#[test]
fn the_broker_sets_aliases_for_a_client_that_takes_them() {
    let connect = Connect::v5("flow-alias-out").with(&[0x22, 0, 1]);
    let mut client = Client::connect(shared(), &connect);
    client.subscribe("flow/out/#", 0);
    let mut sender = Client::v4(shared(), "flow-alias-out-s");
    for topic in ["flow/out/a", "flow/out/a", "flow/out/b"] {
        sender.publish(0, topic, "x");
    }
    let first = client.read_publish();
    assert_eq!((&*first.topic, &first.properties[..]), ("flow/out/a", &[0x23, 0, 1][..]));
    let second = client.read_publish();
    assert_eq!((&*second.topic, &second.properties[..]), ("", &[0x23, 0, 1][..]));
    let third = client.read_publish();
    assert_eq!((&*third.topic, third.properties.is_empty()), ("flow/out/b", true));
}

/// [MQTT-3.1.2-24, MQTT-3.1.2-25]
#[test]
fn a_message_larger_than_the_client_takes_is_as_if_delivered() {
    let connect = Connect::v5("flow-size").with(&[0x27, 0, 0, 0, 40]);
    let mut client = Client::connect(shared(), &connect);
    client.subscribe("flow/size", 2);
    let mut sender = Client::v4(shared(), "flow-size-s");
    for qos in 0..3 {
        sender.publish(qos << 1, "flow/size", "x".repeat(100));
    }
    sender.publish(2, "flow/size", "fits");
    assert_eq!(client.receive().text(), "fits");
    client.expect_nothing();
}

/// Section 3.2.2.3.6
#[test]
fn a_packet_above_the_announced_maximum_is_refused_by_its_header() {
    let broker = Broker::start("max_packet_size = 1000");
    let mut client = Client::v5(broker.port, "x");
    client.send(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1, b't']);
    client.expect_close(0x95);
    let mut client = Client::v4(broker.port, "x");
    client.send(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1, b't']);
    client.expect_close(0);
}

/// [MQTT-3.3.2-5, MQTT-3.3.2-6]
#[test]
fn the_time_that_a_message_has_left_is_forwarded_and_then_it_is_gone() {
    let connect = Connect::v5("flow-expiry").durable();
    let mut client = Client::connect(shared(), &connect);
    client.subscribe("flow/expiry", 1);
    client.disconnect();
    let mut sender = Client::v5(shared(), "flow-expiry-s");
    for (seconds, payload) in [(1, "short"), (100, "long")] {
        let publish = sender.publish_bytes(2, "flow/expiry", 1, &[0x02, 0, 0, 0, seconds], payload);
        sender.send(&publish);
        sender.expect(&[0x40, 2, 0, 1]);
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let mut client = Client::connect(shared(), &connect);
    let received = client.receive();
    assert_eq!(received.text(), "long");
    assert_eq!(received.properties[..4], [0x02, 0, 0, 0]);
    assert!((90..=99).contains(&received.properties[4]), "{:?}", received.properties);
    client.expect_nothing();
}

#[test]
fn a_client_that_does_not_read_is_still_heard() {
    let broker = Broker::start("");
    let mut lazy = Client::v4(broker.port, "lazy");
    lazy.subscribe("flow/lazy", 0);
    let mut sender = Client::v4(broker.port, "sender");
    let payload = vec![b'x'; 100_000];
    for _ in 0..400 {
        sender.publish(0, "flow/lazy", &payload);
    }
    let mut witness = Client::v4(broker.port, "witness");
    witness.subscribe("flow/heard", 0);
    lazy.publish(0, "flow/heard", "still here");
    assert_eq!(witness.receive().text(), "still here");
    assert!(lazy.read_publish().payload == payload);
}

#[test]
fn a_full_queue_drops_as_its_policy_says() {
    for (policy, expected) in [("drop-newest", ["0", "1"]), ("drop-oldest", ["3", "4"])] {
        let settings = format!("max_queued_messages = 2\nqueue_overflow = \"{policy}\"");
        let broker = Broker::start(&settings);
        let connect = Connect::v4("away").durable();
        let mut client = Client::connect(broker.port, &connect);
        client.subscribe("t", 1);
        client.disconnect();
        let mut sender = Client::v4(broker.port, "sender");
        for n in 0..5 {
            sender.publish(2, "t", n.to_string());
        }
        let mut client = Client::connect(broker.port, &connect);
        for text in expected {
            assert_eq!(client.receive().text(), text);
        }
        client.expect_nothing();
    }
}

/// [MQTT-3.1.2-24]
#[test]
fn nothing_is_larger_than_the_maximum_packet_size() {
    let mut refused = Client::open(shared(), true);
    refused.send(&Connect::v5("mps-connack").with(&[0x27, 0, 0, 0, 4]).bytes());
    assert_eq!(refused.try_read(), None, "no room for CONNACK");

    let connect = Connect::v5("mps-alias").with(&[0x27, 0, 0, 0, 24]).with(&[0x22, 0, 5]);
    let mut client = Client::connect(shared(), &connect);
    client.subscribe("m", 0);
    let mut sender = Client::v4(shared(), "mps-s");
    sender.publish(0, "m", "short");
    sender.publish(0, "m", "x".repeat(18));
    client.receive();
    let packet = client.read();
    assert!(packet.len() <= 24, "{} bytes", packet.len());
}

/// [MQTT-3.1.2-22]
#[test]
fn a_byte_now_and_then_is_not_a_control_packet() {
    let mut client = Client::connect(shared(), &Connect::v4("drip").keep_alive(1));
    client.send(&[0x30, 0xFF, 0x7F]);
    let begin = std::time::Instant::now();
    for _ in 0..40 {
        std::thread::sleep(std::time::Duration::from_millis(250));
        client.try_send(&[0]);
        if begin.elapsed().as_secs() >= 3 {
            break;
        }
    }
    assert_eq!(client.try_read(), None, "it was cut");
}
