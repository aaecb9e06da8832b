//! Notifications: what a station is to be told of, and how far it has been told. What has changed stands in the
//! store; of friends' availability alone, which is not stored, each station's news are kept in memory.

mod presence_feed;
mod sequence;

use std::collections::BTreeSet;

use crate::domain::{ApiKey, Replay, StationId, Timestamp, UserId};
use crate::envelope::Reply;
use crate::store::{self, Pending, PendingQuery, Store, WireText, WriteError};

pub use presence_feed::PresenceFeed;
pub use sequence::Sequence;

/// What a station is told (docs/protocol.md#11-notifications): what has changed, each thing once, never how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    user: UserId,
    /// Friends who came, went or changed.
    friends: BTreeSet<UserId>,
    /// JSON strings, separated by commas.
    conversations: WireText,
    lists: bool,
    /// The key that the user signs with at this moment.
    pub api_key: ApiKey,
    /// What acknowledges this, and everything before it.
    pub sequence: Sequence,
    /// How far this goes.
    pub watermark: Watermark,
}

/// How far a station has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    number: i64,
    version: u64,
}

impl Notification {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.friends.is_empty() && self.conversations.is_empty() && !self.lists
    }

    /// Goes on with the three arrays.
    pub(crate) fn on(&self, reply: Reply) -> Reply {
        let friends: Vec<_> = self.friends.iter().map(UserId::as_str).collect();
        let lists = if self.lists { vec![self.user.as_str()] } else { Vec::new() };
        reply
            .with("friendavailabilitesof", &friends)
            .with_entries("conversationchangedof", &self.conversations)
            .with("conversationlistchangedof", &lists)
    }
}

/// A request that takes what it is answered for told.
#[derive(Clone, Debug)]
pub struct Poll {
    /// What is kept of it, as of a signed change.
    pub replay: Replay,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// The server's second.
    pub now: Timestamp,
}

/// A station of a user, and what it takes to say what it is to be told.
#[derive(Clone, Copy)]
pub struct Inbox<'a> {
    /// The store.
    pub store: &'a Store,
    /// What is not stored.
    pub presence_feed: &'a PresenceFeed,
    /// The user.
    pub user: UserId,
    /// The station.
    pub station: StationId,
}

impl Inbox<'_> {
    /// What there is to tell, which is taken for told, unless the poll is the same bytes again. `None` where the station is not
    /// bound.
    ///
    /// # Errors
    ///
    /// [`store::Error`] where it could not be read.
    pub async fn take(&self, poll: &Poll) -> Result<Option<Notification>, store::Error> {
        let Some(mut pending) = self.read(None).await? else {
            return Ok(None);
        };
        let mut is_first = self.presence_feed.polled(self.user, self.station, poll);
        if is_first && (pending.position.is_none() || !pending.is_empty()) {
            let Self { user, station, .. } = *self;
            let query = PendingQuery { user, station, delivered_up_to: None, all_friends: false };
            match self.store.take_pending(query, poll.replay).await {
                Ok(Some(taken)) => pending = taken,
                Ok(None) => return Ok(None),
                Err(WriteError::Refused(_)) => is_first = false,
                Err(WriteError::Failed(error)) => return Err(error),
            }
        } else if is_first && poll.timestamp > poll.now {
            // The one that could still pass for a new one after a restart.
            self.store.record_meanwhile(poll.replay);
        }
        let (news, version) = self.presence_feed.news(self.user, self.station);
        if is_first {
            self.presence_feed.forget_news(self.user, self.station, version);
        }
        Ok(Some(self.notification(pending, news, version)))
    }

    /// What there is to tell behind what the client has been told on this connection, if on any. It is told again
    /// until it is acknowledged. `None` where the station is not bound.
    ///
    /// # Errors
    ///
    /// [`store::Error`] where it could not be read.
    pub async fn peek(
        &self,
        delivered: Option<Watermark>,
    ) -> Result<Option<Notification>, store::Error> {
        let behind = delivered.map_or(0, |delivered| delivered.version);
        loop {
            let Some(pending) = self.read(delivered).await? else {
                return Ok(None);
            };
            let sent = self.presence_feed.send(self.user, self.station, pending.newest, behind);
            if let Some((news, version)) = sent {
                return Ok(Some(self.notification(pending, news, version)));
            }
            self.store.take_number(self.user).await?;
        }
    }

    /// Takes the station for told up to this sequence number, if it is one that was sent to it.
    ///
    /// # Errors
    ///
    /// [`store::Error`] where this could not be stored.
    pub async fn acknowledge(&self, sequence: Sequence) -> Result<(), store::Error> {
        let Some(number) = sequence.number(self.store.epoch(), self.user, self.station) else {
            return Ok(());
        };
        self.presence_feed.acknowledged(self.user, self.station, number);
        if self.store.is_news(self.user, self.station, number).await? {
            self.store.acknowledge(self.user, self.station, number).await?;
        }
        Ok(())
    }

    /// The same with what was just sent to it, a moment later where nothing else is to be stored.
    ///
    /// # Errors
    ///
    /// [`store::Error`] where this could not be stored.
    pub async fn acknowledge_sent(&self, sequence: Sequence) -> Result<(), store::Error> {
        let Some(number) = sequence.number(self.store.epoch(), self.user, self.station) else {
            return Ok(());
        };
        self.presence_feed.acknowledged(self.user, self.station, number);
        self.store.acknowledge_soon(self.user, self.station, number).await
    }

    /// Reads what the store has to tell. A station of which nothing is remembered is told of every friend.
    async fn read(&self, delivered: Option<Watermark>) -> Result<Option<Pending>, store::Error> {
        let asked = self.asked(delivered);
        let pending = self.store.pending(&asked).await?;
        if let Some(pending) = &pending
            && asked.all_friends
        {
            self.presence_feed.add(self.user, self.station, &pending.all_friends);
        }
        Ok(pending)
    }

    fn asked(&self, delivered: Option<Watermark>) -> PendingQuery {
        PendingQuery {
            user: self.user,
            station: self.station,
            delivered_up_to: delivered.map(|delivered| delivered.number),
            // From here on changes are remembered, so none is lost while the friends are read.
            all_friends: self.presence_feed.begin(self.user, self.station),
        }
    }

    fn notification(&self, pending: Pending, news: BTreeSet<UserId>, version: u64) -> Notification {
        let mut friends = news;
        friends.extend(pending.friends);
        friends.extend(pending.all_friends);
        Notification {
            user: self.user,
            friends,
            conversations: pending.conversations,
            lists: pending.lists,
            api_key: pending.api_key,
            sequence: Sequence::of(self.store.epoch(), pending.newest, self.user, self.station),
            watermark: Watermark { number: pending.newest, version },
        }
    }
}
