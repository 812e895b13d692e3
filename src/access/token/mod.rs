//! Tokens (JWT, RFC 7519) that Clients give as their passwords.
//!
//! A token is judged in this order: is it one at all, is it from the issuer that is expected, has
//! one of our keys signed it by an algorithm that is the key's, and do its claims hold now and for
//! us. What is no token, is from somebody else or is signed with a key that is not ours is left to
//! the next method; whatever else is wrong with it ends the matter. The reason is for the log;
//! nothing of the token is in it but its short texts.

pub mod claims;
pub mod jws;
pub mod key;
mod source;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::checkers::Job;
use super::http::{self, Http};
use super::problem::FileError;
use super::verdict::Identity;
use crate::clock::Moment;
use crate::metrics::Proofs;
use crate::session::auth::{Mechanism, Step};
use jws::{Algorithm, Fault, Token};
use key::{Found, Keys};
use source::Source;

/// The Authentication Method by which a Client gives a token as Authentication Data, and a new one
/// while it is connected; the name is that of another service that has it.
pub const METHOD: &str = "OAUTH2-JWT";

/// An exchange by this method: whatever the Client says is a token.
pub(super) struct Bearer;

impl Mechanism for Bearer {
    fn step(&mut self, _: &[u8]) -> Step {
        Step::Ask
    }
}

/// Settings of one kind of token.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What the operator calls it.
    pub name: String,
    /// Public keys.
    pub key_file: Option<PathBuf>,
    /// A secret.
    pub secret_file: Option<PathBuf>,
    /// Where public keys are fetched from.
    pub keys_url: Option<String>,
    /// Time between two fetches.
    pub keys_interval: Duration,
    /// Time for a fetch.
    pub keys_deadline: Duration,
    /// Who vouches for the address.
    pub authorities: Option<PathBuf>,
    /// The only algorithms, beside what the keys say; all if none is named.
    pub algorithms: Vec<Algorithm>,
    /// Who must have issued a token.
    pub issuer: Option<String>,
    /// For whom it must be: one of these.
    pub audience: Vec<String>,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// Whether it must expire.
    pub needs_expiry: bool,
    /// The claim that is the user name.
    pub username_claim: String,
    /// Whether the User Name of CONNECT must be the same.
    pub checks_username: bool,
    /// The claim with the names of roles.
    pub roles_claim: Option<String>,
    /// The claim with the names of groups.
    pub groups_claim: Option<String>,
    /// The claim with the Topic Filters that may be published to.
    pub publish_claim: Option<String>,
    /// The claim with those that may be subscribed to.
    pub subscribe_claim: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: String::new(),
            key_file: None,
            secret_file: None,
            keys_url: None,
            keys_interval: Duration::from_secs(3600),
            keys_deadline: Duration::from_secs(5),
            authorities: None,
            algorithms: Vec::new(),
            issuer: None,
            audience: Vec::new(),
            leeway: Duration::from_secs(5),
            needs_expiry: true,
            username_claim: "sub".into(),
            checks_username: false,
            roles_claim: None,
            groups_claim: None,
            publish_claim: None,
            subscribe_claim: None,
        }
    }
}

impl Options {
    /// What is wrong with them, apart from files.
    pub fn check(&self) -> Result<(), String> {
        let sources = [&self.key_file, &self.secret_file].into_iter().flatten().count();
        if sources + usize::from(self.keys_url.is_some()) != 1 {
            return Err("a token needs one of `key_file`, `secret_file` and `keys_url`".into());
        }
        if self.authorities.is_some() && self.keys_url.is_none() {
            return Err("`cafile` needs `keys_url`".into());
        }
        Ok(())
    }

    /// Whether nothing but its files are others.
    fn differs_by_files(&self, other: &Self) -> bool {
        let bare = |options: &Self| Self { key_file: None, secret_file: None, ..options.clone() };
        bare(self) == bare(other)
    }

