//! Measures a scenario: rounds of the server and of its ceilings, in turn.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use clap::Args;
use serde_json::{Map, Value, json};

use super::BoxError;
use super::audience::{Audience, open};
use super::ceiling::{Ceiling, Running};
use super::drive::{Load, drive, probe};
use super::figures::Figures;
use super::lock_waits::{LockWaits, Watch};
use super::population::{Population, Talk};
use super::ratios::Ratios;
use super::report::{HEADER, line, print_lock_waits, print_memory_and_errors};
use super::requests::RequestGenerator;
use super::scenario::{READ, SENT, Scenario};
use super::server::{ServerArgs, Target, Testbed};

/// Default rounds with `--ceiling`. Each round measures the server and then the ceilings.
const ROUNDS: u32 = 3;

/// Options of a scenario's run.
#[derive(Args, Clone)]
pub struct Run {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    server: ServerArgs,
    /// Write the same conversations through all nodes at once: connections that follow each other, one to each node, have
    /// the same user and conversation. send-hot does so anyway
    #[arg(long)]
    shared: bool,
    /// Also measure servers that do less, in turn with the server, and print the ratio to each
    #[arg(long)]
    pub ceiling: bool,
    /// Rounds of measurement; ratios are the median. 3 with --ceiling, otherwise 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Results of a scenario.
pub struct Results {
    scenario: Scenario,
    server: Figures,
    /// From the sends to the pushes, where recipients listen.
    pushes: Option<Figures>,
    /// `None` on SQLite.
    lock_waits: Option<LockWaits>,
    pub ceilings: Vec<(Ceiling, Figures, Ratios)>,
}

impl Results {
    /// Whether the server and each ceiling gave answers, and all were OK.
    pub fn is_ok(&self) -> bool {
        let are_pushed = self.pushes.as_ref().is_none_or(Figures::are_ok);
        are_pushed
            && self.server.are_ok()
            && self.ceilings.iter().all(|(_, figures, _)| figures.are_ok())
    }
}

impl Run {
    pub async fn run(self, scenario: Scenario) -> Result<bool, BoxError> {
        let measured = self.measure(scenario).await?;
        self.print(&measured)?;
        Ok(measured.is_ok())
    }

    /// Measures a scenario. Stops the server at the end if it was started here.
    pub async fn measure(&self, scenario: Scenario) -> Result<Results, BoxError> {
        self.check_shared(scenario)?;
        let testbed = self.server.testbed()?;
        // A server that runs already is checked before users are added to its database.
        let running = if self.server.is_started() { None } else { Some(testbed.serve(&[]).await?) };
        let database = testbed.database().await?;
        let seats = self.seat(self.load.connections() - 1) + 1;
        let population = database.add(scenario.shape(seats)).await?;
        let (messages, both) = scenario.history();
        database.fill(&population, messages, READ, both).await?;
        database.close().await;
        let nodes = match running {
            Some(nodes) => nodes,
            None => testbed.serve(&[]).await?,
        };
        let population = Arc::new(population);
        let bench = Bench { run: self, scenario, population, testbed: &testbed };
        let measured = bench.measure(&nodes.targets()).await;
        nodes.stop().await?;
        measured
    }

    fn check_shared(&self, scenario: Scenario) -> Result<(), BoxError> {
        if self.shared && self.server.nodes() < 2 {
            return Err("--shared needs several nodes: --nodes 2, or --url twice".into());
        }
        if self.shared && !scenario.may_share() {
            let sentence = format!(
                "{} can't have --shared: each conversation has one sender",
                scenario.name()
            );
            return Err(sentence.into());
        }
        Ok(())
    }

    /// Returns which users and conversations a connection has: others than every other connection, or with `--shared` the
    /// same as a connection to each of the other nodes.
    fn seat(&self, connection: usize) -> usize {
        if self.shared { connection / self.server.nodes() } else { connection }
    }

