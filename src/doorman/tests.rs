//! What the doorman makes of what comes.

use std::net::SocketAddr;

use super::*;
use crate::net::transport::Peer;

fn at(ms: u64) -> Moment {
    Moment::from_unix_ms(ms)
}

fn peer(address: &str) -> Origin {
    let ip: IpAddr = address.parse().unwrap();
    Peer::direct(Some(SocketAddr::new(ip, 1000))).origin()
}

#[test]
fn a_machine_of_ipv6_is_its_network() {
    let doorman = Doorman::default();
    let address = |text| doorman.address(peer(text)).map(|address| address.to_string());
    assert_eq!(address("2001:db8:1:2:3:4:5:6").as_deref(), Some("2001:db8:1:2::/64"));
    assert_eq!(address("2001:db8:1:2::9"), address("2001:db8:1:2:3:4:5:6"));
    assert_ne!(address("2001:db8:1:3::9"), address("2001:db8:1:2::9"));
    assert_eq!(address("192.0.2.7").as_deref(), Some("192.0.2.7"));
    assert_eq!(address("::ffff:192.0.2.7"), address("192.0.2.7"));
    for exempt in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(address(exempt), None, "{exempt}");
    }
    assert_eq!(doorman.address(Peer::direct(None).origin()), None);
}

#[test]
fn who_fails_again_and_again_waits_longer_and_longer_up_to_a_bound() {
    let (doorman, metrics) = (Doorman::default(), Metrics::default());
    let fail = |address, ms| {
        doorman.login_failed(peer(address), Attempt::Silence, at(ms), &metrics).as_millis()
    };
    let delays: Vec<_> = (0..13).map(|n| fail("192.0.2.7", n)).collect();
    assert_eq!(delays, [0, 0, 0, 0, 0, 250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
    assert_eq!(fail("192.0.2.8", 20), 0, "that is somebody else");
    assert_eq!(fail("127.0.0.1", 20), 0);
    assert_eq!(fail("192.0.2.7", 60_000), 0, "the window is over");
    let counted = (metrics.failed_logins.value(), metrics.failed_logins_delayed.value());
    assert_eq!(counted, (16, 8));
}

#[test]
fn addresses_beyond_the_bound_push_others_out_and_are_counted() {
    let options = Options { tracked_max: 10, failures_free: 1, ..Options::default() };
    let (doorman, metrics) = (Doorman::new(options), Metrics::default());
    for n in 0..100 {
        doorman.login_failed(peer(&format!("192.0.2.{n}")), Attempt::Proof, at(0), &metrics);
    }
    assert!(metrics.peers_forgotten.value() >= 90);
    assert!(
        doorman.login_failed(peer("192.0.2.99"), Attempt::Proof, at(0), &metrics) > Duration::ZERO
    );
    assert!(doorman.login_failed(peer("192.0.2.1"), Attempt::Proof, at(0), &metrics).is_zero());
}

#[test]
fn a_bound_below_what_it_bounds_is_refused() {
    let below = Options { delay_max: Duration::from_millis(1), ..Options::default() };
    assert!(below.check().is_err_and(|what| what.contains("max_failed_login_delay")));
    assert!(Options { delay: Duration::ZERO, ..below }.check().is_ok());
    assert!(Options::default().check().is_ok());
}

#[test]
fn who_fails_too_often_is_banned_for_a_time() {
    let mut options = Options { delay: Duration::ZERO, ..Options::default() };
    options.offences_max.failed_logins = 3;
    let (doorman, metrics) = (Doorman::new(options), Metrics::default());
    let admits = |address, ms| doorman.admits(peer(address), at(ms), &metrics);
    for ms in [0, 1, 60_001, 60_002] {
        doorman.login_failed(peer("192.0.2.7"), Attempt::Proof, at(ms), &metrics);
        assert!(admits("192.0.2.7", ms));
    }
    doorman.login_failed(peer("192.0.2.7"), Attempt::Proof, at(60_003), &metrics);
    assert!(!admits("192.0.2.7", 60_004) && admits("192.0.2.8", 60_004));
    // What goes on meanwhile makes it no longer.
    doorman.login_failed(peer("192.0.2.7"), Attempt::Proof, at(100_000), &metrics);
    doorman.expire(at(660_002), &metrics);
    assert!(!admits("192.0.2.7", 660_002));
    assert!(!doorman.admits_client(peer("192.0.2.7"), "x", at(660_002), &metrics));
    assert!(admits("192.0.2.7", 660_003));
    doorman.expire(at(660_003), &metrics);
    let counted = [&metrics.bans, &metrics.bans_ended, &metrics.connections_refused_banned];
    assert_eq!(counted.map(|counter| counter.value()), [1, 1, 3]);
    assert_eq!(doorman.banned.load(Ordering::Relaxed), 0);
}

#[test]
fn who_shows_nothing_or_the_same_again_is_not_banned() {
    let mut options = Options::default();
    options.offences_max.failed_logins = 3;
    let (doorman, metrics) = (Doorman::new(options), Metrics::default());
    let fail = |attempt| doorman.login_failed(peer("192.0.2.7"), attempt, at(0), &metrics);
    let admits = || doorman.admits(peer("192.0.2.7"), at(0), &metrics);
    let old = [Attempt::Guess(Some("pump"), Some(b"old")), Attempt::Guess(None, Some(b"old"))];
    for _ in 0..50 {
        fail(Attempt::Silence);
        old.into_iter().for_each(|attempt| _ = fail(attempt));
    }
    assert!(admits() && fail(Attempt::Silence) > Duration::ZERO, "but it is slowed down");
    fail(Attempt::Guess(Some("pump"), Some(b"new")));
    assert!(!admits());
}

#[test]
fn what_has_no_limit_is_not_kept() {
    let doorman = Doorman::new(Options { delay: Duration::ZERO, ..Options::default() });
    let metrics = Metrics::default();
    for n in 0..1000 {
        doorman.ended(peer("192.0.2.7"), &n.to_string(), at(0), &metrics);
        doorman.rule_broken(peer("192.0.2.7"), at(0), &metrics);
    }
    assert!(doorman.tables.lock().flaps.is_empty() && doorman.tables.lock().errors.is_empty());
    assert_eq!(metrics.bans.value(), 0);
}

#[test]
fn a_long_client_identifier_is_shortened_for_the_log() {
    assert_eq!(name("a\nb"), r#"client "a\nb""#);
    assert_eq!(name(&"x".repeat(65)), format!("client \"{}\"...", "x".repeat(64)));
}
