//! In mosquitto's place, byte for byte: what its own tests compare.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::broker::{free_port, program, run};
use crate::listeners::certificates;
use crate::mosquitto::{OPEN, SOON, Served, until};
use crate::raw::{Client, Connect};

#[test]
fn answers_are_as_short_as_they_can_be() {
    let served = Served::start(OPEN);
    let mut client = Client::v5(served.port, "short");
    client.publish(2, "nobody", "");
    let twice = client.publish_bytes(4, "nobody", 7, &[], "");
    client.send(&twice);
    assert_eq!(client.read_kind(0x50), [0x50, 2, 0, 7], "who is subscribed is asked later");
    client.send(&[0x62, 2, 0, 7]);
    client.expect(&[0x70, 2, 0, 7]);
    client.send(&[0x62, 2, 0, 9]);
    client.expect(&[0x70, 2, 0, 9]);
    let _next = Client::v5(served.port, "short");
    client.expect(&[0xE0, 1, 0x8E]);
}

#[test]
fn puback_says_that_nobody_is_subscribed() {
    let served = Served::start(OPEN);
    let mut client = Client::v5(served.port, "alone");
    let publish = client.publish_bytes(2, "t", 1, &[], "");
    client.send(&publish);
    client.expect(&[0x40, 3, 0, 1, 0x10]);
    // No Local: there is a subscription.
    client.subscribe("t", 0b101);
    client.send(&publish);
    client.expect(&[0x40, 2, 0, 1]);
}

#[test]
fn packet_identifiers_rise() {
    let served = Served::start(OPEN);
    let mut client = Client::v4(served.port, "rising");
    client.subscribe("t", 1);
    for expected in 1..=300_u16 {
        client.publish(2, "t", "");
        let id = client.read_publish().id;
        assert_eq!(id, (expected - 1) % 256 + 1);
        let [high, low] = id.to_be_bytes();
        client.send(&[0x40, 2, high, low]);
    }
}

#[test]
fn a_topic_of_too_many_levels_is_malformed() {
    let served = Served::start(OPEN);
    let mut client = Client::v5(served.port, "levels");
    assert_eq!(client.subscribe(&"/".repeat(200), 0), 0);
    let publish = client.publish_bytes(2, &"/".repeat(201), 1, &[], "");
    client.send(&publish);
    client.expect(&[0xE0, 1, 0x81]);
}

#[test]
fn an_older_client_is_not_told_that_its_message_is_too_large() {
    let served = Served::start(&format!("{OPEN}message_size_limit 1\n"));
    let mut client = Client::v4(served.port, "large");
    client.subscribe("t", 0);
    let publish = client.publish_bytes(2, "t", 1, &[], "xx");
    client.send(&publish);
    client.expect(&[0x40, 2, 0, 1]);
    client.publish(0, "t", "y");
    assert_eq!(client.receive().text(), "y");
    let will = |connect: Connect| connect.will(0, &[], "t", "xx");
    let refused = Client::connect_with(served.port, &will(Connect::v4("will"))).1;
    assert_eq!(refused, [0x20, 2, 0, 5]);
    assert_eq!(Client::connect_with(served.port, &will(Connect::v5("will"))).1[3], 0x95);
}

#[test]
fn the_will_of_a_session_that_goes_on_by_another_connection_is_not_published() {
    let served = Served::start(OPEN);
    let mut watcher = Client::v4(served.port, "watcher");
    watcher.subscribe("#", 0);
    let with_will = || Connect::v4("w").durable().will(0, &[], "t", "will");
    let _first = Client::connect(served.port, &with_will());
    let (mut second, is_present) = Client::resume(served.port, &Connect::v4("w").durable());
    assert!(is_present);
    second.publish(0, "t", "goes on");
    assert_eq!(watcher.receive().text(), "goes on");
    drop(second);
    let _third = Client::connect(served.port, &with_will());
    // This one ends the Session.
    let _fourth = Client::v4(served.port, "w");
    assert_eq!(watcher.receive().text(), "will");
}

