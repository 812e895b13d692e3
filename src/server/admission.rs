//! Who may come and what they may do, as the files say it: read at the start, and again when the
//! operator asks for it. Either all that is read is good and holds from then on, or nothing
//! changes. Whoever is being judged meanwhile is judged by what held when it came.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::ServerError;
use crate::access::acl::Acl;
use crate::access::acl::file::AclFile;
use crate::access::acl::guard::Rules;
use crate::access::acl::roles::Roles;
use crate::access::book::Book;
use crate::access::callout::{self, Callout};
use crate::access::case::Method;
use crate::access::checkers::Checkers;
use crate::access::file::PasswordFile;
use crate::access::http::Http;
use crate::access::problem::FileError;
use crate::access::token::key::Keys;
use crate::access::token::{self, Tokens};
use crate::access::{Access, random};
use crate::config::{Config, Opening, Proof};
use crate::metrics::Proofs;
use crate::store::Durability;

/// Every file once.
pub(super) struct Files {
    passwords: HashMap<PathBuf, PasswordFile>,
    /// By the path of the `acl_file`, also for listeners without one.
    acls: HashMap<Option<PathBuf>, Acl>,
    /// By the name of the `[[token]]`; none for keys that are fetched.
    keys: HashMap<String, Option<Keys>>,
    /// By the name of the `[[callout]]`.
    bearers: HashMap<String, Option<String>>,
    /// How the addresses of tokens and callouts are asked, by their names.
    https: HashMap<String, Http>,
}

impl Files {
    /// Reads what the settings name.
    pub fn read(config: &Config, openings: &[Opening]) -> Result<Self, FileError> {
        let mut passwords = HashMap::new();
        for path in openings.iter().filter_map(|opening| opening.users.file.as_ref()) {
            if !passwords.contains_key(path) {
                passwords.insert(path.clone(), PasswordFile::read(path)?);
            }
        }
        let roles = Arc::new(Roles::new(config.roles.clone(), &config.groups));
        let mut acls = HashMap::new();
        let paths = openings.iter().map(|opening| opening.acl_file.clone());
        for path in paths.chain([config.acl_file.clone()]) {
            if let Entry::Vacant(vacant) = acls.entry(path) {
                let file = vacant.key().as_deref().map(AclFile::read).transpose()?.map(Arc::new);
                vacant.insert(Acl::new(file, roles.clone()));
            }
        }
        let (mut keys, mut https) = (HashMap::new(), HashMap::new());
        for token in &config.tokens {
            keys.insert(token.name.clone(), token.read()?);
            https.insert(token.name.clone(), token.http()?);
        }
        let mut bearers = HashMap::new();
        for callout in &config.callouts {
            bearers.insert(callout.name.clone(), callout.read()?);
            https.insert(callout.name.clone(), callout.http()?);
        }
        Ok(Self { passwords, acls, keys, bearers, https })
    }
}

/// Whom listeners ask besides the book of users.
#[derive(Default)]
struct Asked {
    tokens: Vec<Arc<Tokens>>,
    callouts: Vec<Arc<Callout>>,
}

/// What holds now.
pub(super) struct Admission {
    /// None where there are no users.
    book: Arc<OnceLock<Arc<Book>>>,
    asked: Asked,
    /// What is ready to hold in its place.
    next: Option<Asked>,
    /// How many Clients may wait for a callout.
    waiting_max: usize,
    /// None where nobody can prove anything.
    checkers: Option<Arc<Checkers>>,
    rules: HashMap<Option<PathBuf>, Arc<Rules>>,
    /// For those who have not come by any listener since the start.
    absent: Arc<Rules>,
}

impl Admission {
    /// To be called before the store is open: with the rules that hold for whom it remembers.
    pub fn rules(config: &Config, files: &mut Files) -> Self {
        let rules: HashMap<_, _> =
            files.acls.drain().map(|(path, acl)| (path, Arc::new(Rules::new(acl)))).collect();
        let is_one = rules.len() == 1 && !config.proofs_have_rules();
        let one = rules.get(&config.acl_file).filter(|_| is_one);
        // By which listener they came is not known, nor what their proofs said; where that matters
        // they may do nothing.
        let nothing =
            || Acl::new(Some(Arc::new(AclFile::empty(Path::new("acl_file")))), Arc::default());
        let absent = one.cloned().unwrap_or_else(|| Arc::new(Rules::new(nothing())));
        let (asked, next) = (Asked::default(), None);
        let waiting_max = config.checkers.waiting_max;
        let book = Arc::default();
        Self { book, asked, next, waiting_max, checkers: None, rules, absent }
    }

    /// The rules for Clients that the store remembers.
    pub fn absent(&self) -> Arc<Rules> {
        self.absent.clone()
    }

    /// To be called when the store is open: its directory keeps a secret.
    pub fn methods(
        &mut self,
        config: &Config,
        openings: &[Opening],
        mut files: Files,
        counts: &Arc<Proofs>,
    ) -> Result<(), ServerError> {
        self.prepare(config, openings, &mut files, counts)?;
        for (path, file) in &files.passwords {
            tracing::info!("{} users in {}", file.names().len(), path.display());
        }
        self.replace(files);
        Ok(())
    }

