//! What was acknowledged survives SIGKILL.

use crate::broker::Broker;
use crate::raw::{Client, Connect, Received};

#[test]
fn acknowledged_messages_reach_an_offline_session_after_a_kill() {
    let mut broker = Broker::start("");
    let connect = Connect::v4("away").durable();
    let mut client = Client::connect(broker.port, &connect);
    client.subscribe("d/#", 2);
    client.disconnect();
    let mut sender = Client::v4(broker.port, "sender");
    for n in 0..200 {
        sender.publish(if n % 2 == 0 { 2 } else { 4 }, "d/t", n.to_string());
    }
    broker.kill_and_restart();
    let (mut client, present) = Client::resume(broker.port, &connect);
    assert!(present);
    for n in 0..200 {
        let received = client.receive();
        assert_eq!((received.text(), received.qos()), (&*n.to_string(), 1 + n % 2));
    }
    client.expect_nothing();
    client.disconnect();
    broker.kill_and_restart();
    let mut client = Client::connect(broker.port, &connect);
    for received in std::iter::from_fn(|| {
        client.send(&[0xC0, 0]);
        let packet = client.read();
        (packet[0] != 0xD0).then_some(packet)
    }) {
        assert_eq!(received[0] & 6, 2, "QoS 2 came twice: {received:02x?}");
    }
}

#[test]
fn an_outgoing_qos_2_exchange_goes_on_where_the_kill_cut_it() {
    let mut broker = Broker::start("");
    let connect = Connect::v4("exact").durable();
    let mut client = Client::connect(broker.port, &connect);
    client.subscribe("d", 2);
    let mut sender = Client::v4(broker.port, "sender");
    sender.publish(4, "d", "one");
    sender.publish(4, "d", "two");
    let one = client.read_publish();
    let two = client.read_publish();
    let [high, low] = one.id.to_be_bytes();
    client.send(&[0x50, 2, high, low]);
    client.expect(&[0x62, 2, high, low]);
    broker.kill_and_restart();
    let mut client = Client::connect(broker.port, &connect);
    let mut again = vec![client.read(), client.read()];
    again.sort();
    assert_eq!(again[1], [0x62, 2, high, low], "the released identifier");
    assert_eq!(again[0][0], 0x3C, "the other PUBLISH, with DUP: {again:02x?}");
    let id = two.id.to_be_bytes();
    assert_eq!(again[0][5..7], id, "with its identifier");
    client.send(&[0x70, 2, high, low]);
    client.send(&[0x50, 2, id[0], id[1]]);
    client.expect(&[0x62, 2, id[0], id[1]]);
    client.send(&[0x70, 2, id[0], id[1]]);
    client.expect_nothing();
}

#[test]
fn an_incoming_qos_2_identifier_survives_a_kill() {
    let mut broker = Broker::start("");
    let mut receiver = Client::connect(broker.port, &Connect::v4("r").durable());
    receiver.subscribe("d", 1);
    receiver.disconnect();
    let connect = Connect::v4("exact").durable();
    let mut client = Client::connect(broker.port, &connect);
    let publish = client.publish_bytes(4, "d", 7, &[], "x");
    client.send(&publish);
    client.expect(&[0x50, 2, 0, 7]);
    broker.kill_and_restart();
    let mut client = Client::connect(broker.port, &connect);
    let again = client.publish_bytes(0b1100, "d", 7, &[], "x");
    client.send(&again);
    client.expect(&[0x50, 2, 0, 7]);
    client.send(&[0x62, 2, 0, 7]);
    client.expect(&[0x70, 2, 0, 7]);
    broker.kill_and_restart();
    let mut client = Client::connect(broker.port, &connect);
    let fresh = client.publish_bytes(4, "d", 7, &[], "y");
    client.send(&fresh);
    client.expect(&[0x50, 2, 0, 7]);
    let mut receiver = Client::connect(broker.port, &Connect::v4("r").durable());
    assert_eq!(receiver.receive().text(), "x");
    assert_eq!(receiver.receive().text(), "y", "a released identifier is a new message");
    receiver.expect_nothing();
}

