//! Notifications: what a station is still to be told, and the position up to which it was told. Changes are in the
//! store. Only friends' availability is not stored: its changes are kept in memory for each station.

mod positions;
mod presence_feed;
mod sequence;

use std::collections::BTreeSet;

use crate::domain::{ApiKey, ConversationId, Replay, StationId, Subject, Timestamp, UserId};
use crate::envelope::Reply;
use crate::store::{self, Changes, News, Pending, PendingQuery, Store, WireText, WriteError};

pub use positions::Positions;
pub(crate) use presence_feed::PresenceFeed;
pub use sequence::Sequence;

/// A notification for a station (docs/protocol.md#11-notifications): what has changed, each thing once, never how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    user: UserId,
    /// Friends who came, went or changed.
    friends: BTreeSet<UserId>,
    /// JSON strings, separated by commas.
    conversations: WireText,
    /// Whether the list of conversations changed.
    lists: bool,
    /// Sequence number that acknowledges this notification and everything before it.
    pub(crate) sequence: Sequence,
    pub(crate) watermark: Watermark,
}

/// Position up to which a station was told: a change number of the store, and a version of the presence feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    number: i64,
    version: u64,
}

impl Notification {
    pub(crate) fn is_empty(&self) -> bool {
        self.friends.is_empty() && self.conversations.is_empty() && !self.lists
    }

    /// Appends the three arrays of changes to a reply.
    pub(crate) fn on(&self, reply: Reply) -> Reply {
        let friends: Vec<_> = self.friends.iter().map(UserId::as_str).collect();
        let lists = if self.lists { vec![self.user.as_str()] } else { Vec::new() };
        reply
            .with("friendavailabilitesof", &friends)
            .with_entries("conversationchangedof", &self.conversations)
            .with("conversationlistchangedof", &lists)
    }
}

/// A request without acknowledgement: everything in its answer counts as delivered.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    /// Identifies the request, so that a replay of it takes nothing.
    pub(crate) replay: Replay,
    pub(crate) timestamp: Timestamp,
    pub(crate) now: Timestamp,
}

/// The pending notifications of a user's station.
#[derive(Clone, Copy)]
pub struct Inbox<'a> {
    /// Stored changes.
    pub store: &'a Store,
    /// Availability changes, which are not stored.
    pub presence_feed: &'a PresenceFeed,
    /// Acknowledged positions that are not saved yet.
    pub positions: &'a Positions,
    /// The user who owns the station.
    pub user: UserId,
    /// The station that is told.
    pub station: StationId,
}

