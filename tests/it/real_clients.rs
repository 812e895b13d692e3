//! Clients that people use: mosquitto's, paho-mqtt (Python), MQTT.js (node).
//!
//! `tests/run.sh` installs them; it says where paho and MQTT.js are by `TEST_CLIENTS`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::broker::{run, shared};
use crate::listeners::{All, all, certificates};

const SOON: Duration = Duration::from_secs(60);

fn clients() -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/target/clients");
    std::env::var_os("TEST_CLIENTS").map_or_else(|| default.into(), PathBuf::from)
}

fn subscribe(arguments: &[&str]) -> Child {
    Command::new("mosquitto_sub")
        .args(arguments)
        .args(["-W", "20", "-F", "%t %q %r %p"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub is installed: tests/run.sh installs it")
}

fn publish(arguments: &[&str]) {
    let (status, output) = run(Command::new("mosquitto_pub").args(arguments), SOON);
    assert_eq!(status, Some(0), "{arguments:?}: {output}");
}

fn output(child: Child) -> Vec<String> {
    let output = child.wait_with_output().unwrap();
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(Into::into).collect();
    lines.sort();
    lines
}

/// Waits until a subscriber is there: it gets a retained message first.
fn ready(base: &[&str], topic: &str) {
    publish(&[base, &["-t", &format!("{topic}/ready"), "-m", "r", "-r", "-q", "1"]].concat());
}

fn exchange(base: &[&str], version: &str, name: &str) {
    let topic = format!("real/{name}/{version}");
    let base = [base, &["-V", version]].concat();
    ready(&base, &topic);
    let filter = format!("{topic}/#");
    let subscriber = subscribe(&[&base[..], &["-t", &filter, "-q", "2", "-C", "5"]].concat());
    // A retained publication reaches the subscriber whether it is there already or not.
    for qos in ["0", "1", "2"] {
        let topic = format!("{topic}/q{qos}");
        publish(&[&base[..], &["-t", &topic, "-m", "live", "-q", qos, "-r"]].concat());
    }
    let will = format!("{topic}/will");
    publish(&[&base[..], &["-t", &will, "-m", "x", "-r", "--will-topic", "w"]].concat());
    let lines = output(subscriber);
    assert_eq!(lines.len(), 5, "{lines:?}");
    for qos in 0..3 {
        let is_it = |line: &&String| line.starts_with(&format!("{topic}/q{qos} {qos} "));
        assert_eq!(lines.iter().filter(is_it).count(), 1, "{lines:?}");
    }
}

#[test]
fn mosquittos_clients_exchange_messages_in_every_version_and_over_tls() {
    let All { tls, mutual, socket, broker, .. } = all();
    let c = certificates().display().to_string();
    let (ca, cert, key) =
        (format!("{c}/ca.pem"), format!("{c}/client.pem"), format!("{c}/client.key"));
    let [plain, tls, mutual] = [broker.port, tls, mutual].map(|port| port.to_string());
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        exchange(&["-h", "127.0.0.1", "-p", &plain], version, "tcp");
        exchange(&["-h", "localhost", "-p", &tls, "--cafile", &ca], version, "tls");
        let own = ["--cafile", &ca, "--cert", &cert, "--key", &key];
        exchange(&[&["-h", "localhost", "-p", &mutual][..], &own].concat(), version, "mutual");
        if version == "mqttv5" {
            exchange(&["--unix", &socket.display().to_string()], version, "unix");
        }
    }
}

#[test]
fn mosquittos_clients_share_a_subscription() {
    let port = shared().to_string();
    let base = ["-h", "127.0.0.1", "-p", &port];
    let filter = "$share/g/real/shared";
    let member = |id: &str| {
        let durable = ["-c", "-i", id, "-E", "-t", filter, "-q", "1"];
        let (status, _) = run(Command::new("mosquitto_sub").args(base).args(durable), SOON);
        assert_eq!(status, Some(0));
    };
    member("real-1");
    member("real-2");
    for n in 0..10 {
        publish(&[&base[..], &["-t", "real/shared", "-m", &n.to_string(), "-q", "1"]].concat());
    }
    // Whoever comes first takes all that waits, for the other is away.
    let taken = subscribe(
        &[&base[..], &["-c", "-i", "real-2", "-t", filter, "-q", "1", "-C", "10"]].concat(),
    );
    assert_eq!(output(taken).len(), 10);
}

fn script(program: &str, name: &str, ports: &All) -> Command {
    let script = format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(program);
    command
        .arg(script)
        .env("PYTHONPATH", clients().join("python"))
        .env("NODE_PATH", clients().join("node_modules"))
        .env("CA", certificates().join("ca.pem"))
        .env("TCP", ports.broker.port.to_string())
        .env("TLS", ports.tls.to_string())
        .env("WS", ports.ws.to_string())
        .env("WSS", ports.wss.to_string());
    command
}

#[test]
fn paho_works_over_tcp_tls_and_websocket() {
    let all = all();
    let (status, output) = run(&mut script("python3", "paho_mqtt.py", &all), SOON);
    assert_eq!(status, Some(0), "{output}\n{}", all.broker.log());
    assert!(output.contains("12 of 12"), "{output}");
}

#[test]
fn mqtt_js_works_over_tcp_tls_and_websocket() {
    let all = all();
    let (status, output) = run(&mut script("node", "mqttjs.js", &all), SOON);
    assert_eq!(status, Some(0), "{output}\n{}", all.broker.log());
    assert!(output.contains("8 of 8"), "{output}");
}
