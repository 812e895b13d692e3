//! Too many connections: in a second, and at once.

use std::net::TcpStream;
use std::sync::Barrier;

use super::{OPEN, code, from, guarded, is_closed, is_let_in, is_shut_out, logged, stream, until};
use crate::broker::{Broker, free_port};
use crate::raw::{Client, Connect};

/// So many connections from there, of which a bucket of `burst` lets the first in. Those after
/// them come sooner than it takes to fill again, so that at least one is closed.
fn rush(host: u8, port: u16, burst: usize) {
    let streams: Vec<_> = (0..burst * 20).map(|_| stream(host, port)).collect();
    let mut clients: Vec<_> =
        streams.into_iter().map(|stream| Client::over(stream, true)).collect();
    let mut is_served = |client: &mut Client| {
        client.try_send(&Connect::v5("").bytes());
        code(client) == Some(0)
    };
    assert!(clients.iter_mut().take(burst).all(&mut is_served), "as many as in a second at once");
    assert!(!clients.iter_mut().skip(burst).all(is_served), "and not all");
}

#[test]
fn more_connections_in_a_second_than_an_address_may_make_are_closed() {
    let broker =
        Broker::start(&format!("{OPEN}log_level = \"debug\"\nmax_connection_rate_per_address = 5"));
    rush(5, broker.port, 5);
    logged(&broker, "not let in: more than 5 connections in a second address=127.0.0.5", 1);
    assert!(is_let_in(6, broker.port, &Connect::v4("another")));
    // Its time comes again.
    until("let in", || is_let_in(5, broker.port, &Connect::v5("later")));
}

#[test]
fn more_connections_in_a_second_than_a_listener_takes_are_closed() {
    let free = free_port();
    let listener = format!(
        "[[listener]]\nport = {free}\nbind_address = \"127.0.0.1\"\nmax_connection_rate = 0\n"
    );
    let settings = "log_level = \"debug\"\nmax_connection_rate = 10";
    let broker = Broker::start_with(settings, &listener);
    rush(1, broker.port, 10);
    logged(&broker, "a connection too fast", 1);
    for n in 0..100 {
        assert!(is_let_in(1, free, &Connect::v4(&format!("free-{n}"))));
    }
}

#[test]
fn an_address_has_no_more_connections_than_it_may() {
    let proxied = free_port();
    let listener = format!(
        "[[listener]]\nport = {proxied}\nbind_address = \"127.0.0.1\"\nenable_proxy_protocol = 1\n"
    );
    // With one worker who comes first has the seat first.
    let settings = format!(
        "{OPEN}allow_anonymous = true\nlog_level = \"debug\"\nworkers = 1\n\
         max_connections_per_address = 2"
    );
    let broker = Broker::start_with(&settings, &listener);
    let mut first = from(5, broker.port, &Connect::v4("first"));
    assert_eq!(code(&mut first), Some(0));
    // One that says nothing counts too.
    let second = stream(5, broker.port);
    assert!(is_shut_out(5, broker.port));
    logged(&broker, "not let in: has 2 connections address=127.0.0.5", 1);
    assert!(is_let_in(6, broker.port, &Connect::v5("other")));
    first.disconnect();
    until("let in", || is_let_in(5, broker.port, &Connect::v5("third")));
    drop(second);

    let ask = |source: &str| {
        let mut client = Client::over(stream(1, proxied), false);
        let header = format!("PROXY TCP4 {source} 10.0.0.1 4711 1883\r\n");
        client.try_send(&[header.as_bytes(), &Connect::v4("").bytes()].concat());
        (code(&mut client), client)
    };
    let inside: Vec<_> = (0..6).map(|n| ask(&format!("203.0.113.{}", n / 2))).collect();
    assert!(inside.iter().all(|(code, _)| *code == Some(0)));
    assert_eq!(ask("203.0.113.1").0, None);
    assert_eq!(ask("203.0.113.9").0, Some(0));
}

