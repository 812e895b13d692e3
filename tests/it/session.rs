//! Sessions: begun, resumed, taken over, ended.

use crate::broker::shared;
use crate::raw::{Client, Connect};

/// [MQTT-3.1.2-4, MQTT-3.1.2-5, MQTT-3.2.2-2, MQTT-3.2.2-3]
#[test]
fn a_session_is_resumed_with_its_subscriptions_and_messages() {
    for connect in [Connect::v4("ses-4").durable(), Connect::v5("ses-5").durable()] {
        let topic = format!("ses/{}", connect.id);
        let (mut client, present) = Client::resume(shared(), &connect);
        assert!(!present);
        client.subscribe(&topic, 2);
        client.disconnect();
        let mut sender = Client::v4(shared(), &format!("{}-s", connect.id));
        for qos in 0..3 {
            sender.publish(qos << 1, &topic, format!("q{qos}"));
        }
        let (mut client, present) = Client::resume(shared(), &connect);
        assert!(present);
        assert_eq!(client.receive().text(), "q1", "QoS 0 is not kept for who is away");
        assert_eq!(client.receive().text(), "q2");
        client.expect_nothing();
        client.disconnect();
        let (mut client, present) =
            Client::resume(shared(), &Connect { clean: true, ..connect.clone() });
        assert!(!present);
        sender.publish(2, &topic, "x");
        client.expect_nothing();
    }
}

#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    for connect in [Connect::v4("ses-clean-4"), Connect::v5("ses-clean-5")] {
        Client::connect(shared(), &connect).disconnect();
        let (_, present) = Client::resume(shared(), &Connect { clean: false, ..connect });
        assert!(!present);
    }
}

#[test]
fn a_session_expires() {
    let connect = Connect { clean: false, ..Connect::v5("ses-exp") };
    let connect = connect.with(&[0x11, 0, 0, 0, 1]);
    Client::connect(shared(), &connect).disconnect();
    assert!(Client::resume(shared(), &connect).1);
    // The connection above has just ended; from now it takes a second, and the broker looks
    // once a second.
    let begin = std::time::Instant::now();
    while begin.elapsed().as_millis() < 2500 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(!Client::resume(shared(), &connect).1);
}

/// [MQTT-3.1.4-3]
#[test]
fn a_second_connection_of_a_client_takes_the_session_over() {
    let connect = Connect::v5("ses-over").durable();
    let mut first = Client::connect(shared(), &connect);
    first.subscribe("ses/over", 1);
    let (mut second, present) = Client::resume(shared(), &connect);
    assert!(present);
    first.expect_close(0x8E);
    second.publish(2, "ses/over", "x");
    assert_eq!(second.read_publish().text(), "x");
    let connect = Connect::v4("ses-over").durable();
    let (mut third, present) = Client::resume(shared(), &connect);
    assert!(present);
    second.expect_close(0x8E);
    let again = third.receive();
    assert_eq!((again.text(), again.dup()), ("x", true));
}

#[test]
fn many_connections_of_one_client_leave_one() {
    let clients: Vec<_> = (0..20)
        .map(|_| std::thread::spawn(|| Client::v4(shared(), "ses-race")))
        .map(|thread| thread.join().unwrap())
        .collect();
    let mut alive = 0;
    for mut client in clients {
        client.try_send(&[0xC0, 0]);
        alive += usize::from(client.try_read().is_some());
    }
    assert_eq!(alive, 1);
}

/// [MQTT-4.4.0-1, MQTT-4.4.0-2]
#[test]
fn what_is_unacknowledged_is_sent_again_in_order_with_its_identifier() {
    let connect = Connect::v4("ses-again").durable();
    let mut client = Client::connect(shared(), &connect);
    client.subscribe("ses/again", 2);
    let mut sender = Client::v4(shared(), "ses-again-s");
    for (qos, payload) in [(1, "a"), (2, "b"), (2, "c"), (1, "d")] {
        sender.publish(qos << 1, "ses/again", payload);
    }
    let first: Vec<_> = (0..4).map(|_| client.read_publish()).collect();
    let [high, low] = first[1].id.to_be_bytes();
    client.send(&[0x50, 2, high, low]);
    client.expect(&[0x62, 2, high, low]);
    client.vanish();
    let mut client = Client::connect(shared(), &connect);
    for sent in [&first[0], &first[1], &first[2], &first[3]] {
        if sent.text() == "b" {
            client.expect(&[0x62, 2, high, low]);
            client.send(&[0x70, 2, high, low]);
            continue;
        }
        let again = client.read_publish();
        assert_eq!((again.text(), again.id, again.dup()), (sent.text(), sent.id, true));
    }
}

