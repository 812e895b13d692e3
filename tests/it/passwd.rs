//! `whimbrel passwd`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::broker::{program, run};

const SOON: Duration = Duration::from_secs(30);

/// Runs it with a line on standard input; its status and what it said.
fn passwd(arguments: &[&str], file: &Path, more: &[&str], input: &str) -> (Option<i32>, String) {
    let mut command = program();
    command.arg("passwd").args(arguments).arg(file).args(more);
    let line = file.with_extension("input");
    std::fs::write(&line, input).unwrap();
    command.stdin(Stdio::from(std::fs::File::open(line).unwrap()));
    run(&mut command, SOON)
}

/// The same, which must succeed.
pub fn set(arguments: &[&str], file: &Path, more: &[&str], input: &str) {
    let (status, output) = passwd(arguments, file, more, input);
    assert_eq!((status, &*output), (Some(0), ""), "{arguments:?} {more:?}");
}

/// The same, which must fail with this.
fn refuse(arguments: &[&str], file: &Path, more: &[&str], input: &str, said: &str) {
    let before = std::fs::read(file).ok();
    let (status, output) = passwd(arguments, file, more, input);
    assert!(status != Some(0) && output.contains(said), "{arguments:?} {more:?}: {output}");
    assert_eq!(std::fs::read(file).ok(), before, "{arguments:?} {more:?}");
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap().lines().map(Into::into).collect()
}

/// Names and the kinds of their hashes.
fn kinds(file: &Path) -> Vec<String> {
    let kind = |line: &String| match line.split_once('$') {
        Some((before, after)) => format!("{before}${}", after.split('$').next().unwrap()),
        None => line.clone(),
    };
    lines(file).iter().map(kind).map(|kind| kind.split(":c2").next().unwrap().into()).collect()
}

#[test]
fn users_are_added_changed_and_removed() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("users");
    refuse(
        &[],
        &file,
        &["alice"],
        "x\n",
        "users: No such file or directory (os error 2); -c makes",
    );
    set(&["-c"], &file, &["alice"], "first\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    refuse(&["-c"], &file, &["alice"], "first\n", "; without -c it is changed");
    let first = lines(&file);
    assert_eq!(kinds(&file), ["alice:$argon2id"]);
    set(&["-b"], &file, &["bob", "secret"], "");
    set(&[], &file, &["alice"], "second\r\n");
    let second = lines(&file);
    assert_eq!(kinds(&file), ["alice:$argon2id", "bob:$argon2id"]);
    assert_ne!(first[0], second[0]);
    set(&["-D"], &file, &["alice"], "");
    assert_eq!(lines(&file), second[1..]);
    refuse(&["-D"], &file, &["alice"], "", "no user `alice`");
}

#[test]
fn keys_for_scram_are_written_when_asked_for_and_renewed_ever_after() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("users");
    set(&["-c", "--scram"], &file, &["alice"], "first\n");
    let first = lines(&file);
    assert!(first[1].starts_with("alice:SCRAM-SHA-256$4096:"), "{first:?}");
    set(&[], &file, &["alice"], "second\n");
    let second = lines(&file);
    assert_eq!(second.len(), 2);
    assert!(second[1].starts_with("alice:SCRAM-SHA-256$4096:") && second[1] != first[1]);
    let unfit = "a password for SCRAM may hold no control characters";
    refuse(&["--scram"], &file, &["alice"], "a\u{7}b\n", unfit);
}

#[test]
fn passwords_that_are_not_hashed_are_hashed_and_others_left_alone() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("users");
    set(&["-c"], &file, &["alice"], "first\n");
    let alice = lines(&file).remove(0);
    std::fs::write(&file, format!("# ours\n{alice}\nbob:with: colon \n")).unwrap();
    set(&["-U"], &file, &[], "");
    let upgraded = lines(&file);
    assert_eq!(upgraded[..2], ["# ours".to_owned(), alice]);
    assert!(upgraded[2].starts_with("bob:$argon2id$"), "{upgraded:?}");
    set(&["-U"], &file, &[], "");
    assert_eq!(lines(&file), upgraded);
}

#[test]
fn what_a_line_cannot_hold_is_refused() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("users");
    set(&["-c"], &file, &["alice"], "first\n");
    for (user, password, said) in [
        ("a:b", "x\n", "a user name must not hold `:`"),
        ("", "x\n", "a user name must not be empty"),
        ("#a", "x\n", "a user name must not begin with `#`"),
        ("a\nb", "x\n", "a user name must not hold control characters"),
        ("alice", "\n", "a password must not be empty"),
        ("alice", "", "a password must not be empty"),
    ] {
        refuse(&[], &file, &[user], password, said);
    }
    let long = "x".repeat(65_536);
    refuse(&[], &file, &["alice"], &long, "a password must not be longer than 65,535 bytes");
    for arguments in [&["-c", "-D"][..], &["-U", "-D"], &["-b"]] {
        assert_eq!(passwd(arguments, &file, &["alice"], "x\n").0, Some(2), "{arguments:?}");
    }
    assert_eq!(passwd(&[], &file, &["alice", "secret"], "x\n").0, Some(2));
    assert_eq!(passwd(&[], &file, &[], "x\n").0, Some(2));
}

/// By Python's pseudo-terminal: asked twice, nothing shown.
#[test]
fn at_a_terminal_the_password_is_asked_for_twice_and_not_shown() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("users");
    let script = format!("{}/tests/clients/terminal.py", env!("CARGO_MANIFEST_DIR"));
    let ask = |first: &str, second: &str| {
        let mut command = Command::new("python3");
        command.args([&script, first, second]);
        command.arg(program().get_program()).args(["passwd", "-c"]).arg(&file).arg("alice");
        run(&mut command, SOON)
    };
    let (status, shown) = ask("sesame", "simsim");
    assert_eq!(status, Some(1), "{shown}");
    assert!(shown.contains("a password and its repetition must be the same"), "{shown}");
    assert!(!file.exists());
    let (status, shown) = ask("sesame", "sesame");
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.contains("Password: ") && shown.contains("The same again: "), "{shown}");
    assert!(!shown.contains("sesame"), "{shown}");
    assert_eq!(kinds(&file), ["alice:$argon2id"]);
}
