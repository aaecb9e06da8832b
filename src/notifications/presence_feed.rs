//! Whose availability a station is still to be told of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;

use super::Poll;
use crate::config::MAX_CLOCK_SKEW_SECONDS;
use crate::domain::{Signature, StationId, Timestamp, UserId};

/// The most users whose stations' news are remembered. A forgotten station is told of every friend again.
const USERS: usize = 32_768;

/// The most notifications of a station that may still be acknowledged one by one. Of older ones, what they told is
/// told again.
const SENT: usize = 16;

/// Maximum polls of a station within one second that are told apart. Further ones take nothing, so what they tell is told again.
const POLLS: usize = 512;

/// The news of all stations that have been told of their friends since the server started.
pub struct PresenceFeed {
    /// The most stations of one user.
    most: usize,
    /// When the server started.
    since: Timestamp,
    users: Cache<UserId, Arc<Mutex<Stations>>>,
    /// Later news have larger marks. One is taken while the stations of the user are locked.
    version: AtomicU64,
}

/// The stations of one user.
struct Stations {
    all: Vec<Station>,
    /// The timestamp from which on polls of a further station take something: those of stations that gave way to others are
    /// forgotten, and must take nothing when they are sent again.
    taking_since: Timestamp,
}

struct Station {
    id: StationId,
    /// Whether all friends were once among the news. Until then, whoever asks reads them.
    has_friends: bool,
    /// Friends, with the mark of the newest change of each.
    news: BTreeMap<UserId, u64>,
    /// What was sent: the number of each notification, and the newest mark in it.
    sent: VecDeque<(i64, u64)>,
    /// The newest timestamp of its polls, and the signatures of those that have it.
    polled_at: Timestamp,
    polls: Vec<u64>,
}

impl Station {
    /// Whether this poll is new: the same bytes again are told apart by their signature while they are of the newest second,
    /// and by their timestamp later. Nothing need be stored of the many polls that are told nothing.
    fn polled(&mut self, poll: &Poll) -> bool {
        // After the clock was set back, no poll of its future is fresh.
        let is_passed = self.polled_at > poll.now.plus_seconds(MAX_CLOCK_SKEW_SECONDS.into());
        if poll.timestamp > self.polled_at || is_passed {
            self.polled_at = poll.timestamp;
            self.polls.clear();
        }
        let number = number_of(&poll.replay.signature);
        let is_new = poll.timestamp == self.polled_at
            && self.polls.len() < POLLS
            && !self.polls.contains(&number);
        if is_new {
            self.polls.push(number);
        }
        is_new
    }

    /// The mark of the newest change.
    fn newest(&self) -> u64 {
        self.news.values().copied().max().unwrap_or(0)
    }

    /// The news behind a mark, and the newest mark.
    fn news_behind(&self, behind: u64) -> (BTreeSet<UserId>, u64) {
        let news = self.news.iter().filter(|(_, version)| **version > behind);
        (news.map(|(friend, _)| *friend).collect(), self.newest().max(behind))
    }
}

impl PresenceFeed {
    /// Of so many stations of each user at most. Polls that were made before this moment take nothing: an earlier process may have
    /// answered them.
    #[must_use]
    pub fn new(most: usize, since: Timestamp) -> Self {
        Self { most, since, users: Cache::new(USERS), version: AtomicU64::new(1) }
    }

    /// A friend of this user is seen as something else.
    pub fn changed(&self, user: UserId, friend: UserId) {
        let Some(stations) = self.users.get(&user) else { return };
        let mut stations = lock(&stations);
        let version = self.next_mark();
        for station in &mut stations.all {
            station.news.insert(friend, version);
        }
    }

