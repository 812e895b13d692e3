//! The password file, in mosquitto's form: `user:hash` in each line.
//!
//! Empty lines and lines that begin with `#` say nothing. A user may have two lines, a hash and
//! keys for SCRAM. [`PasswordFile`] is for the broker, which takes a file as a whole or says
//! everything that is wrong with it; [`Lines`] is for `whimbrel passwd`, which leaves alone what it
//! does not know.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use super::keys::Keys;
use super::password::{Fault, Hash, Stored};
use super::problem::{FileError, Problem, read_text};

/// The users of a file.
#[derive(Clone, Default)]
pub struct PasswordFile(HashMap<Arc<str>, Lot>);

/// What a user has, and the line in which the latter stands.
#[derive(Clone, Default)]
struct Lot {
    hash: Option<Hash>,
    scram: Option<Keys>,
    line: usize,
}

/// User and secret of a line; `None` for a line that says nothing. The error is what is wrong.
fn split(line: &str) -> Result<Option<(&str, &str)>, &'static str> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    match line.split_once(':') {
        None => Err("no `:`; a line is user:hash, as `whimbrel passwd` writes it"),
        Some(("", _)) => Err("no user before `:`; a line is user:hash"),
        Some(parts) => Ok(Some(parts)),
    }
}

impl PasswordFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = read_text(path, "; `whimbrel passwd -c` makes one")?;
        if std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o007 != 0) {
            tracing::warn!("{}: everybody can read or write it; chmod o-rwx", path.display());
        }
        Self::parse(&text).map_err(|problems| FileError::new(path, problems))
    }

    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let (mut file, mut problems) = (Self::default(), Vec::new());
        for (line, text) in (1..).zip(text.lines()) {
            if let Err(what) = file.line(line, text.trim_end()) {
                problems.push(Problem { line, what });
            }
        }
        if problems.is_empty() { Ok(file) } else { Err(problems) }
    }

    fn line(&mut self, line: usize, text: &str) -> Result<(), String> {
        let Some((username, secret)) = split(text)? else { return Ok(()) };
        let stored = Stored::parse(secret).map_err(|fault| {
            let remedy = match fault {
                Fault::NotHashed => "`whimbrel passwd -U FILE` hashes all that are not".to_owned(),
                _ => format!("write it anew: `whimbrel passwd FILE {username}`"),
            };
            format!("`{username}` has {fault}; {remedy}")
        })?;
        let lot = self.0.entry(username.into()).or_default();
        let before = match stored {
            Stored::Hash(hash) => lot.hash.replace(hash).is_some(),
            Stored::Scram(keys) => lot.scram.replace(keys).is_some(),
        };
        if before {
            return Err(format!("`{username}` stands in line {} already; remove one", lot.line));
        }
        lot.line = line;
        Ok(())
    }

    /// Names, with what each has: at least one of both.
    pub(super) fn into_secrets(self) -> Vec<(Arc<str>, Option<Hash>, Option<Keys>)> {
        self.0.into_iter().map(|(username, lot)| (username, lot.hash, lot.scram)).collect()
    }

    /// Whether a user is there.
    pub fn contains(&self, username: &str) -> bool {
        self.0.contains_key(username)
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.0.keys().map(AsRef::as_ref).collect();
        names.sort_unstable();
        names
    }

    /// Adds the users of another file who are not in this one.
    pub fn add_missing(&mut self, other: &Self) {
        for (username, lot) in &other.0 {
            self.0.entry(username.clone()).or_insert_with(|| lot.clone());
        }
    }
}

/// The lines of a file that is changed.
#[derive(Default)]
pub struct Lines(Vec<String>);

