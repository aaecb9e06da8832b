//! Measures a server under one kind of attack after the other: its peak memory, and the answers to a bystander that
//! keeps requesting a list.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::BoxError;
use super::client::Client;
use super::drive::{UNANSWERED, raise_open_files};
use super::figures::Figures;
use super::hostile::{Attack, Attackers};
use super::population::{Population, Shape};
use super::requests::{LoadClient, RequestGenerator, RequestKind};
use super::server::{ServerArgs, Target};

const MIB: u64 = 1024 * 1024;

/// Bytes of Data of the messages in a page. Forty of them fill a page of 8 MiB.
const DATA: usize = 262_144;
const MESSAGES: usize = 40;

/// Pause of the bystander between an answer and its next request.
const ASK_EVERY: Duration = Duration::from_millis(20);

#[derive(Args)]
pub struct Run {
    /// `limits.buffered_bytes` of the server, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=4095))]
    budget: u32,
    /// Users whose pages of 8 MiB are downloaded
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=1000))]
    users: u32,
    /// Seconds that each kind of attack lasts
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Figures of one kind of attack.
struct AttackResult {
    attack: Attack,
    peak_rss: u64,
    /// Answers to the attackers that show the work which the attack aims at.
    hits: u64,
    bystander: Figures,
}

impl AttackResult {
    /// Whether the attack took place, memory stayed within `bound` bytes, and the bystander was always served.
    fn is_ok(&self, bound: u64) -> bool {
        let had_effect = self.hits > 0 || !self.attack.needs_hits();
        had_effect && self.peak_rss <= bound && self.bystander.are_ok()
    }
}

impl Run {
    /// Returns whether the server survived all kinds of attack.
    pub async fn run(self) -> Result<bool, BoxError> {
        self.server.must_be_one("overload")?;
        raise_open_files(4_000)?;
        let testbed = self.server.testbed()?;
        let database = testbed.database().await?;
        let attackers =
            database.add(Shape::Pairs(usize::try_from(self.users.div_ceil(2))?)).await?;
        database.fill(&attackers, MESSAGES, DATA, true).await?;
        let bystanders = database.add(Shape::Ring { people: 21, neighbours: 10 }).await?;
        database.close().await;
        let settings = [
            ("CHATSERVER_LIMITS__BUFFERED_BYTES", (u64::from(self.budget) * MIB).to_string()),
            ("CHATSERVER_LIMITS__REQUESTS_PER_SECOND", "50".to_owned()),
            ("CHATSERVER_LIMITS__CONNECTIONS_PER_ADDRESS", "1000".to_owned()),
            ("CHATSERVER_LOG__FILTER", "warn".to_owned()),
        ];
        let server = testbed.serve_one(&settings).await?;
        let target = Arc::new(server.target.clone());
        let (attackers, bystanders) = (Arc::new(attackers), Arc::new(bystanders));
        let mut results = Vec::new();
        for attack in Attack::ALL {
            results.push(self.run_attack(&target, &attackers, &bystanders, attack).await?);
        }
        server.stop().await?;
        let bound = u64::from(self.budget) * MIB * 13 / 10 + 100 * MIB;
        self.print(&results, bound)?;
        Ok(results.iter().all(|one| one.is_ok(bound)))
    }

    async fn run_attack(
        &self,
        target: &Arc<Target>,
        attackers: &Arc<Population>,
        bystanders: &Arc<Population>,
        attack: Attack,
    ) -> Result<AttackResult, BoxError> {
        target.forget_peak()?;
        let stop = CancellationToken::new();
        let attackers = Attackers::new(target, attackers, stop.clone());
        let hits = attackers.hits();
        let attacking = tokio::spawn(attackers.attack(attack));
        let time = Duration::from_secs(self.seconds.into());
        let bystander = bystander(target, bystanders, time).await?;
        stop.cancel();
        attacking.await??;
        let hits = hits.load(Ordering::Relaxed);
        Ok(AttackResult { attack, peak_rss: target.peak_rss()?, hits, bystander })
    }

    fn print(&self, results: &[AttackResult], bound: u64) -> Result<(), BoxError> {
        if self.json {
            let attacks = results.iter().map(|one| {
                json!({
                    "attack": one.attack.name(),
                    "peak_rss": one.peak_rss,
                    "hits": one.hits,
                    "bystander": one.bystander.summary(),
                })
            });
            let all = json!({ "bound": bound, "attacks": attacks.collect::<Vec<_>>() });
            println!("{}", serde_json::to_string(&all)?);
            return Ok(());
        }
        println!(
            "memory may grow to {} MiB; the bystander requests its list every {ASK_EVERY:?}\n",
            bound / MIB
        );
        println!(
            "{:<16} {:>9} {:>9} {:>9} {:>9} {:>9}  errors",
            "attack", "peak MiB", "hits", "lists", "p50 ms", "p99 ms"
        );
        for AttackResult { attack, peak_rss, hits, bystander } in results {
            let shown = bystander.summary();
            println!(
                "{:<16} {:>9} {:>9} {:>9} {:>9.2} {:>9.2}  {:?}",
                attack.name(),
                peak_rss / MIB,
                hits,
                shown.requests,
                shown.p50_ms,
                shown.p99_ms,
                shown.errors
            );
        }
        Ok(())
    }
}

/// Requests a list again and again, on one connection.
async fn bystander(
    target: &Arc<Target>,
    population: &Arc<Population>,
    time: Duration,
) -> Result<Figures, BoxError> {
    let clients = vec![LoadClient { person: 0, talk: 0 }];
    let mut generator = RequestGenerator::new(population, target, clients, &[RequestKind::List]);
    let mut client = Client::connect(target.address).await?;
    let mut figures = Figures::new(time);
    let since = Instant::now();
    while since.elapsed() < time {
        let (request, asked) = (generator.next(), Instant::now());
        let Some(answer) = client.call(request.as_bytes()).await? else {
            figures.count_error(UNANSWERED);
            return Ok(figures);
        };
        match answer.error() {
            Some(error) => figures.count_error(error),
            None => figures.count_ok(asked.elapsed(), answer.body.len()),
        }
        sleep(ASK_EVERY).await;
    }
    Ok(figures)
}
