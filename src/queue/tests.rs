//! What a queue promises.

use super::*;
use crate::clock::Moment;
use crate::codec::property::Properties;
use crate::message::{Message, Parts};

fn delivery(qos: QoS, payload: &str) -> Delivery {
    stored_delivery(0, qos, payload)
}

fn stored_delivery(id: u64, qos: QoS, payload: &str) -> Delivery {
    Delivery::new(message_with(id, qos, "t", payload))
}

/// A message of this identity and topic.
pub(super) fn message(id: u64, qos: QoS, topic: &str) -> Message {
    message_with(id, qos, topic, "payload")
}

fn message_with(id: u64, qos: QoS, topic: &str, payload: &str) -> Message {
    let parts = Parts {
        topic,
        qos,
        retain: false,
        expires_at: Moment::NEVER,
        properties: Properties::EMPTY,
        payload: payload.as_bytes(),
    };
    Message::new(id, &parts)
}

const NOW: Moment = Moment::from_unix_ms(1_000);

/// Pushes; how many were dropped.
fn push(queue: &mut Queue, delivery: Delivery, limits: &Limits) -> usize {
    let mut dropped = Dropped::new();
    queue.push(delivery, limits, NOW, &mut dropped);
    dropped.len()
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
        assert!(push(&mut queue, delivery(qos, payload), &Limits::default()) == 0);
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
fn all_is_taken_as_one_only_where_all_would_be_taken_one_by_one() {
    let filled = |qos: &[QoS]| {
        let mut queue = Queue::default();
        for qos in qos {
            push(&mut queue, delivery(*qos, "a"), &Limits::default());
        }
        queue
    };
    let many = |qos| vec![qos; WHOLE_LEAST];
    let takes = |mut queue: Queue, window, bytes| {
        let (len, mut all) = (queue.len(), VecDeque::new());
        let takes = queue.take_all(window, bytes, usize::MAX, &mut all);
        let left = if takes { (0, 0, 0) } else { (len, queue.bytes(), queue.at_hand()) };
        assert_eq!((queue.len(), queue.bytes(), queue.at_hand()), left);
        assert_eq!(all.len() + queue.len(), len);
        takes
    };
    let weight = filled(&many(QoS::AtMostOnce)).bytes();
    assert!(takes(filled(&many(QoS::AtMostOnce)), 0, weight));
    assert!(!takes(filled(&many(QoS::AtMostOnce)), 0, weight - 1));
    assert!(takes(filled(&many(QoS::AtLeastOnce)), WHOLE_LEAST, weight));
    assert!(!takes(filled(&many(QoS::AtLeastOnce)), WHOLE_LEAST - 1, weight));
    let mixed = [many(QoS::AtMostOnce), vec![QoS::AtLeastOnce]].concat();
    assert!(!takes(filled(&mixed), WHOLE_LEAST, usize::MAX));
    let mut with_backlog = filled(&many(QoS::AtLeastOnce));
    with_backlog.store_from(1);
    let none_at_hand = Limits { at_hand_max: 0, ..Limits::default() };
    push(&mut with_backlog, stored_delivery(1, QoS::AtLeastOnce, "b"), &none_at_hand);
    assert!(!takes(with_backlog, usize::MAX, usize::MAX));
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
    for (overflow, left) in [(Overflow::DropNewest, ["a", "b"]), (Overflow::DropOldest, ["b", "c"])]
    {
        let limits = Limits { messages_max: 2, overflow, ..Limits::default() };
        let mut queue = Queue::default();
        assert!(push(&mut queue, delivery(QoS::AtLeastOnce, "a"), &limits) == 0);
        assert!(push(&mut queue, delivery(QoS::AtLeastOnce, "b"), &limits) == 0);
        assert_eq!(push(&mut queue, delivery(QoS::AtLeastOnce, "c"), &limits), 1);
        assert_eq!(taken(&mut queue, true), left);
    }
}

#[test]
fn bytes_are_bounded_too() {
    let weight = delivery(QoS::AtLeastOnce, "a").message.weight();
    let limits = Limits { bytes_max: 2 * weight, ..Limits::default() };
    let mut queue = Queue::default();
    let pushed = (0..3).filter(|_| push(&mut queue, delivery(QoS::AtLeastOnce, "a"), &limits) == 0);
    assert_eq!(pushed.count(), 2);
}

#[test]
fn the_oldest_go_until_a_large_one_fits() {
    let large = delivery(QoS::AtLeastOnce, &"x".repeat(100));
    let bytes_max = large.message.weight() + 10;
    let limits = Limits { bytes_max, overflow: Overflow::DropOldest, ..Limits::default() };
    let mut queue = Queue::default();
    for payload in ["a", "b"] {
        assert!(push(&mut queue, delivery(QoS::AtLeastOnce, payload), &limits) == 0);
    }
    assert_eq!(push(&mut queue, large, &limits), 2);
    assert!(queue.bytes() <= bytes_max);
}

#[test]
fn what_has_expired_makes_room_first() {
    let limits = Limits { messages_max: 2, ..Limits::default() };
    let mut queue = Queue::default();
    let mut expiring = delivery(QoS::AtLeastOnce, "a");
    expiring.message = expiring.message.expiring_at(NOW);
    assert!(push(&mut queue, delivery(QoS::AtLeastOnce, "b"), &limits) == 0);
    assert!(push(&mut queue, expiring, &limits) == 0);
    assert_eq!(push(&mut queue, delivery(QoS::AtLeastOnce, "c"), &limits), 1);
    assert_eq!(taken(&mut queue, true), ["b", "c"]);
}

/// At most one small message at hand.
const TIGHT: Limits = Limits { at_hand_max: 60, ..Limits::NONE };

/// The page that the queue wants, as a store would read it.
fn page(queue: &mut Queue) -> Vec<Fetched> {
    let fetched = |id: u64| {
        let message = stored_delivery(id, QoS::AtLeastOnce, &id.to_string()).message;
        Fetched { id, found: Some((message, None)) }
    };
    queue.wanted(false).unwrap_or_default().into_iter().map(fetched).collect()
}

fn long_queue(count: u64) -> Queue {
    let mut queue = Queue::of_session(true);
    for id in 1..=count {
        let delivery = stored_delivery(id, QoS::AtLeastOnce, &id.to_string());
        assert!(push(&mut queue, delivery, &TIGHT) == 0);
    }
    queue
}

#[test]
fn a_long_queue_keeps_little_at_hand_and_leaves_in_order() {
    let mut queue = long_queue(1_000);
    assert!(queue.at_hand() <= 60 && queue.len() == 1_000);
    let mut seen = Vec::new();
    while !queue.is_empty() {
        seen.extend(taken(&mut queue, true));
        let page = page(&mut queue);
        assert!(queue.wanted(false).is_none(), "one page at a time");
        queue.page(page, &mut Dropped::new());
    }
    let expected: Vec<String> = (1..=1_000).map(|id| id.to_string()).collect();
    assert_eq!(seen, expected);
    assert_eq!((queue.bytes(), queue.at_hand()), (0, 0));
}

#[test]
fn pages_grow_for_a_receiver_that_is_faster_than_they_come() {
    let mut queue = long_queue(10_000);
    let mut ask = |is_late: bool, is_short: bool| {
        while queue.acknowledged.len() > usize::from(!is_late) {
            queue.take(true);
        }
        let wanted = queue.wanted(is_short).unwrap();
        let fetched = |&id: &u64| Fetched {
            id,
            found: Some((stored_delivery(id, QoS::AtLeastOnce, "x").message, None)),
        };
        queue.page(wanted.iter().map(fetched).collect(), &mut Dropped::new());
        wanted.len()
    };
    assert_eq!([ask(true, false), ask(true, false), ask(true, false)], [256, 512, 1024]);
    assert_eq!([ask(false, false), ask(false, false)], [2048, 2048], "in time");
    assert_eq!([ask(false, true), ask(false, false)], [256, 256], "short of memory");
    taken(&mut queue, true);
    let page = page(&mut queue);
    assert_eq!(page.len(), 256);
    queue.page(page, &mut Dropped::new());
    queue.leave_to_store();
    assert_eq!(queue.wanted(false).unwrap().len(), 256, "nobody was there meanwhile");
}

#[test]
fn large_messages_are_few_at_hand_however_long_the_pages() {
    const BYTES: usize = 64 << 10;
    let large = |id| stored_delivery(id, QoS::AtLeastOnce, &"y".repeat(BYTES));
    let mut queue = Queue::of_session(true);
    for id in 1..=1_000 {
        push(&mut queue, large(id), &Limits { at_hand_max: 0, ..Limits::NONE });
    }
    let read = |queue: &mut Queue, wanted: Vec<u64>| {
        let fetched = |id| Fetched { id, found: Some((large(id).message, None)) };
        queue.page(wanted.into_iter().map(fetched).collect(), &mut Dropped::new());
    };
    for _ in 0..6 {
        while queue.take(true).is_some() {}
        let wanted = queue.wanted(false).unwrap();
        read(&mut queue, wanted);
    }
    // From here on it is slow.
    while let Some(wanted) = queue.wanted(false) {
        read(&mut queue, wanted);
        queue.take(true);
    }
    assert!(queue.len() > 100 && queue.at_hand() < 8 << 20, "{}", queue.at_hand());
}

#[test]
fn only_what_the_store_keeps_for_the_queue_is_left_to_it() {
    let mut queue = Queue::of_session(true);
    let lent = Delivery { source: 9, ..stored_delivery(4, QoS::AtLeastOnce, "lent") };
    let unstored = stored_delivery(0, QoS::AtLeastOnce, "unstored");
    let qos_0 = stored_delivery(5, QoS::AtMostOnce, "qos 0");
    for delivery in [stored_delivery(1, QoS::AtLeastOnce, "1"), lent, unstored, qos_0] {
        push(&mut queue, delivery, &Limits { at_hand_max: 0, ..Limits::NONE });
    }
    assert_eq!(queue.wanted(false).unwrap(), [1]);
    let mut of_group = Queue::of_group(9);
    of_group.store_from(4);
    for id in [3, 4] {
        let delivery = Delivery { source: 9, ..stored_delivery(id, QoS::AtLeastOnce, "x") };
        push(&mut of_group, delivery, &Limits { at_hand_max: 0, ..Limits::NONE });
    }
    assert_eq!(of_group.wanted(false).unwrap(), [4], "3 came before the group was durable");
}

#[test]
fn what_was_dropped_while_its_page_was_read_does_not_come_back() {
    let mut queue = long_queue(5);
    taken(&mut queue, true);
    let page = page(&mut queue);
    let limits = Limits { messages_max: 4, overflow: Overflow::DropOldest, ..TIGHT };
    assert_eq!(push(&mut queue, stored_delivery(6, QoS::AtLeastOnce, "6"), &limits), 1);
    queue.page(page, &mut Dropped::new());
    assert_eq!(taken(&mut queue, true), ["3", "4", "5"]);
}

#[test]
fn what_the_store_has_lost_is_dropped_by_name() {
    let mut queue = long_queue(4);
    taken(&mut queue, true);
    let mut page = page(&mut queue);
    page[1].found = None;
    let mut dropped = Dropped::new();
    queue.page(page, &mut dropped);
    assert_eq!(taken(&mut queue, true), ["2", "4"]);
    let trace = Trace { message: 3, qos: QoS::AtLeastOnce, source: 0 };
    assert_eq!(dropped, [(trace, DropReason::Unreadable)]);
    assert_eq!((queue.len(), queue.bytes()), (0, 0));
}

#[test]
fn a_receiver_that_goes_leaves_its_messages_to_the_store_with_their_flags() {
    let mut queue = Queue::of_session(true);
    let seen = Delivery { dup: true, retain: true, ..stored_delivery(1, QoS::ExactlyOnce, "1") };
    push(&mut queue, seen, &Limits::NONE);
    push(&mut queue, stored_delivery(2, QoS::AtLeastOnce, "2"), &Limits::NONE);
    queue.leave_to_store();
    assert_eq!((queue.at_hand(), queue.len()), (0, 2));
    let page = page(&mut queue);
    queue.page(page, &mut Dropped::new());
    let first = queue.take(true).unwrap();
    assert_eq!((first.qos, first.dup, first.retain), (QoS::ExactlyOnce, true, true));
    assert_eq!(taken(&mut queue, true), ["2"]);
}

#[test]
fn expired_messages_of_the_backlog_make_room_too() {
    let mut queue = long_queue(1);
    let mut expiring = stored_delivery(2, QoS::AtLeastOnce, "2");
    expiring.message = expiring.message.expiring_at(NOW);
    push(&mut queue, expiring, &TIGHT);
    let limits = Limits { messages_max: 2, ..TIGHT };
    let mut dropped = Dropped::new();
    queue.push(stored_delivery(3, QoS::AtLeastOnce, "3"), &limits, NOW, &mut dropped);
    assert_eq!((dropped.len(), dropped[0].1), (1, DropReason::Expired));
    assert_eq!(queue.clear().iter().map(|trace| trace.message).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn when_memory_is_short_only_what_the_store_keeps_is_taken_in() {
    let short = Limits { at_hand_max: 0, memory_max: 60, ..Limits::NONE };
    let mut in_memory = Queue::of_session(false);
    let pushed: Vec<usize> = (1..=3)
        .map(|id| push(&mut in_memory, stored_delivery(id, QoS::AtLeastOnce, "x"), &short))
        .collect();
    assert_eq!(pushed, [0, 1, 1]);
    let mut stored = Queue::of_session(true);
    for id in 1..=3 {
        assert_eq!(push(&mut stored, stored_delivery(id, QoS::AtLeastOnce, "x"), &short), 0);
    }
    assert_eq!((stored.len(), stored.at_hand()), (3, 0));
    let mut dropped = Dropped::new();
    in_memory.push(stored_delivery(4, QoS::AtMostOnce, "x"), &short, NOW, &mut dropped);
    assert_eq!(dropped[0].1, DropReason::MemoryLimit);
}
