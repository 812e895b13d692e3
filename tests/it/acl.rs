//! What Clients may do: `acl_file`, roles, and who owns a Session.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::{Broker, free_port, program, run};
use crate::passwd::set;
use crate::raw::{Client, Connect, field, packet};

const SOON: Duration = Duration::from_secs(30);

/// Users ali, baba and root, whose passwords are their names.
fn users(directory: &Path) -> String {
    let file = directory.join("users");
    for (user, option) in [("ali", "-cb"), ("baba", "-b"), ("root", "-b")] {
        set(&[option], &file, &[user, user], "");
    }
    file.display().to_string()
}

/// A broker whose Clients come with or without a user name, with this `acl_file`.
fn with_file(directory: &Path, rules: &str) -> Broker {
    let acl = directory.join("acl");
    std::fs::write(&acl, rules).unwrap();
    Broker::start(&format!(
        "allow_anonymous = true\npassword_file = '{}'\nacl_file = '{}'",
        users(directory),
        acl.display()
    ))
}

/// A broker whose Clients come with or without a user name, with these roles.
fn with_roles(directory: &Path, roles: &str) -> Broker {
    // Tables stand last in the file.
    let settings = format!("allow_anonymous = true\npassword_file = '{}'", users(directory));
    Broker::start_with(&settings, roles)
}

fn as_user(port: u16, connect: Connect, user: &str) -> Client {
    Client::connect(port, &connect.user(user, user))
}

/// Publishes with QoS 1 or 2; the acknowledgement's Reason Code, 0 where it has none.
fn reason(client: &mut Client, flags: u8, topic: &str) -> u8 {
    let bytes = client.publish_bytes(flags, topic, 7, &[], "x");
    client.send(&bytes);
    let ack = client.answer();
    assert_eq!(ack[0], if flags & 6 == 2 { 0x40 } else { 0x50 }, "{ack:02x?}");
    ack.get(4).copied().unwrap_or(0)
}

const FILE: &str = "\
topic read public/#
user ali
topic readwrite ali/#
topic deny ali/secret
topic read public/#
user root
topic readwrite #
pattern write from/%u/%c
";

#[test]
fn a_denied_publish_is_told_where_it_can_be_and_reaches_nobody() {
    let directory = TempDir::new().unwrap();
    let broker = with_file(directory.path(), FILE);
    let mut root = as_user(broker.port, Connect::v4("acl-root"), "root");
    assert_eq!(root.subscribe("#", 2), 2);
    let mut v5 = as_user(broker.port, Connect::v5("v5"), "ali");
    let mut v4 = as_user(broker.port, Connect::v4("v4"), "ali");
    for topic in ["ali/secret", "public/a", "other", "from/ali/v4x"] {
        for flags in [2, 4, 3, 5] {
            assert_eq!(reason(&mut v5, flags, topic), 0x87, "{topic} {flags}");
        }
        v5.publish(0, topic, "x");
        for flags in [0, 2, 4, 3, 5] {
            v4.publish(flags, topic, "x");
        }
    }
    assert_eq!(reason(&mut v5, 2, "ali/open"), 0);
    assert_eq!(root.receive().topic, "ali/open");
    v4.publish(2, "from/ali/v4", "x");
    assert_eq!(root.receive().topic, "from/ali/v4");
    // Neither was retained.
    let mut late = as_user(broker.port, Connect::v4("late"), "root");
    late.subscribe("#", 1);
    v4.publish(2, "ali/last", "x");
    assert_eq!(
        (late.receive().topic, root.receive().topic),
        ("ali/last".into(), "ali/last".into())
    );
}

