//! Measures listening WebSockets, most of them idle, while messages are sent: the latency of a push from send to frame,
//! and the memory that a listener takes.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::time::sleep;

use super::BoxError;
use super::audience::{AT_ONCE, Audience, PATIENCE, open};
use super::drive::{Load, drive, raise_open_files};
use super::figures::Figures;
use super::lock_waits::{LockWaits, Watch};
use super::population::{Population, Shape};
use super::report::{HEADER, line, print_lock_waits, print_memory_and_errors};
use super::requests::{RequestGenerator, RequestKind};
use super::server::{ServerArgs, Target, Testbed};

/// Bytes of Data of a message.
const SENT: usize = 300;

#[derive(Args)]
pub struct Run {
    /// Listening WebSockets, each of a different user
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    listeners: u32,
    /// Messages a second, spread evenly over their conversations
    #[arg(long, value_name = "M", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Connections that send the messages
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Seconds to measure
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Results of a run.
struct Results {
    sends: Figures,
    pushes: Figures,
    /// Memory of an idle listener, or `None` if the process is unknown.
    listener_bytes: Option<u64>,
    /// Subscriptions that were refused as `unavailable` and repeated.
    repeated: u64,
    /// `None` on SQLite.
    lock_waits: Option<LockWaits>,
}

impl Run {
    pub async fn run(self) -> Result<bool, BoxError> {
        let count = usize::try_from(self.listeners)?;
        raise_open_files(count + usize::try_from(self.connections)?)?;
        let testbed = self.server.testbed()?;
        let database = testbed.database().await?;
        let population = database.add(Shape::Pairs((count + AT_ONCE).div_ceil(2))).await?;
        database.close().await;
        // Extra users subscribe first, so that memory that the server takes only once is not counted.
        let most = (count + AT_ONCE).to_string();
        let nodes = testbed.serve(&[("CHATSERVER_HTTP__LISTENERS", most)]).await?;
        let measured = self.measure(&testbed, &nodes.targets(), &Arc::new(population)).await;
        nodes.stop().await?;
        let measured = measured?;
        self.print(&measured);
        Ok(measured.sends.are_ok() && measured.pushes.are_ok())
    }

    async fn measure(
        &self,
        testbed: &Testbed,
        targets: &[Arc<Target>],
        population: &Arc<Population>,
    ) -> Result<Results, BoxError> {
        let people = population.people.iter().enumerate();
        let seats: Vec<_> = people.map(|(n, person)| (self.node(targets, n), person)).collect();
        let (seats, others) = seats.split_at(usize::try_from(self.listeners)?);
        let repeated = AtomicU64::new(0);
        drop(open(others, &repeated).await?);
        let before = settled_memory(targets).await?;
        let listeners = open(seats, &repeated).await?;
        let after = settled_memory(targets).await?;
        let grown = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        let listener_bytes = grown.map(|grown| grown / u64::from(self.listeners));
        let audience = Audience::of(listeners);
        let load = Load {
            connections: self.connections,
            seconds: self.seconds,
            warm_up: WARM_UP,
            rate: Some(self.rate),
        };
        let watch = Watch::start(testbed.postgres()).await?;
        let sends = drive(targets, &load, self.senders(targets, population, &audience)).await?;
        let pushes = audience.finish(self.seconds).await?;
        let lock_waits = watch.end().await?;
        let repeated = repeated.into_inner();
        Ok(Results { sends, pushes, listener_bytes, repeated, lock_waits })
    }

    /// Returns the number of connections that send: at most one a conversation.
    fn senders_count(&self) -> usize {
        usize::try_from(self.connections.min(self.listeners / 2)).unwrap_or(usize::MAX)
    }

    /// Returns the node of the nth user's listener. The recipient of a conversation listens at the node after the
    /// sender's, so that with several nodes each push crosses them.
    fn node<'a>(&self, targets: &'a [Arc<Target>], user: usize) -> &'a Arc<Target> {
        let (talk, side) = (user / 2, user % 2);
        &targets[(talk % self.senders_count() + side) % targets.len()]
    }

    /// Makes the senders. Each sends in conversations of its own, whose recipients listen.
    fn senders(
        &self,
        targets: &[Arc<Target>],
        population: &Arc<Population>,
        audience: &Audience,
    ) -> Vec<RequestGenerator> {
        const SEND: &[RequestKind] = &[RequestKind::Send { bytes: SENT }];
        let talks = 0..usize::try_from(self.listeners / 2).unwrap_or(usize::MAX);
        let count = self.senders_count();
        let senders = RequestGenerator::spread(population, targets, talks, count, SEND);
        senders.into_iter().map(|sender| sender.recording(audience.pending())).collect()
    }

    fn print(&self, measured: &Results) {
        let Results { sends, pushes, listener_bytes, repeated, lock_waits } = measured;
        if self.json {
            let shown = json!({
                "scenario": "listeners",
                "nodes": self.server.nodes(),
                "limit": self.server.rate_limit_note(),
                "listeners": self.listeners,
                "rate": self.rate,
                "seconds": self.seconds,
                "listener_bytes": listener_bytes,
                "repeated_subscriptions": repeated,
                "sends": sends.summary(),
                "pushes": pushes.summary(),
                "lock_waits": lock_waits.as_ref().map(LockWaits::summary),
            });
            println!("{shown}");
            return;
        }
        let Self { listeners, rate, connections, seconds, .. } = self;
        println!(
            "listeners: {listeners}, and {rate} messages/s over {connections} connections, {seconds} s"
        );
        println!("{}\n", self.server.rate_limit_note());
        println!("{HEADER}");
        println!("{}", line("send", sends));
        println!("{}", line("push", pushes));
        match listener_bytes {
            Some(bytes) => println!("\nmemory of an idle listener: {bytes} bytes"),
            None => println!("\nmemory of an idle listener: unknown, name the process with --pid"),
        }
        if *repeated > 0 {
            println!("subscriptions refused as unavailable, and repeated: {repeated}");
        }
        print_memory_and_errors(&sends.summary());
        print_memory_and_errors(&pushes.summary());
        print_lock_waits(lock_waits.as_ref());
    }
}

/// Seconds of sending before the measurement.
const WARM_UP: u32 = 2;

/// Returns the memory of all servers in bytes once it changes by less than 64 KiB in 2 s, or after [`PATIENCE`]. Returns
/// `None` if the process is unknown.
async fn settled_memory(targets: &[Arc<Target>]) -> Result<Option<u64>, BoxError> {
    const LITTLE: u64 = 64 * 1024;
    let (since, mut memory) = (Instant::now(), 0);
    loop {
        sleep(Duration::from_secs(2)).await;
        let Some(usage) = Target::usage(targets)? else { return Ok(None) };
        if usage.rss.abs_diff(memory) < LITTLE || since.elapsed() > PATIENCE {
            return Ok(Some(usage.rss));
        }
        memory = usage.rss;
    }
}
