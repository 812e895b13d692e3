//! Shared Subscriptions: one queue for the whole group.

use std::collections::BTreeSet;

use crate::broker::shared;
use crate::raw::{Client, Connect};

fn member(id: &str, filter: &str, qos: u8) -> Client {
    let mut client = Client::v4(shared(), id);
    assert_eq!(client.subscribe(filter, qos), qos);
    client
}

/// [MQTT-4.8.2-1, MQTT-4.8.2-3]
#[test]
fn each_message_goes_to_exactly_one_member() {
    let mut members: Vec<_> =
        (0..4).map(|n| member(&format!("sh-one-{n}"), "$share/g/sh/one", 1)).collect();
    let mut others = member("sh-one-other", "$share/h/sh/one", 1);
    let mut sender = Client::v5(shared(), "sh-one-s");
    for n in 0..40 {
        sender.publish(2, "sh/one", n.to_string());
    }
    let mut seen = BTreeSet::new();
    for member in &mut members {
        for _ in 0..10 {
            assert!(seen.insert(member.receive().text().to_owned()), "equal turns, none twice");
        }
        member.expect_nothing();
    }
    assert_eq!(seen.len(), 40);
    for n in 0..40 {
        assert_eq!(others.receive().text(), n.to_string(), "another group has its own copy");
    }
}

#[test]
fn a_member_with_a_full_window_is_passed_over() {
    let connect = Connect::v5("sh-credit-slow").with(&[0x21, 0, 2]);
    let mut slow = Client::connect(shared(), &connect);
    slow.subscribe("$share/g/sh/credit", 1);
    let mut quick = member("sh-credit-quick", "$share/g/sh/credit", 1);
    let mut sender = Client::v4(shared(), "sh-credit-s");
    for n in 0..20 {
        sender.publish(2, "sh/credit", n.to_string());
    }
    let held: Vec<_> = (0..2).map(|_| slow.read_publish()).collect();
    for _ in 0..18 {
        quick.receive();
    }
    quick.expect_nothing();
    slow.expect_nothing();
    drop(held);
}

/// [MQTT-4.8.2-5]
#[test]
fn unacknowledged_messages_come_back_when_their_member_goes() {
    let mut first = member("sh-back-1", "$share/g/sh/back", 1);
    let mut sender = Client::v4(shared(), "sh-back-s");
    for n in 0..3 {
        sender.publish(2, "sh/back", n.to_string());
    }
    for n in 0..3 {
        assert_eq!(first.read_publish().text(), n.to_string());
    }
    let mut second = member("sh-back-2", "$share/g/sh/back", 1);
    second.expect_nothing();
    first.vanish();
    for n in 0..3 {
        assert_eq!(second.receive().text(), n.to_string());
    }
    second.expect_nothing();
}

#[test]
fn a_group_with_a_durable_member_waits_while_nobody_is_there() {
    let connect = Connect::v4("sh-wait-1").durable();
    let mut first = Client::connect(shared(), &connect);
    first.subscribe("$share/g/sh/wait", 1);
    first.disconnect();
    let mut sender = Client::v4(shared(), "sh-wait-s");
    for n in 0..3 {
        sender.publish(2, "sh/wait", n.to_string());
    }
    let mut second = member("sh-wait-2", "$share/g/sh/wait", 1);
    for n in 0..3 {
        assert_eq!(second.receive().text(), n.to_string(), "another member takes what waited");
    }
    let mut first = Client::connect(shared(), &connect);
    first.expect_nothing();
}

#[test]
fn a_member_away_receives_nothing_while_others_are_there() {
    let connect = Connect::v4("sh-away-1").durable();
    let mut away = Client::connect(shared(), &connect);
    away.subscribe("$share/g/sh/away", 1);
    away.disconnect();
    let mut here = member("sh-away-2", "$share/g/sh/away", 1);
    let mut sender = Client::v4(shared(), "sh-away-s");
    for n in 0..5 {
        sender.publish(2, "sh/away", n.to_string());
        assert_eq!(here.receive().text(), n.to_string());
    }
}

#[test]
fn members_have_the_qos_and_identifier_of_their_own_subscription() {
    let mut member = Client::v5(shared(), "sh-own");
    member.subscribe_with(&[0x0B, 3], "$share/g/sh/own", 0);
    Client::v4(shared(), "sh-own-s").publish(4, "sh/own", "x");
    let received = member.receive();
    assert_eq!((received.qos(), received.properties), (0, vec![0x0B, 3]));
    member.unsubscribe("$share/g/sh/own");
    member.publish(0, "sh/own", "x");
    member.expect_nothing();
}

/// [MQTT-3.8.3-4]
#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut client = Client::v5(shared(), "sh-nolocal");
    client.send(&[0x82, 17, 0, 1, 0, 0, 11]);
    client.send(b"$share/g/sh");
    client.send(&[4]);
    client.expect_close(0x82);
}

#[test]
fn retained_messages_are_not_sent_to_a_group() {
    Client::v4(shared(), "sh-ret-s").publish(3, "sh/ret", "x");
    let mut member = member("sh-ret", "$share/g/sh/ret", 1);
    member.expect_nothing();
}

