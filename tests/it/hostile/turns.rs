//! One Client's long work, and the others of its thread, who have their turns in between. That is
//! counted in answers to another Client while the work is done, of which there would be hardly one
//! if it were done in one go.

use super::Siege;
use crate::broker::Broker;
use crate::raw::{Client, Connect, field, packet};

/// Topic Filters of a request.
const FILTERS: usize = 20_000;

/// Answers that another Client gets at least while a work is done.
const TURNS: usize = 10;

/// A request with many Topic Filters, each with `more` behind it.
fn request(first: u8, properties: &[u8], more: &[u8]) -> Vec<u8> {
    let filters = (0..FILTERS).flat_map(|n| [field(format!("many/{n}/+")), more.to_vec()].concat());
    packet(first, &[&[0, 1], properties, &filters.collect::<Vec<u8>>()])
}

fn subscribe() -> Vec<u8> {
    request(0x82, &[0], &[0])
}

/// How often the other Client is answered before something comes for the first one.
fn turns_before_answer(of: &Client, other: &mut Client) -> usize {
    of.stream().set_nonblocking(true).unwrap();
    let mut turns = 0;
    while of.stream().peek(&mut [0]).is_err() {
        other.send(&[0xC0, 0]);
        other.expect(&[0xD0, 0]);
        turns += 1;
    }
    of.stream().set_nonblocking(false).unwrap();
    turns
}

/// Sends a packet, its last byte once the others have been read and with something behind it; how
/// often the other Client is answered before the first one is.
fn turns_of(packet: &[u8], behind: &[u8], of: &mut Client, other: &mut Client) -> usize {
    let (last, first) = packet.split_last().unwrap();
    of.send(first);
    for _ in 0..200 {
        other.send(&[0xC0, 0]);
        other.expect(&[0xD0, 0]);
    }
    of.send(&[&[*last], behind].concat());
    turns_before_answer(of, other)
}

fn broker() -> (Broker, Client) {
    let broker = Broker::start("workers = 1");
    let other = Client::v5(broker.port, "other");
    (broker, other)
}

#[test]
fn many_subscriptions_are_made_and_ended_in_turns() {
    let (broker, mut other) = broker();
    for durable in [false, true] {
        let connect = Connect::v5("many");
        let connect = if durable { connect.durable() } else { connect };
        let mut client = Client::connect(broker.port, &connect);
        let turns = turns_of(&subscribe(), &[], &mut client, &mut other);
        assert!(turns >= TURNS, "SUBSCRIBE: {turns}");
        assert_eq!(client.read(), packet(0x90, &[&[0, 1, 0], &[0; FILTERS]]));
        // What comes behind a request is answered after it.
        other.publish(0, "many/77/x", "one");
        assert_eq!(client.receive().text(), "one");
        let unsubscribe = request(0xA2, &[0], &[]);
        let turns = turns_of(&unsubscribe, &[0xC0, 0], &mut client, &mut other);
        assert!(turns >= TURNS, "UNSUBSCRIBE: {turns}");
        // PINGRESP does not wait for the disk.
        let mut answers = [client.read(), client.read()];
        answers.sort();
        assert_eq!(answers[0], packet(0xB0, &[&[0, 1, 0], &[0; FILTERS]]));
        other.publish(0, "many/77/x", "two");
        client.expect_nothing();
    }
}

/// Where each filter is judged by many rules fewer have their turn at a time: of these there would be
/// 32 turns else.
#[test]
fn filters_are_judged_by_many_rules_in_turns() {
    let rule = |n| format!("[[role.rule]]\ndeny = \"subscribe\"\ntopic = \"no/{n}/+/%c/#\"\n");
    let rules: String = (0..1000).map(rule).collect();
    let roles = format!(
        "[[role]]\nname = \"all\"\neverybody = true\n{rules}\
         [[role.rule]]\nallow = \"subscribe\"\ntopic = \"many/#\"\n"
    );
    let broker = Broker::start_with("workers = 1", &roles);
    let mut other = Client::v5(broker.port, "other");
    let mut client = Client::v5(broker.port, "many");
    let filters = (0..2000).flat_map(|n| [field(format!("many/{n}/+")), vec![0]].concat());
    let subscribe = packet(0x82, &[&[0, 1, 0], &filters.collect::<Vec<u8>>()]);
    let turns = turns_of(&subscribe, &[], &mut client, &mut other);
    assert!(turns > 40, "{turns}");
    assert_eq!(client.read(), packet(0x90, &[&[0, 1, 0], &[0; 2000]]));
}

#[test]
fn a_session_with_many_subscriptions_ends_in_turns() {
    let (broker, mut other) = broker();
    let mut client = Client::v5(broker.port, "many");
    client.send(&subscribe());
    client.read();
    // The next connection is answered when the Session of this one has ended.
    let mut next = Client::open(broker.port, true);
    let turns = turns_of(&Connect::v5("many").bytes(), &[], &mut next, &mut other);
    assert!(turns >= TURNS, "the end of a connection: {turns}");
    assert_eq!(next.read()[2..4], [0, 0], "a new Session");

    let mut kept = Client::connect(broker.port, &Connect::v5("kept").durable());
    kept.send(&subscribe());
    kept.read();
    kept.disconnect();
    let mut next = Client::open(broker.port, true);
    let turns = turns_of(&Connect::v5("kept").bytes(), &[], &mut next, &mut other);
    assert!(turns >= TURNS, "Clean Start: {turns}");
    assert_eq!(next.read()[2..4], [0, 0], "a new Session");
    other.publish(2, "many/7/x", "nobody");
    next.expect_nothing();
}

