//! Declared queues: there before the first consumer and after the last.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::acl::{READ_AGAIN, hang_up};
use crate::broker::{Broker, program, run};
use crate::raw::{Client, Connect, Received, field, packet, properties};

/// A broker with these declared queues.
fn broker(queues: &str) -> Broker {
    Broker::start_with("", queues)
}

const JOBS: &str = "[[queue]]\nname = \"jobs\"\nfilter = \"jobs/#\"\n";

/// The declaration of `jobs` with further settings, and a queue for dead letters.
fn jobs(settings: &str) -> String {
    format!("{JOBS}{settings}\n[[queue]]\nname = \"dead\"\nfilter = \"dead/#\"\n")
}

fn consumer(broker: &Broker, id: &str, queue: &str, qos: u8) -> Client {
    let mut client = Client::v5(broker.port, id);
    assert_eq!(client.subscribe(&format!("$queue/{queue}"), qos), qos);
    client
}

/// A consumer that takes one message after the other.
fn narrow(broker: &Broker, id: &str) -> Client {
    let mut client = Client::connect(broker.port, &Connect::v5(id).with(&[0x21, 0, 1]));
    assert_eq!(client.subscribe("$queue/jobs", 1), 1);
    client
}

fn publish_all(broker: &Broker, qos: u8, payloads: &[&str]) {
    let mut sender = Client::v5(broker.port, "sender");
    for payload in payloads {
        sender.publish(qos << 1, "jobs/a", payload);
    }
    sender.disconnect();
}

fn texts(client: &mut Client, n: usize) -> Vec<String> {
    (0..n).map(|_| client.receive().text().to_owned()).collect()
}

/// The value of a User Property.
fn user_property(received: &Received, name: &str) -> Option<String> {
    let wanted = [&[0x26][..], &field(name)].concat();
    let at = received.properties.windows(wanted.len()).position(|w| w == wanted)?;
    let value = &received.properties[at + wanted.len()..];
    let len = usize::from(u16::from_be_bytes([value[0], value[1]]));
    Some(String::from_utf8(value[2..2 + len].to_vec()).unwrap())
}

fn count(received: &Received) -> u8 {
    user_property(received, "whimbrel-delivery-count").map_or(0, |count| count.parse().unwrap())
}

/// A PUBACK or PUBREC with a Reason Code.
fn refuse(client: &mut Client, received: &Received) {
    let kind = if received.qos() == 1 { 0x40 } else { 0x50 };
    let [high, low] = received.id.to_be_bytes();
    client.send(&[kind, 3, high, low, 0x80]);
}

fn acknowledge(client: &mut Client, received: &Received) {
    let [high, low] = received.id.to_be_bytes();
    client.send(&[0x40, 2, high, low]);
}

#[test]
fn messages_wait_before_the_first_consumer_and_after_a_kill() {
    let mut broker = broker(JOBS);
    publish_all(&broker, 1, &["1", "2", "3"]);
    broker.kill_and_restart();
    publish_all(&broker, 2, &["4"]);
    let mut old = Client::v4(broker.port, "old");
    assert_eq!(old.subscribe("$queue/jobs", 2), 2);
    assert_eq!(texts(&mut old, 4), ["1", "2", "3", "4"], "a Client of MQTT 3.1.1 can consume");
    old.expect_nothing();
    old.disconnect();
    publish_all(&broker, 1, &["5"]);
    broker.stop_and_restart();
    let mut share = Client::v5(broker.port, "share");
    assert_eq!(share.subscribe("$share/jobs/jobs/#", 1), 1);
    assert_eq!(texts(&mut share, 1), ["5"], "by its name as a share group too");
    broker.kill_and_restart();
    let mut last = consumer(&broker, "last", "jobs", 1);
    last.expect_nothing();
}

