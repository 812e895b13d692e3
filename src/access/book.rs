//! Where users are written down: password files, and the broker's own users, who come and go
//! while it runs.
//!
//! The broker's own users are a password file too, [`OWN_FILE`] in the store's directory, which
//! is replaced as a whole with each change. A listener's users are those of its password file
//! and then, if it asks for them, the broker's own; who stands in both is the one of the
//! password file.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::file::{Lines, PasswordFile};
use super::problem::FileError;
use super::random::Secret;
use super::users::Users;

/// The name of the file of the broker's own users.
pub const OWN_FILE: &str = "users";

/// Where a listener's users come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// A password file.
    pub file: Option<PathBuf>,
    /// The broker's own users.
    pub own: bool,
}

impl Sources {
    /// Whether there are any.
    pub fn is_none(&self) -> bool {
        self.file.is_none() && !self.own
    }
}

/// The users of some sources, as they are now.
#[derive(Debug)]
pub struct Directory(RwLock<Arc<Users>>);

impl Directory {
    /// These users.
    pub fn new(users: Users) -> Self {
        Self(RwLock::new(Arc::new(users)))
    }

    /// Those who are in it now.
    pub fn users(&self) -> Arc<Users> {
        self.0.read().clone()
    }
}

/// A change of the broker's own users, or a question about them.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// Their names.
    List,
    /// A new user, with what is kept of the password.
    Add(String, Vec<String>),
    /// Another password for a user.
    Change(String, Vec<String>),
    /// No such user any more.
    Remove(String),
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List => f.write_str("list users"),
            Self::Add(name, _) => write!(f, "add user {name:?}"),
            Self::Change(name, _) => write!(f, "change the password of user {name:?}"),
            Self::Remove(name) => write!(f, "remove user {name:?}"),
        }
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// There is one of this name.
    #[error("there is a user {0:?} already; `whimbrel user passwd` changes the password")]
    Known(String),
    /// There is none of this name.
    #[error("there is no user {0:?}")]
    Unknown(String),
    /// The file would not be good.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file cannot be written.
    #[error("cannot write the users: {0}")]
    Write(#[from] std::io::Error),
}

/// All sources of users.
pub struct Book {
    secret: Secret,
    inner: Mutex<Inner>,
}

struct Inner {
    files: HashMap<PathBuf, PasswordFile>,
    own_path: PathBuf,
    own: PasswordFile,
    directories: Vec<(Sources, Arc<Directory>)>,
}

impl Book {
    /// Password files, and the broker's own users in the directory of the store.
    pub fn open(
        secret: Secret,
        files: HashMap<PathBuf, PasswordFile>,
        directory: &Path,
    ) -> Result<Self, FileError> {
        let own_path = directory.join(OWN_FILE);
        let own = match own_path.exists() {
            true => PasswordFile::read(&own_path)?,
            false => PasswordFile::default(),
        };
        let inner = Inner { files, own_path, own, directories: Vec::new() };
        Ok(Self { secret, inner: Mutex::new(inner) })
    }

    /// The users of these sources.
    pub fn directory(&self, sources: &Sources) -> Arc<Directory> {
        let mut inner = self.inner.lock();
        if let Some((_, directory)) = inner.directories.iter().find(|(held, _)| held == sources) {
            return directory.clone();
        }
        let directory = Arc::new(Directory::new(inner.users(sources, self.secret)));
        inner.directories.push((sources.clone(), directory.clone()));
        directory
    }

    /// Password files that were read again.
    pub fn replace(&self, files: HashMap<PathBuf, PasswordFile>) {
        let mut inner = self.inner.lock();
        inner.files = files;
        inner.refresh(self.secret);
    }

    /// Does what is asked; the answer is a text for the operator.
    pub fn carry_out(&self, request: &Request) -> Result<String, BookError> {
        let mut inner = self.inner.lock();
        let mut lines = match inner.own_path.exists() {
            true => Lines::read(&inner.own_path)?,
            false => Lines::default(),
        };
        match request {
            Request::List => {
                let names = inner.own.names();
                return Ok(names.into_iter().map(|name| format!("{name}\n")).collect());
            }
            Request::Add(name, _) if inner.own.contains(name) => {
                return Err(BookError::Known(name.clone()));
            }
            Request::Change(name, _) | Request::Remove(name) if !inner.own.contains(name) => {
                return Err(BookError::Unknown(name.clone()));
            }
            Request::Add(name, secrets) | Request::Change(name, secrets) => {
                lines.set(name, secrets);
            }
            Request::Remove(name) => {
                lines.remove(name);
            }
        }
        let own = PasswordFile::parse(&lines.text())
            .map_err(|problems| FileError::new(&inner.own_path, problems))?;
        lines.write(&inner.own_path)?;
        inner.own = own;
        inner.refresh(self.secret);
        Ok(String::new())
    }
}

