//! CONNECT and CONNACK.

use crate::broker::{Broker, shared};
use crate::raw::{Client, Connect, packet};

#[test]
fn a_connect_is_answered_by_a_connack_without_session() {
    let (_, connack) = Client::connect_with(shared(), &Connect::v4("conn-v4"));
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let (_, connack) = Client::connect_with(shared(), &Connect::v5("conn-v5"));
    assert_eq!((connack[0], connack[2], connack[3]), (0x20, 0, 0));
}

/// [MQTT-3.1.3-6, MQTT-3.1.3-7, MQTT-3.2.2-16]
#[test]
fn an_mqtt_5_client_without_identifier_is_assigned_one() {
    let (_, connack) = Client::connect_with(shared(), &Connect::v5(""));
    assert_eq!(connack[3], 0);
    let at = connack.windows(2).position(|w| w == [0x12, 0]).expect("Assigned Client Identifier");
    assert!(connack[at + 2] > 0);
}

/// [MQTT-3.1.3-8] of 3.1.1
#[test]
fn an_mqtt_3_client_without_identifier_must_ask_for_a_clean_session() {
    let (_, connack) = Client::connect_with(shared(), &Connect::v4(""));
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let (mut client, connack) = Client::connect_with(shared(), &Connect::v4("").durable());
    assert_eq!(connack, [0x20, 2, 0, 2]);
    client.expect_close(0);
}

#[test]
fn mqtt_3_1_is_spoken_too() {
    let connect = Connect { level: 3, ..Connect::v4("conn-v31") };
    let (mut client, connack) = Client::connect_with(shared(), &connect);
    assert_eq!(connack, [0x20, 2, 0, 0]);
    assert_eq!(client.subscribe("conn/v31", 2), 2);
    client.publish(4, "conn/v31", "x");
    assert_eq!(client.receive().text(), "x");
    let connect = Connect { level: 3, ..Connect::v4("") };
    assert_eq!(Client::connect_with(shared(), &connect).1, [0x20, 2, 0, 2]);
}

/// [MQTT-3.1.2-2]
#[test]
fn an_unknown_protocol_level_is_told_so() {
    let (mut client, connack) =
        Client::connect_with(shared(), &Connect { level: 7, ..Connect::v4("x") });
    assert_eq!(connack, [0x20, 3, 0, 0x84, 0]);
    assert_eq!(client.try_read(), None);
    let (mut client, connack) =
        Client::connect_with(shared(), &Connect { level: 1, ..Connect::v4("x") });
    assert_eq!(connack, [0x20, 2, 0, 1]);
    assert_eq!(client.try_read(), None);
}

/// [MQTT-3.1.0-2]
#[test]
fn a_second_connect_closes_the_network_connection() {
    let mut client = Client::v5(shared(), "conn-twice");
    client.send(&Connect::v5("conn-twice").bytes());
    client.expect_close(0x82);
    let mut client = Client::v4(shared(), "conn-twice");
    client.send(&Connect::v4("conn-twice").bytes());
    client.expect_close(0);
}

/// [MQTT-3.1.0-1]
#[test]
fn the_first_packet_must_be_connect() {
    for bytes in [&[0xC0, 0][..], &[0xE0, 0], &packet(0x30, &[&[0, 1, b'a']])] {
        let mut client = Client::open(shared(), false);
        client.send(bytes);
        assert_eq!(client.try_read(), None);
    }
}

#[test]
fn packets_may_follow_connect_without_waiting_for_connack() {
    let mut client = Client::open(shared(), false);
    let subscribe = [0x82, 10, 0, 1, 0, 5, b'e', b'a', b'r', b'l', b'y', 0];
    client.send(&[Connect::v4("conn-early").bytes(), subscribe.to_vec(), vec![0xC0, 0]].concat());
    client.expect(&[0x20, 2, 0, 0]);
    let mut answers = [client.read(), client.read()];
    answers.sort();
    assert_eq!(answers, [vec![0x90, 3, 0, 1, 0], vec![0xD0, 0]]);
}

/// [MQTT-4.12.0-1]
#[test]
fn an_unknown_authentication_method_is_refused() {
    let connect = Connect::v5("conn-auth").with(&[0x15, 0, 1, b'X']);
    let (mut client, connack) = Client::connect_with(shared(), &connect);
    assert_eq!(connack[3], 0x8C);
    assert_eq!(client.try_read(), None);
}