#[test]
fn a_user_name_is_believed_where_nobody_can_prove_one() {
    let directory = TempDir::new().unwrap();
    let acl = directory.path().join("acl");
    std::fs::write(&acl, "user ali\ntopic readwrite a/#\n").unwrap();
    let served = Served::start(&format!("{OPEN}acl_file {}\n", acl.display()));
    let mut ali = Client::connect(served.port, &Connect::v4("x").user("ali", ""));
    ali.subscribe("#", 0);
    ali.publish(0, "b/1", "denied");
    ali.publish(0, "a/1", "allowed");
    assert_eq!(ali.receive().text(), "allowed");
    // It owns nothing.
    Client::connect(served.port, &Connect::v4("y").durable().user("ali", "")).disconnect();
    let eve = Connect::v4("y").durable().user("eve", "");
    assert!(Client::resume(served.port, &eve).1);
}

#[test]
fn no_user_name_is_believed_beside_a_listener_that_asks_for_proof() {
    let directory = TempDir::new().unwrap();
    let users = directory.path().join("users");
    std::fs::write(&users, "").unwrap();
    let mut passwd = program();
    passwd.args(["passwd", "-b"]).arg(&users).args(["ali", "secret"]);
    assert!(passwd.status().unwrap().success());
    let open = free_port();
    let served = Served::start(&format!(
        "per_listener_settings true\nlistener PORT 127.0.0.1\npassword_file {}\n\
         allow_anonymous false\n\
         listener {open} 127.0.0.1\nallow_anonymous true\n",
        users.display()
    ));
    let ali = Connect::v4("phone").durable().user("ali", "secret");
    Client::connect(served.port, &ali).disconnect();
    let eve = Connect::v4("phone").durable().user("ali", "");
    assert_ne!(Client::connect_with(open, &eve).1[3], 0, "the Session is ali's");
    assert!(Client::resume(served.port, &ali).1);
}

#[test]
fn many_messages_of_qos_0_at_once_arrive() {
    let served = Served::start(OPEN);
    let mut reader = Client::v4(served.port, "reader");
    reader.subscribe("t", 0);
    let mut writer = Client::v4(served.port, "writer");
    // More in one read than a queue holds.
    let many = writer.publish_bytes(0, "t", 0, &[], "").repeat(4000);
    writer.send(&many);
    for _ in 0..4000 {
        reader.read_publish();
    }
}

#[test]
fn what_comes_with_a_disconnect_is_counted() {
    let served = Served::start(&format!("{OPEN}sys_interval 1\n"));
    let mut first = Client::v4(served.port, "first");
    let publish = first.publish_bytes(0, "t", 0, &[], [b'x'; 10_000]);
    first.send(&[&publish[..], &[0xE0, 0]].concat());
    assert_eq!(first.stream_end(), Some(()));
    let mut reader = Client::v4(served.port, "reader");
    reader.subscribe("$SYS/broker/bytes/received", 0);
    while reader.receive().text().parse::<usize>().unwrap() < 10_000 {}
}

#[test]
fn an_empty_password_is_none() {
    let directory = TempDir::new().unwrap();
    let users = directory.path().join("users");
    let (status, output) =
        run(program().args(["passwd", "-b", "-c"]).arg(&users).args(["ali", ""]), SOON);
    if status != Some(0) {
        assert!(output.contains("empty"), "{output}");
        return;
    }
    let text = format!("listener PORT 127.0.0.1\npassword_file {}\n", users.display());
    let served = Served::start(&text);
    let ali = Connect::v4("x").user("ali", "");
    assert_eq!(Client::connect_with(served.port, &ali).1, [0x20, 2, 0, 5]);
}

#[test]
fn sessions_are_counted() {
    let served = Served::start(&format!("{OPEN}global_max_clients 1\n"));
    Client::connect(served.port, &Connect::v5("one").durable()).disconnect();
    assert_eq!(Client::connect_with(served.port, &Connect::v5("two")).1[3], 0x89);
    assert_eq!(Client::connect_with(served.port, &Connect::v5("one").durable()).1[3], 0);
}

