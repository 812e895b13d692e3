//! PUBLISH and its acknowledgements: the QoS flows, both ways.

use crate::broker::shared;
use crate::raw::{Client, properties};

#[test]
fn each_qos_is_delivered_with_the_lower_of_both() {
    for v5 in [false, true] {
        let connect = if v5 { Client::v5 } else { Client::v4 };
        for subscribed in 0..3 {
            let id = format!("pub-{v5}-{subscribed}");
            let mut receiver = connect(shared(), &format!("{id}-r"));
            let mut sender = connect(shared(), &format!("{id}-s"));
            assert_eq!(receiver.subscribe(&id, subscribed), subscribed);
            for published in 0..3 {
                sender.publish(published << 1, &id, format!("q{published}"));
                let received = receiver.receive();
                assert_eq!(received.qos(), subscribed.min(published));
                assert_eq!(received.text(), format!("q{published}"));
                assert!(!received.dup() && !received.retain());
            }
        }
    }
}

/// [MQTT-4.3.2-4, MQTT-4.3.3-8]
#[test]
fn acknowledgements_carry_the_packet_identifier_of_the_publish() {
    let mut client = Client::v4(shared(), "pub-ids");
    let publish = client.publish_bytes(2, "pub/ids", 0x1234, &[], "x");
    client.send(&publish);
    client.expect(&[0x40, 2, 0x12, 0x34]);
    let publish = client.publish_bytes(4, "pub/ids", 0xFFFF, &[], "x");
    client.send(&publish);
    client.expect(&[0x50, 2, 0xFF, 0xFF]);
    client.send(&[0x62, 2, 0xFF, 0xFF]);
    client.expect(&[0x70, 2, 0xFF, 0xFF]);
}

#[test]
fn an_mqtt_5_publisher_learns_that_nobody_listens() {
    let mut client = Client::v5(shared(), "pub-nobody");
    let publish = client.publish_bytes(2, "pub/nobody", 1, &[], "x");
    client.send(&publish);
    client.expect(&[0x40, 3, 0, 1, 0x10]);
    let publish = client.publish_bytes(4, "pub/nobody", 2, &[], "x");
    client.send(&publish);
    client.expect(&[0x50, 3, 0, 2, 0x10]);
}

/// [MQTT-4.3.3-10]
#[test]
fn a_repeated_qos_2_publish_is_delivered_once() {
    let mut receiver = Client::v4(shared(), "pub-once-r");
    receiver.subscribe("pub/once", 0);
    let mut sender = Client::v4(shared(), "pub-once-s");
    let publish = sender.publish_bytes(4, "pub/once", 7, &[], "x");
    let repeated = sender.publish_bytes(0b1100, "pub/once", 7, &[], "x");
    sender.send(&publish);
    sender.expect(&[0x50, 2, 0, 7]);
    sender.send(&repeated);
    sender.expect(&[0x50, 2, 0, 7]);
    sender.send(&[0x62, 2, 0, 7]);
    sender.expect(&[0x70, 2, 0, 7]);
    sender.send(&publish);
    sender.expect(&[0x50, 2, 0, 7]);
    assert_eq!(receiver.receive().text(), "x");
    assert_eq!(receiver.receive().text(), "x", "a released identifier is a new message");
    receiver.expect_nothing();
}

#[test]
fn an_unknown_identifier_is_answered_by_version() {
    let mut client = Client::v5(shared(), "pub-unknown");
    client.send(&[0x62, 2, 0, 9]);
    client.expect(&[0x70, 3, 0, 9, 0x92]);
    client.send(&[0x50, 2, 0, 9]);
    client.expect(&[0x62, 3, 0, 9, 0x92]);
    let mut client = Client::v4(shared(), "pub-unknown");
    client.send(&[0x62, 2, 0, 9]);
    client.expect(&[0x70, 2, 0, 9]);
    client.send(&[0x50, 2, 0, 9, 0x40, 2, 0, 9, 0x70, 2, 0, 9]);
    client.expect(&[0x62, 2, 0, 9]);
    client.expect_nothing();
}

/// [MQTT-4.3.3-4]
#[test]
fn a_pubrec_with_an_error_ends_the_exchange() {
    let mut receiver = Client::v5(shared(), "pub-error");
    receiver.subscribe("pub/error", 2);
    let mut sender = Client::v5(shared(), "pub-error-s");
    sender.publish(4, "pub/error", "one");
    let [high, low] = receiver.read_publish().id.to_be_bytes();
    receiver.send(&[0x50, 3, high, low, 0x80]);
    sender.publish(4, "pub/error", "two");
    assert_eq!(receiver.receive().text(), "two");
    receiver.expect_nothing();
}