#[test]
fn retained_messages_and_subscriptions_survive_a_kill() {
    let mut broker = Broker::start("");
    let connect = Connect::v5("sub").durable();
    let mut client = Client::connect(broker.port, &connect);
    client.subscribe_with(&[0x0B, 9], "d/+", 1);
    client.subscribe("gone", 1);
    client.unsubscribe("gone");
    client.publish(3, "keep/1", "one");
    client.publish(3, "keep/2", "two");
    client.publish(3, "keep/1", "");
    client.disconnect();
    broker.kill_and_restart();
    let (mut client, present) = Client::resume(broker.port, &connect);
    assert!(present);
    client.publish(2, "gone", "x");
    let publish = client.publish_bytes(0, "d/x", 0, &[], "x");
    client.send(&publish);
    let received = client.receive();
    assert_eq!((&*received.topic, &received.properties[..]), ("d/x", &[0x0B, 9][..]));
    client.subscribe("keep/#", 1);
    assert_eq!(client.receive().topic, "keep/2");
    client.expect_nothing();
}

#[test]
fn a_will_survives_a_kill() {
    let mut broker = Broker::start("");
    let connect = Connect::v5("w").durable().will(0x28, &[0x18, 0, 0, 0, 1], "w", "gone");
    let _client = Client::connect(broker.port, &connect);
    broker.kill_and_restart();
    let mut watcher = Client::v4(broker.port, "watcher");
    watcher.subscribe("w", 1);
    assert_eq!(watcher.receive().text(), "gone");
}

#[test]
fn a_share_group_survives_a_kill_with_its_queue() {
    let mut broker = Broker::start("");
    let connect = Connect::v4("m").durable();
    let mut member = Client::connect(broker.port, &connect);
    member.subscribe("$share/g/d", 2);
    let mut sender = Client::v4(broker.port, "sender");
    for n in 0..3 {
        sender.publish(2, "d", n.to_string());
    }
    sender.publish(4, "d", "exact");
    assert_eq!(member.receive().text(), "0");
    for _ in 0..3 {
        member.read_publish();
    }
    broker.kill_and_restart();
    let mut other = Client::v4(broker.port, "other");
    other.subscribe("$share/g/d", 1);
    Client::v4(broker.port, "fence").publish(2, "d", "fence");
    let texts = std::iter::from_fn(|| Some(other.receive()).filter(|r| r.text() != "fence"));
    let texts: Vec<_> = texts.map(|received| received.text().to_owned()).collect();
    // The first may come again: nothing waits for the disk when a message is finished.
    let texts: Vec<_> = texts.iter().filter(|text| *text != "0").collect();
    assert_eq!(texts, ["1", "2"], "QoS 2 in flight stays with its Client");
    let mut member = Client::connect(broker.port, &connect);
    assert_eq!(member.receive().text(), "exact");
}

/// QoS 1 and 2 of one publisher keep their order, although only QoS 2 is noted when it is sent.
#[test]
fn what_was_sent_before_a_kill_comes_again_in_order_whatever_its_qos() {
    let mut broker = Broker::start("");
    let connect = Connect::v4("order").durable();
    let mut client = Client::connect(broker.port, &connect);
    client.subscribe("d", 2);
    let mut sender = Client::v4(broker.port, "sender");
    for (n, flags) in [2, 4, 2, 2, 4, 2].into_iter().enumerate() {
        sender.publish(flags, "d", n.to_string());
    }
    let sent: Vec<_> = (0..6).map(|_| client.read_publish()).collect();
    let exact = |publishes: &[Received]| (publishes[1].id, publishes[4].id);
    for _ in 0..2 {
        broker.kill_and_restart();
        let mut client = Client::connect(broker.port, &connect);
        let again: Vec<_> = (0..6).map(|_| client.read_publish()).collect();
        let texts: Vec<_> = again.iter().map(Received::text).collect();
        assert_eq!(texts, ["0", "1", "2", "3", "4", "5"]);
        assert!(again.iter().all(|publish| publish.flags & 8 != 0), "{again:?}");
        assert_eq!(exact(&again), exact(&sent));
        let ids: std::collections::BTreeSet<_> = again.iter().map(|publish| publish.id).collect();
        assert_eq!(ids.len(), 6);
    }
    let mut client = Client::connect(broker.port, &connect);
    for n in 0..6 {
        assert_eq!(client.receive().text(), n.to_string());
    }
    client.disconnect();
    let mut client = Client::connect(broker.port, &connect);
    client.expect_nothing();
}

