//! The operator's way to a running broker: a unix socket beside the store, which only the broker's
//! user may open.
//!
//! One request for each connection, one line: `stats`, `check`, `backup` and an absolute path,
//! `metrics`, `bans`, `lift` and an address or Client Identifier, or `user` and what is to become
//! of one, its parts between tabulators. The answer is a line `ok` or `error`, and text to the end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::access::book::{self, Book};
use crate::broker::Broker;
use crate::doorman::{Doorman, operator};
use crate::store::tools;

/// The name of the socket in the store's directory.
const SOCKET: &str = "control.sock";

/// Longest request, in bytes.
const REQUEST_MAX: u64 = 8 << 10;

/// Longest time that a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the broker is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Something with the store.
    Store(tools::Request),
    /// Something with the broker's own users.
    User(book::Request),
    /// Something with the list of bans.
    Ban(operator::Request),
    /// What it has counted.
    Metrics,
}

/// What requests are about.
#[derive(Clone)]
pub struct Offices {
    /// What all Clients share.
    pub broker: Arc<Broker>,
    /// The broker's own users, once there may be any.
    pub book: Arc<OnceLock<Arc<Book>>>,
    /// Who keeps the list of bans.
    pub doorman: Arc<Doorman>,
}

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
    pub async fn serve(&self, offices: &Offices) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            if let Err(error) = answer(stream, offices).await {
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

async fn answer(mut stream: tokio::net::UnixStream, offices: &Offices) -> io::Result<()> {
    let mut line = Vec::new();
    let (read, mut write) = stream.split();
    let mut read = tokio::io::BufReader::new(read.take(REQUEST_MAX));
    tokio::time::timeout(PATIENCE, read.read_until(b'\n', &mut line)).await??;
    let answer = match parse(&line) {
        None => "error\nunknown request\n".to_owned(),
        Some(request) => {
            match request {
                // It is asked again and again.
                Request::Metrics => tracing::debug!(?request, "asked by the operator"),
                _ => tracing::info!(?request, "asked by the operator"),
            }
            let offices = offices.clone();
            let work = move || carry_out(&request, &offices);
            match tokio::task::spawn_blocking(work).await? {
                Ok(text) => format!("ok\n{text}"),
                Err(error) => format!("error\n{error}\n"),
            }
        }
    };
    write.write_all(answer.as_bytes()).await
}

/// Does what is asked; for a thread that may wait.
fn carry_out(request: &Request, offices: &Offices) -> Result<String, String> {
    let Offices { broker, book, doorman } = offices;
    let user = match request {
        Request::Store(request) => {
            return broker.store_tool(request).map_err(|error| error.to_string());
        }
        Request::Ban(request) => {
            return doorman.carry_out(request, broker.now(), &broker.metrics);
        }
        Request::Metrics => return Ok(broker.metrics.text()),
        Request::User(user) => user,
    };
    let Some(book) = book.get() else { return Err("no listener has `stored_users = true`".into()) };
    let text = book.carry_out(user).map_err(|error| error.to_string())?;
    if let book::Request::Remove(name) = user {
        broker.expel(name);
    }
    Ok(text)
}

fn parse(line: &[u8]) -> Option<Request> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    if let Some(user) = line.strip_prefix("user\t") {
        return parse_user(user).map(Request::User);
    }
    match line.split_once(' ') {
        None if line == "metrics" => return Some(Request::Metrics),
        None if line == "bans" => return Some(Request::Ban(operator::Request::List)),
        Some(("lift", who)) => return Some(Request::Ban(operator::Request::Lift(who.into()))),
        _ => {}
    }
    Some(Request::Store(match line.split_once(' ') {
        None if line == "stats" => tools::Request::Stats,
        None if line == "check" => tools::Request::Check,
        Some(("backup", path)) if path.starts_with('/') => tools::Request::Backup(path.into()),
        _ => return None,
    }))
}

fn parse_user(text: &str) -> Option<book::Request> {
    let parts: Vec<&str> = text.split('\t').collect();
    let secrets = |secrets: &[&str]| secrets.iter().map(|&secret| secret.into()).collect();
    Some(match parts.as_slice() {
        ["list"] => book::Request::List,
        ["remove", name] => book::Request::Remove((*name).into()),
        ["add", name, first @ ..] if !first.is_empty() => {
            book::Request::Add((*name).into(), secrets(first))
        }
        ["change", name, first @ ..] if !first.is_empty() => {
            book::Request::Change((*name).into(), secrets(first))
        }
        _ => return None,
    })
}

fn line(request: &Request) -> String {
    let with = |verb: &str, name: &str, secrets: &[String]| {
        format!("user\t{verb}\t{name}\t{}\n", secrets.join("\t"))
    };
    match request {
        Request::Store(tools::Request::Stats) => "stats\n".to_owned(),
        Request::Store(tools::Request::Check) => "check\n".to_owned(),
        Request::Store(tools::Request::Backup(path)) => format!("backup {}\n", path.display()),
        Request::Metrics => "metrics\n".to_owned(),
        Request::Ban(operator::Request::List) => "bans\n".to_owned(),
        Request::Ban(operator::Request::Lift(who)) => format!("lift {who}\n"),
        Request::User(book::Request::List) => "user\tlist\n".to_owned(),
        Request::User(book::Request::Remove(name)) => format!("user\tremove\t{name}\n"),
        Request::User(book::Request::Add(name, secrets)) => with("add", name, secrets),
        Request::User(book::Request::Change(name, secrets)) => with("change", name, secrets),
    }
}

/// Asks the broker that has the store of this directory; `None` when there is none. The error is
/// what it says.
pub fn ask(directory: &Path, request: &Request) -> Option<io::Result<Result<String, String>>> {
    let mut stream = UnixStream::connect(directory.join(SOCKET)).ok()?;
    Some(exchange(&mut stream, &line(request)))
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
        use tools::Request::{Backup, Check, Stats};
        let secrets = vec!["$argon2id$v".to_owned(), "SCRAM$x".to_owned()];
        for request in [
            Request::Store(Stats),
            Request::Store(Check),
            Request::Store(Backup("/a b".into())),
            Request::Metrics,
            Request::Ban(operator::Request::List),
            Request::Ban(operator::Request::Lift(" 2001:db8::1".into())),
            Request::User(book::Request::List),
            Request::User(book::Request::Remove("a b".into())),
            Request::User(book::Request::Add("ali".into(), secrets.clone())),
            Request::User(book::Request::Change("ali".into(), secrets)),
        ] {
            assert_eq!(parse(line(&request).as_bytes()), Some(request));
        }
        for bad in [
            &b"stats"[..],
            b"backup\n",
            b"backup a\n",
            b"\n",
            b"",
            b"\xff\n",
            b"x y\n",
            b"user\tadd\tali\n",
            b"user\tremove\n",
            b"user\tx\n",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