    /// The keys that stand in a file; `None` for those that are fetched.
    pub fn read(&self) -> Result<Option<Keys>, FileError> {
        match (&self.key_file, &self.secret_file) {
            (Some(path), _) => Keys::read(path).map(Some),
            (None, Some(path)) => Keys::read_secret(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// How keys are fetched.
    pub fn http(&self) -> Result<Http, FileError> {
        let Self { authorities, keys_deadline: deadline, .. } = self;
        let authorities = authorities.clone();
        Http::new(&http::Options { authorities, deadline: *deadline, kept_max: 1 })
    }

    /// Whether tokens say what their Clients may do.
    pub fn has_rules(&self) -> bool {
        let Self { roles_claim, groups_claim, publish_claim, subscribe_claim, .. } = self;
        [roles_claim, groups_claim, publish_claim, subscribe_claim].iter().any(|c| c.is_some())
    }
}

/// What is said of a password.
pub(super) enum Judgement {
    /// It is a token of this Client's.
    Admitted(Identity),
    /// It is a token that is no good, for this reason.
    Refused(String),
    /// It is signed with a key that is not there.
    NoKey(String),
    /// It is for others to judge; a reason if it is a token.
    Unknown(Option<String>),
}

/// One kind of token.
#[derive(Debug)]
pub struct Tokens {
    options: Options,
    keys: Arc<RwLock<Arc<Keys>>>,
    source: Option<Source>,
    /// What has become of tokens.
    pub(super) counts: Arc<Proofs>,
}

impl Tokens {
    /// With keys that were read, or else are fetched.
    pub fn start(
        options: Options,
        keys: Option<Keys>,
        http: Http,
        counts: Arc<Proofs>,
    ) -> io::Result<Self> {
        let held = Arc::new(RwLock::new(Arc::new(keys.unwrap_or_default())));
        let mut tokens = Self { options, keys: held, source: None, counts };
        let Some(url) = tokens.options.keys_url.clone() else { return Ok(tokens) };
        if http::is_open(&url) {
            let name = &tokens.options.name;
            tracing::warn!(token = name, "whoever is on the way to {url} can give his own keys");
        }
        let name = tokens.options.name.as_str().into();
        let source = source::Options { name, url, http, interval: tokens.options.keys_interval };
        tokens.source = Some(Source::start(source, tokens.keys.clone(), tokens.counts.clone())?);
        Ok(tokens)
    }

    /// What the operator calls it.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Whether nothing but its files are others in these settings.
    pub fn differs_by_files(&self, options: &Options) -> bool {
        self.options.differs_by_files(options)
    }

    /// The keys that were fetched from where these settings have theirs fetched from.
    pub fn keys_of(&self, options: &Options) -> Option<Keys> {
        let is_same = self.options.keys_url.is_some()
            && self.options.keys_url == options.keys_url
            && self.options.authorities == options.authorities;
        is_same.then(|| Keys::clone(&self.keys.read()))
    }

    /// Nobody is to be judged by it any more but who has come already: it fetches no more keys.
    pub fn retire(&self) {
        if let Some(source) = &self.source {
            source.close();
        }
    }

    /// Other keys from now on; those that are not in a file are fetched.
    pub fn replace(&self, keys: Option<Keys>) {
        match (keys, &self.source) {
            (Some(keys), None) => *self.keys.write() = Arc::new(keys),
            (_, Some(source)) => source.refresh(),
            (None, None) => {}
        }
    }

    /// Whether there are keys at all.
    pub(super) fn has_keys(&self) -> bool {
        !self.keys.read().is_empty()
    }

    /// Has the job done when keys have been fetched, or turns the Client away when too many wait;
    /// gives it back if none are fetched, or some were a moment ago.
    pub(super) fn wait<J: Job>(&self, job: Box<J>) -> Result<(), Box<J>> {
        match &self.source {
            Some(source) => source.wait(job),
            None => Err(job),
        }
    }

    /// Judges what a Client has given as its password.
    pub(super) fn judge(&self, username: Option<&str>, password: &[u8], wall: Moment) -> Judgement {
        let token = match Token::parse(password) {
            Ok(token) => token,
            Err(Fault::NoToken) => return Judgement::Unknown(None),
            Err(Fault::Bad(why)) => return Judgement::Refused(why),
        };
        let members = match claims::read(&token.payload) {
            Ok(members) => members,
            Err(why) => return Judgement::Refused(why),
        };
        let Options { issuer, algorithms, .. } = &self.options;
        if issuer.is_some() && issuer.as_deref() != claims::issuer(&members) {
            let other = jws::Quoted(claims::issuer(&members).unwrap_or_default());
            return Judgement::Unknown(Some(format!("it is from the issuer {other}")));
        }
        let algorithm = token.algorithm;
        if !algorithms.is_empty() && !algorithms.contains(&algorithm) {
            let why = format!("it is signed by {}, which is not allowed", algorithm.name());
            return Judgement::Refused(why);
        }
        let keys = self.keys.read().clone();
        match keys.find(&token) {
            Found::Signed => {}
            Found::Forged => return Judgement::Refused("its signature is wrong".into()),
            Found::NoKey => {
                let name = token.key_id.as_deref();
                let named = name.map_or(String::new(), |id| format!(" called {}", jws::Quoted(id)));
                let why = format!("there is no key{named} for its {}", algorithm.name());
                return Judgement::NoKey(why);
            }
        }
        match claims::judge(&members, &self.options, username, wall) {
            Ok(identity) => Judgement::Admitted(identity),
            Err(why) => Judgement::Refused(why),
        }
    }
}

#[cfg(test)]
mod tests;