/// A member's own RETAIN and Subscription Identifier, which its group's queue has not
/// [MQTT-3.3.1-12], [MQTT-3.3.4-3].
#[test]
fn an_exchange_of_a_share_group_goes_on_as_it_was_after_a_kill() {
    let mut broker = Broker::start("");
    let connect = Connect::v5("m").durable();
    let mut member = Client::connect(broker.port, &connect);
    member.subscribe_with(&[0x0B, 7], "$share/g/d", 2);
    member.subscribe_with(&[0x0B, 8], "$share/as-published/d", 2 | 8);
    Client::v4(broker.port, "sender").publish(5, "d", "exact");
    let ids = |client: &mut Client| {
        let publish = client.read_publish();
        (publish.flags & 7, publish.id, publish.properties)
    };
    let mut before = [ids(&mut member), ids(&mut member)];
    before.sort();
    assert_eq!((before[0].0, before[1].0), (4, 5));
    broker.kill_and_restart();
    let mut member = Client::connect(broker.port, &connect);
    let mut after = [ids(&mut member), ids(&mut member)];
    after.sort();
    assert_eq!(after, before);
}

#[test]
fn sigterm_tells_clients_and_keeps_everything() {
    let broker = Broker::start("");
    let mut client = Client::v5(broker.port, "x");
    client.subscribe("t", 1);
    broker.terminate();
    client.expect_close(0x8B);
    let (status, log) = broker.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
}

#[test]
fn in_memory_nothing_is_kept() {
    let mut broker = Broker::start("durability = \"memory\"");
    let connect = Connect::v4("x").durable();
    Client::connect(broker.port, &connect).disconnect();
    assert!(Client::resume(broker.port, &connect).1);
    broker.kill_and_restart();
    assert!(!Client::resume(broker.port, &connect).1);
}

/// [MQTT-4.4.0-1, MQTT-3.3.1-1]: a stop is not an excuse for new identifiers.
#[test]
fn a_stopped_broker_goes_on_with_the_same_identifiers() {
    let mut broker = Broker::start("");
    let connect = Connect::v4("stopped").durable();
    let mut client = Client::connect(broker.port, &connect);
    client.subscribe("st", 1);
    let mut sender = Client::v4(broker.port, "sender");
    for n in 0..3 {
        sender.publish(2, "st", n.to_string());
    }
    let sent: Vec<_> = (0..3).map(|_| client.read_publish()).collect();
    let [high, low] = sent[0].id.to_be_bytes();
    client.send(&[0x40, 2, high, low]);
    assert!(client.try_ping());
    broker.stop_and_restart();
    let mut client = Client::connect(broker.port, &connect);
    for before in &sent[1..] {
        let again = client.receive();
        assert_eq!((again.text(), again.id, again.dup()), (before.text(), before.id, true));
    }
    client.expect_nothing();
    client.vanish();
    broker.stop_and_restart();
    Client::connect(broker.port, &connect).expect_nothing();
}

/// [MQTT-3.3.1-1]: who was connected may have been sent it.
#[test]
fn after_a_kill_what_may_have_been_sent_carries_dup() {
    let mut broker = Broker::start("");
    let connect = Connect::v4("killed").durable();
    let mut client = Client::connect(broker.port, &connect);
    client.subscribe("k", 1);
    Client::v4(broker.port, "sender").publish(2, "k", "x");
    client.read_publish();
    broker.kill_and_restart();
    assert!(Client::connect(broker.port, &connect).receive().dup());
}

/// Far more than a queue keeps at hand: the rest is read from the store, before and after a kill.
#[test]
fn a_long_queue_is_delivered_whole_and_in_order() {
    let mut broker = Broker::start("");
    let connect = Connect::v4("long").durable();
    let mut client = Client::connect(broker.port, &connect);
    client.subscribe("long/#", 1);
    client.disconnect();
    let mut sender = Client::v4(broker.port, "long-s");
    let publish = |sender: &mut Client, n: u32| {
        let bytes = sender.publish_bytes(2, "long/t", 9, &[], format!("{n} {}", "x".repeat(500)));
        sender.send(&bytes);
        sender.expect(&[0x40, 2, 0, 9]);
    };
    for n in 0..3_000 {
        publish(&mut sender, n);
    }
    let mut client = Client::connect(broker.port, &connect);
    let number = |received: &str| received.split(' ').next().unwrap().parse::<u32>().unwrap();
    for n in 0..1_000 {
        assert_eq!(number(client.receive().text()), n);
    }
    for n in 3_000..3_100 {
        publish(&mut sender, n);
    }
    broker.kill_and_restart();
    let mut client = Client::connect(broker.port, &connect);
    // Acknowledgements of the last moments may not have been on the disk.
    let mut next = number(client.receive().text());
    assert!(next <= 1_000);
    while next < 3_099 {
        next += 1;
        assert_eq!(number(client.receive().text()), next);
    }
    client.expect_nothing();
}

