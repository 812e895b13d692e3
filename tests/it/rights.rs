//! Root's rights given up, and what systemd is told. What only root can try is tried when the
//! tests are root's.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::{free_port, program, run};
use crate::listeners::certificates;
use crate::raw::{Client, Connect};

const SOON: Duration = Duration::from_secs(20);

fn is_root() -> bool {
    Path::new("/proc/self").metadata().unwrap().uid() == 0
}

/// A broker in a directory that everybody may see; killed when dropped.
struct Served {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Served {
    fn start(settings: &str) -> Self {
        Self::start_in(shared_directory(), settings)
    }

    fn start_in(directory: TempDir, settings: &str) -> Self {
        let port = free_port();
        let config = directory.path().join("whimbrel.toml");
        let text = format!(
            "persistence_location = \"lib/data\"\n{settings}\n\
             [[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(directory.path().join("err")).unwrap();
        let mut program = program();
        program.arg("-c").arg(&config).env_remove("RUST_LOG");
        let child = program.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, port, directory }
    }

    fn serving(self) -> Self {
        self.until("it serves", |log| log.contains("store open"));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it says, in its file or where that cannot be.
    fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.path(name)).unwrap_or_default();
        read("log") + &read("err")
    }

    fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_so(&self.log()) {
            assert!(Instant::now() < deadline, "not so: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn stop(mut self) -> TempDir {
        self.signal("TERM");
        assert!(self.child.wait().unwrap().success());
        let gone = TempDir::new().unwrap();
        std::mem::replace(&mut self.directory, gone)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shared_directory() -> TempDir {
    let directory = TempDir::new().unwrap();
    mode(directory.path(), 0o755);
    directory
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The user and the groups of each thread.
fn identities(pid: u32) -> Vec<[String; 3]> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let identity = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        ["Uid:", "Gid:", "Groups:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        })
    };
    tasks.map(|task| identity(task.unwrap())).collect()
}

fn id(option: &str) -> String {
    let output = Command::new("id").args([option, "nobody"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn root_becomes_the_user_of_the_settings_in_all_threads() {
    if !is_root() {
        return;
    }
    let directory = shared_directory();
    let at = directory.path().display();
    let settings = format!(
        "user = \"nobody\"\nworkers = 3\nlog_dest = \"file {at}/log\"\npid_file = \"{at}/pid\""
    );
    let served = Served::start_in(directory, &settings).serving();
    let pid = std::fs::read_to_string(served.path("pid")).unwrap();
    assert_eq!(pid.trim(), served.child.id().to_string());
    let (uid, gid) = (id("-u"), id("-g"));
    let expected =
        [format!("{uid} {uid} {uid} {uid}"), format!("{gid} {gid} {gid} {gid}"), id("-G")];
    let identities = identities(served.child.id());
    assert!(identities.len() > 3, "{identities:?}");
    for identity in identities {
        assert_eq!(identity, expected);
    }
    // The store is the user's, also below directories that were not there.
    for name in ["lib", "lib/data", "lib/data/whimbrel.redb", "lib/data/control.sock", "log"] {
        assert_eq!(served.path(name).metadata().unwrap().uid().to_string(), uid, "{name}");
    }
    let kept = Connect::v4("kept").durable();
    let mut client = Client::connect(served.port, &kept);
    client.subscribe("t", 1);
    client.publish(2, "t", "x");
    client.vanish();
    // What SIGHUP has read again can be read, and the log opened anew.
    served.signal("HUP");
    served.until("it was read again", |log| log.contains("the configuration was read again"));
    assert!(!served.log().contains("SIGHUP will change nothing"), "{}", served.log());
    let directory = served.stop();
    // It may not remove it: the directory is root's.
    assert_eq!(std::fs::read_to_string(directory.path().join("pid")).unwrap(), "");
    std::fs::remove_file(directory.path().join("log")).unwrap();
    let served = Served::start_in(directory, "user = \"nobody\"").serving();
    let (mut client, present) = Client::resume(served.port, &kept);
    assert!(present);
    assert_eq!(client.receive().text(), "x");
}

#[test]
fn root_writes_to_no_file_that_a_symbolic_link_leads_to() {
    if !is_root() {
        return;
    }
    let directory = shared_directory();
    let victim = directory.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    for name in ["link.log", "link.pid"] {
        std::os::unix::fs::symlink(&victim, directory.path().join(name)).unwrap();
    }
    let at = directory.path().display().to_string();
    let settings = format!(
        "user = \"nobody\"\nlog_dest = \"file {at}/link.log\"\npid_file = \"{at}/link.pid\""
    );
    let mut served = Served::start_in(directory, &settings);
    served.until("it is refused", |log| log.contains("link.pid: "));
    assert!(!served.child.wait().unwrap().success());
    let log = served.log();
    let why = "it is a symbolic link, which root does not follow";
    assert!(log.contains(&format!("cannot log to {at}/link.log: {why}")), "{log}");
    assert!(log.contains(&format!("cannot write `pid_file` {at}/link.pid: {why}")), "{log}");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn what_the_user_cannot_read_again_is_told_at_once_and_changes_nothing() {
    if !is_root() {
        return;
    }
    let directory = shared_directory();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::copy(certificates().join("server.pem"), &cert).unwrap();
    std::fs::copy(certificates().join("server.key"), &key).unwrap();
    mode(&cert, 0o644);
    mode(&key, 0o600);
    let tls = free_port();
    let listener = format!(
        "user = \"nobody\"\n[[listener]]\nport = {tls}\nbind_address = \"127.0.0.1\"\n\
         certfile = \"cert.pem\"\nkeyfile = \"key.pem\"\n"
    );
    let served = Served::start_in(directory, &listener).serving();
    served.until("a warning", |log| {
        log.contains("SIGHUP will change nothing, for nobody may not do it")
            && log.contains("key.pem")
    });
    let tools = ["s_client", "-connect", &format!("127.0.0.1:{tls}")].map(str::to_owned);
    let (_, output) = run(Command::new("openssl").args(tools).stdin(Stdio::null()), SOON);
    assert!(output.contains("BEGIN CERTIFICATE"), "{output}");
    served.signal("HUP");
    served.until("an error", |log| log.contains("ERROR") && log.contains("key.pem"));
    Client::v4(served.port, "still").publish(2, "t", "x");
}

#[test]
fn a_store_of_somebody_elses_is_refused_with_what_to_do() {
    if !is_root() {
        return;
    }
    let served = Served::start("").serving();
    let directory = served.stop();
    let data = directory.path().join("lib/data");
    for path in [data.clone(), data.join("whimbrel.redb")] {
        mode(&path, if path.is_dir() { 0o777 } else { 0o600 });
        let mut served = Served::start_in(shared_directory(), "user = \"nobody\"");
        served.child.kill().unwrap();
        served.child.wait().unwrap();
        let config = served.path("whimbrel.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("lib/data", &data.display().to_string())).unwrap();
        let (status, output) = run(program().arg("-c").arg(&config), SOON);
        assert_eq!(status, Some(1), "{output}");
        let said = format!("the user nobody cannot write {}", data.display());
        assert!(output.contains(&said), "{output}");
        assert!(output.contains(&format!("chown -R nobody {}", data.display())), "{output}");
    }
}

#[test]
fn a_user_that_is_not_there_is_an_error_for_root_alone() {
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("whimbrel.toml");
    let port = free_port();
    let text = format!("user = \"no such user\"\n[[listener]]\nport = {port}\n");
    std::fs::write(&config, text).unwrap();
    let checked = run(program().arg("--check-config").arg("-c").arg(&config), SOON);
    let (status, output) = checked;
    assert_eq!(status, Some(i32::from(is_root())), "{output}");
    assert_eq!(output.contains("has no user \"no such user\""), is_root(), "{output}");
}

#[test]
fn systemd_is_told_when_it_serves_and_when_it_stops() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let said = || {
        let mut bytes = [0; 100];
        loop {
            match socket.recv(&mut bytes) {
                // Other tests of this process have children that end.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                len => break String::from_utf8(bytes[..len.unwrap()].to_vec()).unwrap(),
            }
        }
    };
    let config = directory.path().join("whimbrel.toml");
    let port = free_port();
    let text = format!(
        "persistence_location = \"data\"\n[[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut program = program();
    program.arg("-c").arg(&config).env("NOTIFY_SOCKET", &path).stderr(Stdio::null());
    let mut child = program.spawn().unwrap();
    let ready = said();
    // It can be connected to by then.
    let client = std::panic::catch_unwind(|| Client::v4(port, "first").try_ping());
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let stopping = said();
    assert!(child.wait().unwrap().success());
    assert_eq!((ready.trim(), stopping.trim(), client.unwrap()), ("READY=1", "STOPPING=1", true));
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    let unit = include_str!("../../docs/whimbrel.service");
    let built = program().get_program().to_str().unwrap().to_owned();
    let unit = unit.replace("/usr/local/bin/whimbrel", &built);
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("whimbrel.service");
    std::fs::write(&path, unit).unwrap();
    let mut verify = Command::new("systemd-analyze");
    let found = verify.arg("verify").arg(&path).stdin(Stdio::null()).output();
    // Not every machine has it.
    let Ok(output) = found else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