#[test]
fn a_qos_2_identifier_is_remembered_across_connections() {
    let connect = Connect::v4("ses-rx2").durable();
    let mut receiver = Client::v4(shared(), "ses-rx2-r");
    receiver.subscribe("ses/rx2", 0);
    let mut client = Client::connect(shared(), &connect);
    let publish = client.publish_bytes(4, "ses/rx2", 3, &[], "x");
    client.send(&publish);
    client.expect(&[0x50, 2, 0, 3]);
    client.vanish();
    let mut client = Client::connect(shared(), &connect);
    let repeated = client.publish_bytes(0b1100, "ses/rx2", 3, &[], "x");
    client.send(&repeated);
    client.expect(&[0x50, 2, 0, 3]);
    client.send(&[0x62, 2, 0, 3]);
    client.expect(&[0x70, 2, 0, 3]);
    assert_eq!(receiver.receive().text(), "x");
    receiver.expect_nothing();
}

/// Section 3.14.2.2.2
#[test]
fn disconnect_may_shorten_the_expiry_but_not_begin_one() {
    let connect = Connect::v5("ses-short").durable();
    let mut client = Client::connect(shared(), &connect);
    client.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
    assert_eq!(client.try_read(), None);
    assert!(!Client::resume(shared(), &connect).1);
    let mut client = Client::v5(shared(), "ses-begin");
    client.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9]);
    client.expect_close(0x82);
}

/// A request to end the old connection must not reach the new one.
#[test]
fn who_reconnects_while_the_old_connection_ends_stays() {
    let connect = Connect::v5("race").durable();
    let broker = crate::broker::Broker::start("durability = \"memory\"");
    let mut old = Client::connect(broker.port, &connect);
    for n in 0..2000 {
        old.subscribe(&format!("$share/g{n}/race"), 0);
    }
    for _ in 0..60 {
        let mut new = Client::open(broker.port, true);
        old.send(&[0xE0, 0]);
        new.send(&connect.bytes());
        let connack = new.read();
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
        assert!(new.try_ping(), "thrown out");
        old = new;
    }
}

/// [MQTT-3.3.4-10]: the window is one of PUBLISH packets.
#[test]
fn pubrel_does_not_wait_for_the_window() {
    let connect = Connect::v5("pubrel-window").durable();
    let mut client = Client::connect(shared(), &connect);
    client.subscribe("pw", 2);
    let mut sender = Client::v4(shared(), "pw-s");
    sender.publish(4, "pw", "1");
    sender.publish(4, "pw", "2");
    let (one, two) = (client.read_publish(), client.read_publish());
    let [high, low] = two.id.to_be_bytes();
    client.send(&[0x50, 2, high, low]);
    client.expect(&[0x62, 2, high, low]);
    client.vanish();
    let mut client = Client::connect(shared(), &connect.with(&[0x21, 0, 1]));
    assert_eq!(client.read_publish().id, one.id);
    client.expect(&[0x62, 2, high, low]);
}

/// Who says something, goes and comes again at once has said it.
#[test]
fn what_was_said_before_a_takeover_is_heard() {
    let port = shared();
    let mut watcher = Client::v4(port, "said-watcher");
    watcher.subscribe("said", 0);
    let mut speaker = Client::v4(port, "said-speaker");
    for number in 0..100 {
        let said = number.to_string();
        speaker.send(&speaker.publish_bytes(0, "said", 0, &[], &said));
        speaker = Client::v4(port, "said-speaker");
        assert_eq!(watcher.receive().text(), said);
    }
}
