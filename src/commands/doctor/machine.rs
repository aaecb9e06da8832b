//! The machine: disk, files, certificate, and the limit of open files.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;

use super::Report;
use crate::clock::Clock;
use crate::commands::serve::open_files_needed;
use crate::config::Config;
use crate::domain::Parse as _;
use crate::store::{DatabaseFile, DatabaseUrl, LockHolder, ServerLock};
use crate::tls;

/// Flushes to measure, and the bytes of each: a small commit.
const FLUSHES: usize = 20;
const FLUSHED: [u8; 4096] = [0; 4096];

/// A flush above this slows every change down.
const SLOW: Duration = Duration::from_millis(20);

pub(super) async fn look(config: &Config, settings: Option<&Path>, report: &mut Report) {
    if let DatabaseUrl::Sqlite(url) = &config.database.url
        && let Some(file) = DatabaseFile::parse(url)
    {
        disk(config, &file, report);
        flush_speed(&file, report).await;
        modes(&file, report);
    }
    secrets(config, settings, report);
    certificate(config, report);
    open_files(config, report);
}

fn disk(config: &Config, file: &DatabaseFile, report: &mut Report) {
    let folder = file.folder();
    let found = match statvfs(&folder) {
        Ok(found) => found,
        Err(error) => {
            let found = format!("the folder {} can't be looked at: {error}", folder.display());
            return report.problem(
                "disk",
                found,
                "create the folder, and give it to the user of the service",
            );
        }
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let database = fs::metadata(file.path()).map_or(0, |found| found.len());
    let reserve = config.limits.disk_reserve_bytes.get();
    let mebibytes = |bytes: u64| bytes / (1024 * 1024);
    let sentence = format!(
        "{} MiB are free, and the database has {} MiB",
        mebibytes(free),
        mebibytes(database)
    );
    if free < reserve {
        let found = format!("{sentence}: less than limits.disk_reserve_bytes = {reserve}");
        report.problem(
            "disk",
            found,
            "make room: requests that grow the data get 503 storage_full",
        );
    } else if free < database {
        report.note(
            "disk",
            sentence,
            "a compact, a restore, or a backup on this disk needs as much as the database has",
        );
    } else {
        report.ok("disk", sentence);
    }
}

async fn flush_speed(file: &DatabaseFile, report: &mut Report) {
    let folder = file.folder();
    let measured = spawn_blocking(move || median_flush(&folder)).await;
    match measured.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(took) if took > SLOW => report.note(
            "flush",
            format!("an fsync takes {} ms", took.as_millis()),
            "each commit waits for one: take a faster disk, or one with a protected write cache",
        ),
        Ok(took) => {
            report.ok("flush", format!("an fsync takes {:.1} ms", took.as_secs_f64() * 1000.0));
        }
        Err(error) => report.problem(
            "flush",
            format!("the folder of the database can't be written: {error}"),
            "run this as the user of the service, who needs the folder for -wal and -shm",
        ),
    }
}

/// Returns the median time of a small flush in a folder. The file goes away again.
fn median_flush(folder: &Path) -> io::Result<Duration> {
    let mut file = NamedTempFile::with_prefix_in(".chatserver-doctor-", folder)?;
    let mut times = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        let begun = Instant::now();
        file.write_all(&FLUSHED)?;
        file.as_file().sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[FLUSHES / 2])
}

/// Looks whether other users may use the files of the database.
fn modes(file: &DatabaseFile, report: &mut Report) {
    let files = [file.path().to_owned(), file.wal(), file.shm()];
    let open: Vec<_> = files.iter().filter_map(|path| opened_to_others(path)).collect();
    if open.is_empty() {
        report.ok("files", "no other user of this machine has access to the database");
    } else {
        let advice = format!("run `chmod o= {}*`: they hold API keys", file.path().display());
        report.problem("files", format!("other users have access to {}", open.join(", ")), &advice);
    }
}

/// Returns the path of a file with its mode, if users outside its group have access to it.
fn opened_to_others(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o007 != 0).then(|| format!("{} (mode {mode:o})", path.display()))
}

/// Looks whether other users may read files of the settings that hold passwords.
fn secrets(config: &Config, settings: Option<&Path>, report: &mut Report) {
    let settings = settings.filter(|_| config.database.has_password());
    let files = settings.into_iter().chain(config.database.password_file());
    for path in files {
        match opened_to_others(path) {
            Some(open) => {
                let advice = format!(
                    "run `chmod o= {}`: it holds the password of the database",
                    path.display()
                );
                report.note("secrets", format!("other users have access to {open}"), &advice);
            }
            None => report.ok("secrets", format!("{} is closed to other users", path.display())),
        }
    }
}

fn certificate(config: &Config, report: &mut Report) {
    let pair = match tls::look(&config.http) {
        Ok(Some(pair)) => pair,
        Ok(None) if config.http.has_tls() => {
            let advice = "the log of the server says why, if it has tried to get one";
            return report.note("certificate", "there is none of ACME yet", advice);
        }
        Ok(None) => return report.ok("certificate", "the server has no TLS of its own"),
        Err(error) => return report.problem("certificate", error.to_string(), ""),
    };
    let (validity, now) = (pair.validity(), Clock::system().now());
    let found = format!("it is valid from {} to {}", validity.from, validity.until);
    let url = config.http.url_at(None);
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
    if validity.is_over(now) || now < validity.from {
        report.problem("certificate", found, "clients refuse it: put a valid one into its file");
    } else if !host.is_empty() && !pair.is_for(host) {
        let found = format!("it is not for {host}, the host of http.public_url");
        report.problem("certificate", found, "get one for that name");
    } else if validity.ends_soon(now) {
        report.note("certificate", found, "renew it; the server reads the new one by itself");
    } else {
        report.ok("certificate", found);
    }
}

fn open_files(config: &Config, report: &mut Report) {
    let needed = open_files_needed(config);
    let server = match &config.database.url {
        DatabaseUrl::Sqlite(url) => ServerLock::holder(url).ok().flatten(),
        DatabaseUrl::Postgres(_) => None,
    };
    let of_server = server.as_ref().and_then(limit_of);
    let own = rlimit::Resource::NOFILE.get_hard().unwrap_or(0);
    let (limit, of) = match of_server {
        Some(limit) => (limit, "of the running server"),
        None => (own, "of this shell; a service has its own, LimitNOFILE"),
    };
    let found = format!("{limit} open files are the limit {of}; the settings need {needed}");
    if limit < needed {
        let advice =
            "raise it (LimitNOFILE, ulimit -n), or lower limits.connections and http.listeners";
        report.note("openfiles", found, advice);
    } else {
        report.ok("openfiles", found);
    }
}

/// Reads the limit of a running server. Returns `None` for one in a container, whose id is another one here.
fn limit_of(server: &LockHolder) -> Option<u64> {
    let folder = format!("/proc/{}", server.pid);
    let name = fs::read_to_string(format!("{folder}/comm")).ok()?;
    let limits = io::read_to_string(File::open(format!("{folder}/limits")).ok()?).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    (name.trim() == "chatserver").then(|| line.split_whitespace().next()?.parse().ok())?
}
