//! A service of the operator's that is asked who a Client is: what the Client shows is posted to an
//! address as JSON, and what it may do comes back.
//!
//! So many threads as there may be requests at once do the asking; who finds them all busy waits,
//! and who finds too many waiting is turned away. A service that does not answer, or says something
//! that is not understood, lets nobody in: what is misspelt in an answer must not be passed over.
//! Answers are kept for a while, if the operator wants that; failures never are.

mod answer;
mod cache;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use super::checkers::{self, Checkers, Job};
use super::http::{self, Http};
use super::problem::FileError;
use super::random;
use super::verdict::Shown;
use crate::clock::Moment;
use crate::metrics::Proofs;
pub(super) use answer::Word;
use cache::Cache;

/// Settings of a callout.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What the operator calls it.
    pub name: String,
    /// Where it is asked.
    pub url: String,
    /// Time for a request.
    pub deadline: Duration,
    /// Who vouches for the address.
    pub authorities: Option<PathBuf>,
    /// What the broker shows the service of itself.
    pub bearer_file: Option<PathBuf>,
    /// Requests at once.
    pub requests_max: usize,
    /// How long answers are kept; not at all when zero.
    pub cache_ttl: Duration,
    /// Answers that are kept.
    pub cached_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            deadline: Duration::from_secs(2),
            authorities: None,
            bearer_file: None,
            requests_max: 8,
            cache_ttl: Duration::ZERO,
            cached_max: 10_000,
        }
    }
}

/// Bytes of an answer that is kept.
const KEPT_LEN_MAX: usize = 16 << 10;

/// Bytes of a bearer token.
const BEARER_LEN_MAX: usize = 8192;

impl Options {
    /// What is wrong with them, apart from files.
    pub fn check(&self) -> Result<(), String> {
        match self.url.is_empty() {
            true => Err("a callout needs `url`".into()),
            false => Ok(()),
        }
    }

    /// Whether nothing but its file is another.
    fn differs_by_files(&self, other: &Self) -> bool {
        let bare = |options: &Self| Self { bearer_file: None, ..options.clone() };
        bare(self) == bare(other)
    }

    /// What the broker shows of itself, read from its file.
    pub fn read(&self) -> Result<Option<String>, FileError> {
        let Some(path) = &self.bearer_file else { return Ok(None) };
        let text = super::problem::read_text(path, "")?;
        let bearer = text.trim_end();
        let fits = !bearer.is_empty() && bearer.len() <= BEARER_LEN_MAX;
        match fits && bearer.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Some(bearer.into())),
            false => Err(FileError::whole(path, "it must be one line without spaces".into())),
        }
    }

    /// How requests are made.
    pub fn http(&self) -> Result<Http, FileError> {
        let Self { authorities, deadline, requests_max, .. } = self;
        let authorities = authorities.clone();
        Http::new(&http::Options { authorities, deadline: *deadline, kept_max: *requests_max })
    }
}

/// What is posted.
#[derive(Serialize)]
struct Question<'a> {
    client_id: Option<&'a str>,
    username: Option<&'a str>,
    password: Option<&'a str>,
    /// Of a password that is no text.
    password_base64: Option<String>,
    address: Option<String>,
    port: Option<u16>,
    listener: &'a str,
    certificate_subject: Option<&'a str>,
}

impl<'a> Question<'a> {
    fn new(shown: &'a Shown) -> Self {
        use base64ct::{Base64, Encoding};
        let password = shown.password.as_deref().map(|bytes| (bytes, std::str::from_utf8(bytes)));
        Self {
            client_id: shown.client_id.as_deref(),
            username: shown.username.as_deref(),
            password: password.and_then(|(_, text)| text.ok()),
            password_base64: password
                .filter(|(_, text)| text.is_err())
                .map(|(bytes, _)| Base64::encode_string(bytes)),
            address: shown.address.map(|address| address.ip().to_canonical().to_string()),
            port: shown.address.map(|address| address.port()),
            listener: &shown.listener,
            certificate_subject: shown.certificate_subject.as_deref(),
        }
    }
}

