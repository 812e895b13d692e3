//! In mosquitto's place with the files that are out there: those of packages, add-ons and guides.

use std::fmt::Write;
use std::process::Command;

use tempfile::TempDir;

use crate::broker::{free_port, program, run};
use crate::listeners::{MQTT, WebSocket, certificates};
use crate::mosquitto::{OPEN, SOON, Served, signal, until};
use crate::raw::{Client, Connect};

/// What `--test-config` says of a file; DIR stands for a directory with certificates, passwords
/// and rules.
fn tested(text: &str) -> (Option<i32>, String) {
    let directory = TempDir::new().unwrap();
    for entry in std::fs::read_dir(certificates()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    std::fs::create_dir(directory.path().join("conf.d")).unwrap();
    std::fs::write(directory.path().join("rules"), "user u\ntopic #\npattern read %c/#\n").unwrap();
    let mut passwd = program();
    passwd.args(["passwd", "-c", "-b"]).arg(directory.path().join("users")).args(["u", "p"]);
    assert_eq!(run(&mut passwd, SOON).0, Some(0));
    let conf = directory.path().join("m.conf");
    let text = text.replace("DIR", &directory.path().display().to_string());
    std::fs::write(&conf, text + "\nuser root\n").unwrap();
    run(program().arg("--test-config").arg("-c").arg(&conf).current_dir(directory.path()), SOON)
}

/// Files of packages and images, of guides for Zigbee and Wi-Fi devices, and of small companies.
const GOOD: [&str; 6] = [
    // A package's.
    "pid_file DIR/mosquitto.pid\npersistence true\npersistence_location DIR/\n\
     log_dest file DIR/mosquitto.log\ninclude_dir DIR/conf.d\n",
    // An image's, without and with users.
    "listener 1883\nallow_anonymous true\n",
    "persistence true\npersistence_location DIR/data/\nlog_dest file DIR/m.log\nlog_dest stdout\n\
     log_timestamp_format %Y-%m-%dT%H:%M:%S\nlistener 1883\nallow_anonymous false\n\
     password_file DIR/users\nacl_file DIR/rules\n",
    // Before 2.0, with what a bridge to a cloud left behind.
    "port 1883\nbind_address 127.0.0.1\nmax_inflight_messages 40\nmax_queued_messages 1000\n\
     persistent_client_expiration 2m\nallow_duplicate_messages false\nretry_interval 20\n\
     sys_interval 10\nconnection_messages true\nlog_type error\nlog_type warning\n",
    // TLS with client certificates, and WebSocket with and without TLS.
    "per_listener_settings true\nlistener 8883\ncafile DIR/ca.pem\ncertfile DIR/server.pem\n\
     keyfile DIR/server.key\nrequire_certificate true\nuse_identity_as_username true\n\
     tls_version tlsv1.2\nacl_file DIR/rules\nlistener 9001\nprotocol websockets\n\
     allow_anonymous true\nlistener 9883\nprotocol websockets\ncertfile DIR/server.pem\n\
     keyfile DIR/server.key\npassword_file DIR/users\n",
    // Behind a proxy that speaks TLS with the Clients.
    "listener 1884 127.0.0.1\nenable_proxy_protocol 2\nproxy_protocol_v2_require_tls true\n\
     require_certificate true\nuse_identity_as_username true\n",
];

#[test]
fn files_that_are_out_there_are_good() {
    for text in GOOD {
        let (status, output) = tested(text);
        assert!(status == Some(0) && output.ends_with("m.conf: ok\n"), "{text}{output}");
    }
}

/// What would be open, or not there, if it were not looked at; each is said once, with its line.
#[test]
fn what_is_unsafe_to_leave_out_is_refused() {
    for (text, said) in [
        ("listener 8883\npsk_hint h\npsk_file DIR/psk\n", "pre-shared keys are not spoken"),
        ("connection cloud\naddress example.org:8883\ntopic # both 0\n", "does not bridge"),
        ("listener 1883\nprotocol http_api\n", "is not spoken"),
        ("listener 8883\ntls_engine pkcs11\n", "OpenSSL engines are not supported"),
        ("listener 8883\ntls_version tlsv1.1\n", "`tls_version` must be"),
        ("listener 8883\nrequire_certificate true\n", "need `certfile`"),
        ("listener 1883\nenable_proxy_protocol 1\nproxy_protocol_v2_require_tls true\n", "needs"),
        (
            "listener 1883\nenable_proxy_protocol 2\nuse_subject_as_username true\n",
            "proxies say the Common Name only",
        ),
    ] {
        let (status, output) = tested(text);
        assert!(status == Some(3) && output.contains(said), "{text}{status:?} {output}");
        assert!(output.starts_with("whimbrel: Error: "), "{output}");
    }
}

/// The file of a home's add-on, whose users are asked of a plugin: nothing else is wrong with it.
#[test]
fn of_an_add_ons_file_only_the_plugin_is_refused() {
    let text = "protocol mqtt\nuser root\nlog_dest stdout\nlog_type error\nlog_type warning\n\
        persistence true\npersistence_location DIR/\nmax_queued_messages 8192\n\
        auth_plugin /usr/share/mosquitto/go-auth.so\nauth_opt_backends files,http\n\
        auth_opt_hasher pbkdf2\nauth_opt_files_password_path /etc/mosquitto/pw\n\
        include_dir DIR/conf.d\nlistener 1883\nprotocol mqtt\nlistener 1884\n\
        protocol websockets\nlistener 8883\nprotocol mqtt\ncafile DIR/ca.pem\n\
        certfile DIR/server.pem\nkeyfile DIR/server.key\nrequire_certificate false\n";
    let (status, output) = tested(text);
    assert_eq!((status, output.matches("Error: ").count()), (Some(3), 1), "{output}");
    assert!(output.contains("m.conf:9: `auth_plugin`: Whimbrel loads no plugins"), "{output}");
}

/// Every option of the manual in one file: none is unknown.
#[test]
fn every_option_is_known() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/mosquitto.md"));
    let page = page.unwrap();
    let names = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut text = String::new();
    for name in names.filter(|name| !["include_dir"].contains(name)) {
        writeln!(text, "{} x", name.replace('*', "x")).unwrap();
    }
    assert!(text.lines().count() > 120, "{text}");
    let (status, output) = tested(&text);
    assert!(status == Some(3) && !output.contains("unknown option"), "{output}");
}

