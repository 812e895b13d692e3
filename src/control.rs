//! The operator's way to a running broker: a unix socket beside the store, which only the broker's
//! user may open.
//!
//! One request for each connection, one line: `stats`, `check`, or `backup` and an absolute path.
//! The answer is a line `ok` or `error`, and text to the end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::broker::Broker;
use crate::store::tools::Request;

/// The name of the socket in the store's directory.
const SOCKET: &str = "control.sock";

/// Longest request, in bytes.
const REQUEST_MAX: u64 = 8 << 10;

/// Longest time that a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket; removed when dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Opens the socket of a store's directory. Nobody else can have it: the store is ours.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers requests, one after the other.
    pub async fn serve(&self, broker: &Arc<Broker>) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            if let Err(error) = answer(stream, broker).await {
                tracing::debug!("control: {error}");
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: tokio::net::UnixStream, broker: &Arc<Broker>) -> io::Result<()> {
    let mut line = Vec::new();
    let (read, mut write) = stream.split();
    let mut read = tokio::io::BufReader::new(read.take(REQUEST_MAX));
    tokio::time::timeout(PATIENCE, read.read_until(b'\n', &mut line)).await??;
    let answer = match parse(&line) {
        None => "error\nunknown request\n".to_owned(),
        Some(request) => {
            tracing::info!(?request, "asked by the operator");
            let broker = broker.clone();
            let work = tokio::task::spawn_blocking(move || broker.store_tool(&request));
            match work.await? {
                Ok(text) => format!("ok\n{text}"),
                Err(error) => format!("error\n{error}\n"),
            }
        }
    };
    write.write_all(answer.as_bytes()).await
}

fn parse(line: &[u8]) -> Option<Request> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    match line.split_once(' ') {
        None if line == "stats" => Some(Request::Stats),
        None if line == "check" => Some(Request::Check),
        Some(("backup", path)) if path.starts_with('/') => Some(Request::Backup(path.into())),
        _ => None,
    }
}

/// Asks the broker that has the store of this directory; `None` when there is none. The error is
/// what it says.
pub fn ask(directory: &Path, request: &Request) -> Option<io::Result<Result<String, String>>> {
    let mut stream = UnixStream::connect(directory.join(SOCKET)).ok()?;
    let line = match request {
        Request::Stats => "stats\n".to_owned(),
        Request::Check => "check\n".to_owned(),
        Request::Backup(path) => format!("backup {}\n", path.display()),
    };
    Some(exchange(&mut stream, &line))
}

fn exchange(stream: &mut UnixStream, line: &str) -> io::Result<Result<String, String>> {
    stream.write_all(line.as_bytes())?;
    let mut answer = BufReader::new(stream);
    let (mut status, mut text) = (String::new(), String::new());
    answer.read_line(&mut status)?;
    answer.read_to_string(&mut text)?;
    match status.as_str() {
        "ok\n" => Ok(Ok(text)),
        "error\n" => Ok(Err(text.trim_end().to_owned())),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_whole_line() {
        assert_eq!(parse(b"stats\n"), Some(Request::Stats));
        assert_eq!(parse(b"backup /a b\n"), Some(Request::Backup("/a b".into())));
        for bad in [&b"stats"[..], b"backup\n", b"backup a\n", b"\n", b"", b"\xff\n", b"x y\n"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
