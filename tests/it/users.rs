//! Users who come and go while the broker runs, and password files that are read again.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::acl::{READ_AGAIN, hang_up};
use crate::broker::{Broker, free_port, program, run};
use crate::passwd::set;
use crate::raw::{Client, Connect};

const SOON: Duration = Duration::from_secs(30);

/// Runs `whimbrel user` with a line on standard input; its status and what it said.
fn user(broker: &Broker, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let line = broker.directory().join("input");
    std::fs::write(&line, input).unwrap();
    let mut command = program();
    command.arg("user").args(arguments).arg("-c").arg(broker.directory().join("whimbrel.toml"));
    command.stdin(Stdio::from(std::fs::File::open(line).unwrap()));
    run(&mut command, SOON)
}

/// Runs `whimbrel ban`; its status and what it said.
pub fn ban(broker: &Broker, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    command.arg("ban").args(arguments).arg("-c").arg(broker.directory().join("whimbrel.toml"));
    run(&mut command, SOON)
}

fn connack(port: u16, user: &str, password: &str) -> u8 {
    Client::connect_with(port, &Connect::v5("").user(user, password)).1[3]
}

const DONE: (Option<i32>, String) = (Some(0), String::new());

#[test]
fn own_users_are_added_changed_and_removed_while_the_broker_runs() {
    let mut broker = Broker::start("stored_users = true");
    assert_eq!(connack(broker.port, "ali", "sesame"), 0x86);
    assert_eq!(Client::connect_with(broker.port, &Connect::v5("x")).1[3], 0x87);
    assert_eq!(user(&broker, &["add", "ali"], "sesame\n"), DONE);
    assert_eq!(user(&broker, &["add", "--scram", "baba x"], "forty\n"), DONE);
    assert_eq!(user(&broker, &["list"], ""), (Some(0), "ali\nbaba x\n".into()));
    assert_eq!(connack(broker.port, "ali", "sesame"), 0);
    let (status, said) = user(&broker, &["add", "ali"], "other\n");
    assert!(status == Some(1) && said.contains("there is a user \"ali\" already"), "{said}");
    let (status, said) = user(&broker, &["passwd", "cassim"], "other\n");
    assert!(status == Some(1) && said.contains("there is no user \"cassim\""), "{said}");
    assert_eq!(user(&broker, &["passwd", "ali"], "simsim\n"), DONE);
    let codes = |port| ["sesame", "simsim"].map(|password| connack(port, "ali", password));
    assert_eq!(codes(broker.port), [0x86, 0]);
    broker.kill_and_restart();
    assert_eq!(codes(broker.port), [0x86, 0]);
    assert_eq!(connack(broker.port, "baba x", "forty"), 0);
    // Who is removed is gone at once.
    let (mut ali, mut baba) = (
        Client::connect(broker.port, &Connect::v5("1").user("ali", "simsim")),
        Client::connect(broker.port, &Connect::v5("2").user("baba x", "forty")),
    );
    assert_eq!(user(&broker, &["remove", "ali"], ""), DONE);
    ali.expect_close(0x87);
    assert!(baba.try_ping());
    assert_eq!(connack(broker.port, "ali", "simsim"), 0x86);
    let log = broker.log();
    assert!(log.contains("add user") && !log.contains("sesame") && !log.contains("argon2id"));
}

#[test]
fn a_listener_asks_for_own_users_and_a_password_file_goes_before_them() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("users");
    set(&["-cb"], &file, &["ali", "file"], "");
    let [port, without] = [free_port(), free_port()];
    let listeners = format!(
        "[[listener]]\nport = {port}\npassword_file = '{}'\n\
         [[listener]]\nport = {without}\nstored_users = false\nallow_anonymous = true\n",
        file.display()
    );
    let broker = Broker::start_with("stored_users = true", &listeners);
    assert_eq!(user(&broker, &["add", "ali"], "own\n"), DONE);
    assert_eq!(user(&broker, &["add", "baba"], "own\n"), DONE);
    let codes = |port| {
        [("ali", "file"), ("ali", "own"), ("baba", "own")]
            .map(|(user, password)| connack(port, user, password))
    };
    assert_eq!(codes(broker.port), [0x86, 0, 0]);
    assert_eq!(codes(port), [0, 0x86, 0]);
    // Nobody asks for the name there.
    assert_eq!(codes(without), [0, 0, 0]);
}

#[test]
fn own_users_need_a_broker_that_asks_for_them() {
    let broker = Broker::start("");
    let (status, said) = user(&broker, &["add", "ali"], "sesame\n");
    assert!(status == Some(1) && said.contains("no listener has `stored_users"), "{said}");
    let directory = TempDir::new().unwrap();
    let mut command = program();
    command.args(["user", "list", "--directory"]).arg(directory.path());
    let (status, said) = run(&mut command, SOON);
    assert!(status == Some(1) && said.contains("no broker runs on this store"), "{said}");
}

#[test]
fn a_password_file_is_read_again_on_sighup() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("users");
    set(&["-cb"], &file, &["ali", "old"], "");
    let broker = Broker::start(&format!("password_file = '{}'", file.display()));
    let codes = || ["old", "new"].map(|password| connack(broker.port, "ali", password));
    assert_eq!(codes(), [0, 0x86]);
    set(&["-b"], &file, &["ali", "new"], "");
    assert_eq!(codes(), [0, 0x86]);
    hang_up(&broker, READ_AGAIN);
    assert_eq!(codes(), [0x86, 0]);
    std::fs::write(&file, "ali:plain\n").unwrap();
    hang_up(&broker, "nothing is changed");
    assert_eq!(codes(), [0x86, 0]);
}

#[test]
fn real_clients_come_in_as_own_users() {
    let broker = Broker::start("stored_users = true");
    assert_eq!(user(&broker, &["add", "ali"], "sesame\n"), DONE);
    let port = broker.port.to_string();
    for (password, expected) in [("sesame", Some(0)), ("simsim", Some(4))] {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-p", &port, "-u", "ali", "-P", password, "-q", "1", "-t", "a", "-m", "x"]);
        assert_eq!(run(&mut command, SOON).0, expected, "{password}");
    }
    let script = "
import sys, paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, 'paho', protocol=mqtt.MQTTv5)
client.username_pw_set('ali', sys.argv[2])
def on_connect(c, u, flags, reason, properties):
    print(reason.value)
    c.disconnect()
client.on_connect = on_connect
client.connect('127.0.0.1', int(sys.argv[1]))
client.loop_forever()
";
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/python");
    let mut python = Command::new("python3");
    python.args(["-c", script, &port, "sesame"]).env("PYTHONPATH", packages);
    assert_eq!(run(&mut python, SOON), (Some(0), "0\n".into()));
}
