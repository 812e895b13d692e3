//! Tokens that are given by enhanced authentication, and new ones while the Client is connected.

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::acl::READ_AGAIN;
use crate::broker::{Broker, free_port, run};
use crate::passwords::password_file;
use crate::raw::{Client, Connect, field, packet, properties};
use crate::scram::{auth, auth_properties};
use crate::service::Service;
use crate::tokens::{broker, now_s, sign, token, token_with, tokens, wait_for};

const METHOD: &str = "OAUTH2-JWT";
const CONTINUE: u8 = 0x18;
const AGAIN: u8 = 0x19;

fn connect(id: &str, token: &str) -> Connect {
    Connect::v5(id).with(&auth_properties(METHOD, token))
}

/// A client that has come by a token, and was told the method [MQTT-4.12.0-5].
fn come(port: u16, id: &str, token: &str) -> Client {
    let (client, connack) = Client::connect_with(port, &connect(id, token));
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
    let method = METHOD.as_bytes();
    assert!(connack.windows(method.len()).any(|w| w == method), "{connack:02x?}");
    client
}

/// The Reason Code for who comes with a token.
fn refusal(port: u16, token: &str) -> u8 {
    Client::connect_with(port, &connect("refused", token)).1[3]
}

fn again(client: &mut Client, token: &str) {
    client.send(&auth(AGAIN, METHOD, token));
    client.expect(&packet(0xF0, &[&[0], &properties(&[&[0x15], &field(METHOD)])]));
}

/// A token for `user` that holds for so many seconds.
fn short(user: &str, seconds: u64) -> String {
    let claims = format!("{{\"sub\": \"{user}\", \"exp\": {}}}", now_s() + seconds);
    sign("ES256", "p256.key", "{}", &claims)
}

/// [MQTT-4.12.1-1]
#[test]
fn a_new_token_keeps_a_connection_whose_first_one_expires() {
    let broker = broker("leeway = 0");
    let long = token("ali");
    let first = short("ali", 12);
    let mut stays = come(broker.port, "stays", &first);
    let mut goes = come(broker.port, "goes", &first);
    assert_eq!(stays.subscribe("bearer/#", 1), 1);
    again(&mut stays, &long);
    goes.stream().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    goes.expect_close(0x87);
    // Its time was the same.
    assert!(stays.try_ping());
    stays.publish(2, "bearer/x", "still there");
    assert_eq!(stays.receive().text(), "still there");
    // An earlier end holds as well.
    again(&mut stays, &short("ali", 12));
    stays.stream().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stays.expect_close(0x87);
    wait_for(&broker, "its proof of identity has expired");
    assert_eq!(refusal(broker.port, &first), 0x86);
}

#[test]
fn what_the_new_token_says_holds_at_once() {
    let broker = broker("publish_claim = \"up\"\nsubscribe_claim = \"down\"");
    let [a, b] = ["a", "b"].map(|topic| {
        token_with("ali", &format!(", \"up\": [\"{topic}/#\"], \"down\": [\"{topic}/#\"]"))
    });
    let mut client = come(broker.port, "rights", &a);
    let told = |client: &mut Client, topic: &str| {
        let bytes = client.publish_bytes(2, topic, 7, &[], "x");
        client.send(&bytes);
        client.read_kind(0x40).get(4).copied().unwrap_or_default()
    };
    assert_eq!((client.subscribe("a/#", 0), client.subscribe("b/#", 0)), (0, 0x87));
    assert_eq!((told(&mut client, "b/x"), told(&mut client, "a/y")), (0x87, 0));
    assert_eq!(client.receive().text(), "x");
    again(&mut client, &b);
    assert_eq!((told(&mut client, "b/x"), told(&mut client, "a/y")), (0x10, 0x87));
    assert_eq!((client.subscribe("a/z", 0), client.subscribe("b/#", 0)), (0x87, 0));
    // Nor does it get any more what it had subscribed to.
    let mut other = come(broker.port, "other", &a);
    assert_eq!(told(&mut other, "a/x"), 0);
    client.expect_nothing();
    again(&mut client, &a);
    assert_eq!(told(&mut other, "a/x"), 0);
    client.receive();
}