#[test]
fn a_link_with_mosquittos_name_serves_as_mosquitto_without_a_file() {
    let directory = TempDir::new().unwrap();
    let link = directory.path().join("mosquitto");
    std::os::unix::fs::symlink(program().get_program(), &link).unwrap();
    let port = free_port();
    let log = std::fs::File::create(directory.path().join("log")).unwrap();
    let mut child = Command::new(&link)
        .args(["-v", "-p", &port.to_string()])
        .current_dir(directory.path())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    until("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let (_, connack) = Client::connect_with(port, &Connect::v5("x"));
    let _ = child.kill();
    let _ = child.wait();
    assert!(connack.windows(3).any(|bytes| bytes == [0x21, 0, 20]), "{connack:?}");
}

#[test]
fn a_file_that_is_not_good_is_status_3() {
    let directory = TempDir::new().unwrap();
    let conf = directory.path().join("m.conf");
    std::fs::write(&conf, "listener x\n").unwrap();
    let check = || run(program().arg("--test-config").arg("-c").arg(&conf), SOON);
    assert_eq!(check().0, Some(3));
    std::fs::write(&conf, "listener 0 s\npassword_file /nowhere\n").unwrap();
    assert_eq!(check().0, Some(3));
    std::fs::remove_file(&conf).unwrap();
    assert_eq!(check().0, Some(3));
}

/// Options of a listener without `listener`: mosquitto is local then.
#[test]
fn what_only_describes_a_listener_opens_none() {
    let directory = TempDir::new().unwrap();
    let conf = directory.path().join("m.conf");
    std::fs::write(&conf, "max_connections 10\nuser root\n").unwrap();
    let (status, output) = run(program().arg("--test-config").arg("-c").arg(&conf), SOON);
    assert!(status == Some(0) && output.contains("have no effect"), "{output}");
}

/// A certificate of an intermediate authority, in a file of its own: OpenSSL finds those that
/// vouch for it in `cafile`, and not one of the same name that has another key.
#[test]
fn the_servers_chain_is_completed_from_cafile() {
    let directory = TempDir::new().unwrap();
    let ca = certificates().display();
    let script = format!(
        "new='openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'\n\
         keys='subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid'\n\
         printf \"basicConstraints=critical,CA:true\\n$keys\\n\" >i.ext\n\
         for name in former i; do\n\
         $new -keyout $name.key -out $name.csr -subj /CN=between 2>/dev/null\n\
         openssl x509 -req -in $name.csr -CA {ca}/ca.pem -CAkey {ca}/ca.key -CAcreateserial \
           -CAserial i.srl -extfile i.ext -out $name.pem -days 99 2>/dev/null\n\
         done\n\
         $new -keyout s.key -out s.csr -subj /CN=localhost 2>/dev/null\n\
         printf \"subjectAltName=DNS:localhost\\n$keys\\n\" >s.ext\n\
         openssl x509 -req -in s.csr -CA i.pem -CAkey i.key -CAcreateserial -CAserial s.srl \
           -extfile s.ext -out s.pem -days 99 2>/dev/null\n\
         cat {ca}/ca.pem former.pem i.pem >all.pem\n"
    );
    let mut shell = Command::new("sh");
    let (status, output) = run(shell.arg("-ec").arg(script).current_dir(directory.path()), SOON);
    assert_eq!(status, Some(0), "{output}");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let served = Served::start(&format!(
        "{OPEN}cafile {}\ncertfile {}\nkeyfile {}\n",
        at("all.pem"),
        at("s.pem"),
        at("s.key")
    ));
    let verify = format!(
        "timeout 5 openssl s_client -connect localhost:{} -CAfile {ca}/ca.pem \
         -verify_return_error -verify_hostname localhost </dev/null 2>&1",
        served.port
    );
    let (_, said) = run(Command::new("sh").arg("-c").arg(verify), SOON);
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
}