impl Lines {
    /// Those of an existing file.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        Ok(Self(text.lines().map(Into::into).collect()))
    }

    fn is_of(line: &str, username: &str) -> bool {
        matches!(split(line), Ok(Some((user, _))) if user == username)
    }

    /// Whether a user has keys for SCRAM.
    pub fn has_scram(&self, username: &str) -> bool {
        self.0.iter().any(|line| match split(line) {
            Ok(Some((user, secret))) => user == username && secret.starts_with("SCRAM-SHA-256$"),
            _ => false,
        })
    }

    /// Gives a user these secrets instead of all that he had.
    pub fn set(&mut self, username: &str, secrets: &[String]) {
        let at = self.0.iter().position(|line| Self::is_of(line, username));
        self.remove(username);
        let at = at.unwrap_or(self.0.len());
        self.0.splice(at..at, secrets.iter().map(|secret| format!("{username}:{secret}")));
    }

    /// Removes a user; false when there is none.
    pub fn remove(&mut self, username: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|line| !Self::is_of(line, username));
        self.0.len() < before
    }

    /// The users whose passwords are not hashed, with their passwords.
    pub fn not_hashed(&self) -> Vec<(String, String)> {
        let plain = |line: &String| match split(line) {
            Ok(Some((user, secret))) if matches!(Stored::parse(secret), Err(Fault::NotHashed)) => {
                Some((user.to_owned(), secret.to_owned()))
            }
            _ => None,
        };
        self.0.iter().filter_map(plain).collect()
    }

    /// Writes them in place of a file, which is there as it was or as it is to be at any time.
    /// Owner and mode stay; a new file is for its owner alone.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        // A link stays a link.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = directory.join(format!(".{name}.{}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let written = self.write_to(file, &target);
        let renamed = written.and_then(|()| std::fs::rename(&temporary, &target));
        if renamed.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        renamed?;
        File::open(directory)?.sync_all()
    }

    /// The whole file.
    pub fn text(&self) -> String {
        self.0.iter().map(|line| format!("{line}\n")).collect()
    }

    fn write_to(&self, mut file: File, target: &Path) -> io::Result<()> {
        file.write_all(self.text().as_bytes())?;
        if let Ok(former) = std::fs::metadata(target) {
            let new = file.metadata()?;
            if (former.uid(), former.gid()) != (new.uid(), new.gid()) {
                std::os::unix::fs::fchown(&file, Some(former.uid()), Some(former.gid()))?;
            }
            file.set_permissions(PermissionsExt::from_mode(former.mode() & 0o777))?;
        }
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str =
        "$argon2id$v=19$m=64,t=2,p=2$c2FsdHNhbHQ$4wQ6hhtWrJ6KnjPDlP9pO3l+SoZDxI6snhcnIFhC2iY";

    fn problems(text: &str) -> Vec<String> {
        let problems = PasswordFile::parse(text).map(|_| ()).unwrap_err();
        FileError::new(Path::new("p"), problems).to_string().lines().map(Into::into).collect()
    }

    #[test]
    fn comments_and_empty_lines_say_nothing() {
        let file = PasswordFile::parse(&format!("# users\n\nali:{HASH}  \r\nb a:{HASH}\n"));
        let mut users: Vec<_> = file.unwrap().into_secrets().into_iter().map(|(n, ..)| n).collect();
        users.sort();
        assert_eq!(users, ["ali".into(), Arc::<str>::from("b a")]);
    }

    #[test]
    fn everything_that_is_wrong_is_said_with_its_line_and_without_passwords() {
        let text = format!("ali:sesame\nbaba\n:x\nc:$7$x\nd:{HASH}\nd:{HASH}\ne:$5$a$b\n");
        let said = problems(&text);
        assert_eq!(
            said,
            [
                "p:1: `ali` has a password that is not hashed; `whimbrel passwd -U FILE` hashes all that are not",
                "p:2: no `:`; a line is user:hash, as `whimbrel passwd` writes it",
                "p:3: no user before `:`; a line is user:hash",
                "p:4: `c` has a damaged hash: $7$iterations$salt$hash is its form; write it anew: `whimbrel passwd FILE c`",
                "p:6: `d` stands in line 5 already; remove one",
                "p:7: `e` has a hash of a kind that is not known here: $argon2id$, $7$, $6$ and SCRAM-SHA-256$ are; write it anew: `whimbrel passwd FILE e`",
            ]
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p");
        let said = |path: &Path| PasswordFile::read(path).map(|_| ()).unwrap_err().to_string();
        assert!(said(&path).contains("p: cannot read it: "), "{}", said(&path));
        std::fs::write(&path, b"# x\n\xff:y\n").unwrap();
        assert!(said(&path).ends_with("p:2: not UTF-8, which user names and topics must be"));
    }

    #[test]
    fn a_changed_file_keeps_its_other_lines_and_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        Lines::default().write(&path).unwrap();
        assert_eq!(mode(), 0o600);
        std::fs::write(&path, "# first\nali:old\nnonsense\nali:SCRAM-SHA-256$x\nbaba:b\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let mut lines = Lines::read(&path).unwrap();
        assert!(lines.has_scram("ali") && !lines.has_scram("baba"));
        lines.set("ali", &["new".into(), "newer".into()]);
        assert!(!lines.has_scram("ali") && lines.remove("baba") && !lines.remove("baba"));
        lines.set("cassim", &["c".into()]);
        lines.write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "# first\nali:new\nali:newer\nnonsense\ncassim:c\n");
        assert_eq!(mode(), 0o640);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_hashed_is_not_hashed_again() {
        let text = format!("ali:sesame\nbaba:{HASH}\ncassim:$5$a$b\n# d:e\nf:a:b\n");
        let lines = Lines(text.lines().map(Into::into).collect());
        let plain = [("ali", "sesame"), ("f", "a:b")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(lines.not_hashed(), plain);
    }
}