/// A service that is asked.
#[derive(Debug)]
pub struct Callout {
    options: Options,
    http: Http,
    bearer: RwLock<Option<String>>,
    threads: Checkers,
    cache: Mutex<Cache>,
    has_failed: Mutex<bool>,
    pub(super) counts: Arc<Proofs>,
}

impl Callout {
    /// With threads of its own, for which `waiting_max` Clients may wait.
    pub fn start(
        options: Options,
        http: Http,
        bearer: Option<String>,
        waiting_max: usize,
        counts: Arc<Proofs>,
    ) -> io::Result<Self> {
        let (url, name) = (&options.url, &options.name);
        if http::is_open(url) {
            tracing::warn!(callout = name, "passwords can be read on the way to {url}");
        }
        let threads = checkers::Options { threads: options.requests_max, waiting_max };
        Ok(Self {
            http,
            bearer: RwLock::new(bearer),
            threads: Checkers::start("callout", &threads)?,
            cache: Mutex::new(Cache::new(options.cached_max, random::bytes()?)),
            has_failed: Mutex::new(false),
            counts,
            options,
        })
    }

    /// What the operator calls it.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Whether nothing but its file is another in these settings.
    pub fn differs_by_files(&self, options: &Options) -> bool {
        self.options.differs_by_files(options)
    }

    /// Shows the service something else of the broker, and forgets its answers.
    pub fn replace(&self, bearer: Option<String>) {
        *self.bearer.write() = bearer;
        self.cache.lock().clear();
    }

    /// Has the job done on a thread that may ask.
    pub(super) fn submit(&self, job: Box<dyn Job>) {
        self.threads.submit(job);
    }

    /// What it has said before of a Client that shows the same, if that still holds.
    pub(super) fn kept(&self, shown: &Shown, wall: Moment) -> Option<Word> {
        if self.options.cache_ttl.is_zero() {
            return None;
        }
        let word = self.cache.lock().get(shown, wall)?;
        self.counts.callouts_cached.increment();
        Some(word)
    }

    /// Asks; the error is why there is no answer.
    pub(super) fn ask(&self, shown: &Shown, wall: Moment) -> Result<Word, String> {
        self.counts.callouts_asked.increment();
        let cleared = self.cache.lock().cleared();
        let asked = self.request(shown, wall);
        self.note(asked.as_ref().err());
        let (word, len) = asked?;
        if !self.options.cache_ttl.is_zero() && len <= KEPT_LEN_MAX {
            let ttl_ms = u64::try_from(self.options.cache_ttl.as_millis()).unwrap_or(u64::MAX);
            let mut cache = self.cache.lock();
            // Whoever had all forgotten meanwhile means this too.
            if cache.cleared() == cleared {
                cache.put(shown, word.clone(), wall.after_ms(ttl_ms));
            }
        }
        Ok(word)
    }

    /// What it says, and how long that is.
    fn request(&self, shown: &Shown, wall: Moment) -> Result<(Word, usize), String> {
        let question = serde_json::to_vec(&Question::new(shown)).map_err(|e| e.to_string())?;
        let bearer = self.bearer.read().clone();
        let text = self.http.post(&self.options.url, bearer.as_deref(), &question)?;
        let word = answer::read(&text, shown.username.as_deref(), wall)?;
        Ok((word, text.len()))
    }

    /// Says when it begins to fail and when it ends to.
    fn note(&self, failure: Option<&String>) {
        let had_failed = std::mem::replace(&mut *self.has_failed.lock(), failure.is_some());
        let name = self.name();
        match failure {
            Some(why) => {
                self.counts.callouts_failed.increment();
                if had_failed {
                    tracing::debug!(callout = name, "no answer: {why}");
                } else {
                    tracing::warn!(callout = name, "no answer: {why}; Clients are refused");
                }
            }
            None if had_failed => tracing::info!(callout = name, "it answers again"),
            None => {}
        }
    }
}