#[test]
fn what_may_not_be_read_is_not_delivered() {
    let directory = TempDir::new().unwrap();
    let broker = with_file(directory.path(), FILE);
    let mut root = as_user(broker.port, Connect::v5("acl-root"), "root");
    root.publish(3, "ali/retained", "x");
    root.publish(3, "other/retained", "x");
    let mut ali = as_user(broker.port, Connect::v5("ali").durable(), "ali");
    let mut anonymous = Client::v4(broker.port, "anonymous");
    // As mosquitto has it, subscribing is allowed.
    assert_eq!((ali.subscribe("#", 1), anonymous.subscribe("#", 2)), (1, 2));
    assert_eq!(ali.receive().topic, "ali/retained");
    for flags in [0, 2, 4] {
        for topic in ["ali/secret", "ali/a", "other", "from/ali/ali", "public/a"] {
            root.publish(flags, topic, "x");
        }
        assert_eq!(ali.receive().topic, "ali/a");
        assert_eq!(ali.receive().topic, "public/a");
        assert_eq!(anonymous.receive().topic, "public/a");
    }
    // What has waited for a Client is judged too.
    ali.disconnect();
    root.publish(2, "other", "x");
    root.publish(2, "ali/b", "x");
    let (mut ali, present) =
        Client::resume(broker.port, &Connect::v5("ali").durable().user("ali", "ali"));
    assert!(present);
    assert_eq!(ali.receive().topic, "ali/b");
}

const ROLES: &str = r##"
[[group]]
name = "thieves"
users = ["ali", "baba"]

[[role]]
name = "thief"
groups = ["thieves"]
[[role.rule]]
deny = "subscribe"
topic = "cave/door"
[[role.rule]]
deny = ["publish", "receive"]
topic = "cave/%u/secret"
[[role.rule]]
allow = ["publish", "subscribe", "receive"]
topic = "cave/#"
max_qos = 1
retain = false
[[role.rule]]
allow = "subscribe"
topic = "cave/+/#"

[[role]]
name = "root"
users = "root"
[[role.rule]]
allow = ["publish", "subscribe", "receive"]
topic = "#"
"##;

#[test]
fn roles_decide_by_their_first_rule_that_matches() {
    let directory = TempDir::new().unwrap();
    let broker = with_roles(directory.path(), ROLES);
    let mut root = as_user(broker.port, Connect::v5("r"), "root");
    let mut ali = as_user(broker.port, Connect::v5("a"), "ali");
    for (flags, topic, expected) in [
        (2, "cave/a", 0x10),
        (4, "cave/a", 0x87),
        (3, "cave/a", 0x87),
        (2, "cave/ali/secret", 0x87),
        (2, "cave/baba/secret", 0x10),
        (2, "house", 0x87),
    ] {
        assert_eq!(reason(&mut ali, flags, topic), expected, "{flags} {topic}");
    }
    for (filter, qos, expected) in [
        ("cave/a", 0, 0),
        // By a rule with `retain` a subscription is not judged.
        ("cave/+/+", 2, 2),
        ("cave/+/#", 2, 0x87),
        ("cave/door", 0, 0x87),
        ("cave/#", 0, 0x87),
        ("#", 0, 0x87),
        ("$share/g/cave/x", 0, 0),
        ("$share/cave/x/y", 0, 0x87),
    ] {
        let code = ali.subscribe(filter, qos);
        let is_denied = expected == 0x87;
        assert_eq!(code == 0x87, is_denied, "{filter}: {code:02x}");
    }
    let mut v4 = as_user(broker.port, Connect::v4("b"), "baba");
    assert_eq!((v4.subscribe("cave/door", 0), v4.subscribe("cave/+/x", 0)), (0x80, 0));
    assert_eq!(Client::v4(broker.port, "nobody").subscribe("cave/a", 0), 0x80);
    // Delivery: not with QoS 2, not the secret of ali.
    root.publish(0, "cave/ali/secret", "x");
    root.publish(0, "cave/b/c", "x");
    assert_eq!(ali.receive().topic, "cave/b/c");
}

