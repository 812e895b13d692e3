//! The program: its arguments, its errors, its exit status.

use std::time::Duration;

use crate::broker::{Broker, free_port, program, run};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_second_broker_on_the_same_port_is_told_so() {
    let broker = Broker::start("");
    let config = broker.directory().join("second.toml");
    let text = format!("persistence_location = \"other\"\n[[listener]]\nport = {}\n", broker.port);
    std::fs::write(&config, text).unwrap();
    let (status, output) = run(program().arg("-c").arg(&config), SOON);
    assert_eq!(status, Some(1), "{output}");
    let expected = format!("cannot listen on 0.0.0.0:{}: it is in use", broker.port);
    assert!(output.contains(&expected), "{output}");
}

#[test]
fn a_second_broker_on_the_same_store_is_told_so() {
    let broker = Broker::start("");
    let config = broker.directory().join("second.toml");
    let port = free_port();
    let text = format!("persistence_location = \"data\"\n[[listener]]\nport = {port}\n");
    std::fs::write(&config, text).unwrap();
    let (status, output) = run(program().arg("-c").arg(&config), SOON);
    assert_eq!(status, Some(1), "{output}");
    assert!(output.contains("is in use by another process"), "{output}");
}

#[test]
fn a_second_broker_is_refused_whatever_the_durability() {
    let broker = Broker::start("durability = \"written\"");
    let config = broker.directory().join("second.toml");
    let port = free_port();
    let text = format!(
        "persistence_location = \"data\"\ndurability = \"written\"\n[[listener]]\nport = {port}\n"
    );
    std::fs::write(&config, text).unwrap();
    let (status, output) = run(program().arg("-c").arg(&config), SOON);
    assert_eq!(status, Some(1), "{output}");
    assert!(output.contains("is in use by another process"), "{output}");
}

#[test]
fn a_file_that_is_no_store_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("whimbrel.redb");
    for content in [&b"something else"[..], &[0; 5000], b"redb\x1A\x0A\xA9\x0D\x0Anonsense"] {
        std::fs::write(&file, content).unwrap();
        let config = directory.path().join("w.toml");
        let port = free_port();
        let text = format!("persistence_location = \".\"\n[[listener]]\nport = {port}\n");
        std::fs::write(&config, text).unwrap();
        let (status, output) = run(program().arg("-c").arg(&config), SOON);
        assert_eq!(status, Some(1), "{output}");
        assert!(output.contains("was left untouched"), "{output}");
        assert_eq!(std::fs::read(&file).unwrap(), content);
    }
}

#[test]
fn a_bad_configuration_is_refused_with_all_its_faults() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("w.toml");
    std::fs::write(&config, "max_qos = 5\nallow_anonymus = true\n").unwrap();
    let (status, output) = run(program().arg("-c").arg(&config), SOON);
    assert_eq!(status, Some(1));
    assert!(output.contains("w.toml:1: `max_qos` must be an integer from 0 to 2"), "{output}");
    let second = "w.toml:2: unknown key `allow_anonymus`; did you mean `allow_anonymous`?";
    assert!(output.contains(second), "{output}");
    let missing = directory.path().join("missing.toml");
    let (status, output) = run(program().arg("-c").arg(&missing), SOON);
    assert_eq!(status, Some(1));
    assert!(output.contains("missing.toml: cannot read it"), "{output}");
}

#[test]
fn check_config_says_whether_a_file_is_good() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("w.toml");
    std::fs::write(&config, "max_qos = 1\n").unwrap();
    let (status, output) = run(program().arg("--check-config").arg("-c").arg(&config), SOON);
    assert_eq!(status, Some(0), "{output}");
    assert!(output.ends_with("w.toml: ok\n"), "{output}");
    assert!(!directory.path().join("whimbrel-data").exists());
    std::fs::write(&config, "max_qos = \"1\"\n").unwrap();
    let (status, _) = run(program().arg("--check-config").arg("-c").arg(&config), SOON);
    assert_eq!(status, Some(1));
}

#[test]
fn help_and_version_are_there_and_wrong_arguments_are_usage_errors() {
    let (status, output) = run(program().arg("--help"), SOON);
    assert_eq!(status, Some(0));
    assert!(output.contains("--check-config") && output.contains("Examples:"), "{output}");
    let (status, output) = run(program().arg("--version"), SOON);
    assert_eq!((status, &*output), (Some(0), "whimbrel 0.1.0\n"));
    assert_eq!(run(program().arg("--colour"), SOON).0, Some(2));
}

#[test]
fn the_reference_of_settings_is_up_to_date() {
    let (_, written) = run(program().arg("settings"), SOON);
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
    let kept = std::fs::read_to_string(kept).unwrap_or_default();
    assert!(kept == written, "write it anew: cargo run -- settings > docs/settings.md");
}
