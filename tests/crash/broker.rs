//! The real program: started, killed and stopped over and over, on one store.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::cast::QUEUES;
use crate::random::Random;

/// Not in the range that the system gives to outgoing connections.
const PORT: u16 = 18_830;

pub struct Broker {
    child: Child,
    directory: TempDir,
    config: PathBuf,
    pub address: SocketAddr,
}

impl Broker {
    /// Starts a broker on a new store and an address of its own: nobody else can take its port
    /// while it is down, and nobody who connects then can be connected with himself.
    pub fn start(settings: &str, random: &mut Random) -> Self {
        let directory = TempDir::new().unwrap();
        let mut byte = || random.below(1, 255) as u8;
        let ip = Ipv4Addr::new(127, byte(), byte(), byte());
        let config = directory.path().join("whimbrel.toml");
        let text = format!(
            "{settings}\nlog_level = \"warn\"\npersistence_location = \"data\"\n\
             [[listener]]\nport = {PORT}\nbind_address = \"{ip}\"\n{QUEUES}"
        );
        std::fs::write(&config, text).unwrap();
        let child = spawn(&config);
        Self { child, directory, config, address: SocketAddr::from((ip, PORT)) }
    }

    pub fn start_again(&mut self) {
        self.child = spawn(&self.config);
    }

    /// SIGKILL. Returns the exit status if it had ended before.
    pub async fn kill(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait().unwrap();
        let _ = self.child.start_kill();
        self.child.wait().await.unwrap();
        ended
    }

    /// SIGTERM; its exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        if let Some(pid) = self.child.id() {
            let _ = Command::new("kill").arg(pid.to_string()).status().await;
        }
        self.child.wait().await.unwrap()
    }

    /// Warnings, errors and panics; it logs nothing else.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

fn spawn(config: &PathBuf) -> Child {
    let directory = config.parent().unwrap();
    let log = std::fs::File::options().create(true).append(true).open(directory.join("log"));
    Command::new(env!("CARGO_BIN_EXE_whimbrel"))
        .arg("-c")
        .arg(config)
        .env_remove("RUST_LOG")
        .stderr(log.unwrap())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}