fn tool(name: &str, arguments: &str) -> (Option<i32>, String) {
    run(Command::new("sh").arg("-c").arg(format!("timeout 10 {name} {arguments} 2>&1")), SOON)
}

#[test]
fn a_certificate_is_a_user_name_and_web_pages_come_too() {
    let (ws, c) = (free_port(), certificates().display());
    let served = Served::start(&format!(
        "per_listener_settings true\nlistener PORT\ncafile {c}/ca.pem\ncertfile {c}/server.pem\n\
         keyfile {c}/server.key\nrequire_certificate true\nuse_identity_as_username true\n\
         tls_version tlsv1.3\nlistener {ws} 127.0.0.1\nprotocol websockets\n\
         allow_anonymous true\n"
    ));
    let own = format!("--cafile {c}/ca.pem --cert {c}/client.pem --key {c}/client.key");
    let port = served.port;
    let publish = |arguments: &str| {
        let arguments = format!("-h localhost -p {port} {arguments} -t t -m x -q 1");
        tool("mosquitto_pub", &arguments).0
    };
    assert_eq!(publish(&own), Some(0), "{}", served.log());
    assert_ne!(publish(&format!("--cafile {c}/ca.pem")), Some(0));
    until("its line", || served.log().contains("u'client-1')."));
    assert!(served.log().contains(" negotiated TLSv1.3 cipher TLS_"), "{}", served.log());
    let (mut page, head) = WebSocket::open(ws, "/", MQTT);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    page.frame(0x82, &Connect::v4("page").bytes());
    assert_eq!(page.read(), Some((0x82, vec![0x20, 2, 0, 0])));
}

#[test]
fn a_retained_message_stays_with_who_may_no_longer_publish_it() {
    let directory = TempDir::new().unwrap();
    let rules = directory.path().join("rules");
    std::fs::write(&rules, "topic read t/#\n\nuser u\ntopic t/#\n").unwrap();
    let served = Served::start(&format!("{OPEN}acl_file {}\n", rules.display()));
    let mut user = Client::connect(served.port, &Connect::v4("u").user("u", ""));
    user.publish(3, "t/own", "kept");
    let mut other = Client::v4(served.port, "other");
    other.subscribe("t/own", 0);
    assert_eq!(other.receive().text(), "kept");
    std::fs::write(&rules, "topic read t/#\n").unwrap();
    signal(served.child.id(), "HUP");
    until("it is read again", || served.log().contains("SIGHUP: the configuration was read"));
    other.subscribe("t/own", 0);
    other.expect_nothing();
}

