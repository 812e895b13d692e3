//! User names and passwords: files of mosquitto_passwd and of our own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::{Broker, free_port, program, run};
use crate::passwd::set;
use crate::raw::{Client, Connect};

const SOON: Duration = Duration::from_secs(30);

/// A hash that takes a good while and that no password has.
pub const SLOW: &str = "slow:$7$300000$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
                    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n";

/// Users of every kind of line, all with the password "sesame".
const USERS: [&str; 5] = ["sha512", "pbkdf2", "argon2id", "both", "keys"];

fn mosquitto_passwd(arguments: &[&str], file: &Path, user: &str) {
    let mut command = Command::new("mosquitto_passwd");
    let (status, output) = run(command.args(arguments).arg(file).args([user, "sesame"]), SOON);
    assert_eq!(status, Some(0), "{output}");
}

/// The file of those users, by Debian's mosquitto_passwd as far as it can.
pub fn password_file(directory: &Path) -> PathBuf {
    let file = directory.join("users");
    mosquitto_passwd(&["-c", "-H", "sha512", "-b"], &file, "sha512");
    mosquitto_passwd(&["-b"], &file, "pbkdf2");
    set(&["-b"], &file, &["argon2id", "sesame"], "");
    set(&["-b", "--scram"], &file, &["both", "sesame"], "");
    set(&["-b", "--scram"], &file, &["keys", "sesame"], "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("sha512:$6$") && text.contains("pbkdf2:$7$"), "{text}");
    // One has nothing but keys.
    let is_kept = |line: &&str| !line.starts_with("keys:$argon2id");
    let lines: Vec<_> = text.lines().filter(is_kept).collect();
    std::fs::write(&file, format!("# all kinds\n\n{}\n", lines.join("\n"))).unwrap();
    file
}

/// A broker with this password file.
pub fn broker(settings: &str, file: &Path) -> Broker {
    Broker::start(&format!("password_file = '{}'\n{settings}", file.display()))
}

fn connack(port: u16, connect: &Connect) -> u8 {
    let (mut client, connack) = Client::connect_with(port, connect);
    if connack[3] != 0 {
        assert_eq!(client.try_read(), None);
    }
    connack[3]
}

#[test]
fn a_user_of_any_kind_of_line_comes_in_by_its_password_only() {
    let directory = TempDir::new().unwrap();
    let broker = broker("", &password_file(directory.path()));
    let [v4, v5] = [Connect::v4(""), Connect::v5("")];
    for user in USERS {
        for connect in [&v4, &v5] {
            assert_eq!(connack(broker.port, &connect.clone().user(user, "sesame")), 0, "{user}");
        }
        for wrong in ["simsim", "", "sesame "] {
            assert_eq!(connack(broker.port, &v4.clone().user(user, wrong)), 4, "{user}");
            assert_eq!(connack(broker.port, &v5.clone().user(user, wrong)), 0x86, "{user}");
        }
        let no_password = Connect { username: Some(user.into()), ..v4.clone() };
        assert_eq!(connack(broker.port, &no_password), 4, "{user}");
    }
    for stranger in ["nobody", "", "Both", "both ", "# all kinds"] {
        assert_eq!(connack(broker.port, &v4.clone().user(stranger, "sesame")), 4, "{stranger}");
        assert_eq!(connack(broker.port, &v5.clone().user(stranger, "sesame")), 0x86, "{stranger}");
    }
}

#[test]
fn with_a_password_file_nobody_comes_anonymously_unless_that_is_allowed() {
    let directory = TempDir::new().unwrap();
    let file = password_file(directory.path());
    let closed = broker("", &file);
    assert_eq!(connack(closed.port, &Connect::v4("")), 5);
    assert_eq!(connack(closed.port, &Connect::v5("")), 0x87);
    let only_password = Connect { password: Some("sesame".into()), ..Connect::v5("") };
    assert_eq!(connack(closed.port, &only_password), 0x86);
    for allowed in ["true", "\"loopback\""] {
        let open = broker(&format!("allow_anonymous = {allowed}"), &file);
        assert_eq!(connack(open.port, &Connect::v4("")), 0);
        // Who gives a name or a password means it.
        assert_eq!(connack(open.port, &only_password), 0x86);
        assert_eq!(connack(open.port, &Connect::v4("").user("pbkdf2", "simsim")), 4);
        assert_eq!(connack(open.port, &Connect::v4("").user("nobody", "x")), 4);
    }
}

#[test]
fn a_listener_may_have_users_of_its_own() {
    let directory = TempDir::new().unwrap();
    let file = password_file(directory.path());
    let other = directory.path().join("other");
    set(&["-c", "-b"], &other, &["ali", "simsim"], "");
    let [port, open] = [free_port(), free_port()];
    let listeners = format!(
        "[[listener]]\nport = {port}\npassword_file = '{}'\n\
         [[listener]]\nport = {open}\nallow_anonymous = true\n",
        other.display()
    );
    let settings = format!("password_file = '{}'", file.display());
    let broker = Broker::start_with(&settings, &listeners);
    let [theirs, ours] = [("pbkdf2", "sesame"), ("ali", "simsim")];
    let at = |port, (user, password)| connack(port, &Connect::v4("").user(user, password));
    assert_eq!((at(broker.port, theirs), at(broker.port, ours)), (0, 4));
    assert_eq!((at(port, theirs), at(port, ours)), (4, 0));
    assert_eq!(at(open, theirs), 0);
    assert_eq!(connack(port, &Connect::v4("")), 5);
    assert_eq!(connack(open, &Connect::v4("")), 0);
}

/// Takes the answers that are there: Reason Codes of those who have one, who are then gone.
fn answers(asked: &mut Vec<Client>) -> Vec<u8> {
    let mut codes = vec![];
    asked.retain_mut(|client| {
        let is_silent = client.is_silent();
        if !is_silent {
            codes.push(client.read()[3]);
        }
        is_silent
    });
    codes
}

#[test]
fn others_are_served_while_many_wrong_passwords_are_checked() {
    let directory = TempDir::new().unwrap();
    let file = password_file(directory.path());
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}{SLOW}")).unwrap();
    let settings = "workers = 1\npassword_threads = 1\nallow_anonymous = true\n\
                    max_waiting_passwords = 10\nconnect_timeout = \"300s\"\n";
    let broker = broker(settings, &file);
    let mut client = Client::v4(broker.port, "passwords-other");
    let again = Connect::v4("passwords-again").user("pbkdf2", "sesame");
    Client::connect(broker.port, &again).disconnect();
    let ask = |n| {
        let connect = if n % 2 == 0 { Connect::v4("") } else { Connect::v5("") };
        let mut client = Client::open(broker.port, n % 2 == 1);
        client.send(&connect.user("slow", "x").bytes());
        client
    };
    let mut asked: Vec<Client> = (0..20).map(ask).collect();
    // One is being checked and ten wait; the others are told that the Server is busy.
    let deadline = Instant::now() + SOON;
    let (mut codes, busy) = (vec![], |code: &&u8| matches!(code, 3 | 0x89));
    while codes.iter().filter(busy).count() < 5 {
        assert!(Instant::now() < deadline, "{codes:02x?}");
        codes.extend(answers(&mut asked));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.subscribe("passwords/other", 1), 1);
    client.publish(2, "passwords/other", "served");
    assert_eq!(client.receive().text(), "served");
    // Who was known before does not wait behind them.
    Client::connect(broker.port, &again).disconnect();
    codes.extend(answers(&mut asked));
    assert!(asked.len() > 1, "all were checked before the others were served: {codes:02x?}");
    let code = asked[0].read()[3];
    assert!(matches!(code, 4 | 0x86), "{code:02x}");
}

