//! Sessions of operators, in the memory of this process: a restart ends them.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::{COOKIE, HOST};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};

use super::Admin;
use super::problem::Problem;
use crate::audit::Actor;
use crate::clock::Clock;
use crate::random::os_random;

/// A session ends when it was not used for this long.
const IDLE: Duration = Duration::from_mins(30);

/// A session ends after this long, however much it is used.
const LIFE: Duration = Duration::from_hours(12);

/// Maximum sessions. A new one replaces the one that was not used for longest.
const SESSIONS: usize = 16;

/// An operator who has entered. Only [`Sessions`] makes one.
#[derive(Clone)]
pub(super) struct Operator {
    /// Name of the person who made the link, by the operating system; may be empty.
    name: String,
    /// Tells sessions apart in the log: eight random digits, which are no secret.
    session: String,
    form_token: String,
    message: Arc<Mutex<Option<String>>>,
}

impl Operator {
    /// Makes a change as this operator, whom the audit log names, and logs one that was made. Every change of the page comes
    /// through here, or through [`Self::completes`].
    pub(super) async fn changes<T, E>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let changed = Actor::AdminPage { operator: self.name.clone() }.does(work).await?;
        self.log(what);
        Ok(changed)
    }

    /// Makes a change of many steps as this operator. Once begun, it goes on without the browser.
    pub(super) async fn completes<T: Send + 'static, E: Send + 'static>(
        &self,
        what: String,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        let operator = self.clone();
        let done = tokio::spawn(async move { operator.changes(&what, work).await }).await;
        done.unwrap_or_else(|error| resume_unwind(error.into_panic()))
    }

    pub(super) fn log(&self, what: &str) {
        tracing::info!(operator = self.name, session = self.session, "admin page: {what}");
    }

    /// Returns the token that the forms of this session carry.
    pub(super) fn form_token(&self) -> &str {
        &self.form_token
    }

    /// Leaves a message for the next page that the operator sees. It replaces one that was not seen.
    pub(super) fn tell(&self, message: impl Into<String>) {
        *self.message() = Some(message.into());
    }

    pub(super) fn take_message(&self) -> Option<String> {
        self.message().take()
    }

    fn message(&self) -> MutexGuard<'_, Option<String>> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromRequestParts<Arc<Admin>> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(
        head: &mut Parts,
        admin: &Arc<Admin>,
    ) -> Result<Self, Self::Rejection> {
        admin.sessions.operator(&head.headers).ok_or_else(Problem::not_entered)
    }
}

struct Session {
    /// SHA-256 of the id in the cookie. It is compared instead of the id, so the time of that tells nothing.
    digest: [u8; 32],
    began: Duration,
    used: Duration,
    operator: Operator,
}

impl Session {
    fn has_ended(&self, now: Duration) -> bool {
        now >= self.used + IDLE || now >= self.began + LIFE
    }
}

pub(super) struct Sessions {
    clock: Clock,
    open: Mutex<Vec<Session>>,
}

impl Sessions {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, open: Mutex::default() }
    }

    /// Begins a session. Returns the operator and the value of `Set-Cookie`.
    pub(super) fn begin(&self, headers: &HeaderMap, name: String) -> (Operator, String) {
        let now = self.clock.read().monotonic;
        let id = random_hex::<32>();
        let operator = Operator {
            name,
            session: random_hex::<4>(),
            form_token: random_hex::<32>(),
            message: Arc::default(),
        };
        let session =
            Session { digest: digest(&id), began: now, used: now, operator: operator.clone() };
        let mut open = self.open(now);
        if open.len() >= SESSIONS {
            let oldest = open.iter().enumerate().min_by_key(|(_, session)| session.used);
            if let Some((at, _)) = oldest {
                open.swap_remove(at);
            }
        }
        open.push(session);
        (operator, set_cookie(headers, &id, ""))
    }

    /// Returns the operator whose session the cookie names, and counts this as a use.
    pub(super) fn operator(&self, headers: &HeaderMap) -> Option<Operator> {
        let digests: Vec<_> = cookies(headers).map(digest).collect();
        let now = self.clock.read().monotonic;
        let mut open = self.open(now);
        let session = open.iter_mut().find(|session| digests.contains(&session.digest))?;
        session.used = now;
        Some(session.operator.clone())
    }

    /// Ends the session that the cookie names. Returns the value of `Set-Cookie` that removes the cookie.
    pub(super) fn end(&self, headers: &HeaderMap) -> String {
        let digests: Vec<_> = cookies(headers).map(digest).collect();
        let mut open = self.open(self.clock.read().monotonic);
        open.retain(|session| !digests.contains(&session.digest));
        drop(open);
        set_cookie(headers, "", "; Max-Age=0")
    }

    /// Returns the sessions that have not ended.
    fn open(&self, now: Duration) -> MutexGuard<'_, Vec<Session>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|session| !session.has_ended(now));
        open
    }
}