#[test]
fn auth_without_a_method_is_a_protocol_error() {
    let mut client = Client::v5(shared(), "conn-auth2");
    client.send(&[0xF0, 6, 0x18, 4, 0x15, 0, 1, b'X']);
    client.expect_close(0x82);
}

#[test]
fn user_name_and_password_are_accepted_where_nothing_is_asked() {
    let mut client = Client::open(shared(), false);
    client.send(&packet(
        0x10,
        &[&[0, 4], b"MQTT", &[4, 0xC2, 0, 0, 0, 3], b"usr", &[0, 1], b"u", &[0, 1], b"p"],
    ));
    client.expect(&[0x20, 2, 0, 0]);
}

#[test]
fn where_nobody_may_come_anonymously_a_connect_is_refused() {
    let broker = Broker::start("allow_anonymous = false");
    let (mut client, connack) = Client::connect_with(broker.port, &Connect::v5("x"));
    assert_eq!(connack[3], 0x87);
    assert_eq!(client.try_read(), None);
    assert_eq!(Client::connect_with(broker.port, &Connect::v4("x")).1, [0x20, 2, 0, 5]);
}

/// [MQTT-3.2.2-21], [MQTT-3.1.2-21]
#[test]
fn what_differs_from_the_assumptions_is_announced() {
    let settings = "max_keepalive = 30\nmax_qos = 1\nretain_available = false\n\
                    receive_maximum = 7\nmax_packet_size = 1000\nmax_topic_alias = 3\n\
                    persistent_client_expiration = \"60s\"";
    let broker = Broker::start(settings);
    let connect = Connect::v5("x").durable().keep_alive(100);
    let (_, connack) = Client::connect_with(broker.port, &connect);
    let has = |property: &[u8]| connack.windows(property.len()).any(|w| w == property);
    assert!(has(&[0x13, 0, 30]), "Server Keep Alive: {connack:02x?}");
    assert!(has(&[0x24, 1]), "Maximum QoS: {connack:02x?}");
    assert!(has(&[0x25, 0]), "Retain Available: {connack:02x?}");
    assert!(has(&[0x21, 0, 7]), "Receive Maximum: {connack:02x?}");
    assert!(has(&[0x27, 0, 0, 3, 0xE8]), "Maximum Packet Size: {connack:02x?}");
    assert!(has(&[0x22, 0, 3]), "Topic Alias Maximum: {connack:02x?}");
    assert!(has(&[0x11, 0, 0, 0, 60]), "Session Expiry Interval: {connack:02x?}");
}

/// [MQTT-3.2.2-11, MQTT-3.2.2-14]
#[test]
fn what_is_not_available_may_not_be_used() {
    let broker = Broker::start("max_qos = 1\nretain_available = false");
    let mut client = Client::v5(broker.port, "a");
    let publish = client.publish_bytes(4, "t", 1, &[], "x");
    client.send(&publish);
    client.expect_close(0x9B);
    let mut client = Client::v5(broker.port, "a");
    let publish = client.publish_bytes(1, "t", 1, &[], "x");
    client.send(&publish);
    client.expect_close(0x9A);
}

#[test]
fn a_client_that_does_not_come_to_the_point_is_cut() {
    let broker = Broker::start("connect_timeout = \"300ms\"");
    let mut client = Client::open(broker.port, false);
    client.send(&[0x10]);
    assert_eq!(client.try_read(), None);
}

/// [MQTT-3.1.2-22]
#[test]
fn a_silent_client_is_cut_after_one_and_a_half_keep_alives() {
    let begin = std::time::Instant::now();
    let mut client = Client::connect(shared(), &Connect::v5("conn-silent").keep_alive(1));
    client.expect_close(0x8D);
    assert!(begin.elapsed().as_millis() >= 1500, "{:?}", begin.elapsed());
    let mut client = Client::connect(shared(), &Connect::v4("conn-silent").keep_alive(1));
    client.expect_close(0);
}

/// [MQTT-3.12.4-1]
#[test]
fn a_ping_is_answered() {
    let mut client = Client::v4(shared(), "conn-ping");
    client.send(&[0xC0, 0, 0xC0, 0]);
    client.expect(&[0xD0, 0]);
    client.expect(&[0xD0, 0]);
}
