//! Failed logins are answered later and later.

use super::{code, from, guarded, logged};
use crate::broker::{Broker, free_port};
use crate::raw::{Client, Connect};

/// Whoever is answered after an hour is not answered within a test.
const NEVER: &str = "free_failed_logins = 2\nfailed_login_delay = \"1h\"\nmax_failed_login_delay = \"1h\"\n\
     workers = 1\n";

#[test]
fn after_some_failed_logins_the_answers_to_more_from_there_are_delayed() {
    let (broker, _files) = guarded(NEVER, "");
    let [v4, v5] = [Connect::v4("login"), Connect::v5("login")];
    // Without a User Name, and with a wrong password.
    assert_eq!(code(&mut from(5, broker.port, &v4)), Some(5));
    assert_eq!(code(&mut from(5, broker.port, &v5.clone().user("ali", "simsim"))), Some(0x86));
    let wrong = [v4.clone().user("ali", "simsim"), v5.clone().user("nobody", ""), v5.clone()];
    let mut delayed = wrong.map(|connect| from(5, broker.port, &connect));
    logged(&broker, "failed logins in 60s: delayed 3600s", 3);
    // The only worker goes on; who has the password is not delayed, and other addresses are not.
    assert_eq!(code(&mut from(5, broker.port, &v5.clone().user("ali", "sesame"))), Some(0));
    assert_eq!(code(&mut from(6, broker.port, &v4)), Some(5));
    assert!(delayed.iter_mut().all(Client::is_silent));
    for _ in 0..9 {
        assert_eq!(code(&mut from(1, broker.port, &v5)), Some(0x87), "127.0.0.1 is exempt");
    }
    assert!(delayed.iter_mut().all(Client::is_silent));
    assert_eq!(broker.log().matches("slowed down").count(), 1, "{}", broker.log());
    // Who waits does not keep the broker from its end.
    broker.terminate();
    let codes = delayed.each_mut().map(code);
    assert_eq!(codes, [Some(4), Some(0x86), Some(0x87)]);
    let (status, log) = broker.stop();
    assert!(status.success() && !log.contains("are cut"), "{log}");
}

#[test]
fn a_delayed_answer_comes() {
    let short = "free_failed_logins = 1\nfailed_login_delay = \"300ms\"";
    let (broker, _files) = guarded(short, "");
    for (connect, refused) in [(Connect::v4("late"), 5), (Connect::v5("late"), 0x87)] {
        for _ in 0..2 {
            assert_eq!(code(&mut from(5, broker.port, &connect)), Some(refused));
        }
    }
    logged(&broker, "delayed 300ms", 1);
    logged(&broker, "delayed 600ms", 1);
    logged(&broker, "delayed 1.2s", 1);
}

/// The address that a trusted proxy names is the one that counts, not the proxy's; where it names
/// none, nobody's does.
#[test]
fn failed_logins_are_counted_for_whom_the_proxy_names() {
    let port = free_port();
    let listener = format!(
        "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\nenable_proxy_protocol = 1\n\
         proxy_protocol_from = [\"127.0.0.0/8\"]\n"
    );
    let (broker, _files) = guarded(NEVER, &listener);
    let ask = |source: &str| {
        let mut client = Client::over(super::stream(7, port), false);
        let header = format!("PROXY {source}\r\n");
        client.try_send(&[header.as_bytes(), &Connect::v4("proxied").bytes()].concat());
        client
    };
    let of = |address| format!("TCP6 {address} 2001:db8::1 4711 1883");
    for _ in 0..2 {
        assert_eq!(code(&mut ask(&of("2001:db8:0:1::7"))), Some(5));
    }
    let mut delayed = ask(&of("2001:db8:0:1:9::8"));
    logged(&broker, "address=2001:db8:0:1::/64", 1);
    for _ in 0..4 {
        assert_eq!(code(&mut ask("UNKNOWN")), Some(5));
    }
    assert_eq!(code(&mut ask(&of("2001:db8:0:2::7"))), Some(5));
    assert_eq!(code(&mut from(7, broker.port, &Connect::v4("direct"))), Some(5));
    assert!(delayed.is_silent());
}

#[test]
fn nobody_is_slowed_down_on_this_machine_by_default() {
    let broker = Broker::start("stored_users = true\nfree_failed_logins = 1");
    for _ in 0..20 {
        assert_eq!(code(&mut from(9, broker.port, &Connect::v5("local"))), Some(0x87));
    }
    assert!(!broker.log().contains("slowed down"));
}

/// Threads that check passwords are not kept busy by who has gone.
#[test]
fn who_leaves_before_it_is_judged_is_not_judged() {
    let (broker, _files) = guarded("password_threads = 1", "");
    let slow = Connect::v5("slow").user("slow", "x");
    let mut first = from(6, broker.port, &slow);
    let waiting: Vec<_> = (0..50).map(|_| from(5, broker.port, &slow)).collect();
    drop(waiting);
    logged(&broker, "it left before it was judged", 45);
    assert_eq!(code(&mut first), Some(0x86));
    assert_eq!(code(&mut from(5, broker.port, &Connect::v4("a").user("ali", "sesame"))), Some(0));
}
