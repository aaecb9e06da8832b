//! `chatserver station`: lists and revokes stations, the devices of users.

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::Refusal;
use super::output::Output;
use super::{Failed, Settings, in_shell};
use crate::domain::{Parse as _, StationId};
use crate::users;

#[derive(Subcommand)]
pub enum Station {
    /// List stations, the most recently used of each user first. Their ids are secrets
    #[command(after_help = "\
Example:
  chatserver station list alice@example.com")]
    List(List),
    /// Forget a station and end its listener; its next login, signed request or subscription binds it again
    #[command(after_help = "\
Example:
  chatserver station revoke alice@example.com 0123456789abcdef0123456789abcdef
To lock a device out for good, rotate the user's key: chatserver user rotate-key")]
    Revoke(Revoke),
}

#[derive(Args)]
pub struct List {
    /// List only this user's stations: an e-mail address or a user id
    user: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub(crate) struct Revoke {
    /// The user: an e-mail address or a user id
    user: String,
    /// The station id
    station: String,
    #[command(flatten)]
    settings: Settings,
}

impl Station {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self {
            Self::List(list) => list.run().await,
            Self::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failed> {
        let database = self.settings.open().await?;
        let listed = async {
            let user = match &self.user {
                Some(user) => Some(users::find(&database.store, user).await?.id),
                None => None,
            };
            Ok::<_, Failed>(database.store.stations(user).await?)
        };
        let listed = listed.await;
        database.close().await;
        let listed = listed?;
        let lines = listed.iter().map(|station| {
            let (email, id) = (&station.email, station.id.as_str());
            format!("{email} {id} bound {}, used {}", station.bound_at, station.used_at)
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        let stations: Vec<_> = listed
            .iter()
            .map(|station| {
                json!({
                    "email": station.email.as_str(),
                    "stationid": station.id.as_str(),
                    "bound": station.bound_at.to_string(),
                    "used": station.used_at.to_string(),
                })
            })
            .collect();
        Output::new(text, json!({ "stations": stations })).print(self.settings.json)
    }
}

impl Revoke {
    async fn run(self) -> Result<(), Failed> {
        let station = StationId::parse(&self.station)
            .ok_or_else(|| Refusal::argument(format!("STATION must be {}", StationId::EXPECTED)))?;
        let database = self.settings.open().await?;
        let revoked = async {
            let user = users::find(&database.store, &self.user).await?;
            Ok::<_, Failed>(database.store.unbind_station(user.id, station).await?)
        };
        let revoked = revoked.await;
        database.close().await;
        let revoked = revoked?;
        let text = if revoked {
            let user = in_shell(&self.user);
            let flags = self.settings.as_flags();
            format!(
                "the station is revoked. Its next login, signed request or subscription binds it again, unless the user's key is \
                 rotated: chatserver user rotate-key {user}{flags}"
            )
        } else {
            "the user had no such station".to_owned()
        };
        Output::new(text, json!({ "revoked": revoked })).print_after_change(self.settings.json)
    }
}