impl Inner {
    fn users(&self, sources: &Sources, secret: Secret) -> Users {
        let file = sources.file.as_ref().and_then(|path| self.files.get(path)).cloned();
        let mut all = file.unwrap_or_default();
        if sources.own {
            all.add_missing(&self.own);
        }
        Users::new(all, secret)
    }

    fn refresh(&mut self, secret: Secret) {
        for (sources, directory) in &self.directories {
            *directory.0.write() = Arc::new(self.users(sources, secret));
        }
    }
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Book of {} password files", self.inner.lock().files.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::password::argon2id;

    fn secret(password: &str) -> Vec<String> {
        vec![argon2id(password.as_bytes(), &[1; 16]).unwrap()]
    }

    fn is_right(directory: &Directory, user: &str, password: &str) -> bool {
        let users = directory.users();
        users.answer(&users.question(user, Some(password.as_bytes())))
    }

    #[test]
    fn own_users_come_and_go_and_stay_in_the_file() {
        let place = tempfile::tempdir().unwrap();
        let open = || Book::open([7; 32], HashMap::new(), place.path()).unwrap();
        let book = open();
        let sources = Sources { file: None, own: true };
        let directory = book.directory(&sources);
        let ali = || "ali".to_owned();
        assert!(!is_right(&directory, "ali", "sesame"));
        assert_eq!(book.carry_out(&Request::List).unwrap(), "");
        book.carry_out(&Request::Add(ali(), secret("sesame"))).unwrap();
        assert!(is_right(&directory, "ali", "sesame"));
        assert!(is_right(&open().directory(&sources), "ali", "sesame"));
        assert!(book.carry_out(&Request::Add(ali(), secret("x"))).is_err());
        book.carry_out(&Request::Change(ali(), secret("simsim"))).unwrap();
        assert!(is_right(&directory, "ali", "simsim") && !is_right(&directory, "ali", "sesame"));
        assert_eq!(book.carry_out(&Request::List).unwrap(), "ali\n");
        assert!(book.carry_out(&Request::Change("baba".into(), secret("x"))).is_err());
        // What could not be read again is not written.
        assert!(book.carry_out(&Request::Change(ali(), vec!["plain".into()])).is_err());
        book.carry_out(&Request::Remove(ali())).unwrap();
        assert!(!is_right(&directory, "ali", "simsim"));
        assert!(book.carry_out(&Request::Remove(ali())).is_err());
        assert_eq!(open().carry_out(&Request::List).unwrap(), "");
    }

    #[test]
    fn who_stands_in_the_password_file_is_the_one_of_the_password_file() {
        let place = tempfile::tempdir().unwrap();
        let file = |password: &str| {
            let text = format!("ali:{}", secret(password)[0]);
            HashMap::from([(PathBuf::from("f"), PasswordFile::parse(&text).unwrap())])
        };
        let book = Book::open([7; 32], file("file"), place.path()).unwrap();
        for name in ["ali", "baba"] {
            book.carry_out(&Request::Add(name.into(), secret("own"))).unwrap();
        }
        let both = book.directory(&Sources { file: Some("f".into()), own: true });
        let only_file = book.directory(&Sources { file: Some("f".into()), own: false });
        assert!(is_right(&both, "ali", "file") && !is_right(&both, "ali", "own"));
        assert!(is_right(&both, "baba", "own") && !is_right(&only_file, "baba", "own"));
        book.replace(file("new"));
        assert!(is_right(&both, "ali", "new") && is_right(&only_file, "ali", "new"));
    }

    #[test]
    fn a_request_does_not_show_secrets() {
        let request = Request::Add("ali".into(), vec!["$argon2id$".into()]);
        assert_eq!(format!("{request:?}"), "add user \"ali\"");
    }
}