impl Inbox<'_> {
    /// Returns what is pending and advances the station's position past it, unless the poll is a replay or older than
    /// another one. `None` where the station is not bound.
    pub(crate) async fn take(&self, poll: &Poll) -> Result<Option<Notification>, store::Error> {
        let Some(mut pending) = self.read(None).await? else {
            return Ok(None);
        };
        let mut is_first = self.presence_feed.polled(self.user, self.station, poll);
        if is_first && (pending.position.is_none() || !pending.is_empty()) {
            let query = PendingQuery { all_friends: false, ..self.query(None) };
            match self.store.take_pending(query, poll.replay).await {
                Ok(Some(taken)) => pending = taken,
                Ok(None) => return Ok(None),
                Err(WriteError::Refused(_)) => is_first = false,
                Err(WriteError::Failed(error)) => return Err(error),
            }
        } else if is_first && (poll.timestamp > poll.now || self.store.has_nodes()) {
            // After a restart, a poll stamped in the future could pass for a new one, and at another node any poll could.
            // So its signature is stored.
            self.store.record_meanwhile(poll.replay);
        }
        let (news, version) = self.presence_feed.news(self.user, self.station);
        if is_first {
            self.presence_feed.forget_news(self.user, self.station, version);
        }
        Ok(Some(self.notification(pending, news, version)))
    }

    /// Returns what is pending behind `delivered`, which this connection was sent already, and the user's current key.
    /// Changes stay pending until they are acknowledged. `None` where the station is not bound.
    ///
    /// # Errors
    ///
    /// [`store::Error`] where the store failed.
    pub async fn peek(
        &self,
        delivered: Option<Watermark>,
    ) -> Result<Option<(ApiKey, Notification)>, store::Error> {
        let behind = delivered.map_or(0, |delivered| delivered.version);
        loop {
            let Some(pending) = self.read(delivered).await? else {
                return Ok(None);
            };
            let sent = self.presence_feed.send(self.user, self.station, pending.newest, behind);
            if let Some((news, version)) = sent {
                let api_key = pending.api_key.clone();
                return Ok(Some((api_key, self.notification(pending, news, version))));
            }
            self.store.take_number(self.user).await?;
        }
    }

    /// Returns what a connection that was sent everything up to `delivered` is to be told, without a read. `None` where
    /// the news do not say it all: then [`Self::peek`] does.
    pub(crate) fn notification_from(
        &self,
        delivered: Watermark,
        news: &News,
    ) -> Option<Notification> {
        let (newest, subjects) = match news {
            News::Changes(Changes { newest, .. }) | News::UpTo(newest)
                if *newest <= delivered.number =>
            {
                (delivered.number, Vec::new())
            }
            News::Changes(changes) if changes.behind == delivered.number => {
                (changes.newest, changes.subjects_for(self.station).collect())
            }
            _ => return None,
        };
        if self.presence_feed.begin(self.user, self.station) {
            // The station is to be told of every friend, which takes a read.
            return None;
        }
        let (friends, version) =
            self.presence_feed.send(self.user, self.station, newest, delivered.version)?;
        let mut told = Notification { friends, ..self.empty(newest, version) };
        let mut conversations = Vec::new();
        for subject in subjects {
            match subject {
                Subject::Conversation(id) => conversations.push(id),
                Subject::Friend(id) => drop(told.friends.insert(id)),
                Subject::Lists => told.lists = true,
            }
        }
        told.conversations = strings(&conversations);
        Some(told)
    }

    /// Advances the station's position to this sequence number, if it was sent to this station.
    pub(crate) async fn acknowledge(&self, sequence: Sequence) -> Result<(), store::Error> {
        let Some(number) = sequence.number(&self.store.epoch(), self.user, self.station) else {
            return Ok(());
        };
        self.presence_feed.acknowledged(self.user, self.station, number);
        if self.store.is_news(self.user, self.station, number).await? {
            self.store.acknowledge(self.user, self.station, number).await?;
        }
        Ok(())
    }

    /// Advances the station's position past a notification that was just sent. The store is told a moment later.
    pub(crate) fn acknowledge_sent(&self, sequence: Sequence) {
        let epoch = self.store.epoch();
        if let Some(number) = sequence.number(&epoch, self.user, self.station) {
            self.presence_feed.acknowledged(self.user, self.station, number);
            self.positions.advance(self.user, self.station, number, &epoch);
        }
    }

    /// Reads what is pending in the store. A station that the presence feed does not know yet is told of every friend.
    async fn read(&self, delivered: Option<Watermark>) -> Result<Option<Pending>, store::Error> {
        let query = self.query(delivered);
        let pending = self.store.pending(&query).await?;
        if let Some(pending) = &pending
            && query.all_friends
        {
            self.presence_feed.add(self.user, self.station, &pending.all_friends);
        }
        Ok(pending)
    }

    fn query(&self, delivered: Option<Watermark>) -> PendingQuery {
        let unsaved = self.positions.unsaved_of(self.user, self.station, &self.store.epoch());
        PendingQuery {
            user: self.user,
            station: self.station,
            delivered_up_to: delivered.map(|delivered| delivered.number).max(unsaved),
            // The presence feed records changes from here on, so none is lost while the friends are read.
            all_friends: self.presence_feed.begin(self.user, self.station),
        }
    }

    fn notification(&self, pending: Pending, news: BTreeSet<UserId>, version: u64) -> Notification {
        let mut friends = news;
        friends.extend(pending.friends);
        friends.extend(pending.all_friends);
        let (conversations, lists) = (pending.conversations, pending.lists);
        Notification { friends, conversations, lists, ..self.empty(pending.newest, version) }
    }

    fn empty(&self, number: i64, version: u64) -> Notification {
        Notification {
            user: self.user,
            friends: BTreeSet::new(),
            conversations: WireText::default(),
            lists: false,
            sequence: Sequence::of(&self.store.epoch(), number, self.user, self.station),
            watermark: Watermark { number, version },
        }
    }
}

/// Returns JSON strings, separated by commas.
fn strings(conversations: &[ConversationId]) -> WireText {
    let strings: Vec<_> = conversations.iter().map(|id| format!("\"{}\"", id.as_str())).collect();
    strings.join(",").into_bytes()
}
