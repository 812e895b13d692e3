//! Who publishes too fast is slowed down and loses nothing.

use std::time::{Duration, Instant};

use super::logged;
use crate::broker::{Broker, free_port};
use crate::raw::{Client, Connect, Received};

/// A broker with a limit, and the port of a listener without one.
fn with_free_listener(limit: &str) -> (Broker, u16) {
    let free = free_port();
    let listener =
        format!("[[listener]]\nport = {free}\nbind_address = \"127.0.0.1\"\nmax_byte_rate = 0\n");
    (Broker::start_with(limit, &listener), free)
}

/// Sends so many messages at once.
fn burst(client: &mut Client, flags: u8, topic: &str, count: u16) {
    let bytes: Vec<_> = (1..=count)
        .flat_map(|n| client.publish_bytes(flags, topic, n, &[], n.to_string()))
        .collect();
    client.send(&bytes);
}

fn expect_all(receiver: &mut Client, topic: &str, count: u16) {
    for n in 1..=count {
        let received = receiver.receive();
        assert_eq!((&*received.topic, received.text()), (topic, &*n.to_string()));
    }
}

/// 80 at 20 in a second, of which 20 may come at once, take 3 seconds at least.
#[test]
fn more_messages_than_a_client_may_publish_come_later_and_all_of_them() {
    let broker = Broker::start("max_message_rate = 20");
    let mut receiver = Client::v5(broker.port, "receiver");
    for (connect, flags) in [(Connect::v4("four"), 0), (Connect::v5("five"), 2)] {
        let topic = format!("pace/{}", connect.id);
        receiver.subscribe(&topic, 1);
        let mut sender = Client::connect(broker.port, &connect);
        let begin = Instant::now();
        burst(&mut sender, flags, &topic, 80);
        expect_all(&mut receiver, &topic, 80);
        assert!(begin.elapsed() >= Duration::from_secs(3), "{:?}", begin.elapsed());
        for n in 1..=80 {
            if flags == 2 {
                assert_eq!(sender.answer()[2..4], [0, n]);
            }
        }
        let line = format!("slowed down: above `max_message_rate` client={:?}", connect.id);
        logged(&broker, &line, 1);
        assert!(sender.try_ping());
    }
    assert_eq!(broker.log().matches("slowed down").count(), 2, "once for each Client");
}

/// Its Keep Alive is 1 s, and its message takes 4 s at least.
#[test]
fn who_is_slowed_down_is_written_to_and_not_taken_for_silent() {
    let (broker, free) = with_free_listener("max_byte_rate = 300");
    let mut observer = Client::v4(free, "observer");
    observer.subscribe("slow/#", 0);
    for connect in [Connect::v4("s4"), Connect::v5("s5")] {
        let (topic, back) = (format!("slow/{}", connect.id), format!("back/{}", connect.id));
        let mut slow = Client::connect(broker.port, &connect.keep_alive(1));
        slow.subscribe(&back, 0);
        slow.publish(0, &topic, "x".repeat(1500));
        observer.publish(2, &back, "meanwhile");
        assert_eq!(slow.receive().text(), "meanwhile");
        observer.publish(2, "slow/not-yet", "");
        assert_eq!(observer.receive().topic, "slow/not-yet");
        assert_eq!(observer.receive().topic, topic);
        assert!(slow.try_ping());
    }
    assert!(!broker.log().contains("keep alive timeout"), "{}", broker.log());
}

/// What was sent before the end of the connection is read before it.
#[test]
fn who_leaves_while_it_is_slowed_down_has_published_all() {
    let broker = Broker::start("max_message_rate = 10");
    let mut receiver = Client::v4(broker.port, "receiver");
    receiver.subscribe("left", 0);
    let mut sender = Client::v5(broker.port, "sender");
    burst(&mut sender, 0, "left", 30);
    sender.send(&[0xE0, 0]);
    drop(sender);
    expect_all(&mut receiver, "left", 30);
}

