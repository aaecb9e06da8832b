//! `chatserver compact`: rewrites the database without its free space.

use serde_json::json;

use super::output::Output;
use super::{Failed, Settings};
use crate::store::{self, Compacted};

pub async fn run(settings: &Settings) -> Result<(), Failed> {
    let config = settings.load(&[])?;
    let instead = "Only SQLite needs this command: PostgreSQL's autovacuum makes the space of deleted rows free again";
    let url = config.database.url.of_file(instead)?;
    let Compacted { before, after } = store::compact(url).await?;
    let text = format!("{url} is compacted: {before} bytes before, {after} bytes now");
    let json = json!({ "url": url, "bytesbefore": before, "bytes": after });
    Output::new(text, json).print_after_change(settings.json)
}
