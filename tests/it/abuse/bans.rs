//! Who does something too often is banned for a time.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{OPEN, code, from, guarded, is_closed, is_let_in, is_shut_out, logged, stream};
use crate::acl::{READ_AGAIN, hang_up};
use crate::broker::{Broker, free_port};
use crate::listeners::certificates;
use crate::raw::{Client, Connect};
use crate::users::ban;

/// A wrong password that nobody has tried before, and that no user's is compared with.
fn guess() -> Connect {
    static GUESSES: AtomicU32 = AtomicU32::new(0);
    let password = format!("guess {}", GUESSES.fetch_add(1, Ordering::Relaxed));
    Connect { password: Some(password), ..Connect::v5("guesses") }
}

/// Fails to log in, and is told so.
fn fail(host: u8, port: u16) {
    assert_eq!(code(&mut from(host, port, &guess())), Some(0x86));
}

const THREE: &str = "max_failed_logins = 3\nfailed_login_delay = 0\nban_duration = \"1h\"\n";

#[test]
fn an_address_with_too_many_failed_logins_is_banned_and_no_other() {
    let c = certificates().display();
    let tls = free_port();
    let listener = format!(
        "[[listener]]\nport = {tls}\nbind_address = \"127.0.0.1\"\n\
         certfile = \"{c}/server.pem\"\nkeyfile = \"{c}/server.key\"\n"
    );
    let (broker, _files) = guarded(THREE, &listener);
    let ali = Connect::v5("ali").user("ali", "sesame");
    // Connections that are there when the ban begins.
    let mut inside = from(5, broker.port, &ali);
    assert_eq!(code(&mut inside), Some(0));
    let mut early = [false, true].map(|v5| Client::over(stream(5, broker.port), v5));
    (0..2).for_each(|_| fail(5, broker.port));
    assert!(is_let_in(5, broker.port, &Connect::v4("other").user("ali", "sesame")));
    fail(5, broker.port);
    logged(&broker, "banned for 3600s: 3 failed logins in 60s", 1);
    // No byte of TLS is answered either.
    assert!(is_shut_out(5, broker.port) && is_shut_out(5, tls));
    logged(&broker, "not let in: banned", 2);
    // Who had not come to the point is told, and not asked for a password any more.
    early[0].send(&Connect::v4("early").user("ali", "sesame").bytes());
    early[1].send(&Connect::v5("early").user("ali", "sesame").bytes());
    assert_eq!(early.each_mut().map(code), [Some(5), Some(0x8A)]);
    assert!(inside.try_ping(), "who was let in stays");
    assert!(is_let_in(6, broker.port, &ali) && is_let_in(1, broker.port, &ali));
    (0..9).for_each(|_| fail(1, broker.port));
    assert_eq!(broker.log().matches("banned for").count(), 1);
}

#[test]
fn nobody_is_banned_for_showing_nothing_or_the_same_again() {
    let (broker, _files) = guarded(THREE, "");
    let old = guess();
    for _ in 0..9 {
        assert_eq!(code(&mut from(5, broker.port, &Connect::v4("silent"))), Some(5));
        assert_eq!(code(&mut from(5, broker.port, &old)), Some(0x86));
    }
    assert!(is_let_in(5, broker.port, &Connect::v5("good").user("ali", "sesame")));
    (0..2).for_each(|_| fail(5, broker.port));
    logged(&broker, "banned for 3600s: 3 failed logins in 60s", 1);
}

#[test]
fn a_ban_ends_and_says_what_it_did() {
    let (broker, _files) = guarded(&THREE.replace("1h", "3s"), "");
    (0..3).for_each(|_| fail(5, broker.port));
    logged(&broker, "banned for 3s", 1);
    let refused = (0..4).filter(|_| is_shut_out(5, broker.port)).count();
    logged(&broker, &format!("no longer banned who=127.0.0.5 refused={refused}"), 1);
    fail(5, broker.port);
}

/// By default the broker bans whoever fails a hundred times, but nobody on this machine.
#[test]
fn nobody_on_this_machine_is_banned_by_default() {
    let broker = Broker::start("stored_users = true");
    for _ in 0..120 {
        fail(9, broker.port);
    }
    assert!(!broker.log().contains("banned"));
    let (broker, _files) = guarded("failed_login_delay = 0", "");
    (0..100).for_each(|_| fail(9, broker.port));
    logged(&broker, "banned for 600s: 100 failed logins in 60s", 1);
    assert!(is_shut_out(9, broker.port));
}

