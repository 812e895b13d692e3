//! Several certificates, names from certificates, revocation, and files that change.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::broker::{Broker, free_port, program, run};
use crate::listeners::{certificates, has_connack, tls_connect};
use crate::passwd::set;

/// Runs OpenSSL in a directory, by the shell.
fn openssl(directory: &Path, script: &str) -> String {
    let mut command = Command::new("sh");
    command.arg("-ec").arg(script).current_dir(directory);
    let (status, output) = run(&mut command, Duration::from_secs(60));
    assert_eq!(status, Some(0), "{output}");
    output
}

const NEW_KEY: &str = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// A self-signed certificate for a host.
fn self_signed(directory: &Path, name: &str, host: &str, days: u32) {
    openssl(
        directory,
        &format!(
            "{NEW_KEY} -x509 -keyout {name}.new.key -out {name}.new.pem -days {days} \
             -subj '/CN={host}' -addext 'subjectAltName=DNS:{host}' 2>/dev/null\n\
             mv {name}.new.key {name}.key; mv {name}.new.pem {name}.pem"
        ),
    );
}

/// A certificate of the test authority for a Client.
fn client(directory: &Path, name: &str, subject: &str, extensions: &str) {
    let ca = certificates().display();
    openssl(
        directory,
        &format!(
            "{NEW_KEY} -keyout {name}.key -out {name}.csr -subj '{subject}' 2>/dev/null\n\
             printf '%b' '{extensions}' >{name}.ext\n\
             openssl x509 -req -in {name}.csr -CA {ca}/ca.pem -CAkey {ca}/ca.key \
             -CAcreateserial -CAserial {name}.srl -extfile {name}.ext -out {name}.pem \
             -days 100 2>/dev/null"
        ),
    );
}

/// The subject of the certificate that is shown to who asks for a host.
fn shown(port: u16, host: &str) -> String {
    let command = format!(
        "timeout 5 openssl s_client -connect 127.0.0.1:{port} -servername {host} </dev/null \
         2>/dev/null | openssl x509 -noout -subject"
    );
    run(Command::new("sh").arg("-c").arg(command), Duration::from_secs(20)).1
}

fn await_log(broker: &Broker, text: &str, times: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while broker.log().matches(text).count() < times {
        assert!(Instant::now() < deadline, "no {text:?} in the log");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn hang_up(broker: &Broker) {
    let pid = broker.pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
}

#[test]
fn a_client_gets_the_certificate_of_the_host_that_it_names() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        self_signed(directory.path(), name, &format!("{name}.example"), 100);
    }
    self_signed(directory.path(), "wild", "*.wild.example", 100);
    let (d, port) = (directory.path().display(), free_port());
    let listener = format!(
        "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\n\
         certfile = [\"{d}/one.pem\", \"{d}/two.pem\", \"{d}/wild.pem\"]\n\
         keyfile = [\"{d}/one.key\", \"{d}/two.key\", \"{d}/wild.key\"]\n"
    );
    let _broker = Broker::start_with("", &listener);
    assert!(shown(port, "one.example").contains("one.example"));
    assert!(shown(port, "two.example").contains("two.example"));
    assert!(shown(port, "a.wild.example").contains("*.wild.example"));
    assert!(shown(port, "else.example").contains("one.example"));
}

