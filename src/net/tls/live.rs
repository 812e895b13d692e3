//! A listener's TLS as it is now: its files are read again while connections go on.
//!
//! New connections get what was read last; what cannot be used changes nothing. Resumption ends
//! with what it began under, so that nobody comes in by a certificate that is revoked now.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::ServerConfig;

use super::{Loaded, Naming, Options, TlsError, load};

/// What a file's change shows in: when it was written, its length and its number.
type Mark = Option<(SystemTime, u64, u64)>;

/// See the head of this file.
#[derive(Debug)]
pub struct Tls {
    options: Options,
    now: Mutex<Loaded>,
    /// The files as they were before they were read last.
    marks: Mutex<Vec<(PathBuf, Mark)>>,
}

impl Tls {
    /// Reads what the options name.
    pub fn open(options: &Options) -> Result<Self, TlsError> {
        let marks = marks(options);
        let loaded = load(options)?;
        let options = options.clone();
        Ok(Self { options, now: Mutex::new(loaded), marks: Mutex::new(marks) })
    }

    /// For the next connection.
    pub(in crate::net) fn config(&self) -> Arc<ServerConfig> {
        self.now.lock().config.clone()
    }

    /// Which part of its certificate is a Client's user name.
    pub(in crate::net) fn naming(&self) -> Option<Naming> {
        self.options.naming
    }

    /// Whether a file has changed since they were read last, or tried to be.
    pub fn has_changed(&self) -> bool {
        *self.marks.lock() != marks(&self.options)
    }

    /// Reads the files again. On an error what was in use stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        // Before they are read: what changes meanwhile is seen to have changed.
        *self.marks.lock() = marks(&self.options);
        let loaded = load(&self.options)?;
        *self.now.lock() = loaded;
        Ok(())
    }

    /// When each certificate in use expires, in seconds since the Unix epoch, and its file.
    pub fn expiries(&self) -> Vec<(PathBuf, i64)> {
        self.now.lock().expiries.clone()
    }
}

fn marks(options: &Options) -> Vec<(PathBuf, Mark)> {
    use std::os::unix::fs::MetadataExt;
    let mark = |path: PathBuf| {
        let meta = std::fs::metadata(&path).ok();
        let mark = meta.and_then(|meta| Some((meta.modified().ok()?, meta.len(), meta.ino())));
        (path, mark)
    };
    options.files().into_iter().map(mark).collect()
}