/// A member that may not have any more what it could before must not be handed it again and again.
#[test]
fn a_share_group_knows_what_its_members_may_receive_by_their_new_tokens() {
    let broker = broker("subscribe_claim = \"down\"\npublish_claim = \"up\"");
    let all = token_with("ali", ", \"down\": [\"#\"], \"up\": [\"#\"]");
    let little = token_with("ali", ", \"down\": [\"b\"]");
    let durable = |token: &str| connect("member", token).durable();
    let mut member = Client::connect(broker.port, &durable(&all));
    assert_eq!(member.subscribe("$share/g/a", 1), 1);
    let mut publisher = come(broker.port, "publisher", &all);
    publisher.publish(2, "a", "1");
    assert_eq!(member.receive().text(), "1");
    again(&mut member, &little);
    publisher.publish(2, "a", "2");
    member.expect_nothing();
    // Also if it comes back with less.
    member.disconnect();
    let mut member = Client::connect(broker.port, &durable(&all));
    assert_eq!(member.receive().text(), "2");
    member.disconnect();
    let mut member = Client::connect(broker.port, &durable(&little));
    publisher.publish(2, "a", "3");
    member.expect_nothing();
    member.send(&auth(AGAIN, METHOD, &all));
    // In either order.
    let (mut told, mut kinds) = (None, Vec::new());
    for packet in [member.read(), member.read()] {
        kinds.push(packet[0] & 0xF0);
        told = told.or((packet[0] >> 4 == 3).then(|| packet[packet.len() - 1]));
    }
    kinds.sort_unstable();
    assert_eq!((kinds, told), (vec![0x30, 0xF0], Some(b'3')));
}

/// [MQTT-4.12.0-4, MQTT-4.12.1-2]
#[test]
fn a_token_that_is_no_good_ends_the_connection() {
    let broker = broker("leeway = 0\nissuer = \"us\"");
    let ours = |user: &str| token_with(user, ", \"iss\": \"us\"");
    let good = ours("ali");
    let (theirs, expired) = (token_with("ali", ", \"iss\": \"them\""), short("ali", 0));
    let forged = good.replace(&good[good.len() - 9..], "AAAAAAAAA");
    for bad in [&forged, &theirs, &expired, "nonsense", ""] {
        assert_eq!(refusal(broker.port, bad), 0x86, "{bad}");
    }
    for bad in [&ours("baba"), &forged, &theirs, &expired, "nonsense", ""] {
        let mut client = come(broker.port, "no-good", &good);
        client.send(&auth(AGAIN, METHOD, bad));
        client.expect_close(0x87);
    }
    for (packet, reason) in
        [(auth(AGAIN, "SCRAM-SHA-256", &good), 0x82), (auth(CONTINUE, METHOD, &good), 0x82)]
    {
        let mut client = come(broker.port, "no-good", &good);
        client.send(&packet);
        client.expect_close(reason);
    }
    // Who has given it as a password cannot give another.
    let mut client = Client::connect(broker.port, &Connect::v5("no-good").user("", &good));
    client.send(&auth(AGAIN, METHOD, &good));
    client.expect_close(0x82);
    assert!(!broker.log().contains(&good), "a token is in the log");
}

#[test]
fn mosquittos_client_comes_in_by_a_token_as_authentication_data() {
    let broker = broker("");
    let publish = |data: &str| {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &broker.port.to_string(), "-V", "mqttv5"]);
        command.args(["-D", "connect", "authentication-method", METHOD]);
        command.args(["-D", "connect", "authentication-data", data]);
        run(command.args(["-t", "bearer", "-m", "x", "-q", "1"]), Duration::from_secs(30))
    };
    let good = token("ali");
    assert_eq!(publish(&good).0, Some(0), "{}", broker.log());
    assert!(broker.log().contains("user=\"ali\""), "{}", broker.log());
    assert_ne!(publish(&good[..good.len() - 1]).0, Some(0));
}

