//! The examples below `docs/`, as they are run by who reads them.

use std::path::PathBuf;
use std::process::Command;

use crate::broker::program;
use crate::real_clients::clients;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn log_records_go_through_a_queue_to_workers_that_die_and_come_back() {
    let run = Command::new(PathBuf::from(ROOT).join("docs/log-aggregation/run.sh"))
        .arg("3000")
        .env("PROGRAM", program().get_program())
        .env("CLIENTS", clients())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    assert!(said.contains("3000 records processed"), "{said}");
}
