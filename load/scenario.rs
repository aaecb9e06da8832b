//! Scenarios: which requests a server gets from which users, and how it is measured.

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

/// Default rounds with `--ceiling`. Each round measures the server and then the ceilings.
const ROUNDS: u32 = 3;

/// Bytes of Data of a message that is sent, and of one that is read.
const SENT: usize = 300;
const READ: usize = 400;

/// Messages of a conversation that is read.
const HISTORY: usize = 200;

/// Neighbours on either side: together they give each user 20 conversations.
const NEIGHBOURS: usize = 10;

/// A mix of requests, and the users and conversations for it.
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
    /// Returns the name on the command line.
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

    /// Returns the messages in each conversation, and whether both users have sent them.
    fn history(self) -> (usize, bool) {
        match self {
            // Only their sender has read them, so they have no receipts.
            Self::Page | Self::PageRead => (HISTORY, false),
            Self::Mixed => (50, true),
            Self::List => (1, false),
            Self::Send | Self::SendHot | Self::Properties => (0, false),
        }
    }

    /// Returns the users and conversations that a connection cycles through.
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
                // The second user has sent nothing, so each message that it reads carries its receipt.
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

/// Options of a scenario's run.
#[derive(Args, Clone)]
pub struct Run {
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub which: Which,
    /// Also measure servers that do less, in turn with the server, and print the ratio to each
    #[arg(long)]
    pub ceiling: bool,
    /// Rounds of measurement; ratios are the median. 3 with --ceiling, otherwise 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Print one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Results of a scenario.
pub struct Measured {
    pub scenario: Scenario,
    pub server: Figures,
    pub ceilings: Vec<(Ceiling, Figures, Ratios)>,
}

impl Measured {
    /// Whether the server and each ceiling gave answers, and all were OK.
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

    /// Measures a scenario. Stops the server at the end if it was started here.
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

/// Inputs of a round.
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

    /// Returns the server's answer to the second request of each connection, by user. Ceilings repeat these answers.
    async fn answers(&self, target: &Target) -> Result<Vec<(String, String)>, Failed> {
        let mut answers = Vec::new();
        for mut actor in self.actors(target) {
            let person = &self.population.people[actor.clients[0].person];
            let (user, mut answer) = (person.user.to_string(), Vec::new());
            // By the second request, receipts are made and stations are bound.
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
