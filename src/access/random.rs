//! The operating system's randomness, and the secret that stays the same across restarts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64ct::{Base64Unpadded, Encoding};

/// The name of the secret's file in the store's directory.
const SECRET_FILE: &str = "users.secret";

/// What the answers to unknown users are derived from.
pub type Secret = [u8; 32];

/// Random bytes.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// 144 random bits as text, without commas: a nonce.
pub fn text() -> io::Result<String> {
    Ok(Base64Unpadded::encode_string(&bytes::<18>()?))
}

/// The secret of this directory, made when there is none: were it new after each start, unknown
/// users could be told by their salts, which would be new too.
pub fn secret(directory: &Path) -> io::Result<Secret> {
    let path = directory.join(SECRET_FILE);
    let mut secret = Secret::default();
    match File::open(&path).and_then(|mut file| file.read_exact(&mut secret)) {
        Ok(()) => return Ok(secret),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Cut short by a crash.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error),
    }
    secret = bytes()?;
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(&secret)?;
    file.sync_all()?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_stays_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let first = secret(directory.path()).unwrap();
        assert_ne!(first, Secret::default());
        assert_eq!(secret(directory.path()).unwrap(), first);
    }
}
