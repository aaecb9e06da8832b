//! Presence feed: which friends' availability each station has not been told of yet. It is kept in memory only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;

use super::Poll;
use crate::config::MAX_CLOCK_SKEW_SECONDS;
use crate::domain::{Signature, StationId, Timestamp, UserId};

/// Maximum users whose stations' news are remembered. A forgotten station is told of every friend again.
const USERS: usize = 32_768;

/// Maximum notifications of a station that can still be acknowledged one by one. The news of older ones are sent
/// again.
const SENT: usize = 16;

/// Maximum polls of a station within one second that are told apart. Further polls take nothing, so their news are
/// sent again.
const POLLS: usize = 512;

/// The news of all stations that have been told of their friends since the server started.
pub struct PresenceFeed {
    /// Maximum stations of one user.
    most: usize,
    /// When the server started.
    since: Timestamp,
    users: Cache<UserId, Arc<Mutex<Stations>>>,
    /// Counts up: later news have larger versions. A version is taken while the user's stations are locked.
    version: AtomicU64,
}

/// The stations of one user.
struct Stations {
    all: Vec<Station>,
    /// Polls of a newly added station take news only from this timestamp on. The polls of evicted stations are
    /// forgotten, so a replayed one must take nothing.
    taking_since: Timestamp,
}

struct Station {
    id: StationId,
    /// Whether all friends were once added to the news. Until then a request reads them from the store.
    has_friends: bool,
    /// Friends, with the version of the newest change of each.
    news: BTreeMap<UserId, u64>,
    /// Sent notifications: the change number of each, and the newest version in it.
    sent: VecDeque<(i64, u64)>,
    /// The newest timestamp of the station's polls.
    polled_at: Timestamp,
    /// The polls with that timestamp: the first 64 bits of each signature.
    polls: Vec<u64>,
}

impl Station {
    /// Remembers a poll and returns whether it is new. A repeat is recognized by its signature within the newest
    /// second, and by its older timestamp later. So the many polls that have nothing to tell need not be stored.
    fn polled(&mut self, poll: &Poll) -> bool {
        // After the wall clock was set back, no poll with such a future timestamp is fresh, so it need not be
        // remembered.
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

    fn newest(&self) -> u64 {
        self.news.values().copied().max().unwrap_or(0)
    }

    /// Returns the news after a version, and the newest version.
    fn news_behind(&self, behind: u64) -> (BTreeSet<UserId>, u64) {
        let news = self.news.iter().filter(|(_, version)| **version > behind);
        (news.map(|(friend, _)| *friend).collect(), self.newest().max(behind))
    }
}

impl PresenceFeed {
    /// Bounds each user to `most` stations. Polls made before `since` take nothing, because an earlier process may
    /// have answered them.
    pub(crate) fn new(most: usize, since: Timestamp) -> Self {
        Self { most, since, users: Cache::new(USERS), version: AtomicU64::new(1) }
    }

    /// Records that a user sees a friend's availability change.
    pub(crate) fn changed(&self, user: UserId, friend: UserId) {
        let Some(stations) = self.users.get(&user) else { return };
        let mut stations = lock(&stations);
        let version = self.next_version();
        for station in &mut stations.all {
            station.news.insert(friend, version);
        }
    }

    /// Starts to remember the news of a station. Returns whether its friends are still to be added.
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

    /// Remembers a poll. Returns `false` where it repeats a poll or is older than the newest one.
    pub(super) fn polled(&self, user: UserId, station: StationId, poll: &Poll) -> bool {
        self.at(user, station, |station| station.polled(poll)).unwrap_or(false)
    }

    /// Adds all friends to the news of a station, unless another request has done so meanwhile.
    pub(super) fn add(&self, user: UserId, station: StationId, friends: &[UserId]) {
        self.at(user, station, |station| {
            if !std::mem::replace(&mut station.has_friends, true) {
                let version = self.next_version();
                for friend in friends {
                    station.news.entry(*friend).or_insert(version);
                }
            }
        });
    }

    /// Returns all news, and their newest version.
    pub(super) fn news(&self, user: UserId, station: StationId) -> (BTreeSet<UserId>, u64) {
        self.at(user, station, |station| station.news_behind(0)).unwrap_or_default()
    }

    /// Returns the news after a version, to be sent with this change number, and the newest version of all.
    ///
    /// Returns `None` where this number, or a later one, was already sent without some of them. Acknowledging it must
    /// not acknowledge these, so the caller takes a new number.
    pub(super) fn send(
        &self,
        user: UserId,
        station: StationId,
        number: i64,
        behind: u64,
    ) -> Option<(BTreeSet<UserId>, u64)> {
        let sent = self.at(user, station, |station| {
            let (news, version) = station.news_behind(behind);
            // This number may have been sent before the restart, without any of these news.
            let (last, last_version) = station.sent.back().copied().unwrap_or((number, 0));
            if station.sent.is_empty() {
                station.sent.push_back((number, 0));
            }
            if number < last || (number == last && station.newest() > last_version) {
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
        // A forgotten station has no news here; its next read tells it of every friend.
        sent.unwrap_or_else(|| Some((BTreeSet::new(), behind)))
    }

    /// Removes the news that were sent with this change number or an earlier one.
    pub(super) fn acknowledged(&self, user: UserId, station: StationId, number: i64) {
        self.at(user, station, |station| {
            let known = station.sent.iter().filter(|(sent, _)| *sent <= number);
            if let Some(version) = known.map(|(_, version)| *version).max() {
                station.news.retain(|_, newer| *newer > version);
            }
        });
    }

    /// Removes the news up to this version.
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

    fn next_version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::Relaxed)
    }
}

/// Returns the first 64 bits of a signature.
fn number_of(signature: &Signature) -> u64 {
    u64::from_str_radix(&signature.as_str()[..16], 16).expect("hexadecimal characters")
}

fn lock(stations: &Mutex<Stations>) -> MutexGuard<'_, Stations> {
    // A panic leaves no half-made change behind this lock.
    stations.lock().unwrap_or_else(PoisonError::into_inner)
}
