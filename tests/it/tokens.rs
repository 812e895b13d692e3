//! Tokens (JWT) as passwords, made by openssl and Python.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::acl::{READ_AGAIN, hang_up};
use crate::broker::{Broker, free_port, program, run};
use crate::listeners::certificates;
use crate::passwd::set;
use crate::raw::{Client, Connect};
use crate::service::Service;

const SOON: Duration = Duration::from_secs(30);

/// Algorithm, its key, and what `key_file` or `secret_file` names.
const ALGORITHMS: [(&str, &str, &str); 12] = [
    ("HS256", "secret", "secret"),
    ("HS384", "secret", "secret"),
    ("HS512", "secret", "secret"),
    ("RS256", "rsa.key", "rsa.pem"),
    ("RS384", "rsa.key", "rsa.pem"),
    ("RS512", "rsa.key", "rsa.pem"),
    ("PS256", "rsa.key", "rsa.pem"),
    ("PS384", "rsa.key", "rsa.pem"),
    ("PS512", "rsa.key", "rsa.pem"),
    ("ES256", "p256.key", "p256.pem"),
    ("ES384", "p384.key", "p384.pem"),
    ("EdDSA", "ed.key", "ed.pem"),
];

fn make_token(arguments: &[&str], directory: &Path, rest: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/make_token.py");
    let mut command = Command::new("python3");
    let (status, output) = run(command.arg(script).args(arguments).arg(directory).args(rest), SOON);
    assert_eq!(status, Some(0), "{output}");
    output
}

/// The keys of all tests.
pub fn keys() -> &'static PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap().keep();
        make_token(&["keys"], &directory, &[]);
        directory
    })
}

/// A set of keys, each with its name.
fn key_set(named: &[&str]) -> String {
    make_token(&["jwks"], keys(), named)
}