    /// Has ready what these listeners need and those before did not; nothing that holds changes.
    pub fn prepare(
        &mut self,
        config: &Config,
        openings: &[Opening],
        files: &mut Files,
        counts: &Arc<Proofs>,
    ) -> Result<(), ServerError> {
        let proofs = || openings.iter().flat_map(|opening| &opening.proofs);
        let has_proofs = proofs().next().is_some();
        if has_proofs && self.checkers.is_none() {
            self.checkers = Some(Arc::new(Checkers::start("password", &config.checkers)?));
        }
        if self.book.get().is_none() && openings.iter().any(|opening| !opening.users.is_none()) {
            let secret = match config.store.durability {
                Durability::Memory => random::bytes()?,
                _ => random::secret(&config.store.directory)?,
            };
            let book = Book::open(secret, HashMap::new(), &config.store.directory)?;
            self.book.get_or_init(|| Arc::new(book));
        }
        let mut next = Asked::default();
        for options in &config.tokens {
            if proofs().any(|proof| matches!(proof, Proof::Token(name) if *name == options.name)) {
                next.tokens.extend(self.tokens(options, files, counts)?);
            }
        }
        for options in &config.callouts {
            if proofs().any(|proof| matches!(proof, Proof::Callout(name) if *name == options.name))
            {
                next.callouts.extend(self.callout(options, files, counts)?);
            }
        }
        self.next = Some(next);
        Ok(())
    }

    /// The tokens of these settings: those that are there, or others. These begin with the keys of
    /// theirs that were fetched from the same address.
    fn tokens(
        &self,
        options: &token::Options,
        files: &mut Files,
        counts: &Arc<Proofs>,
    ) -> io::Result<Option<Arc<Tokens>>> {
        let former = self.asked.tokens.iter().find(|tokens| tokens.name() == options.name);
        if let Some(same) = former.filter(|tokens| tokens.differs_by_files(options)) {
            return Ok(Some(same.clone()));
        }
        let Some(http) = files.https.remove(&options.name) else { return Ok(None) };
        let keys = files.keys.remove(&options.name).flatten();
        if let Some(keys) = &keys {
            tracing::info!(token = options.name, "keys: {}", keys.len());
        }
        let keys = keys.or_else(|| former?.keys_of(options));
        Ok(Some(Arc::new(Tokens::start(options.clone(), keys, http, counts.clone())?)))
    }

    /// The service of these settings: the one that is there, or another.
    fn callout(
        &self,
        options: &callout::Options,
        files: &mut Files,
        counts: &Arc<Proofs>,
    ) -> io::Result<Option<Arc<Callout>>> {
        let former = self.asked.callouts.iter().find(|callout| callout.name() == options.name);
        if let Some(same) = former.filter(|callout| callout.differs_by_files(options)) {
            return Ok(Some(same.clone()));
        }
        let Some(http) = files.https.remove(&options.name) else { return Ok(None) };
        let bearer = files.bearers.remove(&options.name).flatten();
        let options = options.clone();
        let callout = Callout::start(options, http, bearer, self.waiting_max, counts.clone())?;
        Ok(Some(Arc::new(callout)))
    }

    /// The users, once there are any.
    pub fn book(&self) -> Arc<OnceLock<Arc<Book>>> {
        self.book.clone()
    }

    /// What holds for a listener's Clients.
    pub fn access(&self, opening: &Opening) -> Access {
        let methods: Vec<_> =
            opening.proofs.iter().filter_map(|proof| self.method(proof, opening)).collect();
        let access = match &self.checkers {
            Some(checkers) if !methods.is_empty() => {
                Access::with_methods(opening.anonymous, methods, checkers.clone())
            }
            _ => Access::unproven(opening.anonymous),
        };
        let access = if opening.believes_names { access.believing_names() } else { access };
        match self.rules.get(&opening.acl_file) {
            Some(rules) => access.ruled_by(rules.clone()),
            None => access,
        }
    }

    fn method(&self, proof: &Proof, opening: &Opening) -> Option<Method> {
        match proof {
            Proof::Passwords => Some(Method::Passwords(self.book.get()?.directory(&opening.users))),
            Proof::Token(name) => {
                let tokens = self.asked.tokens.iter().find(|tokens| tokens.name() == name)?;
                Some(Method::Tokens(tokens.clone()))
            }
            Proof::Callout(name) => {
                let callout = self.asked.callouts.iter().find(|callout| callout.name() == name)?;
                Some(Method::Callout(callout.clone()))
            }
        }
    }

    /// What is ready and does not hold yet will not.
    pub fn forget_prepared(&mut self) {
        self.next = None;
    }

    /// Takes over what was read again. Who came under an `acl_file` that no listener has any more
    /// keeps its rules.
    pub fn replace(&mut self, mut files: Files) {
        if let Some(book) = self.book.get() {
            book.replace(files.passwords);
        }
        let next = self.next.take().unwrap_or_default();
        let former = std::mem::replace(&mut self.asked, next);
        for tokens in former.tokens {
            if !self.asked.tokens.iter().any(|stays| Arc::ptr_eq(stays, &tokens)) {
                tokens.retire();
            }
        }
        for tokens in &self.asked.tokens {
            if let Some(keys) = files.keys.remove(tokens.name()) {
                tokens.replace(keys);
            }
        }
        for callout in &self.asked.callouts {
            if let Some(bearer) = files.bearers.remove(callout.name()) {
                callout.replace(bearer);
            }
        }
        for (path, acl) in files.acls {
            match self.rules.entry(path) {
                Entry::Occupied(held) => held.get().replace(acl),
                Entry::Vacant(vacant) => drop(vacant.insert(Arc::new(Rules::new(acl)))),
            }
        }
    }
}
