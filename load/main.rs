//! `chatserver-load`: measures the throughput and latency of a chatserver, and what the machine would allow.
//!
//! It starts a server on a database of its own, or uses one that runs, and sends requests that are signed like a
//! client's. The results hold for this machine at this moment. With `--ceiling`, the same client also measures servers
//! that do less, in turn with the server. The ratio to those says more than any rate.

mod audience;
mod bench;
mod ceiling;
mod client;
mod drive;
mod figures;
mod floors;
mod growth;
mod hostile;
mod listeners;
mod lock_waits;
mod overload;
mod population;
mod pushes;
mod ratios;
mod report;
mod requests;
mod scenario;
mod server;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Why a run failed. Its text is printed, and nothing was measured.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Measures a chatserver under load, and with --ceiling what the machine would allow.
///
/// Sets `limits.requests_per_second` to 0, no limit: by default one user can make only 50 requests a second. `overload`
/// keeps those 50. A server that runs already must have been given the setting.
#[derive(Parser)]
#[command(
    name = "chatserver-load",
    version,
    after_help = "\
Examples:
  chatserver-load send --ceiling           durable sends, and their ratio to what the machine would allow
  chatserver-load page --rate 1000         an open loop: 1,000 requests a second, whether answered in time or not
  chatserver-load listeners --json         10,000 idle listeners, as one JSON object
  chatserver-load growth --messages 10000,1000000
  chatserver-load send --database-url postgres://chat@db/load --nodes 3

On PostgreSQL, a run also reports waits for locks, as sampled every 20 ms: sessions of the database whose wait_event_type
in pg_stat_activity is 'Lock'. The time of a wait is from its start (waitstart in pg_locks) to the last sample that saw
it, so it may have lasted up to 20 ms longer. Most waits of less than 20 ms are not seen, so the p99 is that of the longer
ones. CPU time and memory are those of the servers, without PostgreSQL's."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Messages of 300 bytes: each connection has a user and a conversation of its own
    Send(bench::Run),
    /// Messages of 300 bytes: all connections share two users and one conversation
    SendHot(bench::Run),
    /// As send, while the other user of each conversation listens on a WebSocket and acknowledges each event: also the
    /// latency from the send to the push
    SendLive(bench::Run),
    /// The list of a user with 20 conversations
    List(bench::Run),
    /// The newest 50 messages of 400 bytes
    Page(bench::Run),
    /// The newest 50 messages of 400 bytes, with the reader's 50 receipts
    PageRead(bench::Run),
    /// Changes of properties (favorite, mute, their opposites, colours), in a conversation for each connection
    Properties(bench::Run),
    /// 60 % pages, lists and notifications, 30 % messages, 10 % properties
    Mixed(bench::Run),
    /// Listening WebSockets while messages are sent: latency from the send to the push
    Listeners(listeners::Run),
    /// Messages and pages on a growing SQLite database with 10,000 conversations
    Growth(growth::Run),
    /// Hostile clients, one kind after the other: the server's memory, and the service that a bystander gets; fail
    /// if memory exceeds its bound or the bystander is not served
    Overload(overload::Run),
    /// Compare the ratios to the ceilings with the floors in a file; fail below one
    Floors(floors::Run),
    /// Serve what `--ceiling` measures against
    #[command(hide = true)]
    Ceiling(ceiling::Serve),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match cli.command {
        // An attack keeps a thread busy, and the bystander must not wait for it.
        Command::Overload(_) => 2 * cores,
        // As many as the server has.
        Command::Ceiling(_) => cores,
        // The measuring process leaves half of the cores to the server or ceiling.
        _ => cores.div_ceil(2),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(BoxError::from);
    match runtime.and_then(|runtime| runtime.block_on(run(cli.command))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failed) => {
            eprintln!("chatserver-load: {failed}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command. Returns whether all requests were answered OK and all bounds and floors held.
async fn run(command: Command) -> Result<bool, BoxError> {
    use scenario::Scenario;
    match command {
        Command::Send(run) => run.run(Scenario::Send).await,
        Command::SendHot(run) => run.run(Scenario::SendHot).await,
        Command::SendLive(run) => run.run(Scenario::SendLive).await,
        Command::List(run) => run.run(Scenario::List).await,
        Command::Page(run) => run.run(Scenario::Page).await,
        Command::PageRead(run) => run.run(Scenario::PageRead).await,
        Command::Properties(run) => run.run(Scenario::Properties).await,
        Command::Mixed(run) => run.run(Scenario::Mixed).await,
        Command::Listeners(run) => run.run().await,
        Command::Growth(run) => run.run().await,
        Command::Overload(run) => run.run().await,
        Command::Floors(run) => run.run().await,
        Command::Ceiling(serve) => serve.run().await,
    }
}