#[test]
fn files_that_change_are_read_again_and_bad_ones_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    self_signed(directory.path(), "s", "first.example", 100);
    let (d, port) = (directory.path().display(), free_port());
    let listener = format!(
        "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\n\
         certfile = \"{d}/s.pem\"\nkeyfile = \"{d}/s.key\"\n"
    );
    let broker = Broker::start_with("certificate_check_interval = 0", &listener);
    await_log(&broker, "s.pem for", 1);
    // A connection that stays, while certificates come and go.
    let mut before = Command::new("mosquitto_sub")
        .args(["-p", &port.to_string(), "--cafile"])
        .arg(directory.path().join("s.pem"))
        .args(["--insecure", "-t", "kept", "-C", "1", "-i", "kept", "-W", "60"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    await_log(&broker, "client=\"kept\"", 1);
    self_signed(directory.path(), "s", "second.example", 10);
    hang_up(&broker);
    await_log(&broker, "have been read again", 1);
    await_log(&broker, "days: renew it", 1);
    assert!(shown(port, "x").contains("second.example"));
    let metrics = ["metrics", "--directory", &broker.directory().join("data").to_string_lossy()]
        .map(str::to_owned);
    let (status, text) = run(program().args(metrics), Duration::from_secs(20));
    assert_eq!(status, Some(0), "{text}");
    let days = text.split("\nwhimbrel_certificate_days_left ").nth(1).map(str::trim);
    assert!(matches!(days, Some("9" | "10")), "{text}");
    assert!(text.contains("\nwhimbrel_connections_opened_total "), "{text}");
    // The key of another.
    std::fs::copy(certificates().join("server.key"), directory.path().join("s.key")).unwrap();
    hang_up(&broker);
    await_log(&broker, "SIGHUP: nothing is changed: ", 1);
    await_log(&broker, "cannot be used with the key", 1);
    assert!(shown(port, "x").contains("second.example"));
    std::fs::write(directory.path().join("s.pem"), "nothing").unwrap();
    hang_up(&broker);
    await_log(&broker, "s.pem holds no certificate", 1);
    assert!(shown(port, "x").contains("second.example"));
    let publish = Command::new("mosquitto_pub")
        .args(["-p", &broker.port.to_string(), "-t", "kept", "-m", "still here", "-q", "1"])
        .status();
    assert!(publish.unwrap().success());
    assert!(before.wait().unwrap().success());
}

#[test]
fn files_that_change_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    self_signed(directory.path(), "s", "first.example", 100);
    let (d, port) = (directory.path().display(), free_port());
    let listener = format!(
        "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\n\
         certfile = \"{d}/s.pem\"\nkeyfile = \"{d}/s.key\"\n"
    );
    let broker = Broker::start_with("certificate_check_interval = \"20ms\"", &listener);
    self_signed(directory.path(), "s", "second.example", 100);
    let until_shown = |name: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !shown(port, "x").contains(name) {
            assert!(Instant::now() < deadline, "{}", broker.log());
        }
    };
    until_shown("second.example");
    // Also those of one that made room for what could not be opened, and was opened again.
    let _taken = std::net::TcpListener::bind(("127.0.0.9", port)).unwrap();
    let own = format!("port = {port}\nbind_address = \"127.0.0.1\"\n");
    let everywhere = broker.config().replace(&own, &format!("port = {port}\n"));
    assert_ne!(everywhere, broker.config());
    broker.reload(&everywhere, "SIGHUP: nothing is changed: ");
    assert!(broker.log().matches("listening on").count() > 2, "{}", broker.log());
    self_signed(directory.path(), "s", "third.example", 100);
    until_shown("third.example");
}

