//! The binary: runs the command line.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            chatserver::commands::failure(&error);
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(chatserver::commands::run());
    // Dropping the runtime would wait for its threads, and one stuck in an fsync would keep the process alive for ever.
    runtime.shutdown_background();
    code
}