#[test]
fn a_will_is_judged_when_it_is_published() {
    let directory = TempDir::new().unwrap();
    let broker = with_file(directory.path(), FILE);
    let mut root = as_user(broker.port, Connect::v4("r"), "root");
    root.subscribe("#", 0);
    let dying = |id: &str, topic: &str| {
        as_user(broker.port, Connect::v4(id).will(0, &[], topic, id), "ali").vanish();
    };
    dying("1", "ali/secret");
    dying("2", "public/will");
    let log = || broker.log().matches("its will is denied").count();
    let deadline = Instant::now() + SOON;
    while log() < 2 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    dying("3", "ali/will");
    assert_eq!(root.receive().text(), "3");
}

pub fn hang_up(broker: &Broker, said: &str) {
    let before = broker.log().matches(said).count();
    let pid = broker.pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    let deadline = Instant::now() + SOON;
    while broker.log().matches(said).count() == before {
        assert!(Instant::now() < deadline, "{}", broker.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub const READ_AGAIN: &str = "SIGHUP: the configuration was read again";

#[test]
fn rules_are_read_again_on_sighup_and_bad_ones_change_nothing() {
    let directory = TempDir::new().unwrap();
    let broker = with_file(directory.path(), FILE);
    let acl = directory.path().join("acl");
    let mut root = as_user(broker.port, Connect::v5("r"), "root");
    let mut ali = as_user(broker.port, Connect::v5("a"), "ali");
    ali.subscribe("#", 0);
    // What is allowed and what is denied is remembered by now.
    let outcome = |root: &mut Client, ali: &mut Client| {
        root.publish(0, "ali/x", "x");
        root.publish(0, "new/x", "x");
        let received = ali.receive().topic;
        let codes = [reason(ali, 2, "ali/secret"), reason(ali, 2, "new/y")];
        (received, codes.map(|code| code == 0x87))
    };
    let before = outcome(&mut root, &mut ali);
    assert_eq!(before, ("ali/x".into(), [true, true]));
    std::fs::write(&acl, "user root\ntopic #\nuser ali\ntopic rw new/#\n").unwrap();
    hang_up(&broker, "nothing is changed");
    assert!(broker.log().contains("acl:4: `rw` is unknown"), "{}", broker.log());
    assert_eq!(outcome(&mut root, &mut ali), before);
    std::fs::write(&acl, "user root\ntopic #\nuser ali\ntopic new/#\n").unwrap();
    hang_up(&broker, READ_AGAIN);
    let (received, denied) = outcome(&mut root, &mut ali);
    assert_eq!((&*received, denied), ("new/x", [true, false]));
    assert_eq!(ali.receive().topic, "new/y");
}

#[test]
fn roles_are_read_again_on_sighup() {
    let directory = TempDir::new().unwrap();
    let broker = with_roles(directory.path(), ROLES);
    let mut baba = as_user(broker.port, Connect::v5("b"), "baba");
    assert_eq!(reason(&mut baba, 2, "house"), 0x87);
    let config = broker.directory().join("whimbrel.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("users = \"root\"", "users = [\"root\", \"baba\"]"))
        .unwrap();
    hang_up(&broker, READ_AGAIN);
    assert_eq!(reason(&mut baba, 2, "house"), 0x10);
    std::fs::write(&config, text.replace("topic = \"#\"", "topic = \"#/a\"")).unwrap();
    hang_up(&broker, "nothing is changed");
    assert_eq!(reason(&mut baba, 2, "house"), 0x10);
}

#[test]
fn what_is_retained_is_judged_by_the_qos_it_was_published_with() {
    let directory = TempDir::new().unwrap();
    let tables = "[[role]]\nname = \"all\"\neverybody = true\n\
                  [[role.rule]]\ndeny = \"publish\"\nmin_qos = 2\ntopic = \"b\"\n\
                  [[role.rule]]\nallow = [\"publish\", \"subscribe\", \"receive\"]\ntopic = \"#\"\n";
    let settings = format!(
        "password_file = '{}'\ncheck_retain_source = true\nupgrade_outgoing_qos = true",
        users(directory.path())
    );
    let broker = Broker::start_with(&settings, tables);
    let mut ali = as_user(broker.port, Connect::v5("a"), "ali");
    for topic in ["a", "b", "c"] {
        ali.publish(3, topic, "x");
    }
    let found = |id: &str| {
        let mut baba = as_user(broker.port, Connect::v5(id), "baba");
        baba.subscribe("#", 2);
        // They come in the order of their topics.
        let received = std::iter::repeat_with(|| baba.receive().topic);
        received.take_while(|topic| topic != "c").collect::<Vec<_>>()
    };
    assert_eq!(found("1"), ["a", "b"]);
    // What it may no longer publish is sent only where that is not asked.
    let denied = broker.config().replace("min_qos = 2", "min_qos = 1");
    broker.reload(&denied, READ_AGAIN);
    assert_eq!(found("2"), ["a"]);
    broker.reload(&denied.replace("check_retain_source = true", ""), READ_AGAIN);
    assert_eq!(found("3"), ["a", "b"]);
    broker.reload(&denied, READ_AGAIN);
    assert_eq!(found("4"), ["a"]);
}

#[test]
fn a_session_belongs_to_its_user_also_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let settings = format!("allow_anonymous = true\npassword_file = '{}'", users(directory.path()));
    let mut broker = Broker::start(&settings);
    let code = |port: u16, connect: &Connect| Client::connect_with(port, connect).1[3];
    let mine = Connect::v5("mine").durable();
    let [ali, baba] = ["ali", "baba"].map(|user| mine.clone().user(user, user));
    let mut nobodys = Client::connect(broker.port, &Connect::v5("nobody").durable());
    let mut first = Client::connect(broker.port, &ali);
    first.subscribe("a", 1);
    let strangers =
        [baba.clone(), mine.clone(), Connect { clean: true, ..baba }, Connect::v4("mine")];
    let are_refused =
        |port: u16| strangers.iter().all(|stranger| [5, 0x87].contains(&code(port, stranger)));
    assert!(are_refused(broker.port));
    // It was not even disturbed.
    first.publish(2, "a", "x");
    assert_eq!(first.receive().topic, "a");
    first.disconnect();
    assert!(are_refused(broker.port));
    broker.stop_and_restart();
    assert!(are_refused(broker.port));
    assert!(Client::resume(broker.port, &ali).1);
    // What belongs to nobody is whose it is who takes it.
    nobodys.expect_close(0x8B);
    let taken = Connect::v5("nobody").durable();
    assert!(Client::resume(broker.port, &taken.clone().user("baba", "baba")).1);
    assert_eq!(code(broker.port, &taken.clone().user("ali", "ali")), 0x87);
    let open = Broker::start(&format!("session_takeover = \"any-user\"\n{settings}"));
    let mut first = Client::connect(open.port, &ali);
    assert!(Client::resume(open.port, &mine.user("baba", "baba")).1);
    first.expect_close(0x8E);
}

fn explain(broker: &Broker, arguments: &[&str]) -> String {
    let mut command = program();
    command.args(["acl", "explain"]).args(arguments);
    command.arg("-c").arg(broker.directory().join("whimbrel.toml"));
    let (status, output) = run(&mut command, SOON);
    assert_eq!(status, Some(0), "{output}");
    output
}

#[test]
fn the_rule_that_decides_is_explained() {
    let directory = TempDir::new().unwrap();
    let broker = with_file(directory.path(), FILE);
    let acl = directory.path().join("acl").display().to_string();
    for (arguments, expected) in [
        (["ali", "c", "publish", "ali/a"], format!("allowed: {acl}:3: topic readwrite ali/#\n")),
        (
            ["ali", "c", "publish", "ali/secret"],
            format!("denied: {acl}:4: topic deny ali/secret\n"),
        ),
        (["-", "c", "receive", "public/a"], format!("allowed: {acl}:1: topic read public/#\n")),
        (
            ["baba", "c", "publish", "from/baba/c"],
            format!("allowed: {acl}:8: pattern write from/%u/%c\n"),
        ),
        (["baba", "c", "publish", "x"], "denied: no rule matches\n".into()),
    ] {
        assert_eq!(explain(&broker, &arguments), expected, "{arguments:?}");
    }
    let directory = TempDir::new().unwrap();
    let roles = with_roles(directory.path(), ROLES);
    let config = roles.directory().join("whimbrel.toml").display().to_string();
    let text = std::fs::read_to_string(&config).unwrap();
    let line = |rule: &str| {
        let before = text.split(rule).next().unwrap();
        before.lines().collect::<Vec<_>>().iter().rposition(|l| *l == "[[role.rule]]").unwrap() + 1
    };
    let said = explain(&roles, &["ali", "c", "subscribe", "$share/g/cave/#"]);
    let at = line("topic = \"cave/door\"");
    let rule = "deny = \"subscribe\", topic = \"cave/door\" (role `thief`)";
    assert_eq!(said, format!("denied: {config}:{at}: {rule}\n"));
    let said = explain(&roles, &["ali", "c", "publish", "cave/a", "--qos", "1"]);
    assert!(
        said.starts_with(&format!("allowed: {config}:{}: allow = ", line("max_qos"))),
        "{said}"
    );
    let said = explain(&roles, &["ali", "c", "publish", "cave/a", "--qos", "2"]);
    assert_eq!(said, "denied: no rule matches\n");
}

/// The same rules and users in mosquitto and here; what reaches whom must be the same.
#[test]
fn an_acl_file_means_what_it_means_to_mosquitto() {
    const RULES: &str = "\
topic read a/#
topic write a/b
topic deny a/c
user ali
topic read b/+
topic write b/#
topic deny b/x
user root
topic #
topic $x/#
user baba
topic readwrite c/+/d
user ali
topic deny c/y/d
topic $x/+
pattern deny p/%u/no
pattern read p/%u/#
pattern write q/%c
pattern $x/%u/%c
";
    const TOPICS: [&str; 22] = [
        "a",
        "a/b",
        "a/c",
        "a/b/c",
        "b",
        "b/x",
        "b/y",
        "b/y/z",
        "c/x/d",
        "c/y/d",
        "c/d",
        "$x/a",
        "$x/ali/ali",
        "$x/baba/baba",
        "p/ali",
        "p/ali/no",
        "p/ali/yes",
        "p/baba/yes",
        "q/ali",
        "q/baba",
        "q/anonymous",
        "z",
    ];
    let directory = TempDir::new().unwrap();
    let ours = with_file(directory.path(), RULES);
    let port = free_port();
    let conf = directory.path().join("mosquitto.conf");
    // mosquitto knows no argon2id.
    let theirs = directory.path().join("theirs");
    for (user, options) in [("ali", &["-c", "-b"][..]), ("baba", &["-b"]), ("root", &["-b"])] {
        let mut command = Command::new("mosquitto_passwd");
        command.args(options).arg(&theirs).args([user, user]);
        assert!(command.status().unwrap().success());
    }
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npassword_file {}\nacl_file {}\n",
        theirs.display(),
        directory.path().join("acl").display()
    );
    std::fs::write(&conf, text).unwrap();
    let mut mosquitto = Command::new("mosquitto");
    let mut mosquitto = mosquitto.arg("-c").arg(&conf).spawn().unwrap();
    let deadline = Instant::now() + SOON;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "mosquitto does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    let seen = [port, ours.port].map(|port| {
        let mut seen = vec![];
        for user in ["ali", "baba", "anonymous"] {
            let connect = |id: &str| match user {
                "anonymous" => Connect::v4(id),
                user => Connect::v4(id).user(user, user),
            };
            let mut root = as_user(port, Connect::v4("r"), "root");
            let mut client = Client::connect(port, &connect(user));
            for filter in ["#", "$x/#"] {
                assert_eq!((root.subscribe(filter, 0), client.subscribe(filter, 0)), (0, 0));
            }
            // What each may read at the end, to show that all before has come.
            let end = match user {
                "ali" => "b/end",
                "baba" => "p/baba/end",
                _ => "a/end",
            };
            for topic in TOPICS {
                root.publish(0, topic, "reads");
                client.publish(0, topic, "writes");
            }
            client.publish(2, "a/b", "writes");
            root.publish(2, end, "end");
            for (name, reader) in [("root", &mut root), (user, &mut client)] {
                let mut received = reader.receive();
                while received.text() != "end" {
                    let (text, topic) = (received.text(), &received.topic);
                    seen.push(format!("{name} gets what {user} {text} {topic}"));
                    received = reader.receive();
                }
            }
        }
        seen.sort();
        seen.dedup();
        seen
    });
    mosquitto.kill().unwrap();
    mosquitto.wait().unwrap();
    assert!(seen[0].len() > 20, "{:?}", seen[0]);
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn real_clients_are_told_what_they_may_not_do() {
    let directory = TempDir::new().unwrap();
    let broker = with_roles(directory.path(), ROLES);
    let port = broker.port.to_string();
    let client = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-p", &port, "-u", "ali", "-P", "ali", "-q", "1"]).args(arguments);
        run(&mut command, SOON).1
    };
    let said = client("mosquitto_pub", &["-V", "5", "-t", "house", "-m", "x"]);
    assert!(said.contains("Not authorized"), "{said}");
    assert_eq!(client("mosquitto_pub", &["-V", "5", "-t", "cave/a", "-m", "x"]), "");
    for version in ["311", "5"] {
        let said = client("mosquitto_sub", &["-V", version, "-t", "cave/door", "-W", "20"]);
        assert!(said.contains("denied"), "{version}: {said}");
    }
    let script = r##"