#[test]
fn a_client_identifier_that_comes_and_goes_is_banned_wherever_it_comes_from() {
    let broker = Broker::start("max_client_flaps = 3");
    let flap = Connect::v5("flap");
    assert!((0..3).all(|_| is_let_in(1, broker.port, &flap)));
    logged(&broker, r#"who=client "flap""#, 1);
    logged(&broker, "banned for 600s: 3 connections that ended in 60s", 1);
    assert_eq!(code(&mut from(1, broker.port, &flap)), Some(0x8A));
    assert_eq!(code(&mut from(2, broker.port, &Connect::v4("flap"))), Some(5));
    let old = Connect { level: 3, ..Connect::v4("flap") };
    assert_eq!(code(&mut from(2, broker.port, &old)), Some(5));
    assert!(is_let_in(1, broker.port, &Connect::v4("flap-2")));
    // Two who take each other's place come to it too.
    let mut twins = vec![];
    for _ in 0..4 {
        twins.push(from(1, broker.port, &Connect::v5("twins")));
        assert_eq!(twins.last_mut().and_then(code), Some(0));
    }
    logged(&broker, r#"who=client "twins""#, 1);
    assert_eq!(code(&mut from(1, broker.port, &Connect::v5("twins"))), Some(0x8A));
    assert!(twins.last_mut().unwrap().try_ping(), "the one that is there stays");
}

#[test]
fn an_address_whose_clients_come_and_go_is_banned_if_that_is_asked_for() {
    let broker = Broker::start(&format!("{OPEN}max_address_flaps = 5"));
    for n in 0..5 {
        let id = format!("flap-{n}");
        let connect = if n % 2 == 0 { Connect::v4(&id) } else { Connect::v5(&id) };
        assert!(is_let_in(5, broker.port, &connect));
    }
    logged(&broker, "who=127.0.0.5", 1);
    assert!(is_shut_out(5, broker.port));
    assert!(is_let_in(6, broker.port, &Connect::v5("flap-0")));
}

#[test]
fn an_address_that_breaks_the_rules_is_banned_if_that_is_asked_for() {
    let c = certificates().display();
    let [tls, ws] = [free_port(), free_port()];
    let local = "bind_address = \"127.0.0.1\"";
    let listeners = format!(
        "[[listener]]\nport = {tls}\n{local}\n\
         certfile = \"{c}/server.pem\"\nkeyfile = \"{c}/server.key\"\n\
         [[listener]]\nport = {ws}\n{local}\nprotocol = \"websockets\"\n"
    );
    let settings = format!("{OPEN}max_protocol_errors = 5");
    let broker = Broker::start_with(&settings, &listeners);
    let port = broker.port;
    let garbage = |port| {
        let mut stream = stream(5, port);
        stream.write_all(b"\xFF\xFF random \0 bytes\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut vec![]);
    };
    [port, tls, ws].into_iter().for_each(garbage);
    // A good Client that leaves, and one that vanishes, are no offenders.
    assert!(is_let_in(5, port, &Connect::v5("good")));
    drop(from(5, port, &Connect::v5("gone")));
    for connect in [Connect::v4("bad"), Connect::v5("bad")] {
        let mut client = from(5, port, &connect);
        assert_eq!(code(&mut client), Some(0));
        client.send(&[0xF7, 0]);
        while client.try_read().is_some() {}
    }
    logged(&broker, "banned for 600s: 5 protocol errors in 60s", 1);
    assert!(is_shut_out(5, port) && is_shut_out(5, tls) && is_shut_out(5, ws));
    assert!(is_let_in(6, port, &Connect::v5("good")));
}

#[test]
fn behind_a_proxy_the_client_is_banned_and_not_the_proxy() {
    let c = certificates().display();
    let [port, tls] = [free_port(), free_port()];
    let proxied = "bind_address = \"127.0.0.1\"\nenable_proxy_protocol = 1";
    let listeners = format!(
        "[[listener]]\nport = {port}\n{proxied}\n[[listener]]\nport = {tls}\n{proxied}\n\
         certfile = \"{c}/server.pem\"\nkeyfile = \"{c}/server.key\"\n"
    );
    let (broker, _files) = guarded(THREE, &listeners);
    let ask = |source: &str, connect: &Connect| {
        let mut client = Client::over(stream(1, port), connect.level == 5);
        let header = format!("PROXY TCP4 {source} 10.0.0.1 4711 1883\r\n");
        client.try_send(&[header.as_bytes(), &connect.bytes()].concat());
        code(&mut client)
    };
    for _ in 0..3 {
        assert_eq!(ask("203.0.113.7", &guess()), Some(0x86));
    }
    logged(&broker, "who=203.0.113.7", 1);
    assert_eq!(ask("203.0.113.7", &Connect::v5("who").user("ali", "sesame")), None);
    assert_eq!(ask("203.0.113.8", &Connect::v5("who").user("ali", "sesame")), Some(0));
    let mut banned = stream(1, tls);
    banned.write_all(b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 1883\r\n").unwrap();
    // Nothing of TLS was sent, so nothing but the ban ends it.
    assert!(is_closed(banned));
    logged(&broker, "not let in: banned", 2);
    for _ in 0..9 {
        fail(1, broker.port);
    }
}

#[test]
fn who_is_banned_while_its_password_waits_is_not_judged() {
    let (broker, _files) = guarded("password_threads = 1\nmax_protocol_errors = 2", "");
    let slow = [Connect::v4("slow"), Connect::v5("slow")].map(|c| c.user("slow", "x"));
    let mut before = [6, 7, 8, 9].map(|host| from(host, broker.port, &slow[0]));
    let mut waiting = slow.each_ref().map(|connect| from(5, broker.port, connect));
    for _ in 0..2 {
        let mut stream = stream(5, broker.port);
        stream.write_all(b"no MQTT, since the thread that checks passwords is busy").unwrap();
        let _ = stream.read_to_end(&mut vec![]);
    }
    logged(&broker, "banned for 600s: 2 protocol errors in 60s", 1);
    assert_eq!(waiting.each_mut().map(code), [Some(5), Some(0x8A)]);
    assert_eq!(before.each_mut().map(code), [Some(4); 4]);
}

#[test]
fn what_is_kept_out_can_be_changed_while_the_broker_runs() {
    let (broker, _files) = guarded(&format!("{THREE}workers = 1\n"), "");
    let ali = Connect::v5("ali").user("ali", "sesame");
    (0..3).for_each(|_| fail(5, broker.port));
    assert!(is_shut_out(5, broker.port));
    let file = broker.directory().join("whimbrel.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let exempt = "exempt_networks = [\"127.0.0.5\"]\nmax_connections_per_address = 1";
    let text = text.replace("exempt_networks = [\"127.0.0.1\"]", exempt);
    std::fs::write(&file, text.replace("max_failed_logins = 3", "max_failed_logins = 2")).unwrap();
    hang_up(&broker, READ_AGAIN);
    assert!(!broker.log().contains("needs a restart"), "{}", broker.log());
    assert!(is_let_in(5, broker.port, &ali));
    (0..9).for_each(|_| fail(5, broker.port));
    (0..2).for_each(|_| while code(&mut from(6, broker.port, &guess())) != Some(0x86) {});
    logged(&broker, "banned for 3600s: 2 failed logins in 60s", 1);
    let held = stream(7, broker.port);
    assert!(is_shut_out(7, broker.port), "the limit of connections holds too");
    drop(held);
}

#[test]
fn the_operator_sees_who_is_banned_and_ends_it() {
    let (broker, _files) = guarded(&format!("{THREE}max_client_flaps = 1\n"), "");
    let ali = Connect::v5("flaps twice").user("ali", "sesame");
    assert_eq!(ban(&broker, &["list"]), (Some(0), String::new()));
    assert!(is_let_in(1, broker.port, &ali));
    (0..3).for_each(|_| fail(5, broker.port));
    logged(&broker, "banned for 3600s", 2);
    assert!(is_shut_out(5, broker.port));
    let (status, list) = ban(&broker, &["list"]);
    assert_eq!((status, list.lines().count()), (Some(0), 2), "{list}");
    assert!(
        list.contains("client \"flaps twice\": ") && list.contains(" s left, 0 refused"),
        "{list}"
    );
    assert!(list.contains("127.0.0.5: ") && list.contains(" s left, 1 refused"), "{list}");
    for who in ["127.0.0.5", "flaps twice"] {
        assert_eq!(ban(&broker, &["lift", who]), (Some(0), String::new()));
        let (status, said) = ban(&broker, &["lift", who]);
        assert!(status == Some(1) && said.contains("is not banned"), "{said}");
    }
    logged(&broker, "no longer banned: the operator wants it", 2);
    assert!(is_let_in(5, broker.port, &ali));
    assert!(list.lines().count() == 2 && ban(&broker, &["list"]).1.lines().count() <= 1);
}