/// 64 KiB at once, and then 64 KiB in a second.
#[test]
fn more_bytes_than_a_client_may_send_come_later_and_all_of_them() {
    let (broker, free) = with_free_listener("max_byte_rate = \"64 KiB\"");
    let mut receiver = Client::v4(free, "receiver");
    receiver.subscribe("bytes/#", 0);
    // In one packet, and in many.
    for (connect, len, count) in
        [(Connect::v5("large"), 200_000, 1), (Connect::v4("small"), 2000, 100)]
    {
        let topic = format!("bytes/{}", connect.id);
        let mut sender = Client::connect(broker.port, &connect);
        let payload = "x".repeat(len);
        let begin = Instant::now();
        for _ in 0..count {
            sender.publish(0, &topic, &payload);
        }
        for _ in 0..count {
            assert_eq!(receiver.receive().text(), payload);
        }
        assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
        logged(&broker, &format!("above `max_byte_rate` client={:?}", connect.id), 1);
    }
    // Nobody waits where there is no limit.
    let mut sender = Client::v5(free, "free");
    sender.publish(0, "bytes/free", vec![b'x'; 5_000_000]);
    assert_eq!(receiver.receive().payload.len(), 5_000_000);
    assert_eq!(broker.log().matches("slowed down").count(), 2);
}

/// One message in a second: all that is behind the second one waits, but not for an answer to PINGREQ.
#[test]
fn a_ping_does_not_wait_behind_messages_that_do() {
    let broker = Broker::start("max_message_rate = 1");
    for connect in [Connect::v4("ping4"), Connect::v5("ping5")] {
        let mut client = Client::connect(broker.port, &connect);
        let publish = |n| client.publish_bytes(2, "t", n, &[], "x".repeat(2000));
        let ping = vec![0xC0, 0];
        let first = [publish(1), publish(2), ping.clone(), publish(3), ping.clone()].concat();
        client.send(&first);
        let acknowledged = |client: &mut Client, n| assert_eq!(client.answer()[..4][2..], [0, n]);
        acknowledged(&mut client, 1);
        client.expect(&[0xD0, 0]);
        client.expect(&[0xD0, 0]);
        // Also those that come while it waits, in pieces.
        client.send(&ping[..1]);
        client.send(&ping[1..]);
        client.expect(&[0xD0, 0]);
        acknowledged(&mut client, 2);
        acknowledged(&mut client, 3);
        client.send(&ping);
        client.expect(&[0xD0, 0]);
        client.expect_nothing();
    }
}

/// Who leaves is heard to the end, also what was kept of it meanwhile.
#[test]
fn what_is_kept_behind_a_message_is_handled_in_its_turn() {
    let (broker, free) = with_free_listener("max_message_rate = 2");
    let mut observer = Client::v4(free, "observer");
    observer.subscribe("kept/#", 0);
    let mut client = Client::v5(broker.port, "leaves");
    burst(&mut client, 0, "kept/a", 4);
    for n in 5..=6_u16 {
        client.send(&[0xC0, 0]);
        client.expect(&[0xD0, 0]);
        let publish = client.publish_bytes(0, "kept/a", n, &[], n.to_string());
        client.send(&publish);
    }
    client.disconnect();
    expect_all(&mut observer, "kept/a", 6);
    observer.expect_nothing();
}

/// Nor do acknowledgements: who is slowed down as a publisher is not as a receiver.
#[test]
fn a_publisher_that_is_slowed_down_receives_as_fast_as_others() {
    let (broker, free) = with_free_listener("max_message_rate = 1");
    let mut other = Client::v5(free, "other");
    let window = [0x21, 0, 2]; // Receive Maximum
    let mut client = Client::connect(broker.port, &Connect::v5("slow").with(&window));
    assert_eq!(client.subscribe("back", 1), 1);
    burst(&mut client, 2, "t", 30);
    for n in 0..20 {
        other.publish(2, "back", n.to_string());
    }
    let (mut acknowledged, mut received) = (0, 0);
    while received < 20 {
        let packet = client.read();
        if packet[0] == 0x40 {
            acknowledged += 1;
            continue;
        }
        let publish = Received::new(&packet, true);
        assert_eq!(publish.text(), received.to_string());
        let [high, low] = publish.id.to_be_bytes();
        client.send(&[0x40, 2, high, low]);
        received += 1;
    }
    assert!(acknowledged < 30, "it would have waited for all");
}
