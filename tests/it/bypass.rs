//! Ways round the rules, none of which leads anywhere.

use tempfile::TempDir;

use crate::broker::{Broker, free_port};
use crate::passwd::set;
use crate::raw::{Client, Connect};
use crate::tokens::{token, tokens};

/// Everybody may everything, but of what is below `secret/`.
const SECRET: &str = "[[role]]
name = \"all but secrets\"
everybody = true
[[role.rule]]
deny = DENIED
topic = \"secret/#\"
[[role.rule]]
allow = [\"publish\", \"subscribe\", \"receive\"]
topic = \"#\"
[[role.rule]]
allow = \"subscribe\"
topic = \"$queue/q\"
[[queue]]
name = \"q\"
filter = \"secret/#\"
";

/// The user root, who may everything, and everybody else.
fn broker(directory: &TempDir, denied: &str, listeners: &str) -> Broker {
    let users = directory.path().join("users");
    set(&["-c", "-b"], &users, &["root", "root"], "");
    let root = "[[role]]\nname = \"root\"\nusers = \"root\"\n[[role.rule]]\n\
                allow = [\"publish\", \"subscribe\", \"receive\"]\ntopic = \"#\"\n";
    let settings = format!("allow_anonymous = true\npassword_file = '{}'", users.display());
    let roles = SECRET.replace("DENIED", denied);
    Broker::start_with(&settings, &format!("{root}{roles}{listeners}"))
}

fn root(port: u16) -> Client {
    Client::connect(port, &Connect::v5("root").user("root", "root"))
}

fn told(client: &mut Client, flags: u8, topic: &str, properties: &[u8]) -> u8 {
    let bytes = client.publish_bytes(flags, topic, 7, properties, "x");
    client.send(&bytes);
    client.read_kind(0x40).get(4).copied().unwrap_or_default()
}

#[test]
fn no_filter_subscribes_to_what_is_denied() {
    let directory = TempDir::new().unwrap();
    let broker = broker(&directory, "\"subscribe\"", "");
    let mut client = Client::v5(broker.port, "client");
    for filter in ["secret/x", "secret/#", "secret", "secret/+", "+/x", "+", "#", "+/#", "+/+/y"] {
        assert_eq!(client.subscribe(filter, 0), 0x87, "{filter}");
        assert_eq!(client.subscribe(&format!("$share/g/{filter}"), 0), 0x87, "$share {filter}");
        // The name of a group may be the topic's.
        assert_eq!(client.subscribe(&format!("$share/secret/{filter}"), 0), 0x87);
    }
    assert_eq!((client.subscribe("public/#", 0), client.subscribe("$share/secret/a", 0)), (0, 0));
    // By another name the queue brings the same; whoever may name it is asked what it may receive.
    assert_eq!(client.subscribe("$share/q/secret/#", 0), 0x87);
}

#[test]
fn what_is_denied_is_received_in_no_way() {
    let directory = TempDir::new().unwrap();
    let broker = broker(&directory, "\"receive\"", "");
    let mut root = root(broker.port);
    assert_eq!(told(&mut root, 3, "secret/retained", &[]), 0);
    let mut durable = Client::connect(broker.port, &Connect::v5("durable").durable());
    let filters =
        ["secret/#", "+/x", "#", "$share/g/#", "$share/q/secret/#", "$queue/q", "secret/x"];
    let mut clients = vec![];
    for (n, filter) in filters.iter().enumerate() {
        // With Retain As Published, and what is retained sent in any case.
        for options in [0, 2, 0x0A] {
            let mut client = Client::v5(broker.port, &format!("receiver-{n}-{options}"));
            assert_eq!(client.subscribe(filter, options), options & 3, "{filter}");
            clients.push(client);
        }
        assert_eq!(durable.subscribe(filter, 1), 1, "{filter}");
    }
    durable.disconnect();
    for flags in [2, 3] {
        assert_eq!(told(&mut root, flags, "secret/x", &[]), 0);
    }
    // Of a Will it holds too.
    let will = Connect::v5("dying").user("root", "root").will(8, &[], "secret/will", "gone");
    Client::connect(broker.port, &will).vanish();
    let (mut durable, _) = Client::resume(broker.port, &Connect::v5("durable").durable());
    clients.iter_mut().for_each(Client::expect_nothing);
    durable.expect_nothing();
}

#[test]
fn an_alias_stands_for_no_topic_that_may_not_be_published_to() {
    let directory = TempDir::new().unwrap();
    let broker = broker(&directory, "\"publish\"", "");
    let mut root = root(broker.port);
    assert_eq!(root.subscribe("#", 0), 0);
    let mut client = Client::v5(broker.port, "client");
    let alias = |n: u8| [0x23, 0, n];
    assert_eq!(told(&mut client, 2, "public/a", &alias(1)), 0);
    assert_eq!(told(&mut client, 2, "secret/a", &alias(2)), 0x87);
    // What was denied has set it all the same, and is denied again.
    assert_eq!(told(&mut client, 2, "", &alias(2)), 0x87);
    assert_eq!(told(&mut client, 3, "", &alias(2)), 0x87);
    assert_eq!(told(&mut client, 2, "", &alias(1)), 0);
    // Also if it stood for something else before.
    assert_eq!(told(&mut client, 2, "secret/b", &alias(1)), 0x87);
    assert_eq!(told(&mut client, 2, "", &alias(1)), 0x87);
    let will = Connect::v5("dying").will(0x20, &[], "secret/will", "gone");
    Client::connect(broker.port, &will).vanish();
    assert_eq!(told(&mut client, 2, "public/end", &[]), 0);
    let topics = [(); 3].map(|()| root.receive().topic);
    assert_eq!(topics, ["public/a", "public/a", "public/end"]);
    // Nor was anything retained.
    assert_eq!(root.subscribe("secret/#", 0), 0);
    root.expect_nothing();
}

/// Rules are about whole topics, whoever asks.
#[test]
fn a_mount_point_is_no_way_round_the_rules() {
    let directory = TempDir::new().unwrap();
    let mounted = free_port();
    let listener = format!(
        "[[listener]]\nport = {mounted}\nbind_address = \"127.0.0.1\"\nmount_point = \"secret/\"\n"
    );
    let broker = broker(&directory, "[\"publish\", \"subscribe\"]", &listener);
    let mut root = root(broker.port);
    assert_eq!(root.subscribe("secret/#", 0), 0);
    let mut within = Client::v5(mounted, "within");
    for filter in ["x", "#", "+", "$share/g/x", "$queue/q", "secret/x"] {
        assert_eq!(within.subscribe(filter, 0), 0x87, "{filter}");
    }
    for topic in ["x", "secret/x", "$SYS/x"] {
        assert_eq!(told(&mut within, 3, topic, &[]), 0x87, "{topic}");
    }
    let will = Connect::v5("dying").will(0, &[], "will", "gone");
    Client::connect(mounted, &will).vanish();
    root.expect_nothing();
}

/// Who chooses its name, or has one that is strange.
#[test]
fn a_name_gives_its_bearer_one_level_and_no_more() {
    let rules = "[[role]]\nname = \"own\"\neverybody = true\n[[role.rule]]\n\
                 allow = [\"publish\", \"subscribe\", \"receive\"]\n\
                 topic = \"user/%u/a\"\n[[role.rule]]\n\
                 allow = [\"publish\", \"subscribe\", \"receive\"]\ntopic = \"client/%c/a\"\n";
    let broker = Broker::start_with("", &format!("{}{rules}", tokens("")));
    for name in ["+", "#", "a/b", "/", "a/#", "+/a", "x/a/..", "%u", "%c", "*", "$SYS"] {
        let connect = Connect::v5(name).user("", &token(name));
        let mut client = Client::connect(broker.port, &connect);
        for below in ["user", "client"] {
            for filter in ["#", "+/a", "other/a", "other/#", "b/a", "a/b/a", "+/+", "+/#"] {
                let filter = format!("{below}/{filter}");
                assert_eq!(client.subscribe(&filter, 0), 0x87, "{name}: {filter}");
            }
            for topic in ["other/a", "b/a", "a/b/a", "/a", "//a"] {
                let topic = format!("{below}/{topic}");
                assert_eq!(told(&mut client, 2, &topic, &[]), 0x87, "{name}: {topic}");
            }
        }
    }
}
