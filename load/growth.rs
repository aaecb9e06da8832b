//! Measures a growing database: whether messages and pages take as long on a large one as on a small one, its size, and
//! how fast the server starts on it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::sleep;

use super::BoxError;
use super::drive::{Load, drive};
use super::figures::{Figures, as_f64};
use super::population::{Population, Shape};
use super::report::mebibytes;
use super::requests::{RequestGenerator, RequestKind};
use super::server::{Server, ServerArgs, Target, Testbed};

/// Bytes of Data of a message.
const BYTES: usize = 400;

const SEND: &[RequestKind] = &[RequestKind::Send { bytes: BYTES }];

/// Maximum time of load before the server is killed. Half of a shorter load.
const KILL_AFTER: Duration = Duration::from_secs(2);

#[derive(Args)]
pub struct Run {
    /// Conversations; the messages are spread evenly over them
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    conversations: u32,
    /// Sizes of the database, in messages: multiples of the conversations, in ascending order
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    messages: Vec<usize>,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Results for one size.
struct Results {
    messages: u64,
    data_bytes: u64,
    database_bytes: u64,
    send: Figures,
    /// Pages of the newest message alone, which every size has.
    page_of_one: Figures,
    page: Figures,
    after_stop: Duration,
    after_kill: Duration,
}

impl Run {
    pub async fn run(self) -> Result<bool, BoxError> {
        let ascending = self.messages.is_sorted() && !self.messages.is_empty();
        let conversations = usize::try_from(self.conversations)?;
        let in_step = |messages: &usize| *messages > 0 && messages.is_multiple_of(conversations);
        if !ascending || !self.messages.iter().all(in_step) {
            let sentence =
                format!("--messages must be multiples of {conversations} in ascending order");
            return Err(sentence.into());
        }
        if !self.server.is_started() {
            return Err("growth starts and kills the server: it can't have --url".into());
        }
        self.server.must_be_own_file("growth")?;
        let testbed = self.server.testbed()?;
        let database = testbed.database().await?;
        let population = Arc::new(database.add(Shape::Conversations(conversations)).await?);
        database.close().await;
        if !self.json {
            println!("growth: {}\n{}\n", self.load.name(), self.server.rate_limit_note());
        }
        let mut all = Vec::new();
        let mut filled = 0;
        for messages in &self.messages {
            let database = testbed.database().await?;
            let more = messages / conversations - filled;
            database.fill(&population, more, BYTES, true).await?;
            database.close().await;
            filled += more;
            let measured = self.measure(&testbed, &population).await?;
            self.show(&measured);
            all.push(measured);
        }
        if self.json {
            let sizes: Vec<_> = all.iter().map(Results::to_json).collect();
            let limit = self.server.rate_limit_note();
            println!("{}", json!({ "scenario": "growth", "limit": limit, "sizes": sizes }));
        }
        let are_ok = |measured: &Results| {
            let Results { send, page_of_one, page, .. } = measured;
            [send, page_of_one, page].iter().all(|figures| figures.are_ok())
        };
        Ok(all.iter().all(are_ok))
    }

    async fn measure(
        &self,
        testbed: &Testbed,
        population: &Arc<Population>,
    ) -> Result<Results, BoxError> {
        let file = testbed.folder().join("chat.db");
        // Counts the messages too that earlier measurements sent.
        let (messages, data_bytes) = stored(&file).await?;
        let database_bytes = fs::metadata(&file)?.len();
        let server = testbed.serve_one(&[]).await?;
        let after_stop = server.ready_after;
        let target = &server.target;
        let page_of_one = self.drive(target, population, &[RequestKind::Page { limit: 1 }]).await?;
        let page = self.drive(target, population, &[RequestKind::Page { limit: 50 }]).await?;
        let send = self.drive(target, population, SEND).await?;
        let after_kill = self.after_kill(testbed, server, population).await?;
        Ok(Results {
            messages,
            data_bytes,
            database_bytes,
            send,
            page_of_one,
            page,
            after_stop,
            after_kill,
        })
    }

    /// Runs requests of this mix, spread over all conversations.
    async fn drive(
        &self,
        target: &Target,
        population: &Arc<Population>,
        mix: &'static [RequestKind],
    ) -> Result<Figures, BoxError> {
        let (talks, connections) = (0..population.talks.len(), self.load.connections());
        let targets = [Arc::new(target.clone())];
        let generators = RequestGenerator::spread(population, &targets, talks, connections, mix);
        drive(&targets, &self.load, generators).await
    }

    /// Kills the server under load and returns how long its restart takes.
    async fn after_kill(
        &self,
        testbed: &Testbed,
        server: Server,
        population: &Arc<Population>,
    ) -> Result<Duration, BoxError> {
        let target = server.target.clone();
        let sending = self.drive(&target, population, SEND);
        let killing = async {
            let duration = Duration::from_secs((self.load.warm_up + self.load.seconds).into());
            sleep(KILL_AFTER.min(duration / 2)).await;
            server.kill().await
        };
        // Sending fails, because the kill cuts the connections. If it succeeds, the kill was too late.
        let (sent, killed) = tokio::join!(sending, killing);
        killed?;
        if sent.is_ok() {
            return Err("the load ended before the server was killed".into());
        }
        let again = testbed.serve_one(&[]).await?;
        let ready_after = again.ready_after;
        again.stop().await?;
        Ok(ready_after)
    }

    fn show(&self, measured: &Results) {
        if self.json {
            return;
        }
        let Results { messages, send, page_of_one, page, after_stop, after_kill, .. } = measured;
        println!("{messages} messages in {} conversations", self.conversations);
        for (name, figures) in [("send", send), ("page of 1", page_of_one), ("page of 50", page)] {
            println!(
                "  {name:10} {:8.0}/s  p50 {:6.2} ms  p99 {:7.2} ms  {} bytes",
                figures.per_second(),
                figures.percentile(50.0),
                figures.percentile(99.0),
                figures.summary().answer_bytes
            );
        }
        let (size, ratio) = (mebibytes(measured.database_bytes), measured.ratio());
        println!("  database   {size}, {ratio:.2} x Data");
        println!(
            "  ready      {after_stop:.0?} after a stop, {after_kill:.0?} after a kill under load\n"
        );
    }
}

impl Results {
    /// Returns the bytes of the database per byte of Data.
    fn ratio(&self) -> f64 {
        as_f64(self.database_bytes) / as_f64(self.data_bytes)
    }

    fn to_json(&self) -> Value {
        json!({
            "messages": self.messages,
            "send": self.send.summary(),
            "page_of_one": self.page_of_one.summary(),
            "page": self.page.summary(),
            "database_bytes": self.database_bytes,
            "database_to_data": self.ratio(),
            "ready_after_stop_ms": self.after_stop.as_secs_f64() * 1e3,
            "ready_after_kill_ms": self.after_kill.as_secs_f64() * 1e3,
        })
    }
}

/// Counts the messages in a database that no process has open, and the bytes of their Data.
async fn stored(file: &Path) -> Result<(u64, u64), BoxError> {
    let mut database = SqliteConnectOptions::new().filename(file).read_only(true).connect().await?;
    let stored = sqlx::query_as("SELECT count(*), sum(octet_length(data)) FROM messages");
    let (messages, data_bytes): (i64, i64) = stored.fetch_one(&mut database).await?;
    database.close().await?;
    Ok((u64::try_from(messages)?, u64::try_from(data_bytes)?))
}