#[test]
fn a_client_is_named_by_its_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let subject = "/C=DE/O=Müller, Söhne/OU=plant+UID=7/CN=pump 7";
    client(directory.path(), "pump", subject, "subjectAltName=IP:10.0.0.1,DNS:pump7.example");
    client(directory.path(), "plain", "/O=nobody", "extendedKeyUsage=clientAuth");
    let (d, ca) = (directory.path().display(), certificates().display());
    let ports = [free_port(), free_port(), free_port()];
    let keys = ["use_identity_as_username", "use_subject_as_username", "use_san_as_username"];
    let listener = |(port, key): (&u16, &str)| {
        format!(
            "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\ncafile = \"{ca}/ca.pem\"\n\
             certfile = \"{ca}/server.pem\"\nkeyfile = \"{ca}/server.key\"\n{key} = true\n"
        )
    };
    let listeners: String = ports.iter().zip(keys).map(listener).collect();
    set(&["-c", "-b", "--scram"], &directory.path().join("users"), &["ali", "sesame"], "");
    let broker = Broker::start_with(&format!("password_file = \"{d}/users\""), &listeners);
    let own = |name: &str| [format!("-cert {d}/{name}.pem"), format!("-key {d}/{name}.key")];
    let connects = |port: u16, name: &str| {
        let arguments = own(name);
        has_connack(&tls_connect(port, &arguments.each_ref().map(|text| &**text)))
    };
    assert!(ports.iter().all(|&port| connects(port, "pump")), "{}", broker.log());
    let expected =
        openssl(directory.path(), "openssl x509 -noout -subject -nameopt RFC2253 -in pump.pem");
    let expected = expected.trim().strip_prefix("subject=").unwrap().to_owned();
    let log = broker.log();
    for user in ["pump 7", &expected, "pump7.example"] {
        assert!(log.contains(&format!("user={user:?}")), "{user:?} in {log}");
    }
    assert!(!connects(ports[0], "plain"), "no Common Name");
    assert!(!connects(ports[2], "plain"), "no alternative name");
    assert!(connects(ports[1], "plain"));
    assert!(!has_connack(&tls_connect(ports[0], &[])), "no certificate");
    // To prove by SCRAM to be a user is no way round it.
    for (port, method, told) in
        [(ports[0], "SCRAM-SHA-256", "Bad authentication method"), (broker.port, "none", "Bad")]
    {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "localhost", "-p", &port.to_string(), "-V", "mqttv5", "-t", "x"]);
        if port != broker.port {
            command.args(["--cafile", &format!("{ca}/ca.pem"), "--insecure"]);
            command.args(["--cert", &format!("{d}/plain.pem"), "--key", &format!("{d}/plain.key")]);
        }
        command.args(["-D", "connect", "authentication-method", method, "-m", "x"]);
        command.args(["-D", "connect", "authentication-data", "n,,n=ali,r=fyko"]);
        let (status, output) = run(&mut command, Duration::from_secs(30));
        assert!(status != Some(0) && output.contains(told), "{output}\n{}", broker.log());
    }
    assert!(broker.log().contains("its certificate says who it is, and nothing else"));
}

#[test]
fn who_is_revoked_does_not_come_in_again() {
    let directory = tempfile::tempdir().unwrap();
    client(directory.path(), "good", "/CN=good", "extendedKeyUsage=clientAuth");
    client(directory.path(), "bad", "/CN=bad", "extendedKeyUsage=clientAuth");
    let (d, ca) = (directory.path().display(), certificates().display());
    let list = |revoke: &str| {
        openssl(
            directory.path(),
            &format!(
                "printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=index.txt\\ndefault_md=sha256\\n\
                 default_crl_days=30\\ncrlnumber=crlnumber\\n' >ca.cnf\n\
                 [ -e index.txt ] || {{ : >index.txt; echo 01 >crlnumber; }}\n{revoke}\n\
                 openssl ca -config ca.cnf -cert {ca}/ca.pem -keyfile {ca}/ca.key -gencrl \
                 -out crl.new 2>/dev/null\nmv crl.new crl.pem"
            ),
        )
    };
    list("");
    let port = free_port();
    std::fs::create_dir(directory.path().join("trusted")).unwrap();
    std::fs::copy(certificates().join("ca.pem"), directory.path().join("trusted/a.pem")).unwrap();
    std::fs::write(directory.path().join("trusted/README"), "not a certificate").unwrap();
    let listener = format!(
        "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\ncapath = \"{d}/trusted\"\n\
         certfile = \"{ca}/server.pem\"\nkeyfile = \"{ca}/server.key\"\n\
         require_certificate = true\ncrlfile = \"{d}/crl.pem\"\n"
    );
    let broker = Broker::start_with("certificate_check_interval = 0", &listener);
    let connects = |name: &str| {
        let arguments = [format!("-cert {d}/{name}.pem"), format!("-key {d}/{name}.key")];
        has_connack(&tls_connect(port, &arguments.each_ref().map(|text| &**text)))
    };
    assert!(connects("good") && connects("bad"), "{}", broker.log());
    let revoke = "openssl ca -config ca.cnf -cert CA/ca.pem -keyfile CA/ca.key -revoke bad.pem";
    list(&format!("{} 2>/dev/null", revoke.replace("CA/", &format!("{ca}/"))));
    hang_up(&broker);
    await_log(&broker, "have been read again", 1);
    assert!(connects("good"), "{}", broker.log());
    assert!(!connects("bad"));
}

