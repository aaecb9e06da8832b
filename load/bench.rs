//! Measures a scenario: rounds of the server and of its ceilings, in turn.

use std::sync::Arc;

use clap::Args;
use serde_json::{Map, Value, json};

use super::BoxError;
use super::ceiling::Ceiling;
use super::drive::{Load, drive, probe};
use super::figures::Figures;
use super::population::Population;
use super::ratios::Ratios;
use super::report::{HEADER, line, print_memory_and_errors};
use super::requests::RequestGenerator;
use super::scenario::{READ, SENT, Scenario};
use super::server::{Server, ServerArgs, Target, Testbed};

/// Default rounds with `--ceiling`. Each round measures the server and then the ceilings.
const ROUNDS: u32 = 3;

/// Options of a scenario's run.
#[derive(Args, Clone)]
pub struct Run {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    server: ServerArgs,
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
    pub ceilings: Vec<(Ceiling, Figures, Ratios)>,
}

impl Results {
    /// Whether the server and each ceiling gave answers, and all were OK.
    pub fn is_ok(&self) -> bool {
        self.server.are_ok() && self.ceilings.iter().all(|(_, figures, _)| figures.are_ok())
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
        let testbed = self.server.testbed()?;
        let server = if self.server.is_started() { None } else { Some(testbed.serve(&[]).await?) };
        let database = testbed.database().await?;
        let population = database.add(scenario.shape(self.load.connections())).await?;
        let (messages, both) = scenario.history();
        database.fill(&population, messages, READ, both).await?;
        database.close().await;
        let server = match server {
            Some(server) => server,
            None => testbed.serve(&[]).await?,
        };
        let bench = Bench { run: self, scenario, population: Arc::new(population) };
        let measured = bench.measure(&testbed, &server).await;
        server.stop().await?;
        measured
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
            "connections": self.load.connections,
            "seconds": self.load.seconds,
            "rate": self.load.rate,
            "limit": self.server.rate_limit_note(),
            "server": measured.server.summary(),
            "ceilings": ceilings,
        }))
    }
}

/// Inputs of a round.
struct Bench<'a> {
    run: &'a Run,
    scenario: Scenario,
    population: Arc<Population>,
}

impl Bench<'_> {
    async fn measure(&self, testbed: &Testbed, server: &Server) -> Result<Results, BoxError> {
        let answers = self.answers(&server.target).await?;
        let mut ceilings = Vec::new();
        if self.run.ceiling {
            for ceiling in self.scenario.ceilings() {
                ceilings.push((*ceiling, ceiling.start(testbed, &answers, SENT).await?));
            }
        }
        let rounds = self.run.rounds.unwrap_or(if self.run.ceiling { ROUNDS } else { 1 });
        let mut of_server = Vec::new();
        let mut of_ceilings: Vec<_> = ceilings.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            of_server.push(self.round(&server.target).await?);
            for (rounds, (_, ceiling)) in of_ceilings.iter_mut().zip(&ceilings) {
                rounds.push(self.round(&ceiling.target).await?);
            }
        }
        let mut compared = Vec::new();
        for ((ceiling, process), rounds) in ceilings.into_iter().zip(of_ceilings) {
            process.kill().await?;
            let ratios = Ratios::of(&of_server, &rounds);
            compared.push((ceiling, Figures::sum(&rounds), ratios));
        }
        let server = Figures::sum(&of_server);
        Ok(Results { scenario: self.scenario, server, ceilings: compared })
    }

    /// Returns the server's answer to the second request of each connection, by user. Ceilings repeat these answers.
    async fn answers(&self, target: &Target) -> Result<Vec<(String, String)>, BoxError> {
        let mut answers = Vec::new();
        for mut generator in self.generators(target) {
            let (user, mut answer) =
                (generator.first_user().credentials.user.to_string(), Vec::new());
            // By the second request, receipts are made and stations are bound.
            for _ in 0..2 {
                answer = probe(target.address, &mut generator).await?;
            }
            answers.push((user, String::from_utf8(answer)?));
        }
        Ok(answers)
    }

    async fn round(&self, target: &Target) -> Result<Figures, BoxError> {
        drive(target, &self.run.load, self.generators(target)).await
    }

    fn generators(&self, target: &Target) -> Vec<RequestGenerator> {
        let target = Arc::new(target.clone());
        let generator = |connection| {
            let clients = self.scenario.clients(connection, &self.population);
            RequestGenerator::new(&self.population, &target, clients, self.scenario.mix())
        };
        (0..self.run.load.connections()).map(generator).collect()
    }
}