#[test]
fn no_password_is_in_the_log_whatever_its_level() {
    let directory = TempDir::new().unwrap();
    let broker = broker("log_level = \"trace\"", &password_file(directory.path()));
    assert_eq!(connack(broker.port, &Connect::v4("log-1").user("pbkdf2", "sesame")), 0);
    assert_eq!(connack(broker.port, &Connect::v5("log-2").user("pbkdf2", "wrong-word")), 0x86);
    let (_, log) = broker.stop();
    assert!(log.contains("log-1") && log.contains("user=\"pbkdf2\""), "{log}");
    assert!(log.contains("user \"pbkdf2\" not let in: Bad User Name or Password"), "{log}");
    assert!(!log.contains("sesame") && !log.contains("wrong-word"), "{log}");
}

#[test]
fn a_bad_password_file_is_refused_with_its_lines() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("users");
    std::fs::write(&file, "# users\nali:sesame\nbaba\n").unwrap();
    let config = directory.path().join("w.toml");
    std::fs::write(&config, "password_file = \"users\"\npersistence_location = \"data\"\n")
        .unwrap();
    for check in [&[][..], &["--check-config"]] {
        let (status, output) = run(program().args(check).arg("-c").arg(&config), SOON);
        assert_eq!(status, Some(1), "{output}");
        let first = "users:2: `ali` has a password that is not hashed; `whimbrel passwd -U FILE`";
        assert!(output.contains(first), "{output}");
        assert!(output.contains("users:3: no `:`; a line is user:hash"), "{output}");
        assert!(!output.contains("sesame"), "{output}");
    }
    std::fs::remove_file(&file).unwrap();
    let (status, output) = run(program().arg("--check-config").arg("-c").arg(&config), SOON);
    assert_eq!(status, Some(1), "{output}");
    assert!(output.contains("users: cannot read it: "), "{output}");
}

#[test]
fn mosquittos_clients_come_in_with_their_passwords() {
    let directory = TempDir::new().unwrap();
    let broker = broker("", &password_file(directory.path()));
    let port = broker.port.to_string();
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let publish = |password: &str| {
            let mut command = Command::new("mosquitto_pub");
            command.args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-t", "t", "-m", "x"]);
            run(command.args(["-q", "1", "-u", "argon2id", "-P", password]), SOON)
        };
        assert_eq!(publish("sesame").0, Some(0), "{version}");
        let (status, output) = publish("simsim");
        assert_ne!(status, Some(0), "{version}");
        let said = output.to_lowercase();
        assert!(said.contains("bad user name or password"), "{version}: {output}");
    }
}