#[test]
fn a_queue_that_is_not_declared_is_refused_with_the_reason() {
    let broker = broker(JOBS);
    let mut client = Client::v5(broker.port, "c");
    client.send(&packet(0x82, &[&[0, 7], &[0], &field("$queue/unknown"), &[1]]));
    let why = [&[0x1F][..], &field("no queue of this name is declared")].concat();
    client.expect(&packet(0x90, &[&[0, 7], &properties(&[&why]), &[0x8F]]));
    assert_eq!(client.subscribe("$queue/+", 1), 0x8F);
    assert_eq!(client.subscribe("$queue/", 1), 0x8F);
    let mut old = Client::v4(broker.port, "old");
    assert_eq!(old.subscribe("$queue/unknown", 1), 0x80);
    // Another filter under a queue's name is a share group like any other.
    assert_eq!(client.subscribe("$share/jobs/other", 1), 1);
    client.publish(2, "jobs/a", "not for it");
    client.publish(2, "other", "for it");
    assert_eq!(client.receive().text(), "for it");
    // [MQTT-3.1.2-29]
    let mut terse = Client::connect(broker.port, &Connect::v5("terse").with(&[0x17, 0]));
    terse.send(&packet(0x82, &[&[0, 7], &[0], &field("$queue/unknown"), &[1]]));
    terse.expect(&packet(0x90, &[&[0, 7], &[0], &[0x8F]]));
}

#[test]
fn each_message_goes_to_one_consumer_and_comes_back_counted() {
    let mut broker = broker(JOBS);
    publish_all(&broker, 1, &["1", "2"]);
    let mut first = consumer(&broker, "first", "jobs", 1);
    let held: Vec<_> = (0..2).map(|_| first.read_publish()).collect();
    assert!(held.iter().all(|received| count(received) == 1 && !received.dup()));
    let mut second = consumer(&broker, "second", "jobs", 1);
    second.expect_nothing();
    acknowledge(&mut first, &held[0]);
    first.expect_nothing();
    first.vanish();
    let again = second.read_publish();
    assert_eq!((again.text(), count(&again), again.dup()), ("2", 2, true));
    broker.kill_and_restart();
    let mut third = consumer(&broker, "third", "jobs", 1);
    let again = third.read_publish();
    assert_eq!((again.text(), count(&again), again.dup()), ("2", 3, true));
    acknowledge(&mut third, &again);
    third.expect_nothing();
}

#[test]
fn what_nobody_can_take_becomes_a_dead_letter_also_after_a_kill() {
    let mut broker = broker(&jobs("max_deliveries = 2\ndead_letter = \"dead/jobs\""));
    let mut sender = Client::v5(broker.port, "sender");
    let own = [&[0x26][..], &field("k"), &field("v")].concat();
    let poison = sender.publish_bytes(2, "jobs/poison", 9, &own, "poison");
    sender.send(&poison);
    sender.read();
    sender.publish(2, "jobs/a", "good");
    for attempt in 1..=2 {
        let mut worker = narrow(&broker, "worker");
        let received = worker.read_publish();
        assert_eq!((received.text(), count(&received)), ("poison", attempt));
        broker.kill_and_restart();
    }
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    assert_eq!(texts(&mut worker, 1), ["good"], "it does not block the rest");
    broker.kill_and_restart();
    let mut undertaker = consumer(&broker, "undertaker", "dead", 1);
    let letter = undertaker.receive();
    assert_eq!((letter.text(), &*letter.topic), ("poison", "dead/jobs"));
    let properties: Vec<_> =
        ["k", "whimbrel-dead-letter-reason", "whimbrel-source-queue", "whimbrel-original-topic"]
            .map(|name| user_property(&letter, name).unwrap())
            .into();
    assert_eq!(properties, ["v", "max-deliveries", "jobs", "jobs/poison"]);
    assert_eq!(count(&letter), 2);
    undertaker.expect_nothing();
}

#[test]
fn a_consumer_may_refuse() {
    let fates = [
        ("dead_letter = \"dead/jobs\"", vec!["poison"]),
        ("", vec![]),
        ("on_reject = \"drop\"\ndead_letter = \"dead/jobs\"", vec![]),
    ];
    for (settings, letters) in fates {
        for qos in 1..=2 {
            let broker = broker(&jobs(settings));
            publish_all(&broker, qos, &["poison", "good"]);
            let mut worker = consumer(&broker, "worker", "jobs", qos);
            let poison = worker.read_publish();
            refuse(&mut worker, &poison);
            assert_eq!(texts(&mut worker, 1), ["good"]);
            worker.expect_nothing();
            let mut undertaker = consumer(&broker, "undertaker", "dead", 2);
            assert_eq!(texts(&mut undertaker, letters.len()), letters);
            undertaker.expect_nothing();
        }
    }
}

