//! What is asked of the server, by whom, and how that is measured.

use std::sync::Arc;

use clap::Args;
use serde::Deserialize;

use super::Failed;
use super::actor::{Actor, Ask, LoadClient};
use super::ceiling::Ceiling;
use super::drive::{Load, drive, probe};
use super::figures::Figures;
use super::population::{Population, Shape};
use super::report::{self, Ratios};
use super::server::{Place, Server, Target, Which};

/// How often the server and the ceilings are measured in turn, unless it is said.
const ROUNDS: u32 = 3;

/// Bytes of Data of a message that is sent, and of one that is read.
const SENT: usize = 300;
const READ: usize = 400;

/// The messages of a conversation that is read.
const HISTORY: usize = 200;

/// Neighbours on either side who make 20 conversations for each.
const NEIGHBOURS: usize = 10;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    Send,
    SendHot,
    List,
    Page,
    PageRead,
    Properties,
    Mixed,
}

impl Scenario {
    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::SendHot => "send-hot",
            Self::List => "list",
            Self::Page => "page",
            Self::PageRead => "page-read",
            Self::Properties => "properties",
            Self::Mixed => "mixed",
        }
    }

    fn shape(self, connections: usize) -> Shape {
        match self {
            Self::SendHot => Shape::Pairs(1),
            Self::List | Self::Mixed => Shape::Ring { people: connections, neighbours: NEIGHBOURS },
            _ => Shape::Pairs(connections),
        }
    }

    /// Messages of each conversation, and whether both have sent them.
    fn history(self) -> (usize, bool) {
        match self {
            // Nobody but their sender has read them, so they have no receipts.
            Self::Page | Self::PageRead => (HISTORY, false),
            Self::Mixed => (50, true),
            Self::List => (1, false),
            Self::Send | Self::SendHot | Self::Properties => (0, false),
        }
    }

    /// What a connection takes its turns at.
    fn clients(self, connection: usize, population: &Population) -> Vec<LoadClient> {
        let talks = population.talks.iter().enumerate();
        match self {
            Self::SendHot => vec![LoadClient { person: connection % 2, talk: 0 }],
            Self::List | Self::Mixed => {
                let person = connection % population.people.len();
                let mine = talks.filter(|(_, talk)| talk.people.contains(&person));
                mine.map(|(talk, _)| LoadClient { person, talk }).collect()
            }
            _ => {
                let talk = connection % population.talks.len();
                // The second of the two has sent nothing: what it reads has its receipts.
                let side = usize::from(self == Self::PageRead);
                vec![LoadClient { person: population.talks[talk].people[side], talk }]
            }
        }
    }

    fn mix(self) -> &'static [Ask] {
        const SEND: Ask = Ask::Send { bytes: SENT };
        const PAGE: Ask = Ask::Page { limit: 50 };
        match self {
            Self::Send | Self::SendHot => &[SEND],
            Self::List => &[Ask::List],
            Self::Page | Self::PageRead => &[PAGE],
            Self::Properties => &[Ask::Property],
            Self::Mixed => &[
                PAGE,
                SEND,
                Ask::List,
                Ask::Notification,
                SEND,
                PAGE,
                Ask::Property,
                Ask::List,
                SEND,
                PAGE,
            ],
        }
    }

    fn ceilings(self) -> &'static [Ceiling] {
        match self {
            Self::Send | Self::SendHot => &[Ceiling::Echo, Ceiling::Insert],
            Self::List | Self::Page | Self::PageRead => &[Ceiling::Echo, Ceiling::Row],
            Self::Properties | Self::Mixed => &[Ceiling::Echo],
        }
    }
}

/// How a scenario is run.
#[derive(Args, Clone)]
pub struct Run {
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub which: Which,
    /// Measure servers that do less in turn with the server, and tell the ratio to each
    #[arg(long)]
    pub ceiling: bool,
    /// How often each is measured; ratios are the median. 3 with --ceiling, otherwise 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Print one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// What came of it.
pub struct Measured {
    pub scenario: Scenario,
    pub server: Figures,
    pub ceilings: Vec<(Ceiling, Figures, Ratios)>,
}

impl Measured {
    /// Whether every answer was OK, and there were some.
    pub fn is_ok(&self) -> bool {
        self.server.are_ok() && self.ceilings.iter().all(|(_, figures, _)| figures.are_ok())
    }
}

impl Run {
    pub async fn run(self, scenario: Scenario) -> Result<bool, Failed> {
        let measured = self.measure(scenario).await?;
        report::print(&measured, &self)?;
        Ok(measured.is_ok())
    }

    /// Measures it. The server is stopped in the end.
    pub async fn measure(&self, scenario: Scenario) -> Result<Measured, Failed> {
        let place = self.which.place()?;
        let server = if self.which.is_started() { None } else { Some(place.serve(&[]).await?) };
        let database = place.database().await?;
        let population = database.add(scenario.shape(self.load.connections())).await?;
        let (messages, both) = scenario.history();
        database.fill(&population, messages, READ, both).await?;
        database.close().await;
        let server = match server {
            Some(server) => server,
            None => place.serve(&[]).await?,
        };
        let bench = Bench { run: self, scenario, population: Arc::new(population) };
        let measured = bench.measure(&place, &server).await;
        server.stop().await?;
        measured
    }
}

/// Everything that a round needs.
struct Bench<'a> {
    run: &'a Run,
    scenario: Scenario,
    population: Arc<Population>,
}

impl Bench<'_> {
    async fn measure(&self, place: &Place, server: &Server) -> Result<Measured, Failed> {
        let answers = self.answers(&server.target).await?;
        let mut ceilings = Vec::new();
        if self.run.ceiling {
            for ceiling in self.scenario.ceilings() {
                ceilings.push((*ceiling, ceiling.start(place, &answers, SENT).await?));
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
        Ok(Measured { scenario: self.scenario, server, ceilings: compared })
    }

    /// What the server answers to each connection's first request, by user.
    async fn answers(&self, target: &Target) -> Result<Vec<(String, String)>, Failed> {
        let mut answers = Vec::new();
        for mut actor in self.actors(target) {
            let person = &self.population.people[actor.clients[0].person];
            let (user, mut answer) = (person.user.to_string(), Vec::new());
            // The second time receipts are made, and stations are bound.
            for _ in 0..2 {
                answer = probe(target.address, &mut actor).await?;
            }
            answers.push((user, String::from_utf8(answer)?));
        }
        Ok(answers)
    }

    async fn round(&self, target: &Target) -> Result<Figures, Failed> {
        drive(target, &self.run.load, self.actors(target)).await
    }

    fn actors(&self, target: &Target) -> Vec<Actor> {
        let target = Arc::new(target.clone());
        let actor = |connection| {
            let clients = self.scenario.clients(connection, &self.population);
            Actor::new(&self.population, &target, clients, self.scenario.mix())
        };
        (0..self.run.load.connections()).map(actor).collect()
    }
}
