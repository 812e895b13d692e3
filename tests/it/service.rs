//! An HTTP service of Python's that the broker asks: `tests/clients/service.py`.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::free_port;
use crate::listeners::certificates;

/// Ends when dropped.
pub struct Service {
    child: Option<Child>,
    port: u16,
    is_tls: bool,
    directory: TempDir,
}

impl Service {
    pub fn start() -> Self {
        Self::new(false)
    }

    pub fn start_tls() -> Self {
        Self::new(true)
    }

    fn new(is_tls: bool) -> Self {
        let directory = TempDir::new().unwrap();
        let mut service = Self { child: None, port: free_port(), is_tls, directory };
        service.put("keys", "{\"keys\": []}");
        service.put("answers", "{\"\": {\"result\": \"ignore\"}}");
        service.resume();
        service
    }

    /// Begins to serve, on the same port as before.
    pub fn resume(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/service.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(self.port.to_string()).arg(self.directory.path());
        if self.is_tls {
            let certificates = certificates();
            command.args(["server.pem", "server.key"].map(|name| certificates.join(name)));
        }
        self.child = Some(command.stdout(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "the service does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Serves no more.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://localhost:{}{path}", self.port)
    }

    /// Where one of its files is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// One of the files that say what it does; whole at every moment.
    pub fn put(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// The requests so far, a line each.
    pub fn asked(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("asked")).unwrap_or_default();
        text.lines().map(Into::into).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}