#[test]
fn what_is_refused_may_go_back_to_the_queue() {
    for qos in 1..=2 {
        let settings = "on_reject = \"requeue\"\nmax_deliveries = 3\ndead_letter = \"dead/jobs\"";
        let mut broker = broker(&jobs(settings));
        publish_all(&broker, qos, &["poison"]);
        let connect = Connect::v5("worker").durable();
        let mut worker = Client::connect(broker.port, &connect);
        worker.subscribe("$queue/jobs", qos);
        for attempt in 1..=2 {
            let poison = worker.read_publish();
            assert_eq!((poison.text(), count(&poison)), ("poison", attempt), "QoS {qos}");
            refuse(&mut worker, &poison);
        }
        let poison = worker.read_publish();
        assert_eq!(count(&poison), 3);
        broker.kill_and_restart();
        let mut worker = Client::connect(broker.port, &connect);
        if qos == 2 {
            // It stays with its Client, who has begun to receive it [MQTT-4.8.2-4].
            let poison = worker.read_publish();
            refuse(&mut worker, &poison);
        }
        let mut undertaker = consumer(&broker, "undertaker", "dead", qos);
        assert_eq!(texts(&mut undertaker, 1), ["poison"], "QoS {qos}");
        worker.expect_nothing();
    }
}

#[test]
fn a_lease_that_runs_out_gives_the_message_to_another() {
    let broker = broker(&format!("{JOBS}lease = \"1s\""));
    publish_all(&broker, 1, &["1", "2"]);
    let mut slow = consumer(&broker, "slow", "jobs", 1);
    let held: Vec<_> = (0..2).map(|_| slow.read_publish()).collect();
    let mut quick = consumer(&broker, "quick", "jobs", 1);
    acknowledge(&mut slow, &held[0]);
    let again = quick.read_publish();
    assert_eq!((again.text(), count(&again)), ("2", 2));
    // The first acknowledgement counts, whoever sends it.
    acknowledge(&mut slow, &held[1]);
    slow.expect_nothing();
    quick.vanish();
    slow.expect_nothing();
    let mut last = consumer(&broker, "last", "jobs", 1);
    last.expect_nothing();
}

#[test]
fn messages_wait_no_longer_than_their_time_also_over_a_kill() {
    let mut broker = broker(&format!("{JOBS}message_ttl = 1"));
    publish_all(&broker, 1, &["old"]);
    broker.kill_and_restart();
    std::thread::sleep(Duration::from_millis(2_100));
    publish_all(&broker, 1, &["new"]);
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    assert_eq!(texts(&mut worker, 1), ["new"]);
    worker.expect_nothing();
}

#[test]
fn a_full_queue_drops_or_rejects_as_declared() {
    for (overflow, left) in [("drop-oldest", ["2", "3"]), ("drop-newest", ["1", "2"])] {
        let broker = broker(&format!("{JOBS}max_messages = 2\noverflow = \"{overflow}\""));
        publish_all(&broker, 1, &["1", "2", "3"]);
        let mut worker = consumer(&broker, "worker", "jobs", 1);
        assert_eq!(texts(&mut worker, 2), left);
        worker.expect_nothing();
    }
}

#[test]
fn a_queue_that_is_full_tells_its_publishers() {
    let broker = broker(&format!("{JOBS}max_messages = 2"));
    let mut sender = Client::v5(broker.port, "sender");
    sender.publish(2, "jobs/a", "1");
    sender.publish(4, "jobs/a", "2");
    let third = sender.publish_bytes(2, "jobs/a", 3, &[], "3");
    sender.send(&third);
    assert_eq!(sender.read(), [0x40, 3, 0, 3, 0x97]);
    let third = sender.publish_bytes(4, "jobs/a", 4, &[], "3");
    sender.send(&third);
    assert_eq!(sender.read(), [0x50, 3, 0, 4, 0x97]);
    let retained = sender.publish_bytes(3, "jobs/a", 5, &[], "3");
    sender.send(&retained);
    assert_eq!(sender.read(), [0x40, 3, 0, 5, 0x97]);
    assert_eq!(sender.subscribe("jobs/a", 1), 1);
    sender.expect_nothing();
    sender.unsubscribe("jobs/a");
    // Who cannot be told is not read on until there is room.
    let mut old = Client::v4(broker.port, "old");
    let held_back = old.publish_bytes(2, "jobs/a", 6, &[], "4");
    old.send(&held_back);
    assert!(!old.has_bytes(Duration::from_millis(300)));
    let mut worker = consumer(&broker, "worker", "jobs", 2);
    assert_eq!(texts(&mut worker, 2), ["1", "2"]);
    old.expect(&[0x40, 2, 0, 6]);
    assert_eq!(texts(&mut worker, 1), ["4"]);
}