#[test]
fn a_long_queue_of_a_share_group_is_delivered_whole() {
    let mut broker = Broker::start("");
    let connect = Connect::v4("longs").durable();
    let mut client = Client::connect(broker.port, &connect);
    client.subscribe("$share/g/longs", 1);
    client.disconnect();
    let mut sender = Client::v4(broker.port, "longs-s");
    for n in 0..2_000 {
        sender.publish(2, "longs", n.to_string());
    }
    broker.kill_and_restart();
    let mut client = Client::connect(broker.port, &connect);
    for n in 0..2_000 {
        assert_eq!(client.receive().text(), n.to_string());
    }
    client.expect_nothing();
}

#[test]
fn clients_of_a_listener_in_memory_leave_nothing_behind() {
    let port = crate::broker::free_port();
    let settings = format!(
        "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\ndurability = \"memory\"\n"
    );
    let mut broker = Broker::start_with("", &settings);
    let connect = Connect::v4("forgotten").durable();
    let mut client = Client::connect(port, &connect);
    client.subscribe("#", 1);
    client.disconnect();
    let stored = Connect::v4("stored").durable();
    Client::connect(broker.port, &stored).subscribe("#", 1);
    let mut sender = Client::v4(port, "memory-s");
    sender.publish(2, "m", "x");
    let (mut client, present) = Client::resume(port, &connect);
    assert!(present, "it waits as long as the broker lives");
    assert_eq!(client.receive().text(), "x");
    sender.publish(2, "m", "y");
    Client::v4(broker.port, "barrier").publish(3, "barrier", "x");
    broker.kill_and_restart();
    assert!(!Client::resume(port, &connect).1);
    let (mut client, present) = Client::resume(broker.port, &stored);
    assert!(present);
    assert_eq!(client.receive().text(), "x");
}

/// [MQTT-4.4.0-1, MQTT-4.6.0-1, MQTT-3.3.1-1]: also when the Client had gone before the kill, and
/// when identifiers had been used before, so that their order is not that of sending.
#[test]
fn what_a_lost_connection_left_behind_is_sent_again_as_it_was_after_a_kill() {
    let mut broker = Broker::start("");
    let connect = Connect::v4("left").durable();
    let mut client = Client::connect(broker.port, &connect);
    client.subscribe("l", 1);
    let mut sender = Client::v4(broker.port, "sender");
    for n in 0..3 {
        sender.publish(2, "l", n.to_string());
    }
    let mut sent: Vec<_> = (0..3).map(|_| client.read_publish()).collect();
    for acknowledged in sent.drain(..2) {
        let [high, low] = acknowledged.id.to_be_bytes();
        client.send(&[0x40, 2, high, low]);
    }
    assert!(client.try_ping());
    for n in 3..5 {
        sender.publish(2, "l", n.to_string());
        sent.push(client.read_publish());
    }
    assert!(sent[1].id < sent[0].id, "an identifier is used again");
    client.vanish();
    sender.publish(2, "l", "new");
    broker.kill_and_restart();
    let mut client = Client::connect(broker.port, &connect);
    for before in &sent {
        let again = client.receive();
        assert_eq!((again.text(), again.id, again.dup()), (before.text(), before.id, true));
    }
    let new = client.receive();
    assert_eq!((new.text(), new.dup()), ("new", false));
    client.expect_nothing();
    client.vanish();
    broker.stop_and_restart();
    Client::connect(broker.port, &connect).expect_nothing();
}

/// [MQTT-3.3.1-1]: DUP is not forgotten by a connection on which a message had no room.
#[test]
fn what_was_sent_before_two_kills_carries_dup_and_what_was_not_does_not() {
    let mut broker = Broker::start("");
    let connect = Connect::v5("twice").durable();
    let mut client = Client::connect(broker.port, &connect);
    client.subscribe("tw", 1);
    let mut sender = Client::v4(broker.port, "sender");
    for n in 0..3 {
        sender.publish(2, "tw", n.to_string());
        client.read_publish();
    }
    broker.kill_and_restart();
    let mut narrow = Client::connect(broker.port, &connect.clone().with(&[0x21, 0, 1]));
    assert!(narrow.read_publish().dup());
    narrow.vanish();
    Client::v4(broker.port, "sender").publish(2, "tw", "3");
    broker.kill_and_restart();
    let mut client = Client::connect(broker.port, &connect);
    for (text, dup) in [("0", true), ("1", true), ("2", true), ("3", false)] {
        let received = client.receive();
        assert_eq!((received.text(), received.dup()), (text, dup));
    }
    client.expect_nothing();
}