#[test]
fn failed_tokens_are_counted_and_the_same_one_bans_nobody() {
    let settings = "exempt_networks = []\nmax_failed_logins = 3\nfailed_login_delay = 0";
    let broker = Broker::start_with(settings, &tokens("leeway = 0"));
    let (good, old) = (token("ali"), short("ali", 0));
    let mut inside = come(broker.port, "inside", &good);
    (0..6).for_each(|_| assert_eq!(refusal(broker.port, &old), 0x86));
    let mut stays = come(broker.port, "stays", &good);
    (0..1).for_each(|n| assert_eq!(refusal(broker.port, &format!("guess {n}")), 0x86));
    inside.send(&auth(AGAIN, METHOD, "another guess"));
    inside.expect_close(0x87);
    wait_for(&broker, "banned for 600s: 3 failed logins in 60s");
    assert!(stays.try_ping());
}

#[test]
fn a_token_by_enhanced_authentication_is_no_way_round_a_callout() {
    let service = Service::start();
    let asked = format!("[[callout]]\nname = \"c\"\nurl = \"{}\"\n", service.url("/nothing"));
    for (order, code) in [("[\"c\", \"t\"]", 0x8C), ("[\"t\", \"c\"]", 0)] {
        let settings = format!("authentication = {order}");
        let broker = Broker::start_with(&settings, &format!("{}{asked}", tokens("")));
        assert_eq!(refusal(broker.port, &token("ali")), code, "{order}");
    }
    // Where there are no tokens it is not offered; passwords do not judge who gives none.
    let directory = TempDir::new().unwrap();
    let users = format!("password_file = '{}'", password_file(directory.path()).display());
    assert_eq!(refusal(Broker::start(&users).port, &token("ali")), 0x8C);
    let both = Broker::start_with(&users, &tokens(""));
    assert_eq!(refusal(both.port, &token("ali")), 0);
    assert_eq!(refusal(both.port, "sesame"), 0x86, "a password is no token");
}

#[test]
fn a_token_is_not_judged_by_settings_that_hold_no_more() {
    let broker = broker("");
    let mut old = come(broker.port, "old", &token("ali"));
    let config = broker.config().replace("[[token]]\n", "[[token]]\nissuer = \"us\"\n");
    broker.reload(&config, READ_AGAIN);
    old.send(&auth(AGAIN, METHOD, &token("ali")));
    old.expect_close(0x87);
    wait_for(&broker, "other settings for tokens hold by now");
    let ours = token_with("ali", ", \"iss\": \"us\"");
    let mut new = come(broker.port, "new", &ours);
    again(&mut new, &ours);
}

/// That another listener still has the method is no help, and whoever has come by one that is there
/// no more has not guessed.
#[test]
fn who_has_come_by_tokens_stays_by_them_only_where_they_are_offered() {
    let service = Service::start();
    let [other, closed] = [free_port(), free_port()];
    let listener = |port: u16| {
        format!(
            "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\nauthentication = [\"t\"]\n"
        )
    };
    let settings = "exempt_networks = []\nmax_failed_logins = 1\nauthentication = [\"t\"]";
    let listeners = [tokens(""), listener(other), listener(closed)].concat();
    let broker = Broker::start_with(settings, &listeners);
    let good = token("ali");
    let [mut first, mut second, mut third] =
        [(broker.port, "1"), (other, "2"), (closed, "3")].map(|(port, id)| come(port, id, &good));
    // What has nothing to do with it changes nothing.
    let config = broker.config().replace(settings, &format!("max_keepalive = 600\n{settings}"));
    broker.reload(&config, READ_AGAIN);
    for client in [&mut first, &mut second, &mut third] {
        again(client, &good);
    }
    let callout = format!("[[callout]]\nname = \"c\"\nurl = \"{}\"\n", service.url("/nothing"));
    let config = config.replace(&tokens(""), &format!("{}{callout}", tokens("")));
    let config = config.replacen("authentication = [\"t\"]", "authentication = [\"c\", \"t\"]", 1);
    broker.reload(&config.replace(&listener(closed), ""), READ_AGAIN);
    for client in [&mut first, &mut third] {
        client.send(&auth(AGAIN, METHOD, &good));
        client.expect_close(0x87);
    }
    assert_eq!(refusal(broker.port, &good), 0x8C);
    again(&mut second, &good);
    come(other, "4", &good);
}