fn random_hex<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    os_random().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

fn digest(id: &str) -> [u8; 32] {
    Sha256::digest(id).into()
}

/// Returns the name of the cookie, which has the port in it. Cookies belong to a host and not to a port, so servers
/// behind two ports of `localhost` would replace each other's.
fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let port: Option<u16> = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    format!("chatserver-admin-{}", port.unwrap_or_default())
}

/// `Secure` is missing: the page is plain HTTP on this machine, where not every browser keeps such a cookie.
fn set_cookie(headers: &HeaderMap, id: &str, end: &str) -> String {
    format!("{}={id}; HttpOnly; SameSite=Strict; Path=/{end}", cookie_name(headers))
}

/// Returns the values of all cookies of the page's name. Another server of the same host may have set cookies of any name and
/// value, which come along.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let name = cookie_name(headers);
    let values = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let pairs = values.flat_map(|value| value.split(|byte| *byte == b';'));
    let pairs = pairs.filter_map(|pair| std::str::from_utf8(pair).ok()).map(str::trim);
    pairs.filter_map(move |pair| pair.strip_prefix(name.as_str())?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use axum::http::HeaderValue;

    use super::*;
    use crate::clock::Reading;
    use crate::domain::Timestamp;

    /// Sessions, and the seconds that their clock shows.
    fn sessions() -> (Sessions, Arc<AtomicU64>) {
        let seconds = Arc::new(AtomicU64::new(0));
        let shown = Arc::clone(&seconds);
        let clock = Clock::from_fn(move || Reading {
            wall: Timestamp::from_unix(0).unwrap(),
            monotonic: Duration::from_secs(shown.load(Ordering::Relaxed)),
        });
        (Sessions::new(clock), seconds)
    }

    /// Begins a session and returns the headers of its browser.
    fn enters(sessions: &Sessions) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost:8081"));
        let (_, cookie) = sessions.begin(&headers, String::new());
        let pair = cookie.split(';').next().unwrap();
        headers.insert(COOKIE, HeaderValue::from_str(&format!("other=1; {pair}")).unwrap());
        headers
    }

    #[test]
    fn a_session_ends_after_half_an_hour_without_use_and_after_twelve_hours() {
        let (sessions, clock) = sessions();
        let (idle, used) = (enters(&sessions), enters(&sessions));
        for _ in 0..24 {
            assert!(sessions.operator(&used).is_some());
            clock.fetch_add(1799, Ordering::Relaxed);
        }
        assert!(sessions.operator(&idle).is_none());
        assert!(sessions.operator(&used).is_some(), "24 s are left");
        clock.fetch_add(24, Ordering::Relaxed);
        assert!(sessions.operator(&used).is_none());
    }

    #[test]
    fn a_session_that_is_left_ends_and_a_17th_replaces_the_least_recently_used() {
        let (sessions, clock) = sessions();
        let all: Vec<_> = (0..16)
            .map(|_| {
                clock.fetch_add(1, Ordering::Relaxed);
                enters(&sessions)
            })
            .collect();
        clock.fetch_add(1, Ordering::Relaxed);
        assert!(sessions.operator(&all[0]).is_some());
        let last = enters(&sessions);
        assert!(sessions.operator(&all[1]).is_none());
        for kept in all.iter().skip(2).chain([&all[0], &last]) {
            assert!(sessions.operator(kept).is_some());
        }
        assert!(sessions.end(&last).contains("Max-Age=0"));
        assert!(sessions.operator(&last).is_none());
    }

    #[test]
    fn a_cookie_counts_only_behind_its_own_port() {
        let (sessions, _) = sessions();
        let mut headers = enters(&sessions);
        assert!(sessions.operator(&headers).is_some());
        headers.insert(HOST, HeaderValue::from_static("localhost:8082"));
        assert!(sessions.operator(&headers).is_none());
    }
}