#[test]
fn of_each_key_only_the_last_value_waits() {
    let settings = "last_value = \"topic\"";
    let mut broker = broker(&format!("{JOBS}{settings}"));
    let mut sender = Client::v5(broker.port, "sender");
    for (topic, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("b", "5")] {
        sender.publish(2, &format!("jobs/{topic}"), payload);
    }
    broker.kill_and_restart();
    let mut sender = Client::v5(broker.port, "sender");
    sender.publish(2, "jobs/c", "6");
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    assert_eq!(texts(&mut worker, 3), ["3", "5", "6"]);
    // What is under way when a later value comes is not repeated.
    sender.publish(2, "jobs/a", "7");
    let held = worker.read_publish();
    assert_eq!(held.text(), "7");
    sender.publish(2, "jobs/a", "8");
    assert_eq!(worker.read_publish().text(), "8");
    worker.vanish();
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    assert_eq!(texts(&mut worker, 1), ["8"]);
    worker.expect_nothing();
}

#[test]
fn the_key_may_be_a_user_property() {
    let broker = broker(&format!("{JOBS}last_value = \"device\""));
    let mut sender = Client::v5(broker.port, "sender");
    for (device, payload) in [("x", "1"), ("y", "2"), ("x", "3"), ("", "4"), ("", "5")] {
        let own = [&[0x26][..], &field("device"), &field(device)].concat();
        let properties = if device.is_empty() { &[][..] } else { &own };
        let publish = sender.publish_bytes(2, "jobs/a", 9, properties, payload);
        sender.send(&publish);
        sender.read();
    }
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    assert_eq!(texts(&mut worker, 4), ["2", "3", "4", "5"]);
}

#[test]
fn the_highest_priority_goes_first_also_after_a_kill() {
    let mut broker = broker(&format!("{JOBS}priority = \"urgency\""));
    let mut sender = Client::v5(broker.port, "sender");
    for (urgency, payload) in [("0", "1"), ("9", "2"), ("4", "3"), ("99", "4"), ("no", "5")] {
        let own = [&[0x26][..], &field("urgency"), &field(urgency)].concat();
        let publish = sender.publish_bytes(2, "jobs/a", 9, &own, payload);
        sender.send(&publish);
        sender.read();
    }
    broker.kill_and_restart();
    let mut worker = narrow(&broker, "worker");
    assert_eq!(texts(&mut worker, 5), ["2", "4", "3", "1", "5"]);
}

#[test]
fn qos_0_is_done_with_when_it_is_handed_over_and_kept_only_where_declared() {
    let mut broker = broker(&format!(
        "{JOBS}[[queue]]\nname = \"all\"\nfilter = \"jobs/#\"\nqueue_qos0_messages = true"
    ));
    publish_all(&broker, 1, &["1"]);
    publish_all(&broker, 0, &["2"]);
    let mut worker = consumer(&broker, "worker", "jobs", 0);
    assert_eq!(texts(&mut worker, 1), ["1"]);
    worker.expect_nothing();
    let mut all = consumer(&broker, "all", "all", 1);
    let mut kept = texts(&mut all, 2);
    kept.sort();
    assert_eq!(kept, ["1", "2"]);
    broker.kill_and_restart();
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    worker.expect_nothing();
}

#[test]
fn qos_2_stays_with_its_client_until_its_session_ends() {
    let mut broker = broker(&jobs("dead_letter = \"dead/jobs\""));
    publish_all(&broker, 2, &["1"]);
    let connect = Connect::v5("first").durable();
    let mut first = Client::connect(broker.port, &connect);
    first.subscribe("$queue/jobs", 2);
    assert_eq!(first.read_publish().text(), "1");
    first.vanish();
    let mut second = consumer(&broker, "second", "jobs", 2);
    second.expect_nothing();
    broker.kill_and_restart();
    let mut second = consumer(&broker, "second", "jobs", 2);
    second.expect_nothing();
    // A new Session ends the one before [MQTT-4.8.2-5].
    Client::v5(broker.port, "first");
    second.expect_nothing();
    let mut undertaker = consumer(&broker, "undertaker", "dead", 2);
    let letter = undertaker.receive();
    let reason = user_property(&letter, "whimbrel-dead-letter-reason");
    assert_eq!((letter.text(), reason.as_deref()), ("1", Some("session-ended")));
}