#[test]
fn joining_and_leaving_while_messages_flow_loses_and_repeats_nothing() {
    let mut stays = member("sh-churn-0", "$share/g/sh/churn", 1);
    let mut sender = Client::v4(shared(), "sh-churn-s");
    let mut seen = BTreeSet::new();
    for round in 0..20 {
        let mut guest = member("sh-churn-g", "$share/g/sh/churn", 1);
        for n in 0..10 {
            sender.publish(2, "sh/churn", format!("{round}/{n}"));
        }
        for _ in 0..5 {
            seen.insert(guest.receive().text().to_owned());
        }
        guest.unsubscribe("$share/g/sh/churn");
        guest.disconnect();
        for _ in 0..5 {
            seen.insert(stays.receive().text().to_owned());
        }
    }
    assert_eq!(seen.len(), 200);
    stays.expect_nothing();
}

/// [MQTT-3.3.1-3]: DUP is about one receiver; [MQTT-4.3.2-2].
#[test]
fn a_message_that_moves_on_is_new_to_its_next_member() {
    let mut first = member("sh-dup-1", "$share/g/sh/dup", 1);
    let mut second = member("sh-dup-2", "$share/g/sh/dup", 1);
    let mut sender = Client::v4(shared(), "sh-dup-s");
    sender.publish(2, "sh/dup", "1");
    sender.publish(2, "sh/dup", "2");
    assert!(!first.read_publish().dup());
    first.vanish();
    for _ in 0..2 {
        assert!(!second.receive().dup());
    }
}

/// [MQTT-4.8.2-5]
#[test]
fn qos_2_that_was_sent_goes_to_nobody_else_when_its_session_ends() {
    let mut first = member("sh-end-1", "$share/g/sh/end", 2);
    let mut sender = Client::v4(shared(), "sh-end-s");
    sender.publish(4, "sh/end", "once");
    assert_eq!(first.read_publish().text(), "once");
    let mut second = member("sh-end-2", "$share/g/sh/end", 2);
    first.vanish();
    second.expect_nothing();
    sender.publish(4, "sh/end", "next");
    assert_eq!(second.receive().text(), "next");
}

/// [MQTT-3.10.4-3]
#[test]
fn who_leaves_a_group_completes_what_has_begun() {
    for (qos, flags) in [(1, 2), (2, 4)] {
        let connect = Connect::v5(&format!("sh-left-{qos}")).durable();
        let mut client = Client::connect(shared(), &connect);
        let filter = format!("$share/g/sh/left/{qos}");
        client.subscribe(&filter, qos);
        let mut sender = Client::v4(shared(), &format!("sh-left-s{qos}"));
        sender.publish(flags, &format!("sh/left/{qos}"), "keep");
        let sent = client.read_publish();
        client.unsubscribe(&filter);
        client.vanish();
        let mut client = Client::connect(shared(), &connect);
        let again = client.receive();
        assert_eq!((again.text(), again.id, again.dup()), ("keep", sent.id, true));
        client.expect_nothing();
        client.vanish();
        Client::connect(shared(), &connect).expect_nothing();
    }
}

/// [MQTT-2.2.1-4]: a late PUBACK must not be taken for that of another message.
#[test]
fn an_identifier_whose_message_went_to_another_is_not_used_before_it_is_answered() {
    let connect = Connect::v5("sh-id-1").durable();
    let mut first = Client::connect(shared(), &connect);
    first.subscribe("$share/g/sh/id", 1);
    first.subscribe("sh/own", 1);
    let mut sender = Client::v4(shared(), "sh-id-s");
    sender.publish(2, "sh/id", "shared");
    let lent = first.read_publish();
    let mut second = member("sh-id-2", "$share/g/sh/id", 1);
    first.vanish();
    assert_eq!(second.receive().text(), "shared");
    let mut first = Client::connect(shared(), &connect);
    sender.publish(2, "sh/own", "own");
    let own = first.read_publish();
    assert_ne!(own.id, lent.id);
    let [high, low] = lent.id.to_be_bytes();
    first.send(&[0x40, 2, high, low]);
    first.vanish();
    assert_eq!(Client::connect(shared(), &connect).receive().text(), "own");
}

/// [MQTT-3.10.4-3]
#[test]
fn what_a_member_had_that_left_and_died_goes_to_another() {
    let mut leaver = member("sh-left", "$share/g/sh/left", 1);
    let mut sender = Client::v5(shared(), "sh-left-s");
    sender.publish(2, "sh/left", "done");
    sender.publish(2, "sh/left", "not done");
    let done = leaver.read_publish();
    assert_eq!((done.text(), leaver.read_publish().text()), ("done", "not done"));
    let mut other = member("sh-left-other", "$share/g/sh/left", 1);
    leaver.unsubscribe("$share/g/sh/left");
    leaver.send(&[0x40, 2, (done.id >> 8) as u8, done.id as u8]);
    assert!(leaver.try_ping());
    other.expect_nothing();
    leaver.vanish();
    assert_eq!(other.receive().text(), "not done");
    other.expect_nothing();
}