#[test]
fn sighup_reads_passwords_and_certificates_anew() {
    let (directory, c) = (TempDir::new().unwrap(), certificates().display());
    let at = |name: &str| directory.path().join(name);
    let users = at("users");
    let passwd = |arguments: &[&str]| {
        let mut passwd = program();
        passwd.arg("passwd").args(arguments);
        assert_eq!(run(&mut passwd, SOON).0, Some(0));
    };
    let file = users.to_str().unwrap();
    passwd(&["-c", "-b", file, "one", "1"]);
    for name in ["server.pem", "server.key"] {
        std::fs::copy(certificates().join(name), at(name)).unwrap();
    }
    let tls = free_port();
    let served = Served::start(&format!(
        "listener PORT 127.0.0.1\npassword_file {file}\nlistener {tls} 127.0.0.1\n\
         certfile {}\nkeyfile {}\n",
        at("server.pem").display(),
        at("server.key").display()
    ));
    let answer = |user: &str, password: &str| {
        Client::connect_with(served.port, &Connect::v4("c").user(user, password)).1[3]
    };
    assert_eq!((answer("one", "1"), answer("two", "2")), (0, 5));
    passwd(&["-b", file, "two", "2"]);
    passwd(&["-D", file, "one"]);
    let expired = ["expired.pem", "expired.key"].map(|name| certificates().join(name));
    std::fs::copy(&expired[0], at("server.pem")).unwrap();
    std::fs::copy(&expired[1], at("server.key")).unwrap();
    signal(served.child.id(), "HUP");
    until("it is read again", || served.log().contains("SIGHUP: the configuration was read"));
    assert_eq!((answer("one", "1"), answer("two", "2")), (5, 0));
    let shown = tool(
        "openssl",
        &format!("s_client -CAfile {c}/ca.pem -connect 127.0.0.1:{tls} </dev/null"),
    );
    assert!(shown.1.contains("certificate has expired"), "{}", shown.1);
}

/// What scripts wait for.
#[test]
fn the_log_says_that_it_runs_and_where() {
    let mut served = Served::start(OPEN);
    let opening = format!("Opening ipv4 listen socket on port {}.", served.port);
    until("it runs", || served.log().contains("mosquitto version 2.1.2 running\n"));
    assert!(served.log().contains("mosquitto version 2.1.2 starting\n"), "{}", served.log());
    assert!(served.log().contains(&opening), "{}", served.log());
    assert_eq!(served.stop(), Some(0));
    assert!(served.log().contains("mosquitto version 2.1.2 terminating\n"), "{}", served.log());
}

#[test]
fn the_log_can_be_read_from_its_topics() {
    let served = Served::start(&format!("{OPEN}log_dest topic\nlog_dest stderr\nlog_type all\n"));
    let mut reader = Client::v4(served.port, "reader");
    assert_eq!(reader.subscribe("$SYS/broker/log/#", 0), 0);
    Client::v4(served.port, "seen").disconnect();
    loop {
        let received = reader.read_publish();
        assert!(!received.retain());
        assert!(!received.topic.ends_with("/D"), "{}", received.topic);
        if received.text().ends_with("as seen (p4, c1, k0).") {
            assert_eq!(received.topic, "$SYS/broker/log/N");
            assert!(served.log().contains(received.text()), "the same line");
            break;
        }
    }
}

#[test]
fn a_command_line_that_is_not_good_is_status_3() {
    let directory = TempDir::new().unwrap();
    let link = directory.path().join("mosquitto");
    std::os::unix::fs::symlink(program().get_program(), &link).unwrap();
    for (arguments, status) in [
        (&["-p", "0"][..], 3),
        (&["-p", "65536"], 3),
        (&["-p"], 3),
        (&["-c"], 3),
        (&["--unknown"], 3),
        (&["-c", "/nowhere.conf"], 3),
        (&["-h"], 0),
    ] {
        let (exited, output) = run(Command::new(&link).args(arguments), SOON);
        assert_eq!(exited, Some(status), "{arguments:?} {output}");
    }
}