    /// Remembers the news of a station from now on, and says whether its friends are still to be added.
    pub(super) fn begin(&self, user: UserId, station: StationId) -> bool {
        let none = || Mutex::new(Stations { all: Vec::new(), taking_since: self.since });
        let stations =
            self.users.get_or_insert_with(&user, || Ok::<_, Infallible>(Arc::new(none())));
        let Ok(stations) = stations;
        let mut stations = lock(&stations);
        if let Some(known) = stations.all.iter().find(|known| known.id == station) {
            return !known.has_friends;
        }
        if stations.all.len() >= self.most {
            let behind = stations.all.remove(0).polled_at.plus_seconds(1);
            stations.taking_since = stations.taking_since.max(behind);
        }
        let polled_at = stations.taking_since;
        stations.all.push(Station {
            id: station,
            has_friends: false,
            news: BTreeMap::new(),
            sent: VecDeque::new(),
            polled_at,
            polls: Vec::new(),
        });
        true
    }

    /// Remembers a poll, and says whether it is neither the same bytes again nor older than another one.
    pub(super) fn polled(&self, user: UserId, station: StationId, poll: &Poll) -> bool {
        self.at(user, station, |station| station.polled(poll)).unwrap_or(false)
    }

    /// Adds all friends to the news of a station, unless another has done so meanwhile.
    pub(super) fn add(&self, user: UserId, station: StationId, friends: &[UserId]) {
        self.at(user, station, |station| {
            if !std::mem::replace(&mut station.has_friends, true) {
                let version = self.next_mark();
                for friend in friends {
                    station.news.entry(*friend).or_insert(version);
                }
            }
        });
    }

    /// All news, and the newest mark.
    pub(super) fn news(&self, user: UserId, station: StationId) -> (BTreeSet<UserId>, u64) {
        self.at(user, station, |station| station.news_behind(0)).unwrap_or_default()
    }

    /// The news behind a mark, which are sent with this number, and the newest mark of all. `None` where this
    /// number, or a later one, was sent without some of them: to acknowledge that one must not acknowledge these,
    /// so they need another.
    pub(super) fn send(
        &self,
        user: UserId,
        station: StationId,
        number: i64,
        behind: u64,
    ) -> Option<(BTreeSet<UserId>, u64)> {
        let sent = self.at(user, station, |station| {
            let (news, version) = station.news_behind(behind);
            // Before the restart this number may have been sent, with none of these news.
            let (last, last_mark) = station.sent.back().copied().unwrap_or((number, 0));
            if station.sent.is_empty() {
                station.sent.push_back((number, 0));
            }
            if number < last || (number == last && station.newest() > last_mark) {
                return None;
            }
            if station.sent.back() != Some(&(number, version)) {
                station.sent.push_back((number, version));
            }
            if station.sent.len() > SENT {
                station.sent.pop_front();
            }
            Some((news, version))
        });
        // Of a station that is forgotten there are no news; the next time it is told of everybody.
        sent.unwrap_or_else(|| Some((BTreeSet::new(), behind)))
    }

    /// The station has what was sent up to this number.
    pub(super) fn acknowledged(&self, user: UserId, station: StationId, number: i64) {
        self.at(user, station, |station| {
            let known = station.sent.iter().filter(|(sent, _)| *sent <= number);
            if let Some(version) = known.map(|(_, version)| *version).max() {
                station.news.retain(|_, newer| *newer > version);
            }
        });
    }

    /// The station has the news up to this mark.
    pub(super) fn forget_news(&self, user: UserId, station: StationId, version: u64) {
        self.at(user, station, |station| station.news.retain(|_, newer| *newer > version));
    }

    fn at<T>(
        &self,
        user: UserId,
        station: StationId,
        with: impl FnOnce(&mut Station) -> T,
    ) -> Option<T> {
        let stations = self.users.get(&user)?;
        let mut stations = lock(&stations);
        stations.all.iter_mut().find(|known| known.id == station).map(with)
    }

    fn next_mark(&self) -> u64 {
        self.version.fetch_add(1, Ordering::Relaxed)
    }
}

/// The first 64 bits of a signature.
fn number_of(signature: &Signature) -> u64 {
    u64::from_str_radix(&signature.as_str()[..16], 16).expect("hexadecimal characters")
}

fn lock(stations: &Mutex<Stations>) -> MutexGuard<'_, Stations> {
    // Whoever panicked has left nothing half done.
    stations.lock().unwrap_or_else(PoisonError::into_inner)
}