import sys, paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "paho", protocol=mqtt.MQTTv5)
client.username_pw_set("ali", "ali")
def on_connect(c, u, flags, reason, properties):
    c.subscribe([("cave/a", 1), ("cave/door", 1), ("#", 0)])
def on_subscribe(c, u, mid, reasons, properties):
    print([r.value for r in reasons])
    c.publish("cave/ali/secret", "x", 1)
def on_publish(c, u, mid, reason, properties):
    print(reason.value)
    c.disconnect()
client.on_connect, client.on_subscribe, client.on_publish = on_connect, on_subscribe, on_publish
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
"##;
    let mut python = Command::new("python3");
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/python");
    python.args(["-c", script, &port]).env("PYTHONPATH", packages);
    assert_eq!(run(&mut python, SOON), (Some(0), "[1, 135, 135]\n135\n".into()));
}

/// SUBACK tells of each filter what became of it.
#[test]
fn a_suback_tells_each_filter_its_own() {
    let directory = TempDir::new().unwrap();
    let broker = with_roles(directory.path(), ROLES);
    let mut ali = as_user(broker.port, Connect::v5("a"), "ali");
    let filters = [field("cave/a"), vec![1], field("no"), vec![1], field("cave/b"), vec![0]];
    let body: Vec<u8> = filters.concat();
    ali.send(&packet(0x82, &[&[0, 9], &[0], &body]));
    assert_eq!(ali.answer()[5..], [1, 0x87, 0]);
}