#[test]
fn where_dates_do_not_count_revocation_lists_must_be_of_today() {
    let directory = tempfile::tempdir().unwrap();
    let (d, ca) = (directory.path().display(), certificates().display());
    let by_ca = format!("openssl ca -batch -config ca.cnf -cert {ca}/ca.pem -keyfile {ca}/ca.key");
    openssl(
        directory.path(),
        &format!(
            "printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=index.txt\\nserial=serial\\n\
             new_certs_dir=.\\ndefault_md=sha256\\nrand_serial=yes\\npolicy=p\\n\
             crlnumber=crlnumber\\n[p]\\ncommonName=supplied\\n' >ca.cnf\n\
             : >index.txt; echo 01 >crlnumber; echo extendedKeyUsage=clientAuth >ext\n\
             for name in old bad; do\n\
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
             -keyout $name.key -out $name.csr -subj /CN=$name 2>log\n\
             {by_ca} -notext -in $name.csr -out $name.pem -extfile ext \
             -startdate 20190101000000Z -enddate 20200101000000Z 2>log; done\n\
             {by_ca} -revoke bad.pem 2>log\n\
             {by_ca} -gencrl -crldays 30 -out fresh.pem 2>log\n\
             {by_ca} -gencrl -crl_lastupdate 20190101000000Z -crl_nextupdate 20190201000000Z \
             -out stale.pem 2>log"
        ),
    );
    let (fresh, stale) = (free_port(), free_port());
    let listener = |port, list| {
        format!(
            "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\ncafile = \"{ca}/ca.pem\"\n\
             certfile = \"{ca}/server.pem\"\nkeyfile = \"{ca}/server.key\"\n\
             require_certificate = true\ncrlfile = \"{d}/{list}.pem\"\n\
             disable_client_cert_date_checks = true\n"
        )
    };
    let listeners = [listener(fresh, "fresh"), listener(stale, "stale")].concat();
    let broker = Broker::start_with("", &listeners);
    let connects = |port, name: &str| {
        let arguments = [format!("-cert {d}/{name}.pem"), format!("-key {d}/{name}.key")];
        has_connack(&tls_connect(port, &arguments.each_ref().map(|text| &**text)))
    };
    assert!(connects(fresh, "old"), "{}", broker.log());
    assert!(!connects(fresh, "bad"), "it is revoked");
    assert!(!connects(stale, "old"), "nobody knows whether it is");
}

#[test]
fn each_listener_has_a_lowest_version_of_its_own() {
    let (c, [both, new]) = (certificates().display(), [free_port(), free_port()]);
    let listener = |port: u16, version: &str| {
        format!(
            "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\n\
             certfile = \"{c}/server.pem\"\nkeyfile = \"{c}/server.key\"\n{version}\n"
        )
    };
    let newest = listener(new, "tls_version = \"tlsv1.3\"");
    let _broker = Broker::start_with("", &(listener(both, "") + &newest));
    let connects = |port, version: &str| has_connack(&tls_connect(port, &[version]));
    assert!(connects(both, "-tls1_2") && connects(both, "-tls1_3") && connects(new, "-tls1_3"));
    assert!(!connects(new, "-tls1_2"));
    // The client itself would speak it.
    let old = "-tls1_1 -cipher ALL:@SECLEVEL=0";
    assert!(!connects(both, old) && !connects(new, old));
}

#[test]
fn cipher_suites_are_chosen_by_name() {
    let (ca, port) = (certificates().display(), free_port());
    let listener = format!(
        "[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\n\
         certfile = \"{ca}/server.pem\"\nkeyfile = \"{ca}/server.key\"\n\
         ciphers = \"ECDHE-ECDSA-AES128-GCM-SHA256\"\n\
         \"ciphers_tls1.3\" = \"TLS_CHACHA20_POLY1305_SHA256\"\n"
    );
    let _broker = Broker::start_with("", &listener);
    assert!(has_connack(&tls_connect(port, &["-tls1_2"])));
    assert!(!has_connack(&tls_connect(
        port,
        &["-tls1_2", "-cipher ECDHE-ECDSA-AES256-GCM-SHA384"]
    )));
    assert!(has_connack(&tls_connect(port, &["-ciphersuites TLS_CHACHA20_POLY1305_SHA256"])));
    assert!(!has_connack(&tls_connect(port, &["-tls1_3", "-ciphersuites TLS_AES_128_GCM_SHA256"])));
}