#[test]
fn a_changed_declaration_keeps_what_still_matches() {
    let mut broker = broker(JOBS);
    let mut sender = Client::v5(broker.port, "sender");
    for topic in ["jobs/a", "jobs/b", "jobs/a/b"] {
        sender.publish(2, topic, topic);
    }
    let config = broker.directory().join("whimbrel.toml");
    let declared = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, declared.replace("jobs/#", "jobs/a/#")).unwrap();
    broker.kill_and_restart();
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    assert_eq!(texts(&mut worker, 2), ["jobs/a", "jobs/a/b"]);
    worker.expect_nothing();
    publish_all(&broker, 1, &["left"]);
    worker.vanish();
    // One that is not declared any more can be emptied, and takes nothing new.
    let undeclared = declared.replace(JOBS, "");
    std::fs::write(&config, undeclared).unwrap();
    broker.kill_and_restart();
    assert!(broker.log().contains("not declared any more"), "{}", broker.log());
    publish_all(&broker, 1, &["too late"]);
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    assert_eq!(texts(&mut worker, 1), ["left"]);
    worker.expect_nothing();
    broker.stop_and_restart();
    let mut worker = Client::v5(broker.port, "worker");
    assert_eq!(worker.subscribe("$queue/jobs", 1), 0x8F);
}

#[test]
fn queues_are_declared_changed_and_given_up_while_the_broker_runs() {
    let dead = "[[queue]]\nname = \"dead\"\nfilter = \"dead/#\"\n";
    let mut broker = broker(dead);
    let config = broker.directory().join("whimbrel.toml");
    let base = std::fs::read_to_string(&config).unwrap();
    let declare = |broker: &Broker, queues: &str| {
        std::fs::write(&config, base.replace(dead, &format!("{dead}{queues}"))).unwrap();
        hang_up(broker, READ_AGAIN);
    };
    let mut early = Client::v5(broker.port, "early");
    assert_eq!(early.subscribe("$queue/jobs", 1), 0x8F);
    declare(&broker, JOBS);
    let mut sender = Client::v5(broker.port, "sender");
    for topic in ["jobs/a", "jobs/b", "jobs/a/b"] {
        sender.publish(2, topic, topic);
    }
    // Bounds change, and what consumers may hold.
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    let held = worker.read_publish();
    assert_eq!(
        (worker.read_publish().text(), worker.read_publish().text()),
        ("jobs/b", "jobs/a/b")
    );
    let narrow = format!("{JOBS}prefetch = 3\nmax_messages = 1\noverflow = \"reject\"\n");
    declare(&broker, &narrow);
    sender.publish(2, "jobs/b", "new");
    worker.expect_nothing();
    let one_more = sender.publish_bytes(2, "jobs/a", 5, &[], "too many");
    sender.send(&one_more);
    assert_eq!(sender.read(), [0x40, 3, 0, 5, 0x97]);
    acknowledge(&mut worker, &held);
    assert_eq!(worker.read_publish().text(), "new");
    assert!(!broker.log().contains("needs a restart"), "{}", broker.log());
    worker.vanish();
    // Over a restart too.
    broker.kill_and_restart();
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    assert_eq!(texts(&mut worker, 3), ["jobs/b", "jobs/a/b", "new"]);
    worker.expect_nothing();
    worker.vanish();
    let mut sender = Client::v5(broker.port, "sender");
    sender.publish(2, "jobs/a", "waits");
    // Given up, it takes nothing new, can be emptied, and may come back.
    declare(&broker, "");
    assert!(broker.log().contains("not declared any more"), "{}", broker.log());
    sender.publish(2, "jobs/a", "too late");
    declare(&broker, JOBS);
    sender.publish(2, "jobs/a", "back");
    let mut worker = consumer(&broker, "worker", "jobs", 1);
    assert_eq!(texts(&mut worker, 2), ["waits", "back"]);
    worker.expect_nothing();
    // What the queue cannot change now it says; a bad file changes nothing.
    declare(&broker, &format!("{}priority = \"urgency\"\n", JOBS.replace("jobs/#", "jobs/+")));
    for key in ["filter", "priority"] {
        let said = format!("queue `jobs`: `{key}` changes with a restart");
        assert_eq!(broker.log().matches(&said).count(), 1, "{}", broker.log());
    }
    std::fs::write(&config, base.replace(dead, &JOBS.replace("jobs/#", "jobs/#/a"))).unwrap();
    hang_up(&broker, "nothing is changed");
    sender.publish(2, "jobs/a/b", "still there");
    assert_eq!(texts(&mut worker, 1), ["still there"]);
}

