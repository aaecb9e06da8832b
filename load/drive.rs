//! Connections that ask, each on its own, for as long as a run takes.
//!
//! In a closed loop each sends its next request when it has the answer to the last one. In an open loop requests are
//! due at a rate, whoever is free sends the next, and its time counts from when it was due: a server that stalls does
//! not slow down those who measure it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::Failed;
use super::actor::Actor;
use super::client::Client;
use super::figures::Figures;
use super::server::Target;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How requests are made, and for how long.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: u32,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// How long to ask before that
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub warm_up: u32,
    /// An open loop of so many requests a second; without it, each connection asks again when it is answered
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
}

impl Load {
    /// How many connections there are.
    pub fn connections(&self) -> usize {
        usize::try_from(self.connections).unwrap_or(usize::MAX)
    }

    /// What the loop is called.
    pub fn name(&self) -> String {
        let Self { connections, seconds, rate, .. } = self;
        match rate {
            Some(rate) => format!("{connections} connections, open loop of {rate}/s, {seconds} s"),
            None => format!("{connections} connections, closed loop, {seconds} s"),
        }
    }
}

/// When requests are due.
enum Pace {
    /// At once.
    Closed,
    /// A permit is added for each when it is due.
    Open { due: Semaphore, taken: AtomicU64, start: Instant, every: Duration },
}

impl Pace {
    /// Waits for the next request to be due, and says since when it is.
    async fn next(&self) -> Instant {
        match self {
            Self::Closed => Instant::now(),
            Self::Open { due, taken, start, every } => {
                let permit = due.acquire().await.expect("nobody closes the semaphore");
                permit.forget();
                let place = taken.fetch_add(1, Ordering::Relaxed);
                *start + every.mul_f64(u32::try_from(place).unwrap_or(u32::MAX).into())
            }
        }
    }

    /// Tells when requests are due, until the end. Timers of the runtime are a millisecond coarse, so this has a thread.
    #[expect(clippy::disallowed_methods, reason = "the thread serves nobody else")]
    fn tell(&self, end: Instant) {
        let Self::Open { due, start, every, .. } = self else { return };
        let mut told = 0;
        loop {
            // All that is due before the end is told, however late this thread is woken.
            let now = Instant::now().min(end);
            let by_now = now.duration_since(*start).div_duration_f64(*every);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let by_now = by_now.ceil() as usize;
            due.add_permits(by_now.saturating_sub(told));
            told = told.max(by_now);
            if now == end {
                return;
            }
            let next = *start + every.mul_f64(u32::try_from(told).unwrap_or(u32::MAX).into());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
}

/// The part of a run that is measured.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

/// Has each actor ask over a connection of its own, and measures the target.
pub async fn drive(target: &Target, load: &Load, actors: Vec<Actor>) -> Result<Figures, Failed> {
    raise_open_files(actors.len())?;
    let mut clients = Vec::with_capacity(actors.len());
    for actor in actors {
        clients.push((actor, Client::connect(target.address).await?));
    }
    let before = target.usage()?;
    let start = Instant::now();
    let begin = start + Duration::from_secs(load.warm_up.into());
    let window = Window { begin, end: begin + Duration::from_secs(load.seconds.into()) };
    let pace = Arc::new(match load.rate {
        None => Pace::Closed,
        Some(rate) => {
            let every = Duration::from_secs(1) / rate;
            Pace::Open { due: Semaphore::new(0), taken: AtomicU64::new(0), start, every }
        }
    });
    let teller = {
        let pace = Arc::clone(&pace);
        std::thread::spawn(move || pace.tell(window.end))
    };
    let mut asking = JoinSet::new();
    for (actor, client) in clients {
        asking.spawn(ask(actor, client, Arc::clone(&pace), window));
    }
    sleep_until(window.begin.into()).await;
    let at_begin = target.usage()?;
    sleep_until(window.end.into()).await;
    let at_end = target.usage()?;
    let mut figures = Figures::new(window.end - window.begin);
    if let Pace::Open { due, .. } = &*pace {
        // Whoever waits for the next request is released: there is none.
        due.add_permits(load.connections());
    }
    while let Some(asked) = asking.join_next().await {
        figures.add(&asked??);
    }
    teller.join().map_err(|_| "the thread that paces requests has panicked")?;
    figures.used(before, at_begin.zip(at_end));
    Ok(figures)
}

async fn ask(
    mut actor: Actor,
    mut client: Client,
    pace: Arc<Pace>,
    window: Window,
) -> Result<Figures, Failed> {
    let mut figures = Figures::new(Duration::ZERO);
    loop {
        let request = actor.next();
        let due = pace.next().await;
        // In a closed loop a request is due when it is sent.
        if due >= window.end {
            return Ok(figures);
        }
        let is_measured = due >= window.begin;
        actor.sends(is_measured);
        let Ok(answer) = timeout(PATIENCE, client.call(request.as_bytes())).await else {
            figures.count(PATIENCE, 0, Some("unanswered".to_owned()));
            return Ok(figures);
        };
        let (answer, took) = (answer?, due.elapsed());
        let error = answer.error();
        // What was due in time counts, however late it is answered.
        if error.is_some() || is_measured {
            figures.count(took, answer.body.len(), error);
        }
    }
}

/// Files that this process needs beside its connections.
const OTHER_FILES: u64 = 200;

/// Sees to it that this process may open so many connections.
pub fn raise_open_files(connections: usize) -> Result<(), Failed> {
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

/// Says whether anything answers there, which is asked before much is prepared.
pub async fn probe(address: SocketAddr, actor: &mut Actor) -> Result<Vec<u8>, Failed> {
    let mut client = Client::connect(address).await?;
    let answer = client.call(actor.next().as_bytes()).await?;
    match answer.error() {
        None => Ok(answer.body.to_vec()),
        Some(_) => Err(String::from_utf8_lossy(answer.body).into_owned().into()),
    }
}
