//! What is wrong with a file of users or rules, line by line.

use std::fmt;
use std::path::{Path, PathBuf};

/// Something wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong and what to do about it.
    pub what: String,
}

/// Everything wrong with a file.
#[derive(Debug)]
pub struct FileError {
    path: PathBuf,
    problems: Vec<Problem>,
}

impl FileError {
    /// What is wrong with the file at `path`.
    pub fn new(path: &Path, problems: Vec<Problem>) -> Self {
        Self { path: path.to_owned(), problems }
    }

    /// One thing that is wrong with the file as a whole.
    pub fn whole(path: &Path, what: String) -> Self {
        Self::new(path, vec![Problem { line: 0, what }])
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for (at, Problem { line, what }) in self.problems.iter().enumerate() {
            let end = if at + 1 < self.problems.len() { "\n" } else { "" };
            match line {
                0 => write!(f, "{path}: {what}{end}")?,
                line => write!(f, "{path}:{line}: {what}{end}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for FileError {}

/// The text of a file; the error says what to do when there is none.
pub fn read_text(path: &Path, remedy: &str) -> Result<String, FileError> {
    let bytes = std::fs::read(path)
        .map_err(|error| FileError::whole(path, format!("cannot read it: {error}{remedy}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().get(..error.utf8_error().valid_up_to());
        let line = 1 + before.unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count();
        let what = "not UTF-8, which user names and topics must be".into();
        FileError::new(path, vec![Problem { line, what }])
    })
}
