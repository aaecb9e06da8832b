//! Waits for locks in PostgreSQL, sampled while a run goes on.

use std::collections::HashMap;
use std::str::FromStr as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::BoxError;

/// Time between two samples. A shorter wait is seen by chance only.
pub const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// Finds the sessions of this database that wait for a lock: the process, the start of the wait, and its microseconds so
/// far. `pg_locks` is only read where a session waits.
const WAITING: &str = "
    SELECT a.pid, (extract(epoch FROM l.since) * 1000000)::bigint,
           (extract(epoch FROM clock_timestamp() - l.since) * 1000000)::bigint
      FROM pg_stat_activity a
     CROSS JOIN LATERAL (SELECT min(waitstart) AS since FROM pg_locks WHERE pid = a.pid AND NOT granted) l
     WHERE a.wait_event_type = 'Lock' AND a.datname = current_database() AND l.since IS NOT NULL";

/// The observed waits of one run or of several.
#[derive(Default)]
pub struct LockWaits {
    samples: u64,
    /// Microseconds of each wait when it was last seen, by process and start.
    waits: HashMap<(i32, i64), u64>,
}

/// Lock waits as the table and the JSON show them.
#[derive(Serialize)]
pub struct Summary {
    /// Number of looks at the sessions, [`SAMPLE_EVERY`] apart.
    pub samples: u64,
    /// Number of different waits that were seen.
    pub waits: usize,
    pub p99_ms: f64,
    pub longest_ms: f64,
}

impl LockWaits {
    /// Adds the waits of another round.
    pub fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.waits.extend(other.waits);
    }

    #[expect(clippy::cast_precision_loss, reason = "waits are far below 2^52 microseconds")]
    pub fn summary(&self) -> Summary {
        let mut times = Histogram::<u64>::new(3).expect("three digits are allowed");
        for micros in self.waits.values() {
            times.record(*micros).expect("the histogram grows");
        }
        let to_ms = |micros: u64| micros as f64 / 1000.0;
        Summary {
            samples: self.samples,
            waits: self.waits.len(),
            p99_ms: to_ms(times.value_at_percentile(99.0)),
            longest_ms: to_ms(times.max()),
        }
    }

    async fn sample(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let waiting: Vec<(i32, i64, i64)> = sqlx::query_as(WAITING).fetch_all(connection).await?;
        self.samples += 1;
        for (process, since, micros) in waiting {
            self.waits.insert((process, since), micros.try_into().unwrap_or_default());
        }
        Ok(())
    }
}

/// Samples lock waits until it is ended. Does nothing on SQLite, whose one writer waits for no lock.
pub struct Watch {
    stop: CancellationToken,
    sampling: Option<JoinHandle<Result<LockWaits, sqlx::Error>>>,
}

impl Watch {
    /// Starts to sample on a connection of its own, if there is the URL of a PostgreSQL database.
    pub async fn start(postgres: Option<&str>) -> Result<Self, BoxError> {
        let stop = CancellationToken::new();
        let Some(url) = postgres else { return Ok(Self { stop, sampling: None }) };
        let options = PgConnectOptions::from_str(url)?.disable_statement_logging();
        let sampling = tokio::spawn(sample(options.connect().await?, stop.clone()));
        Ok(Self { stop, sampling: Some(sampling) })
    }

    /// Stops and returns the waits, or `None` on SQLite.
    pub async fn end(self) -> Result<Option<LockWaits>, BoxError> {
        self.stop.cancel();
        match self.sampling {
            Some(sampling) => Ok(Some(sampling.await??)),
            None => Ok(None),
        }
    }
}

async fn sample(
    mut connection: PgConnection,
    stop: CancellationToken,
) -> Result<LockWaits, sqlx::Error> {
    let mut every = interval(SAMPLE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waits = LockWaits::default();
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        waits.sample(&mut connection).await?;
    }
    connection.close().await?;
    Ok(waits)
}