pub fn sign(algorithm: &str, key: &str, header: &str, claims: &str) -> String {
    make_token(&["sign"], keys(), &[algorithm, key, header, claims])
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token for a user, for an hour.
pub fn token(user: &str) -> String {
    token_with(user, "")
}

pub fn token_with(user: &str, claims: &str) -> String {
    let claims = format!("{{\"sub\": \"{user}\", \"exp\": {}{claims}}}", now_s() + 3600);
    sign("ES256", "p256.key", "{}", &claims)
}

/// A `[[token]]`; the settings of a broker have it before the listener.
pub fn tokens(settings: &str) -> String {
    let file = keys().join("p256.pem");
    format!("[[token]]\nname = \"t\"\nkey_file = '{}'\n{settings}\n", file.display())
}

pub fn broker(settings: &str) -> Broker {
    Broker::start_with("log_level = \"trace\"", &tokens(settings))
}

fn code(port: u16, connect: &Connect, user: &str, password: &str) -> u8 {
    Client::connect_with(port, &connect.clone().user(user, password)).1[3]
}

/// The Reason Code of MQTT 5.0.
fn connack(port: u16, user: &str, password: &str) -> u8 {
    code(port, &Connect::v5(""), user, password)
}

pub fn wait_for(broker: &Broker, said: &str) {
    wait_for_times(broker, said, 1);
}

fn wait_for_times(broker: &Broker, said: &str, times: usize) {
    let deadline = Instant::now() + SOON;
    while broker.log().matches(said).count() < times {
        assert!(Instant::now() < deadline, "not said: {said}\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_token_of_every_algorithm_lets_its_user_in() {
    let set = keys().join("set.json");
    let named = ["rsa=r", "p256=a", "p384=b", "ed=e", "secret=s"];
    std::fs::write(&set, key_set(&named)).unwrap();
    let methods: String = ALGORITHMS
        .iter()
        .map(|(name, _, file)| {
            let kind = if *file == "secret" { "secret_file" } else { "key_file" };
            let file = keys().join(file);
            format!(
                "[[token]]\nname = \"{name}\"\n{kind} = '{}'\nissuer = \"{name}\"\n",
                file.display()
            )
        })
        .collect();
    let port = free_port();
    let methods = format!(
        "{methods}[[token]]\nname = \"set\"\nkey_file = '{}'\n\
         [[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\nauthentication = \"set\"\n",
        set.display()
    );
    let broker = Broker::start_with("", &methods);
    for (algorithm, key, _) in ALGORITHMS {
        let end = now_s() + 3600;
        let claims = format!("{{\"sub\": \"ali\", \"exp\": {end}, \"iss\": \"{algorithm}\"}}");
        let token = sign(algorithm, key, "{}", &claims);
        for connect in [Connect::v4(""), Connect::v5("")] {
            assert_eq!(code(broker.port, &connect, "anybody", &token), 0, "{algorithm}");
            assert_eq!(code(port, &connect, "anybody", &token), 0, "{algorithm} by the set");
        }
        let forged = token.replace(&token[token.len() - 9..], "AAAAAAAAA");
        assert_eq!(code(broker.port, &Connect::v4(""), "ali", &forged), 4, "{algorithm}");
        assert_eq!(connack(broker.port, "ali", &forged), 0x86, "{algorithm}");
    }
    let only_password = Connect { password: Some(token("ali")), ..Connect::v5("") };
    assert_eq!(Client::connect_with(port, &only_password).1[3], 0);
    assert_eq!(Client::connect_with(port, &Connect::v5("")).1[3], 0x87);
}

#[test]
fn mosquittos_and_pahos_clients_come_in_with_a_token() {
    let broker = broker("publish_claim = \"pub\"\nsubscribe_claim = \"sub_to\"");
    let token = token_with("ali", ", \"pub\": [\"up/#\"], \"sub_to\": [\"up/#\"]");
    let port = broker.port.to_string();
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let publish = |password: &str| {
            let mut command = Command::new("mosquitto_pub");
            command.args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-t", "up/x", "-m", "x"]);
            run(command.args(["-q", "1", "-u", "x", "-P", password]), SOON)
        };
        assert_eq!(publish(&token).0, Some(0), "{version}");
        assert_ne!(publish(&token[..token.len() - 1]).0, Some(0), "{version}");
    }
    paho_comes_in(&port, &token);
}

/// paho's client with a password, where it may publish and subscribe to `up/#`.
pub fn paho_comes_in(port: &str, password: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let clients =
        std::env::var("TEST_CLIENTS").unwrap_or_else(|_| format!("{root}/target/clients"));
    let mut paho = Command::new("python3");
    paho.env("PYTHONPATH", format!("{clients}/python"));
    paho.arg(format!("{root}/tests/clients/paho_token.py")).args([port, password]);
    let (status, output) = run(&mut paho, SOON);
    assert_eq!((status, output.trim()), (Some(0), "received up/mine; denied down/x 0x87"));
}

#[test]
fn what_is_no_good_token_is_refused_with_the_reason_in_the_log() {
    let broker = broker("issuer = \"us\"\naudience = [\"mqtt\"]");
    let claims = |exp: u64, extra: &str| format!("{{\"sub\": \"ali\", \"exp\": {exp}{extra}}}");
    let ours = ", \"iss\": \"us\", \"aud\": \"mqtt\"";
    let (now, later) = (now_s(), now_s() + 3600);
    let es256 = |claims: &str| sign("ES256", "p256.key", "{}", claims);
    let good = es256(&claims(later, ours));
    assert_eq!(connack(broker.port, "ali", &good), 0);
    let none = sign("HS256", "secret", "{\"alg\": \"none\"}", &claims(later, ours));
    let unsigned = format!("{}.", &none[..none.rfind('.').unwrap()]);
    let confused = sign("HS256", "p256.pem", "{}", &claims(later, ours));
    let early = format!("{ours}, \"nbf\": {}", now + 600);
    let huge = format!("{}{}", good, "A".repeat(60_000));
    for (password, why) in [
        (none.clone(), "it is signed by \"none\""),
        (unsigned, "it is signed by \"none\""),
        (confused, "there is no key for its HS256"),
        (sign("ES384", "p384.key", "{}", &claims(later, ours)), "there is no key for its ES384"),
        (good.replace(&good[good.len() - 9..], "AAAAAAAAA"), "its signature is wrong"),
        (es256(&claims(now - 60, ours)), "it has expired 6"),
        (es256(&claims(later, &early)), "it holds in 5"),
        (
            es256(&claims(later, ", \"iss\": \"them\", \"aud\": \"mqtt\"")),
            "it is from the issuer \"them\"",
        ),
        (
            es256(&claims(later, ", \"iss\": \"us\", \"aud\": \"web\"")),
            "it is for the `audience` \"web\"",
        ),
        (es256("{\"sub\": \"ali\", \"iss\": \"us\", \"aud\": \"mqtt\"}"), "it has no `exp`"),
        (es256(&format!("{{\"exp\": {later}{ours}}}")), "its claim `sub` is no user name"),
        (es256("[1]"), "its claims are no JSON object"),
        (es256(&claims(later, ours)).replacen('.', ".!", 1), "its claims are not base64url"),
        (huge, "it is longer than 16384 bytes"),
    ] {
        assert_eq!(code(broker.port, &Connect::v4(""), "ali", &password), 4, "{why}");
        assert_eq!(connack(broker.port, "ali", &password), 0x86, "{why}");
        wait_for(&broker, &format!("user \"ali\" not let in: token `t`: {why}"));
        // Nothing of it is there but what may be.
        for part in password.split('.').filter(|part| part.len() > 20) {
            assert!(!broker.log().contains(part), "{why}: {part}\n{}", broker.log());
        }
    }
    for garbage in ["", "sesame", "a.b.c", "eyJ.eyJ.eyJ", "...", "\u{fffd}"] {
        assert_eq!(connack(broker.port, "ali", garbage), 0x86, "{garbage}");
    }
    assert_eq!(connack(broker.port, "ali", &good), 0);
}

#[test]
fn the_claims_say_what_a_client_may_do() {
    let roles = "roles_claim = \"realm.roles\"\npublish_claim = \"may.publish\"\n\
                 subscribe_claim = \"may.subscribe\"\n\
                 [[role]]\nname = \"reader\"\n[[role.rule]]\nallow = [\"subscribe\", \"receive\"]\n\
                 topic = \"read/#\"\n";
    let broker = broker(roles);
    let come = |id: &str, claims: &str| {
        let connect = Connect::v5(id).user("", &token_with("ali", claims));
        Client::connect(broker.port, &connect)
    };
    let publish = |client: &mut Client, topic: &str| {
        let bytes = client.publish_bytes(2, topic, 7, &[], "x");
        client.send(&bytes);
        client.answer().get(4).copied().unwrap_or_default()
    };
    let may = ", \"may\": {\"publish\": \"up/%u/%c\", \"subscribe\": [\"down/+\", \"all\"]}";
    let mut client = come("c", may);
    assert_eq!(publish(&mut client, "up/ali/c"), 0x10);
    for denied in ["up/ali/d", "up/baba/c", "down/x", "up/+/c"] {
        let code = if denied.contains('+') { continue } else { publish(&mut client, denied) };
        assert_eq!(code, 0x87, "{denied}");
    }
    let subscribe = |client: &mut Client, filter: &str| client.subscribe(filter, 1);
    assert_eq!((subscribe(&mut client, "down/+"), subscribe(&mut client, "all")), (1, 1));
    for denied in ["down/#", "#", "up/ali/c", "read/x"] {
        assert_eq!(subscribe(&mut client, denied), 0x87, "{denied}");
    }
    // A role too, and nothing where the claims are not there.
    let mut reader = come("r", ", \"realm\": {\"roles\": [\"reader\", \"no such role\"]}");
    assert_eq!((subscribe(&mut reader, "read/x"), subscribe(&mut reader, "all")), (1, 0x87));
    assert_eq!(publish(&mut reader, "read/x"), 0x87);
    let bad = token_with("ali", ", \"may\": {\"publish\": [\"a/#/b\"]}");
    assert_eq!(connack(broker.port, "", &bad), 0x86);
    let why = "its claim `may.publish` has \"a/#/b\", which is no Topic Filter";
    wait_for(&broker, why);
}

#[test]
fn a_session_belongs_to_the_user_of_the_token() {
    let broker = broker("");
    let mine = Connect::v5("mine").durable();
    let come = |user: &str| {
        let connect = mine.clone().user("whatever", &token(user));
        Client::connect_with(broker.port, &connect).1[3]
    };
    assert_eq!((come("ali"), come("baba"), come("ali")), (0, 0x87, 0));
    assert!(broker.log().contains("user=\"ali\""), "{}", broker.log());
    let strict = self::broker("check_username = true");
    let token = token("ali");
    let codes = ["ali", "baba", ""].map(|user| connack(strict.port, user, &token));
    assert_eq!(codes, [0, 0x86, 0x86]);
}

#[test]
fn a_connection_ends_when_its_token_expires() {
    let broker = broker("leeway = 0");
    let others = token("x");
    let claims = format!("{{\"sub\": \"ali\", \"exp\": {}}}", now_s() + 10);
    let token = sign("ES256", "p256.key", "{}", &claims);
    let mut idle = Client::connect(broker.port, &Connect::v5("idle").user("", &token));
    let old = Connect::v4("old").keep_alive(600).user("", &token);
    let mut old = Client::connect(broker.port, &old);
    let mut busy = Client::connect(broker.port, &Connect::v5("busy").user("", &token));
    let mut other = Client::connect(broker.port, &Connect::v5("other").user("", &others));
    // One that never lets go: messages of its own come back to it as it sends others.
    busy.subscribe("expiry/#", 0);
    let deadline = Instant::now() + SOON;
    let message = busy.publish_bytes(0, "expiry/x", 0, &[], "x");
    busy.send(&message);
    let mut said = busy.read();
    assert_eq!(said[0], 0x30);
    while said[0] != 0xE0 {
        assert!(Instant::now() < deadline, "it does not end");
        busy.try_send(&message);
        said = busy.try_read().expect("DISCONNECT before the end");
    }
    assert_eq!(said[2], 0x87);
    idle.expect_close(0x87);
    assert_eq!(old.try_read(), None);
    assert!(other.try_ping());
    wait_for(&broker, "its proof of identity has expired");
    assert_eq!(connack(broker.port, "", &token), 0x86);
}

#[test]
fn methods_are_tried_in_order_and_who_knows_the_user_decides() {
    let directory = TempDir::new().unwrap();
    let users = directory.path().join("users");
    set(&["-cb"], &users, &["ali", "sesame"], "");
    let [first, only, open] = [free_port(), free_port(), free_port()];
    let listeners = format!(
        "{}[[listener]]\nport = {first}\nbind_address = \"127.0.0.1\"\nauthentication = [\"t\", \"passwords\"]\n\
         [[listener]]\nport = {only}\nbind_address = \"127.0.0.1\"\nauthentication = [\"passwords\"]\n\
         [[listener]]\nport = {open}\nbind_address = \"127.0.0.1\"\nauthentication = [\"t\"]\nallow_anonymous = true\n",
        tokens("issuer = \"us\"")
    );
    let settings = format!("password_file = '{}'\n", users.display());
    let broker = Broker::start_with(&settings, &listeners);
    let ours = token_with("ali", ", \"iss\": \"us\"");
    let theirs = token_with("ali", ", \"iss\": \"them\"");
    let forged = ours.replace(&ours[ours.len() - 9..], "AAAAAAAAA");
    let codes = |port| {
        [
            ("ali", "sesame"),
            ("ali", &ours),
            ("x", &ours),
            ("x", &forged),
            ("x", &theirs),
            ("x", "y"),
        ]
        .map(|(user, password)| connack(port, user, password))
    };
    // Passwords first: for ali they decide.
    assert_eq!(codes(broker.port), [0, 0x86, 0, 0x86, 0x86, 0x86]);
    assert_eq!(codes(first), [0, 0, 0, 0x86, 0x86, 0x86]);
    assert_eq!(codes(only), [0, 0x86, 0x86, 0x86, 0x86, 0x86]);
    assert_eq!(codes(open), [0x86, 0, 0, 0x86, 0x86, 0x86]);
    let nobody = |port| Client::connect_with(port, &Connect::v5("")).1[3];
    assert_eq!([broker.port, first, only, open].map(nobody), [0x87, 0x87, 0x87, 0]);
}

#[test]
fn keys_of_a_file_are_read_again_on_sighup() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("keys.json");
    std::fs::write(&file, key_set(&["p256=old"])).unwrap();
    let listeners = format!("[[token]]\nname = \"t\"\nkey_file = '{}'\n", file.display());
    let broker = Broker::start_with("", &listeners);
    let claims = format!("{{\"sub\": \"ali\", \"exp\": {}}}", now_s() + 3600);
    let old = sign("ES256", "p256.key", "{\"kid\": \"old\"}", &claims);
    let new = sign("EdDSA", "ed.key", "{\"kid\": \"new\"}", &claims);
    let codes = || [&old, &new].map(|token| connack(broker.port, "", token));
    let mut client = Client::connect(broker.port, &Connect::v5("stays").user("", &old));
    assert_eq!(codes(), [0, 0x86]);
    std::fs::write(&file, "{\"keys\": [{}]}").unwrap();
    hang_up(&broker, "nothing is changed");
    assert_eq!(codes(), [0, 0x86]);
    std::fs::write(&file, key_set(&["ed=new"])).unwrap();
    hang_up(&broker, READ_AGAIN);
    assert_eq!(codes(), [0x86, 0]);
    assert!(client.try_ping());
    // Also from a file of another name.
    let other = directory.path().join("other.json");
    std::fs::write(&other, key_set(&["p256=old"])).unwrap();
    let config = broker.directory().join("whimbrel.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("keys.json", "other.json")).unwrap();
    hang_up(&broker, READ_AGAIN);
    assert_eq!(codes(), [0, 0x86]);
    assert!(!broker.log().contains("needs a restart"), "{}", broker.log());
}

#[test]
fn everything_about_tokens_changes_on_sighup_for_who_comes_from_then_on() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("keys.json");
    std::fs::write(&file, key_set(&["p256=k"])).unwrap();
    let table = format!("[[token]]\nname = \"t\"\nkey_file = '{}'\n", file.display());
    let broker = Broker::start_with("allow_anonymous = false", &table);
    let expiry_s = now_s() + 3600;
    let [ours, theirs] = ["us", "them"].map(|issuer| {
        let claims = format!("{{\"sub\": \"ali\", \"exp\": {expiry_s}, \"iss\": \"{issuer}\"}}");
        sign("ES256", "p256.key", "{\"kid\": \"k\"}", &claims)
    });
    let codes = || [&ours, &theirs].map(|token| connack(broker.port, "", token));
    assert_eq!(codes(), [0, 0]);
    let mut kept = Client::connect(broker.port, &Connect::v5("stays").user("", &theirs));
    let begin = broker.config();
    broker.reload(&begin.replace(&table, &format!("{table}issuer = \"us\"\n")), READ_AGAIN);
    assert_eq!(codes(), [0, 0x86]);
    // A second one, for the others, which a file that is not good does not bring.
    let second = |file: &str| {
        let of_first = table.replace("name", "issuer = \"us\"\nname");
        let name = "[[token]]\nname = \"other\"\nissuer = \"them\"\n";
        begin.replace(&table, &format!("{of_first}{name}key_file = '{file}'\n"))
    };
    broker.reload(&second("/nowhere"), "nothing is changed");
    assert_eq!(codes(), [0, 0x86]);
    broker.reload(&second(&file.display().to_string()), READ_AGAIN);
    assert_eq!(codes(), [0, 0]);
    // Keys that are fetched take the place of a file, and are there for the first who comes.
    let service = Service::start();
    service.put("keys", &key_set(&["p256=k"]));
    let url = service.url("/keys");
    let fetched = format!("[[token]]\nname = \"t\"\nissuer = \"them\"\nkeys_url = \"{url}\"\n");
    broker.reload(&begin.replace(&table, &fetched), READ_AGAIN);
    assert_eq!(codes(), [0x86, 0]);
    // Another issuer, while the address does not answer: the keys are those that it gave.
    service.remove("keys");
    let fetched = fetched.replace("them", "us");
    broker.reload(&begin.replace(&table, &fetched), READ_AGAIN);
    assert_eq!(codes(), [0, 0x86]);
    broker.reload(&begin.replace(&table, ""), READ_AGAIN);
    assert_eq!(codes(), [0x86, 0x86]);
    assert!(kept.try_ping());
    assert!(!broker.log().contains("needs a restart"), "{}", broker.log());
}

/// A broker that fetches its keys.
fn fetching(service: &Service, settings: &str) -> Broker {
    let url = service.url("/keys");
    let listeners = format!("[[token]]\nname = \"t\"\nkeys_url = \"{url}\"\n{settings}\n");
    Broker::start_with("", &listeners)
}

#[test]
fn keys_are_fetched_and_again_when_one_is_unknown_but_not_often() {
    let mut service = Service::start();
    service.put("keys", &key_set(&["p256=old", "secret=s"]));
    let broker = fetching(&service, "");
    let claims = format!("{{\"sub\": \"ali\", \"exp\": {}}}", now_s() + 3600);
    let old = sign("ES256", "p256.key", "{\"kid\": \"old\"}", &claims);
    let new = sign("EdDSA", "ed.key", "{\"kid\": \"new\"}", &claims);
    // A secret that everybody can fetch is none.
    let secret = sign("HS256", "secret", "{\"kid\": \"s\"}", &claims);
    assert_eq!(connack(broker.port, "", &old), 0);
    wait_for(&broker, "keys fetched: 1");
    service.put("keys", &key_set(&["ed=new", "p384=other"]));
    let began = Instant::now();
    let mut attempts = 0;
    while connack(broker.port, "", &new) != 0 {
        assert_eq!(connack(broker.port, "", &secret), 0x86);
        assert!(began.elapsed() < SOON, "{}", broker.log());
        attempts += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(attempts > 2 && service.asked().len() <= 4, "{attempts} {:?}", service.asked());
    assert_eq!(connack(broker.port, "", &old), 0x86);
    wait_for(&broker, "there is no key called \"old\" for its ES256");
    // When it cannot be asked, what was fetched stays.
    service.stop();
    hang_up(&broker, READ_AGAIN);
    wait_for(&broker, "those fetched before, 2, stay in use");
    assert_eq!(connack(broker.port, "", &new), 0);
    service.resume();
    service.put("keys", &key_set(&["ed=new"]));
    hang_up(&broker, READ_AGAIN);
    wait_for_times(&broker, "keys fetched: 1", 2);
}

#[test]
fn without_keys_the_server_is_unavailable_until_they_can_be_fetched() {
    let mut service = Service::start();
    service.put("keys", &key_set(&["p256=old"]));
    service.stop();
    let broker = fetching(&service, "keys_timeout = \"2s\"");
    let token = token("ali");
    assert_eq!(connack(broker.port, "", &token), 0x88);
    assert_eq!(code(broker.port, &Connect::v4(""), "", &token), 3);
    wait_for(&broker, "keys cannot be fetched: ");
    wait_for(&broker, "token `t`: no keys have been fetched");
    service.resume();
    // A page that is no set of keys is none, and so is one with another status.
    for (file, text) in [("keys", "<html>"), ("status", "500")] {
        service.put(file, text);
        hang_up(&broker, READ_AGAIN);
    }
    assert_eq!(connack(broker.port, "", &token), 0x88);
    service.put("keys", &key_set(&["p256=old"]));
    service.remove("status");
    hang_up(&broker, READ_AGAIN);
    let deadline = Instant::now() + SOON;
    while connack(broker.port, "", &token) != 0 {
        assert!(Instant::now() < deadline, "{}", broker.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn keys_are_fetched_over_tls_from_who_is_vouched_for() {
    let service = Service::start_tls();
    service.put("keys", &key_set(&["p256=old"]));
    let ca = certificates().join("ca.pem");
    let trusting = fetching(&service, &format!("cafile = '{}'", ca.display()));
    assert_eq!(connack(trusting.port, "", &token("ali")), 0);
    let other = fetching(&service, "");
    assert_eq!(connack(other.port, "", &token("ali")), 0x88);
    wait_for(&other, "keys cannot be fetched: ");
    assert_eq!(service.asked().len(), 1);
}

#[test]
fn settings_that_cannot_be_are_said() {
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("w.toml");
    let listener = "[[listener]]\nport = 1\n";
    for (text, expected) in [
        ("authentication = \"x\"", "is the `name` of no [[token]]"),
        ("authentication = \"passwords\"", "need a `password_file`"),
        ("[[token]]\nname = \"t\"", "w.toml:1: a token needs one of `key_file`, `secret_file`"),
        ("[[token]]\nkey_file = \"k\"", "w.toml:1: a token needs `name`"),
        ("[[token]]\nname = \"passwords\"\nkey_file = \"k\"", "cannot be called \"passwords\""),
        ("[[token]]\nname = \"t\"\nkeys_url = \"ftp://x\"", "an address with http:// or https://"),
        ("[[token]]\nname = \"t\"\nkey_file = \"k\"\nalgorithms = [\"none\"]", "`algorithms` must"),
    ] {
        std::fs::write(&config, format!("{text}\n{listener}")).unwrap();
        let (status, output) = run(program().arg("--check-config").arg("-c").arg(&config), SOON);
        assert_eq!(status, Some(1), "{output}");
        assert!(output.contains(expected), "{text}: {output}");
    }
}
