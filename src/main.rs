//! The binary: the command line, and nothing else.

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
    // Dropping the runtime would wait for its threads: one that is stuck in a flush would hold the process for ever.
    runtime.shutdown_background();
    code
}