#[test]
fn a_listener_and_all_together_have_no_more_connections_than_they_may() {
    for setting in ["max_connections = 2", "global_max_connections = 2"] {
        let settings = format!("{OPEN}log_level = \"debug\"\n{setting}");
        let broker = Broker::start(&settings);
        let held: Vec<TcpStream> = (5..7).map(|host| stream(host, broker.port)).collect();
        assert!(is_shut_out(7, broker.port), "{setting}");
        logged(&broker, "a connection too many", 1);
        drop(held);
        until("let in", || is_let_in(7, broker.port, &Connect::v5("later")));
    }
}

#[test]
fn there_are_no_more_clients_than_may_be_also_if_they_come_at_once() {
    let broker = Broker::start("global_max_clients = 20\nworkers = 4");
    let crowd: Vec<_> = (0..64).map(|_| Client::open(broker.port, true)).collect();
    let together = Barrier::new(crowd.len());
    let come = |(n, mut client): (usize, Client)| {
        together.wait();
        client.send(&Connect::v5(&format!("crowd-{n}")).durable().bytes());
        (code(&mut client), client)
    };
    let come = &come;
    let come: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            crowd.into_iter().enumerate().map(|one| scope.spawn(move || come(one))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count = |code| come.iter().filter(|(told, _)| *told == Some(code)).count();
    assert_eq!((count(0), count(0x89)), (20, 44));
    // Who has a place keeps it; who gives it up makes room for another.
    let (n, _) = come.iter().enumerate().find(|(_, (told, _))| *told == Some(0)).unwrap();
    let mine = Connect::v5(&format!("crowd-{n}"));
    assert_eq!(Client::connect_with(broker.port, &mine).1[3], 0);
    until("let in", || is_let_in(1, broker.port, &Connect::v5("another")));
}

#[test]
fn a_user_has_no_more_clients_than_it_may() {
    let (broker, _files) = guarded("max_connections_per_user = 2\nallow_anonymous = true", "");
    let ali = |id, level| {
        let connect = Connect { level, ..Connect::v4(id) };
        let mut client = from(5, broker.port, &connect.user("ali", "sesame"));
        (code(&mut client), client)
    };
    let (first, mut one) = ali("one", 4);
    let (second, two) = ali("two", 5);
    assert_eq!((first, second), (Some(0), Some(0)));
    assert_eq!((ali("three", 4).0, ali("three", 5).0), (Some(3), Some(0x97)));
    logged(&broker, "the user has too many connections: Quota exceeded (0x97)", 2);
    // In its own place a Client comes in, as often as it wants.
    let (again, mut two_again) = ali("two", 5);
    assert_eq!(again, Some(0));
    assert_eq!(ali("three", 5).0, Some(0x97));
    assert!(one.try_ping() && two_again.try_ping());
    drop(two);
    assert_eq!(ali("three", 5).0, Some(0x97));
    one.disconnect();
    until("its place is free", || ali("three", 5).0 == Some(0));
    for n in 0..5 {
        assert!(is_let_in(5, broker.port, &Connect::v5(&format!("nobody-{n}"))));
    }
}

#[test]
fn what_is_closed_at_the_door_is_closed_without_a_byte() {
    let broker = Broker::start(&format!("{OPEN}workers = 1\nmax_connections_per_address = 1"));
    let _inside = stream(5, broker.port);
    assert!(is_closed(stream(5, broker.port)));
}

#[test]
fn a_session_has_no_more_subscriptions_than_it_may() {
    let broker = Broker::start("log_level = \"debug\"\nmax_subscriptions = 2");
    for (mut client, refused) in
        [(Client::v4(broker.port, "s4"), 0x80), (Client::v5(broker.port, "s5"), 0x97)]
    {
        let codes = ["a", "b", "c", "a"].map(|filter| client.subscribe(filter, 0));
        assert_eq!(codes, [0, 0, refused, 0], "another time is no other one");
        client.unsubscribe("a");
        assert_eq!(client.subscribe("c", 0), 0);
    }
    logged(&broker, "no room for a subscription", 2);
}