#[test]
fn a_queue_is_not_declared_over_a_share_group_that_has_consumers() {
    let broker = broker("");
    let config = broker.directory().join("whimbrel.toml");
    let base = std::fs::read_to_string(&config).unwrap();
    let mut member = Client::v5(broker.port, "member");
    assert_eq!(member.subscribe("$share/jobs/jobs/#", 1), 1);
    std::fs::write(&config, format!("{base}\n{JOBS}")).unwrap();
    hang_up(&broker, READ_AGAIN);
    assert!(broker.log().contains("`$share/jobs/jobs/#` has consumers already"));
    publish_all(&broker, 1, &["one"]);
    assert_eq!(texts(&mut member, 1), ["one"]);
    let mut worker = Client::v5(broker.port, "worker");
    assert_eq!(worker.subscribe("$queue/jobs", 1), 0x8F);
}

#[test]
fn a_consumer_may_leave_and_finish_what_it_has() {
    let broker = broker(JOBS);
    publish_all(&broker, 1, &["1", "2"]);
    let mut worker = narrow(&broker, "worker");
    worker.subscribe("$share/jobs/jobs/#", 1);
    let held = worker.read_publish();
    worker.unsubscribe("$share/jobs/jobs/#");
    acknowledge(&mut worker, &held);
    let held = worker.read_publish();
    assert_eq!(held.text(), "2", "it is still a consumer by the other name");
    worker.unsubscribe("$queue/jobs");
    publish_all(&broker, 1, &["3"]);
    acknowledge(&mut worker, &held);
    worker.expect_nothing();
    let mut other = consumer(&broker, "other", "jobs", 1);
    assert_eq!(texts(&mut other, 1), ["3"]);
    other.expect_nothing();
    // One that leaves and dies gives back what it had.
    other.unsubscribe("$queue/jobs");
    worker.subscribe("$queue/jobs", 1);
    publish_all(&broker, 1, &["4"]);
    worker.read_publish();
    worker.unsubscribe("$queue/jobs");
    other.subscribe("$queue/jobs", 1);
    other.expect_nothing();
    worker.vanish();
    assert_eq!(texts(&mut other, 1), ["4"]);
}

#[test]
fn the_strategy_says_who_gets_the_next_message() {
    // Who got what: the topics of each of three consumers, who hold everything.
    let shares = |strategy: &str| {
        let broker = broker(&format!("{JOBS}strategy = \"{strategy}\""));
        let mut workers: Vec<_> =
            (0..3).map(|n| consumer(&broker, &format!("worker-{n}"), "jobs", 1)).collect();
        let mut sender = Client::v5(broker.port, "sender");
        for n in 0..60 {
            sender.publish(2, &format!("jobs/{}", n % 20), n.to_string());
        }
        let mut shares = vec![BTreeMap::<String, Vec<u32>>::new(); 3];
        for _ in 0..60 {
            let has = |worker: &mut Client| worker.has_bytes(Duration::from_millis(1));
            let at = loop {
                if let Some(at) = workers.iter_mut().position(has) {
                    break at;
                }
            };
            let received = workers[at].read_publish();
            let number = received.text().parse().unwrap();
            shares[at].entry(received.topic).or_default().push(number);
        }
        shares
    };
    let len = |share: &BTreeMap<String, Vec<u32>>| share.values().map(Vec::len).sum::<usize>();
    for strategy in ["round-robin", "least-inflight"] {
        assert_eq!(shares(strategy).iter().map(len).collect::<Vec<_>>(), [20, 20, 20]);
    }
    assert_eq!(shares("sticky").iter().map(len).collect::<Vec<_>>(), [60, 0, 0]);
    let by_topic = shares("hash-topic");
    assert_eq!(by_topic.iter().map(len).sum::<usize>(), 60);
    assert!(by_topic.iter().all(|share| len(share) < 60), "more than one has some");
    for (topic, numbers) in by_topic.iter().flatten() {
        assert_eq!(numbers.len(), 3, "{topic} has one consumer");
        assert!(numbers.is_sorted(), "{topic} keeps its order");
    }
}