#[test]
fn a_token_counts_where_a_rule_is_explained() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let secret = file("secret", "0123456789abcdef0123456789abcdef");
    let of = |name: &str, more: &str| {
        format!("[[token]]\nname = \"{name}\"\nsecret_file = '{secret}'\n{more}\n")
    };
    let role =
        "[[role]]\nname = \"sensor\"\n[[role.rule]]\nallow = \"publish\"\ntopic = \"up/%u\"\n";
    let claims = of("t", "roles_claim = \"roles\"\nsubscribe_claim = \"down\"");
    let broker = Broker::start_with("", &format!("{claims}{role}"));
    let good = format!(
        "{{\"sub\": \"ali\", \"exp\": {}, \"roles\": [\"sensor\"], \"down\": [\"down/%c\"]}}",
        crate::tokens::now_s() + 60
    );
    let token = file("token", &(crate::tokens::sign("HS256", &secret, "{}", &good) + "\n"));
    let claims = file("claims", &good);
    let old = file("old", "{\"sub\": \"ali\", \"exp\": 1}");
    for token in [&token, &claims] {
        let said = explain(&broker, &["-", "c", "publish", "up/ali", "--token", token]);
        assert!(said.starts_with("allowed: ") && said.contains("(role `sensor`)"), "{said}");
        let said = explain(&broker, &["-", "c", "receive", "down/c", "--token", token]);
        assert_eq!(said, "allowed: a rule that its proof of identity gives it\n");
        let said = explain(&broker, &["-", "c", "receive", "down/d", "--token", token]);
        assert_eq!(said, "denied: no rule matches\n");
    }
    let said = explain(&broker, &["ali", "c", "publish", "up/ali"]);
    assert_eq!(said, "denied: no rule matches\n");
    let said = explain(&broker, &["-", "c", "publish", "up/ali", "--token", &old]);
    assert!(said.starts_with("denied: its token is refused: it has expired "), "{said}");
}

