//! `chatserver client presence`.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{Profiled, friends, refused};
use crate::commands::Failed;
use crate::commands::output::Output;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Presence {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    profiled: Profiled,
}

#[derive(Subcommand)]
enum Command {
    /// Show the availability of friends
    #[command(after_help = "\
Example:
  chatserver client presence show")]
    Show(Profiled),
    /// Set one's own availability; friends see it while a device is connected
    #[command(after_help = "\
Example:
  chatserver client presence set busy")]
    Set(Set),
}

#[derive(Args)]
struct Set {
    /// The availability
    availability: Availability,
    #[command(flatten)]
    profiled: Profiled,
}

#[derive(Clone, Copy, ValueEnum)]
enum Availability {
    Available,
    Away,
    Busy,
    Offline,
}

impl Presence {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self.command {
            None => friends::list(&self.profiled).await,
            Some(Command::Show(profiled)) => friends::list(&profiled).await,
            Some(Command::Set(set)) => set.run().await,
        }
    }
}

impl Set {
    async fn run(self) -> Result<(), Failed> {
        let (action, availability) = match self.availability {
            Availability::Available => ("useravailable", "available"),
            Availability::Away => ("useraway", "away"),
            Availability::Busy => ("userbusy", "busy"),
            Availability::Offline => ("useroffline", "offline"),
        };
        let session = self.profiled.session()?;
        session.call("chatavailability", &json!({ "action": action })).await.map_err(refused)?;
        Output::new("", json!({ "availability": availability }))
            .print_after_change(self.profiled.json)
    }
}
