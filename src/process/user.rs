//! The user that the process becomes when root has started it.
//!
//! What only root may do comes before: ports below 1024, files of keys, the limit of open files.
//! There is no way back. All threads change together: the C library sees to that.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{self, Gid, Uid};
use rustix::fs::OFlags;
use rustix::io::Errno;
use thiserror::Error;

/// Why the process does not become another user.
#[derive(Debug, Error)]
pub enum UserError {
    /// There is no such user.
    #[error("`user`: this machine has no user {0:?}; name another, or \"root\" to stay root")]
    Unknown(String),
    /// The system does not say or allow it.
    #[error("cannot become the user {name}: {error}")]
    System {
        /// Whom.
        name: String,
        /// Why.
        error: io::Error,
    },
}

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As the system calls it.
    pub name: String,
    uid: Uid,
    gid: Gid,
}

/// The user to become: the first of these that the machine has. `None` when there is nobody to
/// become: no name is given, it is root, or the process is not root's.
pub fn wanted(names: &[String]) -> Result<Option<User>, UserError> {
    let Some(first) = names.first().filter(|_| unistd::geteuid().is_root()) else {
        return Ok(None);
    };
    for name in names {
        let found = unistd::User::from_name(name)
            .map_err(|error| UserError::System { name: name.clone(), error: error.into() })?;
        if let Some(unistd::User { name, uid, gid, .. }) = found {
            return Ok((!uid.is_root()).then_some(User { name, uid, gid }));
        }
    }
    Err(UserError::Unknown(first.clone()))
}

impl User {
    /// Becomes this user, with its groups and no others.
    pub fn assume(&self) -> Result<(), UserError> {
        let name = CString::new(self.name.as_str()).map_err(io::Error::from);
        let assumed = name.and_then(|name| {
            unistd::initgroups(&name, self.gid)?;
            unistd::setgid(self.gid)?;
            unistd::setuid(self.uid)?;
            // It would be worse than an error to believe that root is left behind.
            match unistd::setuid(Uid::from_raw(0)) {
                Ok(()) => Err(io::Error::other("the system lets it become root again")),
                Err(_) => Ok(()),
            }
        });
        assumed.map_err(|error| UserError::System { name: self.name.clone(), error })
    }

    /// Makes a directory that is not there, and those above it; what is made is the user's.
    pub fn make_directory(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<_> = path
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .collect();
        for path in missing.into_iter().rev() {
            match std::fs::create_dir(path) {
                Ok(()) => {
                    // It may be a link by now, where others can write.
                    let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY;
                    let mut options = OpenOptions::new();
                    let options = options.read(true).custom_flags(flags.bits().cast_signed());
                    let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
                    fchown(options.open(path)?, Some(uid), Some(gid))?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes a file that is not there, the user's; one that is there stays whose it is.
    pub fn make_file(&self, path: &Path) -> io::Result<()> {
        let made = OpenOptions::new().append(true).create_new(true).mode(0o640).open(path);
        let is_there = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
        match made {
            Ok(file) => fchown(&file, Some(self.uid.as_raw()), Some(self.gid.as_raw())),
            Err(error) if is_there(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Where symbolic links to files that may be written are the system's own.
const SYSTEM_LINKS: [&str; 3] = ["/dev", "/dev/fd", "/proc/self/fd"];

/// Opens a file to be written. Root follows no symbolic link to one: whoever may write in its
/// directory could have it lead anywhere.
pub fn open_to_write(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let is_systems = SYSTEM_LINKS.iter().any(|place| path.parent() == Some(Path::new(place)));
    if is_systems || !unistd::geteuid().is_root() {
        return options.open(path);
    }
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    options.custom_flags(flags).open(path).map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::LOOP.raw_os_error() => {
            io::Error::other("it is a symbolic link, which root does not follow; name the file")
        }
        _ => error,
    })
}

/// The first of a directory's files, or the directory, that the process may not write.
pub fn not_writable(directory: &Path) -> Option<PathBuf> {
    use rustix::fs::{Access, access};
    if access(directory, Access::WRITE_OK | Access::EXEC_OK | Access::READ_OK).is_err() {
        return Some(directory.to_owned());
    }
    let entries = std::fs::read_dir(directory).ok()?.filter_map(Result::ok);
    let mut files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let may_not = |path: &Path| access(path, Access::WRITE_OK | Access::READ_OK).is_err();
    files.find(|entry| may_not(&entry.path())).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_alone_has_somebody_to_become() {
        let wanted =
            |names: &[&str]| wanted(&names.iter().map(|&name| name.into()).collect::<Vec<_>>());
        assert_eq!(wanted(&[]).unwrap(), None);
        assert_eq!(wanted(&["root"]).unwrap(), None);
        if !unistd::geteuid().is_root() {
            assert_eq!(wanted(&["nobody"]).unwrap(), None);
            return;
        }
        let nobody = wanted(&["nobody of this name", "nobody"]).unwrap().unwrap();
        assert_eq!(nobody.name, "nobody");
        let error = wanted(&["nobody of this name"]).unwrap_err().to_string();
        assert!(error.contains("has no user \"nobody of this name\""), "{error}");
    }
}
