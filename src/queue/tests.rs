//! What a queue promises.

use super::*;
use crate::clock::Moment;
use crate::codec::property::Properties;
use crate::message::Parts;

fn delivery(qos: QoS, payload: &str) -> Delivery {
    let message = Message::new(
        0,
        &Parts {
            topic: "t",
            qos,
            retain: false,
            expires_at: Moment::NEVER,
            properties: Properties::EMPTY,
            payload: payload.as_bytes(),
        },
    );
    let subscription_ids = None;
    Delivery { message, subscription_ids, source: 0, sequence: 0, qos, retain: false, dup: false }
}

const NOW: Moment = Moment::from_unix_ms(1_000);

fn push(queue: &mut Queue, delivery: Delivery, limits: &Limits) -> Vec<String> {
    let mut dropped = Dropped::new();
    queue.push(delivery, limits, NOW, &mut dropped);
    dropped.iter().map(|(delivery, _)| text(delivery).to_owned()).collect()
}

fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(delivery.message.payload()).unwrap()
}

fn taken(queue: &mut Queue, window_open: bool) -> Vec<String> {
    std::iter::from_fn(|| queue.take(window_open)).map(|d| text(&d).to_owned()).collect()
}

#[test]
fn deliveries_of_all_qos_leave_in_order_of_arrival() {
    let mut queue = Queue::default();
    for (qos, payload) in [
        (QoS::AtMostOnce, "a"),
        (QoS::AtLeastOnce, "b"),
        (QoS::AtMostOnce, "c"),
        (QoS::ExactlyOnce, "d"),
    ] {
        assert!(push(&mut queue, delivery(qos, payload), &Limits::default()).is_empty());
    }
    assert_eq!(taken(&mut queue, true), ["a", "b", "c", "d"]);
}

#[test]
fn qos_0_passes_what_waits_for_the_window() {
    let mut queue = Queue::default();
    push(&mut queue, delivery(QoS::AtLeastOnce, "a"), &Limits::default());
    push(&mut queue, delivery(QoS::AtMostOnce, "b"), &Limits::default());
    assert_eq!(taken(&mut queue, false), ["b"]);
    assert!(!queue.has_ready(false));
    assert_eq!(taken(&mut queue, true), ["a"]);
}

#[test]
fn what_is_given_back_comes_first_and_in_order() {
    let mut queue = Queue::default();
    for payload in ["a", "b", "c"] {
        push(&mut queue, delivery(QoS::AtLeastOnce, payload), &Limits::default());
    }
    let first: Vec<Delivery> = (0..2).filter_map(|_| queue.take(true)).collect();
    queue.give_back(first.into_iter());
    let again = queue.take(true).unwrap();
    assert_eq!(text(&again), "a");
    assert_eq!(taken(&mut queue, true), ["b", "c"]);
}

#[test]
fn a_full_queue_drops_the_newest_or_the_oldest_as_told() {
    for (overflow, dropped, left) in
        [(Overflow::DropNewest, "c", ["a", "b"]), (Overflow::DropOldest, "a", ["b", "c"])]
    {
        let limits = Limits { messages_max: 2, overflow, ..Limits::default() };
        let mut queue = Queue::default();
        assert!(push(&mut queue, delivery(QoS::AtLeastOnce, "a"), &limits).is_empty());
        assert!(push(&mut queue, delivery(QoS::AtLeastOnce, "b"), &limits).is_empty());
        let gone = push(&mut queue, delivery(QoS::AtLeastOnce, "c"), &limits);
        assert_eq!(gone, [dropped]);
        assert_eq!(taken(&mut queue, true), left);
    }
}

#[test]
fn bytes_are_bounded_too() {
    let weight = delivery(QoS::AtLeastOnce, "a").message.weight();
    let limits = Limits { bytes_max: 2 * weight, ..Limits::default() };
    let mut queue = Queue::default();
    let pushed =
        (0..3).filter(|_| push(&mut queue, delivery(QoS::AtLeastOnce, "a"), &limits).is_empty());
    assert_eq!(pushed.count(), 2);
}

#[test]
fn the_oldest_go_until_a_large_one_fits() {
    let large = delivery(QoS::AtLeastOnce, &"x".repeat(100));
    let bytes_max = large.message.weight() + 10;
    let limits = Limits { bytes_max, overflow: Overflow::DropOldest, ..Limits::default() };
    let mut queue = Queue::default();
    for payload in ["a", "b"] {
        assert!(push(&mut queue, delivery(QoS::AtLeastOnce, payload), &limits).is_empty());
    }
    assert_eq!(push(&mut queue, large, &limits), ["a", "b"]);
    assert!(queue.bytes() <= bytes_max);
}

#[test]
fn what_has_expired_makes_room_first() {
    let limits = Limits { messages_max: 2, ..Limits::default() };
    let mut queue = Queue::default();
    let mut expiring = delivery(QoS::AtLeastOnce, "a");
    expiring.message = expiring.message.expiring_at(NOW);
    assert!(push(&mut queue, delivery(QoS::AtLeastOnce, "b"), &limits).is_empty());
    assert!(push(&mut queue, expiring, &limits).is_empty());
    assert_eq!(push(&mut queue, delivery(QoS::AtLeastOnce, "c"), &limits), ["a"]);
    assert_eq!(taken(&mut queue, true), ["b", "c"]);
}
