//! Who may come and what they may do, as the files say it: read at the start, and again when the
//! operator asks for it. Either all that is read is good and holds from then on, or nothing
//! changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ServerError;
use crate::access::acl::Acl;
use crate::access::acl::file::AclFile;
use crate::access::acl::guard::Rules;
use crate::access::acl::roles::Roles;
use crate::access::book::Book;
use crate::access::checkers::Checkers;
use crate::access::file::PasswordFile;
use crate::access::problem::FileError;
use crate::access::{Access, random};
use crate::config::{Config, Opening};
use crate::store::Durability;

/// Every file once.
pub(super) struct Files {
    passwords: HashMap<PathBuf, PasswordFile>,
    /// By the path of the `acl_file`, also for listeners without one.
    acls: HashMap<Option<PathBuf>, Acl>,
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
        Ok(Self { passwords, acls })
    }
}

/// What holds now.
pub(super) struct Admission {
    /// None where there are no users.
    users: Option<(Arc<Book>, Arc<Checkers>)>,
    rules: HashMap<Option<PathBuf>, Arc<Rules>>,
    /// For those who have not come by any listener since the start.
    absent: Arc<Rules>,
}

impl Admission {
    /// To be called before the store is open: with the rules that hold for whom it remembers.
    pub fn rules(config: &Config, files: &mut Files) -> Self {
        let rules: HashMap<_, _> =
            files.acls.drain().map(|(path, acl)| (path, Arc::new(Rules::new(acl)))).collect();
        let one = rules.get(&config.acl_file).filter(|_| rules.len() == 1);
        // By which listener they came is not known; where that matters they may do nothing.
        let nothing =
            || Acl::new(Some(Arc::new(AclFile::empty(Path::new("acl_file")))), Arc::default());
        let absent = one.cloned().unwrap_or_else(|| Arc::new(Rules::new(nothing())));
        Self { users: None, rules, absent }
    }

    /// The rules for Clients that the store remembers.
    pub fn absent(&self) -> Arc<Rules> {
        self.absent.clone()
    }

    /// To be called when the store is open: its directory keeps a secret.
    pub fn users(
        &mut self,
        config: &Config,
        openings: &[Opening],
        files: Files,
    ) -> Result<(), ServerError> {
        if openings.iter().all(|opening| opening.users.is_none()) {
            return Ok(());
        }
        let secret = match config.store.durability {
            Durability::Memory => random::bytes()?,
            _ => random::secret(&config.store.directory)?,
        };
        for (path, file) in &files.passwords {
            tracing::info!("{} users in {}", file.names().len(), path.display());
        }
        let book = Book::open(secret, files.passwords, &config.store.directory)?;
        self.users = Some((Arc::new(book), Arc::new(Checkers::start(&config.checkers)?)));
        Ok(())
    }

    /// The users, where there are any.
    pub fn book(&self) -> Option<Arc<Book>> {
        self.users.as_ref().map(|(book, _)| book.clone())
    }

    /// What holds for a listener's Clients.
    pub fn access(&self, opening: &Opening) -> Access {
        let access = match &self.users {
            Some((book, checkers)) if !opening.users.is_none() => {
                let users = book.directory(&opening.users);
                Access::with_passwords(opening.anonymous, users, checkers.clone())
            }
            _ => Access::unproven(opening.anonymous),
        };
        match self.rules.get(&opening.acl_file) {
            Some(rules) => access.ruled_by(rules.clone()),
            None => access,
        }
    }

    /// Takes over what was read again. What a file holds that was not there at the start is left
    /// out: no listener asks for it.
    pub fn replace(&self, files: Files) {
        let is_new = |path: &&Option<PathBuf>| !self.rules.contains_key(*path);
        let is_gone = |path: &&Option<PathBuf>| !files.acls.contains_key(*path);
        let moved = files.acls.keys().filter(is_new).chain(self.rules.keys().filter(is_gone));
        for path in moved.flatten() {
            let path = path.display();
            tracing::warn!("{path}: another `acl_file` is taken up when the broker is restarted");
        }
        if let Some((book, _)) = &self.users {
            book.replace(files.passwords);
        }
        for (path, acl) in files.acls {
            if let Some(rules) = self.rules.get(&path) {
                rules.replace(acl);
            }
        }
    }
}