/// Of a share group that ali may receive only a part of.
const PARTS: &str = "[[role]]
name = \"worker\"
everybody = true
[[role.rule]]
allow = [\"subscribe\", \"publish\"]
topic = \"work/#\"
[[role.rule]]
allow = \"subscribe\"
topic = \"$queue/q\"
[[role]]
name = \"of ali\"
users = \"ali\"
[[role.rule]]
allow = \"receive\"
topic = \"work/a\"
[[role]]
name = \"of baba\"
users = \"baba\"
[[role.rule]]
allow = \"receive\"
topic = \"work/#\"
";

#[test]
fn what_a_member_of_a_share_group_may_not_receive_is_for_the_others() {
    let directory = TempDir::new().unwrap();
    let file = users(directory.path());
    let queue = "[[queue]]\nname = \"q\"\nfilter = \"work/#\"\n";
    for strategy in ["round-robin", "least-inflight", "sticky", "hash-topic"] {
        for (filter, queue) in [("$share/g/work/#", ""), ("$queue/q", queue)] {
            let strategy = match queue {
                "" => format!("share_strategy = \"{strategy}\"\n"),
                _ => String::new(),
            };
            let settings = format!("password_file = '{file}'\n{strategy}");
            let broker = Broker::start_with(&settings, &format!("{PARTS}{queue}"));
            let user = |name: &str| Connect::v5(name).user(name, name);
            let mut ali = Client::connect(broker.port, &user("ali").durable());
            let mut baba = Client::connect(broker.port, &user("baba").durable());
            let mut root = Client::connect(broker.port, &user("root"));
            assert_eq!((ali.subscribe(filter, 1), baba.subscribe(filter, 1)), (1, 1));
            for n in 0..10 {
                root.publish(2, "work/b", n.to_string());
            }
            for n in 0..10 {
                assert_eq!(baba.receive().text(), n.to_string(), "{strategy} {filter}");
            }
            baba.disconnect();
            // What nobody may have waits, and is in nobody's way.
            root.publish(2, "work/b", "kept");
            root.publish(2, "work/a", "for ali");
            assert_eq!(ali.receive().text(), "for ali", "{strategy} {filter}");
            let mut baba = Client::resume(broker.port, &user("baba").durable()).0;
            assert_eq!(baba.receive().text(), "kept", "{strategy} {filter}");
            baba.disconnect();
            // It is ali's when the rules say so.
            root.publish(2, "work/b", "later");
            ali.expect_nothing();
            let begin = broker.config();
            broker.reload(&begin.replace("\"work/a\"", "\"work/+\""), READ_AGAIN);
            assert_eq!(ali.receive().text(), "later", "{strategy} {filter}");
            // And of what cannot wait, the first goes and is counted.
            broker.reload(&begin, READ_AGAIN);
            for _ in 0..300 {
                root.publish(2, "work/b", "x");
            }
            root.publish(2, "work/a", "on it goes");
            assert_eq!(ali.receive().text(), "on it goes", "{strategy} {filter}");
        }
    }
}
