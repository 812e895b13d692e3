//! Too many at once: connections, takeovers, packets.

use std::net::TcpStream;

use super::Siege;
use crate::raw::{Client, Connect};

/// Sends a CONNECT and says whether it was let in.
fn is_let_in(client: &mut Client, connect: &Connect) -> bool {
    client.try_send(&connect.bytes());
    client.try_read().is_some_and(|connack| connack[0] == 0x20 && connack[3] == 0)
}

/// [MQTT-3.1.4-3] for many at once: all are served, at the end one is left.
#[test]
fn a_storm_of_takeovers_ends_with_one_connection() {
    let mut siege = Siege::begin("");
    let port = siege.port;
    std::thread::scope(|scope| {
        let storm: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    let mut clients = vec![];
                    for n in 0..20 {
                        let connect = match (thread + n) % 3 {
                            0 => Connect::v5("storm"),
                            1 => Connect::v4("storm"),
                            _ => Connect::v5("storm").durable(),
                        };
                        let mut client = Client::open(port, connect.level == 5);
                        client.try_send(&connect.bytes());
                        clients.push(client);
                    }
                    clients
                })
            })
            .collect();
        siege.check();
        let mut clients: Vec<_> =
            storm.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        // Who has an answer, or none, has had its turn.
        for client in &mut clients {
            let _ = client.try_read();
        }
        siege.check();
        let mut last = Client::v5(port, "storm");
        for client in &mut clients {
            while client.try_read().is_some() {}
        }
        assert!(last.try_ping());
    });
    siege.survived(48);
}

#[test]
fn a_flood_of_clients_leaves_nothing_behind() {
    let mut siege = Siege::begin("");
    let port = siege.port;
    for round in 0..3 {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let mut clients: Vec<_> = (0..100)
                        .map(|n| {
                            let connect = Connect::v5(&format!("flood-{round}-{thread}-{n}"));
                            let mut client = Client::open(port, true);
                            assert!(is_let_in(&mut client, &connect));
                            client
                        })
                        .collect();
                    assert!(clients.iter_mut().all(Client::try_ping));
                });
            }
            siege.check();
        });
    }
    siege.survived(32);
}

/// CONNECT and away, before or after CONNACK, with and without a Session that stays.
#[test]
fn clients_that_connect_and_vanish_at_once_harm_nobody() {
    let mut siege = Siege::begin("");
    for n in 0..300 {
        let connect = Connect::v5(&format!("vanish-{}", n % 20));
        let connect = if n % 3 == 0 { connect.durable() } else { connect };
        let mut client = Client::open(siege.port, true);
        client.send(&connect.bytes());
        if n % 2 == 0 {
            // With bytes unread, so that the connection is reset.
            client.send(&[0xC0, 0].repeat(50));
        }
    }
    siege.check();
    for n in 0..20 {
        // One of those that vanished may be let in only now, and take the Session over.
        let connect = Connect::v5(&format!("vanish-{n}"));
        let is_served = || {
            let mut client = Client::open(siege.port, true);
            client.try_connect(&connect) && client.try_ping()
        };
        assert!((0..300).any(|_| is_served()), "vanish-{n} is kept out");
    }
    siege.survived(24);
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let mut siege = Siege::begin("connect_timeout = \"2s\"");
    let ports = [siege.port, siege.tls, siege.ws, siege.wss];
    let idle: Vec<_> = (0..600)
        .map(|n| TcpStream::connect(("127.0.0.1", ports[n % ports.len()])).unwrap())
        .collect();
    siege.check();
    assert!(Client::v5(siege.port, "late").try_ping());
    drop(idle);
    siege.survived(48);
}

/// A Client that asks and asks: PINGREQ, SUBSCRIBE and UNSUBSCRIBE of the same filter.
#[test]
fn a_flood_of_requests_is_answered_in_order() {
    let mut siege = Siege::begin("");
    let mut client = Client::v4(siege.port, "requests");
    let burst: Vec<u8> = (1..=2000_u16)
        .flat_map(|id| {
            let [high, low] = id.to_be_bytes();
            let subscribe = [0x82, 6, high, low, 0, 1, b'f', 0];
            let unsubscribe = [0xA2, 5, high, low, 0, 1, b'f'];
            [&subscribe[..], &unsubscribe].concat()
        })
        .collect();
    let mut writing = client.stream().try_clone().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut writing, &burst));
    for id in 1..=2000_u16 {
        let [high, low] = id.to_be_bytes();
        client.expect(&[0x90, 3, high, low, 0]);
        client.expect(&[0xB0, 2, high, low]);
    }
    writer.join().unwrap().unwrap();
    siege.check();
    siege.survived(16);
}
