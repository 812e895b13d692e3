//! The `whimbrel` program.

use std::process::ExitCode;

/// Messages are small blocks, made by one thread and freed by another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, of which a broker with few Clients fills none: it would
    // hold 10 MiB instead of 1. No difference in speed could be measured.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    match whimbrel::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("whimbrel: {error}");
            ExitCode::from(error.status())
        }
    }
}