#[test]
fn with_the_hash_of_the_topic_a_slow_consumer_does_not_slow_the_others() {
    let broker = broker(&format!("{JOBS}strategy = \"hash-topic\""));
    let (mut slow, mut quick) = (narrow(&broker, "slow"), narrow(&broker, "quick"));
    let mut sender = Client::v5(broker.port, "sender");
    for n in 0..100 {
        sender.publish(2, &format!("jobs/{}", n % 10), n.to_string());
    }
    slow.read_publish();
    let mut taken: Vec<u32> = Vec::new();
    // All of its topics have come once when the first comes again.
    while taken.last().is_none_or(|&last| last < 10)
        || taken.len() < 10 * taken.iter().filter(|&&n| n < 10).count()
    {
        taken.push(quick.receive().text().parse().unwrap());
    }
    assert!(taken.is_sorted());
    // What was kept for who is gone goes to who is there, in order.
    slow.vanish();
    let rest = texts(&mut quick, 100 - taken.len());
    let rest: Vec<u32> = rest.iter().map(|text| text.parse().unwrap()).collect();
    assert!(rest.is_sorted(), "{rest:?}");
    quick.expect_nothing();
}

#[test]
fn a_consumer_holds_no_more_than_its_prefetch() {
    let broker = broker(&format!("{JOBS}prefetch = 2"));
    publish_all(&broker, 1, &["1", "2", "3", "4", "5"]);
    let mut slow = consumer(&broker, "slow", "jobs", 1);
    let first = slow.read_publish();
    assert_eq!((first.text(), slow.read_publish().text()), ("1", "2"));
    slow.expect_nothing();
    let mut other = consumer(&broker, "other", "jobs", 1);
    assert_eq!(texts(&mut other, 3), ["3", "4", "5"]);
    other.disconnect();
    publish_all(&broker, 1, &["6"]);
    slow.expect_nothing();
    acknowledge(&mut slow, &first);
    assert_eq!(slow.read_publish().text(), "6");
}

#[test]
fn bad_declarations_are_refused_with_the_rule() {
    let refused = |queues: &str| {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("w.toml");
        std::fs::write(&config, queues).unwrap();
        let (status, output) = run(program().arg("-c").arg(&config), Duration::from_secs(20));
        assert_eq!(status, Some(1), "{output}");
        output
    };
    let cases = [
        ("[[queue]]\nfilter = \"a\"\n", "w.toml:1: a queue needs a `name`"),
        ("[[queue]]\nname = \"q\"\n", "w.toml:1: queue `q`: a queue needs a `filter`"),
        ("[[queue]]\nname = \"a/b\"\nfilter = \"a\"\n", "one level of a topic"),
        ("[[queue]]\nname = \"q\"\nfilter = \"a/#/b\"\n", "its `filter`: # must be the last"),
        (
            "[[queue]]\nname = \"q\"\nfilter = \"a\"\nmax_messages = 0\n",
            "w.toml:4: `max_messages` must be an integer of 1 or more",
        ),
        (
            "[[queue]]\nname = \"q\"\nfilter = \"a/#\"\ndead_letter = \"a/dead\"\n",
            "matches its own `filter`",
        ),
        (
            "[[queue]]\nname = \"q\"\nfilter = \"a\"\n[[queue]]\nname = \"q\"\nfilter = \"b\"\n",
            "w.toml:4: queue `q`: there is a queue of this name already",
        ),
        ("[[queue]]\nname = \"q\"\nfilter = \"a\"\noverflow = \"explode\"\n", "`overflow` must be"),
    ];
    for (queues, expected) in cases {
        let output = refused(queues);
        assert!(output.contains(expected), "{expected}\n{output}");
    }
}