    /// Prints the results: as a table, or as one JSON object.
    pub fn print(&self, measured: &Results) -> Result<(), BoxError> {
        if self.json {
            println!("{}", serde_json::to_string(&self.as_json(measured)?)?);
            return Ok(());
        }
        println!("{}: {}", measured.scenario.name(), self.load.name());
        println!("{}\n", self.server.rate_limit_note());
        println!("{HEADER}");
        println!("{}", line("server", &measured.server));
        if let Some(pushes) = &measured.pushes {
            println!("{}", line("push", pushes));
        }
        for (ceiling, figures, _) in &measured.ceilings {
            println!("{}", line(ceiling.title(), figures));
        }
        println!();
        for (ceiling, _, ratios) in &measured.ceilings {
            let cpu =
                ratios.cpu.map(|cpu| format!(", {cpu:.2} of its CPU time")).unwrap_or_default();
            let Ratios { per_second, p99, .. } = ratios;
            println!(
                "server to {}: {per_second:.2} of its requests/s, {p99:.2} of its p99{cpu}",
                ceiling.title()
            );
        }
        print_memory_and_errors(&measured.server.summary());
        if let Some(pushes) = &measured.pushes {
            print_memory_and_errors(&pushes.summary());
        }
        print_lock_waits(measured.lock_waits.as_ref());
        Ok(())
    }

    fn as_json(&self, measured: &Results) -> Result<Value, BoxError> {
        let mut ceilings = Map::new();
        for (ceiling, figures, ratios) in &measured.ceilings {
            let name = serde_json::to_value(ceiling)?;
            let mut shown = serde_json::to_value(figures.summary())?;
            shown["ratios"] = ratios.to_json();
            ceilings.insert(name.as_str().unwrap_or_default().to_owned(), shown);
        }
        Ok(json!({
            "scenario": measured.scenario.name(),
            "nodes": self.server.nodes(),
            "shared": self.shared,
            "connections": self.load.connections,
            "seconds": self.load.seconds,
            "rate": self.load.rate,
            "limit": self.server.rate_limit_note(),
            "server": measured.server.summary(),
            "pushes": measured.pushes.as_ref().map(Figures::summary),
            "lock_waits": measured.lock_waits.as_ref().map(LockWaits::summary),
            "ceilings": ceilings,
        }))
    }
}

/// Inputs of a round.
struct Bench<'a> {
    run: &'a Run,
    scenario: Scenario,
    population: Arc<Population>,
    testbed: &'a Testbed,
}

/// Results of a round of the server.
struct Round {
    server: Figures,
    pushes: Option<Figures>,
    lock_waits: Option<LockWaits>,
}

