//! The database: its schema, its soundness, its clock, and the age of its backup.

use super::{Report, key_file};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::{Parse as _, Timestamp};
use crate::store::{self, Archive, Checkup, DatabaseUrl, LastBackup, OpenError};

/// Seconds that a date of the database may be ahead of the clock: nodes may differ a little.
const AHEAD: i64 = 60;

/// Seconds after which a backup is old.
const OLD: i64 = 8 * 24 * 60 * 60;

const DAMAGED: &str = "stop the server, keep a copy of the database with its -wal and -shm, check the disk, \
     and put a backup in its place with `chatserver restore`";

const NOT_DURABLE: &str = "a power cut can lose answered changes: the journal must be wal, and fsync and \
     full_page_writes on";

const CLOCK_BEHIND: &str = "set the clock of this machine (NTP). If the date was written by a clock that was ahead, \
     requests signed by then are refused until it has passed";

const EVERY_DAY: &str = "run `chatserver backup FILE` every day";

pub(super) async fn look(config: &Config, is_full: bool, report: &mut Report) {
    let url = match config.database.with_password() {
        Ok(url) => url,
        Err(error) => return report.problem("database", error.to_string(), ""),
    };
    let now = Clock::system().now();
    match store::examine(&url, is_full).await {
        Ok(checkup) => {
            found(&url, &checkup, is_full, now, report);
            key_file::look(config, Some(&checkup.sealing_keys), report);
        }
        Err(error @ OpenError::Missing { .. }) => {
            report.note("database", error.to_string(), "");
            key_file::look(config, Some(&[]), report);
        }
        Err(error) => {
            report.problem("database", error.to_string(), "");
            key_file::look(config, None, report);
        }
    }
    if let DatabaseUrl::Sqlite(url) = &url {
        backup(store::last_backup(url), now, report);
    }
}

fn found(url: &DatabaseUrl, checkup: &Checkup, is_full: bool, now: Timestamp, report: &mut Report) {
    let Checkup { migrations, newest, journal, is_durable, damage, archive, .. } = checkup;
    report.ok("migrations", format!("{url} has all {migrations} of this version"));
    let is_file = matches!(url, DatabaseUrl::Sqlite(_));
    match damage {
        Some(damage) if is_file => report.problem("integrity", damage, DAMAGED),
        Some(damage) => report.problem(
            "integrity",
            damage,
            "check the disk, and restore the database from its backup",
        ),
        None if !is_file => report.note(
            "integrity",
            "PostgreSQL has counted no wrong checksum",
            "`pg_amcheck` checks the tables and indexes of a PostgreSQL database",
        ),
        None if is_full => report.ok("integrity", "the whole database is sound"),
        None => report.ok(
            "integrity",
            "no damage in what a second allows to check; --full checks everything",
        ),
    }
    if *is_durable {
        report.ok("journal", journal);
    } else {
        report.problem("journal", journal, NOT_DURABLE);
    }
    match newest {
        Some(newest) if newest.unix() > now.unix() + AHEAD => {
            let found = format!("the clock shows {now}, and the database has the date {newest}");
            report.problem("clock", found, CLOCK_BEHIND);
        }
        Some(newest) => report
            .ok("clock", format!("it shows {now}; the newest date in the database is {newest}")),
        None => report.ok("clock", format!("it shows {now}; the database has no date yet")),
    }
    match archive {
        Archive::Unknown => {}
        Archive::Off => report.note(
            "backup",
            "archive_mode is off, so PostgreSQL archives no WAL",
            "back the database up with pg_dump on a schedule, or archive its WAL",
        ),
        Archive::Archived(last) => {
            let last = last.map_or_else(|| "never yet".to_owned(), |last| last.to_string());
            report.ok("backup", format!("PostgreSQL archives its WAL; the last time was {last}"));
        }
    }
}

/// Reports the age of the backup that `chatserver backup` has recorded.
fn backup(last: Option<LastBackup>, now: Timestamp, report: &mut Report) {
    let dated = last.and_then(|last| Some((Timestamp::parse(&last.date)?, last.file)));
    match dated {
        Some((date, file)) if now.unix() - date.unix() > OLD => {
            let days = (now.unix() - date.unix()) / (24 * 60 * 60);
            report.note("backup", format!("the last one is {days} days old: {file}"), EVERY_DAY);
        }
        Some((date, file)) => report.ok("backup", format!("the last one is of {date}: {file}")),
        None => report.note(
            "backup",
            "`chatserver backup` has made none of this database; those of other tools are not known here",
            EVERY_DAY,
        ),
    }
}