#[test]
fn a_wrong_acknowledgement_is_a_protocol_error() {
    let mut receiver = Client::v5(shared(), "pub-wrong");
    receiver.subscribe("pub/wrong", 2);
    let mut sender = Client::v5(shared(), "pub-wrong-s");
    sender.publish(4, "pub/wrong", "one");
    let [high, low] = receiver.read_publish().id.to_be_bytes();
    receiver.send(&[0x40, 2, high, low]);
    receiver.expect_close(0x82);
}

/// [MQTT-4.6.0-2, MQTT-4.6.0-6]
#[test]
fn messages_and_acknowledgements_keep_their_order() {
    for qos in 0..3_u8 {
        let topic = format!("pub/order/{qos}");
        let mut receiver = Client::v4(shared(), &format!("pub-order-r{qos}"));
        receiver.subscribe(&topic, qos);
        let mut sender = Client::v4(shared(), &format!("pub-order-s{qos}"));
        let all: Vec<u8> = (1..=500_u16)
            .flat_map(|n| sender.publish_bytes(qos << 1, &topic, n, &[], n.to_string()))
            .collect();
        sender.send(&all);
        for n in 1..=500_u16 {
            if qos > 0 {
                let [high, low] = n.to_be_bytes();
                sender.expect(&[if qos == 1 { 0x40 } else { 0x50 }, 2, high, low]);
            }
        }
        for n in 1..=500 {
            let received = receiver.read_publish();
            assert_eq!(received.text(), n.to_string());
            let [high, low] = received.id.to_be_bytes();
            match qos {
                0 => {}
                1 => receiver.send(&[0x40, 2, high, low]),
                _ => receiver.send(&[0x50, 2, high, low]),
            }
        }
    }
}

/// [MQTT-3.3.2-4, MQTT-3.3.2-15, MQTT-3.3.2-17, MQTT-3.3.2-18, MQTT-3.3.2-20]
#[test]
fn properties_are_forwarded_as_they_came_and_in_order() {
    let mut receiver = Client::v5(shared(), "pub-props-r");
    receiver.subscribe("pub/props", 1);
    let mut sender = Client::v5(shared(), "pub-props-s");
    let block = [
        &[0x01, 1][..],
        &[0x03, 0, 4],
        b"text",
        &[0x08, 0, 5],
        b"reply",
        &[0x09, 0, 2, 1, 2],
        &[0x26, 0, 1],
        b"k",
        &[0, 1],
        b"1",
        &[0x26, 0, 1],
        b"a",
        &[0, 1],
        b"2",
        &[0x26, 0, 1],
        b"k",
        &[0, 1],
        b"3",
    ]
    .concat();
    let publish = sender.publish_bytes(2, "pub/props", 1, &block, "x");
    sender.send(&publish);
    assert_eq!(receiver.receive().properties, block);
    let mut old = Client::v4(shared(), "pub-props-4");
    old.subscribe("pub/props", 0);
    sender.expect(&[0x40, 2, 0, 1]);
    sender.send(&publish);
    assert_eq!(old.receive().text(), "x", "a version without properties gets none");
    assert_eq!(properties(&[]), [0]);
}

#[test]
fn payloads_of_any_size_pass() {
    let mut receiver = Client::v4(shared(), "pub-size-r");
    receiver.subscribe("pub/size", 1);
    let mut sender = Client::v4(shared(), "pub-size-s");
    for size in [0, 1, 120, 121, 16_370, 16_384, 65_536, 130_000, 2_097_152, 9_000_000] {
        let payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        sender.publish(2, "pub/size", &payload);
        assert!(receiver.receive().payload == payload, "{size} bytes");
    }
}

#[test]
fn a_packet_may_come_byte_by_byte() {
    let mut receiver = Client::v4(shared(), "pub-slow-r");
    receiver.subscribe("pub/slow", 0);
    let mut sender = Client::v4(shared(), "pub-slow-s");
    for byte in sender.publish_bytes(0, "pub/slow", 0, &[], "slow") {
        sender.send(&[byte]);
    }
    assert_eq!(receiver.receive().text(), "slow");
}
