//! Drives the connections of a run, each in a task of its own.
//!
//! In a closed loop, each connection sends its next request after the answer to the last one. In an open loop, requests
//! are due at a fixed rate, and the next free connection sends each. Latency counts from the due time, so a server that
//! stalls does not slow down its own measurement.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::BoxError;
use super::client::Client;
use super::figures::Figures;
use super::requests::RequestGenerator;
use super::server::Target;

/// The name of the error that a request has no answer in time.
pub const UNANSWERED: &str = "unanswered";

/// The kind of loop, its connections and its duration.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// Concurrent connections
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: u32,
    /// Seconds to measure
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Seconds of requests before the measurement
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub warm_up: u32,
    /// Requests a second of an open loop; without it, each connection sends its next request when it has its answer
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
}

impl Load {
    /// Returns the number of connections.
    pub fn connections(&self) -> usize {
        usize::try_from(self.connections).unwrap_or(usize::MAX)
    }

    /// Describes the loop for the report.
    pub fn name(&self) -> String {
        let Self { connections, seconds, rate, .. } = self;
        match rate {
            Some(rate) => format!("{connections} connections, open loop of {rate}/s, {seconds} s"),
            None => format!("{connections} connections, closed loop, {seconds} s"),
        }
    }
}

/// The schedule of requests.
enum Pace {
    /// Each request is due at once.
    Closed,
    /// Requests are due at a fixed rate. `due` gets a permit for each request when it is due.
    Open { due: Semaphore, taken: AtomicU64, start: Instant, every: Duration },
}

impl Pace {
    /// Makes the schedule of a closed loop, or of an open loop with so many requests a second.
    fn new(rate: Option<u32>, start: Instant) -> Self {
        let Some(rate) = rate else { return Self::Closed };
        let every = Duration::from_secs(1) / rate;
        Self::Open { due: Semaphore::new(0), taken: AtomicU64::new(0), start, every }
    }

    /// Waits until the next request is due, and returns its due time.
    async fn next(&self) -> Instant {
        match self {
            Self::Closed => Instant::now(),
            Self::Open { due, taken, start, every } => {
                let permit = due.acquire().await.expect("the semaphore is never closed");
                permit.forget();
                let nth = taken.fetch_add(1, Ordering::Relaxed);
                *start + every.mul_f64(u32::try_from(nth).unwrap_or(u32::MAX).into())
            }
        }
    }

    /// Adds permits for due requests until `end`. Runs on its own thread, because the runtime's timers are accurate to
    /// only 1 ms.
    #[expect(clippy::disallowed_methods, reason = "the thread has no other work")]
    fn release_due(&self, end: Instant) {
        let Self::Open { due, start, every, .. } = self else { return };
        let mut released = 0;
        loop {
            // Adds permits for all requests that are due before the end, however late this thread wakes up.
            let now = Instant::now().min(end);
            let by_now = now.duration_since(*start).div_duration_f64(*every);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let by_now = by_now.ceil() as usize;
            due.add_permits(by_now.saturating_sub(released));
            released = released.max(by_now);
            if now == end {
                return;
            }
            let next = *start + every.mul_f64(u32::try_from(released).unwrap_or(u32::MAX).into());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
}

/// The measured part of a run.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

/// Runs each generator on a connection of its own. Returns their figures with the CPU time and memory of all targets.
pub async fn drive(
    targets: &[Arc<Target>],
    load: &Load,
    generators: Vec<RequestGenerator>,
) -> Result<Figures, BoxError> {
    raise_open_files(generators.len())?;
    let mut clients = Vec::with_capacity(generators.len());
    for generator in generators {
        let client = Client::connect(generator.address()).await?;
        clients.push((generator, client));
    }
    let before = Target::usage(targets)?;
    let start = Instant::now();
    let begin = start + Duration::from_secs(load.warm_up.into());
    let window = Window { begin, end: begin + Duration::from_secs(load.seconds.into()) };
    let pace = Arc::new(Pace::new(load.rate, start));
    let releaser = {
        let pace = Arc::clone(&pace);
        std::thread::spawn(move || pace.release_due(window.end))
    };
    let mut running = JoinSet::new();
    for (generator, client) in clients {
        running.spawn(run_connection(generator, client, Arc::clone(&pace), window));
    }
    sleep_until(window.begin.into()).await;
    let at_begin = Target::usage(targets)?;
    sleep_until(window.end.into()).await;
    let at_end = Target::usage(targets)?;
    let mut figures = Figures::new(window.end - window.begin);
    if let Pace::Open { due, .. } = &*pace {
        // Wakes the connections that wait for another request. Its due time is past the end, so they finish.
        due.add_permits(load.connections());
    }
    while let Some(figures_of_one) = running.join_next().await {
        figures.add(&figures_of_one??);
    }
    releaser.join().map_err(|_| "the thread that paces requests has panicked")?;
    figures.used(before, at_begin.zip(at_end));
    Ok(figures)
}

/// Sends the generator's requests on one connection, each when it is due, until the end of the window.
async fn run_connection(
    mut generator: RequestGenerator,
    mut client: Client,
    pace: Arc<Pace>,
    window: Window,
) -> Result<Figures, BoxError> {
    let mut figures = Figures::new(Duration::ZERO);
    loop {
        let request = generator.next();
        let due = pace.next().await;
        // In a closed loop a request is due when it is sent.
        if due >= window.end {
            return Ok(figures);
        }
        let is_measured = due >= window.begin;
        generator.record_send(is_measured);
        let Some(answer) = client.call(request.as_bytes()).await? else {
            figures.count_error(UNANSWERED);
            return Ok(figures);
        };
        let took = due.elapsed();
        // Requests due within the window count, however late the answer. Errors count during the warm-up too.
        match answer.error() {
            Some(error) => {
                generator.withdraw_send();
                figures.count_error(error);
            }
            None if is_measured => figures.count_ok(took, answer.body.len()),
            None => {}
        }
    }
}

/// Open files of this process besides its connections.
const OTHER_FILES: u64 = 200;

/// Raises the limit on open files for so many connections. Fails if the operating system allows fewer.
pub fn raise_open_files(connections: usize) -> Result<(), BoxError> {
    let needed = u64::try_from(connections)? + OTHER_FILES;
    let may_open = rlimit::increase_nofile_limit(needed)?;
    if may_open < needed {
        let sentence = format!(
            "{connections} connections need {needed} open files, {may_open} are allowed: ulimit -n {needed}"
        );
        return Err(sentence.into());
    }
    Ok(())
}

/// Sends the generator's next request on a new connection. Returns the body of the answer, or an error if it is not OK.
pub async fn probe(generator: &mut RequestGenerator) -> Result<Vec<u8>, BoxError> {
    let mut client = Client::connect(generator.address()).await?;
    let answer = client.call(generator.next().as_bytes()).await?;
    let answer = answer.ok_or("the server did not answer in time")?;
    match answer.error() {
        None => Ok(answer.body.to_vec()),
        Some(_) => Err(String::from_utf8_lossy(answer.body).into_owned().into()),
    }
}