/// A Client that wants a Session ended, and goes before that is done.
#[test]
fn nobody_gets_half_a_session() {
    let (broker, mut other) = broker();
    for n in 0..5 {
        let connect = Connect::v5("kept").durable();
        let mut kept = Client::connect(broker.port, &connect);
        kept.send(&subscribe());
        assert_eq!(kept.read()[0], 0x90);
        kept.disconnect();
        let mut hasty = Client::open(broker.port, true);
        hasty.send(&Connect::v5("kept").bytes());
        for _ in 0..n {
            other.send(&[0xC0, 0]);
            other.expect(&[0xD0, 0]);
        }
        hasty.vanish();
        let (mut client, is_present) = Client::resume(broker.port, &connect);
        let unsuback = client.unsubscribe("many/0/+");
        let was_there = unsuback[unsuback.len() - 1] == 0;
        assert_eq!(was_there, is_present, "a Session is whole or gone");
        client.send(&request(0xA2, &[0], &[]));
        let unsuback = client.read();
        let reasons = &unsuback[unsuback.len() - FILTERS..];
        let there = reasons.iter().filter(|&&reason| reason == 0).count();
        assert!(there == 0 || there >= FILTERS - 1, "{there} of {FILTERS}");
        client.disconnect();
    }
}

#[test]
fn retained_messages_are_looked_for_in_turns() {
    let (broker, mut other) = broker();
    for n in 0..4000 {
        other.publish(1, &format!("a/{n}/b"), "x");
    }
    other.publish(3, "z/none", "found");
    let mut client = Client::v5(broker.port, "looks");
    // Each looks at all names and finds one, the last of which is this.
    let filters = (0..64).flat_map(|n| [field(format!("+/none/{n}")), vec![0]].concat());
    let filters = [filters.collect::<Vec<u8>>(), field("+/none"), vec![0]].concat();
    client.send(&packet(0x82, &[&[0, 1, 0], &filters]));
    assert_eq!(client.read()[0], 0x90);
    let turns = turns_before_answer(&client, &mut other);
    assert!(turns >= TURNS, "{turns}");
    assert_eq!(client.receive().text(), "found");
}

/// 2^12 filters, each of which every PUBLISH has to find anew.
#[test]
fn packets_that_each_take_long_are_handled_in_turns() {
    let (broker, mut other) = broker();
    let mut client = Client::v4(broker.port, "maze");
    let filter = |n: u32| {
        let levels: Vec<_> = (0..12).map(|at| if n >> at & 1 == 0 { "a" } else { "+" }).collect();
        [field(levels.join("/")), vec![0]].concat()
    };
    let filters = (0..1 << 12).flat_map(filter).collect::<Vec<u8>>();
    client.send(&packet(0x82, &[&[0, 1], &filters]));
    assert_eq!(client.read()[0], 0x90);
    let mut publisher = Client::v5(broker.port, "lost");
    let topic = ["a"; 12].join("/");
    let maze = (0..500).flat_map(|n| {
        // Each has another way, and none is known already.
        let subscribe = packet(0x82, &[&[0, 1, 0], &field(format!("other/{n}")), &[0]]);
        [publisher.publish_bytes(0, &topic, 0, &[], ""), subscribe].concat()
    });
    let maze = [maze.collect::<Vec<u8>>(), vec![0xC0, 0]].concat();
    publisher.send(&maze);
    let mut turns = 0;
    loop {
        turns += turns_before_answer(&publisher, &mut other);
        if publisher.read()[0] == 0xD0 {
            break;
        }
    }
    assert!(turns >= TURNS, "{turns}");
}

#[test]
fn share_groups_of_a_session_are_bounded() {
    let mut siege = Siege::begin("max_shared_subscriptions = 3");
    let mut client = Client::v5(siege.port, "greedy");
    for n in 0..3 {
        assert_eq!(client.subscribe(&format!("$share/g{n}/a"), 1), 1);
    }
    assert_eq!(client.subscribe("$share/g3/a", 1), 0x97);
    assert_eq!(client.subscribe("$share/g2/a", 0), 0, "one that is there can be changed");
    assert_eq!(client.subscribe("a", 1), 1);
    client.unsubscribe("$share/g0/a");
    assert_eq!(client.subscribe("$share/g3/a", 1), 1);
    siege.check();
    siege.survived(16);
}

/// Each share group is a receiver of its own.
#[test]
fn a_message_for_very_many_is_given_to_them_in_turns() {
    const GROUPS: usize = 15_000;
    let broker = Broker::start("workers = 1\nmax_shared_subscriptions = 20000");
    let mut other = Client::v5(broker.port, "other");
    let mut many = Client::v5(broker.port, "many");
    let filters = (0..GROUPS).flat_map(|n| [field(format!("$share/{n}/fan")), vec![0]].concat());
    many.send(&packet(0x82, &[&[0, 1, 0], &filters.collect::<Vec<u8>>()]));
    assert_eq!(many.read()[0], 0x90);
    assert_eq!(many.subscribe("other", 0), 0);
    let mut publisher = Client::v5(broker.port, "publisher");
    let publish = publisher.publish_bytes(0, "fan", 0, &[], "x");
    // What another says once the first have got the message comes before the last have; that is
    // tried some times, since this test may be slow to say it.
    let overtakes = (0..20).any(|_| {
        publisher.send(&publish);
        assert_eq!(many.receive().text(), "x");
        other.publish(0, "other", "y");
        let came: Vec<_> = (0..GROUPS).map(|_| many.receive().text().to_owned()).collect();
        assert_eq!(came.iter().filter(|text| *text == "y").count(), 1);
        came.last().is_some_and(|last| last == "x")
    });
    assert!(overtakes);
    // Who leaves meanwhile has said it to all.
    publisher.send(&publish);
    publisher.vanish();
    for _ in 0..GROUPS {
        assert_eq!(many.receive().text(), "x");
    }
    many.expect_nothing();
}