impl Bench<'_> {
    async fn measure(&self, targets: &[Arc<Target>]) -> Result<Results, BoxError> {
        let mut running = Vec::new();
        let measured = match self.start_ceilings(targets, &mut running).await {
            Ok(()) => self.rounds(targets, &running).await,
            Err(error) => Err(error),
        };
        // The ceilings end and drop their tables, even if the run failed.
        for (_, ceiling) in running {
            ceiling.end().await?;
        }
        measured
    }

    async fn start_ceilings(
        &self,
        targets: &[Arc<Target>],
        running: &mut Vec<(Ceiling, Running)>,
    ) -> Result<(), BoxError> {
        let answers = self.answers(targets).await?;
        if !self.run.ceiling {
            return Ok(());
        }
        for ceiling in self.scenario.ceilings(self.testbed.postgres().is_some()) {
            running.push((*ceiling, ceiling.start(self.testbed, &answers, SENT).await?));
        }
        Ok(())
    }

    /// Measures the server and then each ceiling, round by round.
    async fn rounds(
        &self,
        targets: &[Arc<Target>],
        ceilings: &[(Ceiling, Running)],
    ) -> Result<Results, BoxError> {
        let rounds = self.run.rounds.unwrap_or(if self.run.ceiling { ROUNDS } else { 1 });
        let mut of_server = Vec::new();
        let mut of_ceilings: Vec<_> = ceilings.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            of_server.push(self.round(targets).await?);
            for (rounds, (_, ceiling)) in of_ceilings.iter_mut().zip(ceilings) {
                let target = [Arc::new(ceiling.server.target.clone())];
                rounds.push(drive(&target, &self.run.load, self.generators(&target)).await?);
            }
        }
        let (server, pushes, lock_waits) = split(of_server);
        let mut compared = Vec::new();
        for ((ceiling, _), rounds) in ceilings.iter().zip(of_ceilings) {
            let ratios = Ratios::of(&server, &rounds);
            compared.push((*ceiling, Figures::sum(&rounds), ratios));
        }
        let (scenario, server) = (self.scenario, Figures::sum(&server));
        Ok(Results { scenario, server, pushes, lock_waits, ceilings: compared })
    }

    /// Returns the server's answer to the second request of each connection, by user. Ceilings repeat these answers.
    async fn answers(&self, targets: &[Arc<Target>]) -> Result<Vec<(String, String)>, BoxError> {
        let mut answers = Vec::new();
        for mut generator in self.generators(targets) {
            let (user, mut answer) =
                (generator.first_user().credentials.user.to_string(), Vec::new());
            // By the second request, receipts are made and stations are bound.
            for _ in 0..2 {
                answer = probe(&mut generator).await?;
            }
            answers.push((user, String::from_utf8(answer)?));
        }
        Ok(answers)
    }

    /// Measures the server once, while the recipients listen where the scenario says so.
    async fn round(&self, targets: &[Arc<Target>]) -> Result<Round, BoxError> {
        let load = &self.run.load;
        let mut generators = self.generators(targets);
        let audience = self.audience(targets).await?;
        if let Some(audience) = &audience {
            let recording = |one: RequestGenerator| one.recording(audience.pending());
            generators = generators.into_iter().map(recording).collect();
        }
        let watch = Watch::start(self.testbed.postgres()).await?;
        let server = drive(targets, load, generators).await?;
        let pushes = match audience {
            Some(audience) => Some(audience.finish(load.seconds).await?),
            None => None,
        };
        Ok(Round { server, pushes, lock_waits: watch.end().await? })
    }

    /// Opens the listeners of all recipients. With several nodes, they listen at the node after the sender's.
    async fn audience(&self, targets: &[Arc<Target>]) -> Result<Option<Audience>, BoxError> {
        if !self.scenario.has_audience() {
            return Ok(None);
        }
        let seat = |(connection, talk): (usize, &Talk)| {
            let [_, recipient] = talk.people;
            let target = &targets[(connection + 1) % targets.len()];
            (target, &self.population.people[recipient])
        };
        let seats: Vec<_> = self.population.talks.iter().enumerate().map(seat).collect();
        Ok(Some(Audience::of(open(&seats, &AtomicU64::new(0)).await?)))
    }

    /// Makes the generator of each connection. Connections take turns over the targets.
    fn generators(&self, targets: &[Arc<Target>]) -> Vec<RequestGenerator> {
        let generator = |connection| {
            let target = &targets[connection % targets.len()];
            let clients = self.scenario.clients(self.run.seat(connection), &self.population);
            RequestGenerator::new(&self.population, target, clients, self.scenario.mix())
        };
        (0..self.run.load.connections()).map(generator).collect()
    }
}

/// Separates the results of the server's rounds. Sums the pushes and the lock waits.
fn split(rounds: Vec<Round>) -> (Vec<Figures>, Option<Figures>, Option<LockWaits>) {
    let (mut server, mut all_pushes, mut all_waits) = (Vec::new(), Vec::new(), None);
    for round in rounds {
        server.push(round.server);
        all_pushes.extend(round.pushes);
        if let Some(waits) = round.lock_waits {
            all_waits.get_or_insert_with(LockWaits::default).add(waits);
        }
    }
    let pushes = (!all_pushes.is_empty()).then(|| Figures::sum(&all_pushes));
    (server, pushes, all_waits)
}
