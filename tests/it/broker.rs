//! Starting, killing and stopping the real program.

use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running broker; killed when dropped.
pub struct Broker {
    child: Child,
    /// Where MQTT is spoken over TCP.
    pub port: u16,
    directory: TempDir,
    config: PathBuf,
    restarts: usize,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap();
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if !given.contains(&port) {
            given.push(port);
            return port;
        }
    }
}

/// The program under test; `WHIMBREL_PROGRAM` names another build of it.
pub fn program() -> Command {
    let built = || env!("CARGO_BIN_EXE_whimbrel").into();
    Command::new(std::env::var_os("WHIMBREL_PROGRAM").unwrap_or_else(built))
}

impl Broker {
    /// A broker with these settings beside its port and store.
    pub fn start(settings: &str) -> Self {
        Self::start_with(settings, "")
    }

    /// A broker with these settings and further listeners.
    pub fn start_with(settings: &str, listeners: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let port = free_port();
        let config = directory.path().join("whimbrel.toml");
        let text = format!(
            "{settings}\npersistence_location = \"data\"\n\
             [[listener]]\nport = {port}\nbind_address = \"127.0.0.1\"\n{listeners}\n"
        );
        std::fs::write(&config, text).unwrap();
        let child = spawn(program(), &config, directory.path());
        let mut broker = Self { child, port, directory, config, restarts: 0 };
        broker.wait_until_it_listens();
        broker
    }

    /// A broker on a store that lies in this file.
    pub fn start_on(file: &Path) -> Self {
        let mut broker = Self::start("");
        broker.stop_and_take(file);
        broker
    }

    /// SIGTERM, and the same broker again on a store that lies in this file.
    pub fn stop_and_take(&mut self, file: &Path) {
        self.terminate();
        self.child.wait().unwrap();
        std::fs::copy(file, self.directory().join("data/whimbrel.redb")).unwrap();
        self.restart();
    }

    /// A broker under a limit, as the shell's `ulimit` sets it.
    pub fn start_limited(limit: &str, settings: &str) -> Self {
        let mut broker = Self::start(settings);
        broker.child.kill().unwrap();
        broker.child.wait().unwrap();
        broker.restarts += 1;
        let mut limited = Command::new("sh");
        let command = format!("trap '' XFSZ; ulimit {limit}; exec \"$0\" \"$@\"");
        limited.arg("-c").arg(command);
        limited.arg(program().get_program());
        broker.child = spawn(limited, &broker.config, broker.directory.path());
        broker.wait_until_it_listens();
        broker
    }

    /// SIGKILL, and the same broker again on the same store.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.restart();
    }

    /// SIGTERM, and the same broker again once it has ended.
    pub fn stop_and_restart(&mut self) {
        self.terminate();
        self.restart();
    }

    fn restart(&mut self) {
        self.child.wait().unwrap();
        self.restarts += 1;
        self.child = spawn(program(), &self.config, self.directory.path());
        self.wait_until_it_listens();
    }

    /// SIGTERM; its files, which whoever gets them removes.
    pub fn keep_directory(mut self) -> PathBuf {
        self.terminate();
        self.child.wait().unwrap();
        let kept = TempDir::new().unwrap().keep();
        std::fs::remove_dir(&kept).unwrap();
        std::fs::rename(self.directory.path(), &kept).unwrap();
        kept
    }

    /// Other settings, also of its listeners; SIGHUP, and waits until the log has this once more.
    pub fn reload(&self, config: &str, said: &str) {
        let before = self.log().matches(said).count();
        std::fs::write(&self.config, config).unwrap();
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "HUP", &pid]).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.log().matches(said).count() == before {
            assert!(Instant::now() < deadline, "no {said:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What its configuration says.
    pub fn config(&self) -> String {
        std::fs::read_to_string(&self.config).unwrap()
    }

    /// SIGTERM; the exit status and what was logged.
    pub fn stop(mut self) -> (ExitStatus, String) {
        self.terminate();
        let status = self.child.wait().unwrap();
        (status, self.log())
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its resident memory, in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The directory of its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        // The store is opened last.
        while self.log().matches("store open").count() <= self.restarts {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the broker ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < deadline, "the broker does not listen\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(mut program: Command, config: &Path, directory: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(directory.join("log"));
    program
        .arg("-c")
        .arg(config)
        .env_remove("RUST_LOG")
        .stderr(log.unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the broker's log\n{}", self.log());
        }
    }
}

/// The broker that tests without settings of their own share. It lives as long as the pipe that
/// its guardian reads, which is as long as this process.
pub fn shared() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let broker = Broker::start("");
        let (port, pid) = (broker.port, broker.child.id());
        let guardian = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "cat >/dev/null; kill -9 {pid}; rm -rf '{}'",
                broker.directory().display()
            ))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::mem::forget(guardian);
        std::mem::forget(broker);
        port
    })
}

/// Runs a command to its end, within a time; its output.
pub fn run(command: &mut Command, within: Duration) -> (Option<i32>, String) {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let mut output = String::new();
            child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
            child.stderr.take().unwrap().read_to_string(&mut output).unwrap();
            return (status.code(), output);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            let mut output = String::new();
            child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
            child.stderr.take().unwrap().read_to_string(&mut output).unwrap();
            panic!("{command:?} did not end in {within:?}:\n{output}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
