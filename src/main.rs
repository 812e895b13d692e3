//! The `whimbrel` program.

use std::process::ExitCode;

/// Messages are small blocks, made by one thread and freed by another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match whimbrel::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("whimbrel: {error}");
            ExitCode::FAILURE
        }
    }
}
