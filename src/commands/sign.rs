//! `chatserver sign`: prints the signature of a request, for shell scripts and for testing a client.

use clap::Args;
use serde_json::json;

use super::failure::Failed;
use super::failure::Refusal;
use super::output::Output;
use crate::bounded;
use crate::domain::{ApiKey, Parse, StationId, UserId};
use crate::signature::{Signed, SigningKey};

/// Environment variable with the API key. An argument would be visible to every process.
const KEY: &str = "CHATSERVER_APIKEY";

/// Maximum bytes of a body: the upper bound of `limits.body_bytes`.
const BODY_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Args)]
pub(crate) struct Sign {
    /// The signing user: an e-mail address or a user id
    #[arg(long, value_name = "USER")]
    user: String,
    /// The value of Ozeki-Station; only the API workspace does not need it
    #[arg(long, value_name = "ID")]
    station: Option<String>,
    /// The value of api in the query
    #[arg(long, value_name = "NAME")]
    api: String,
    /// The value of srv in the query
    #[arg(long, value_name = "SRV", default_value = "chatserver")]
    srv: String,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

impl Sign {
    pub(crate) fn run(self) -> Result<(), Failed> {
        let no_user = || Refusal::argument("--user must be an e-mail address or a user id");
        let user = UserId::named(&self.user).ok_or_else(no_user)?;
        let station = self.station.as_deref().map(|station| {
            StationId::parse(station).ok_or_else(|| {
                Refusal::argument(format!("--station must be {}", StationId::EXPECTED))
            })
        });
        if station.is_none() && self.api != "workspace" {
            return Err(Refusal::argument(
                "--station is missing; only the API workspace works without it",
            ));
        }
        let no_key = |problem: &str| Refusal::argument(format!("{KEY} must {problem}"));
        let key = std::env::var(KEY).map_err(|_| no_key("hold the API key"))?;
        let key = ApiKey::parse(&key).ok_or_else(|| no_key(&format!("be {}", ApiKey::EXPECTED)))?;
        let body = bounded::read(std::io::stdin().lock(), BODY_BYTES).map_err(|error| {
            Refusal::argument(format!("the body on stdin can't be read: {error}"))
        })?;
        // `Credentials` can't sign without a station, as the API workspace allows.
        let signature = SigningKey::new(&key).sign(&Signed {
            srv: &self.srv,
            api: &self.api,
            user,
            station: station.transpose()?,
            body: &body,
        });
        let json = json!({ "signature": signature.as_str() });
        Output::new(signature.as_str(), json).print(self.json)
    }
}
