//! What a user has not read yet: waits for the listener's hints, and hands over each new message once.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::backoff::Backoff;
use super::profile::{self, ProfileError};
use super::session::Cursor;
use super::{Conversation, Credentials, Error, Listener, Received, Session};

/// How far each conversation was read, by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions(BTreeMap<String, Position>);

/// How far one conversation was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    instance: String,
    /// ID of the last message that was read; empty for none.
    id: String,
    /// The server's date of that read.
    date: String,
}

impl Positions {
    /// Reads a file of positions; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`ProfileError`].
    pub fn load(path: &Path) -> Result<Option<Self>, ProfileError> {
        profile::read(path)
    }

    /// Writes the file, with mode 0600.
    ///
    /// # Errors
    ///
    /// [`ProfileError`].
    pub fn save(&self, path: &Path) -> Result<(), ProfileError> {
        profile::write(path, self)
    }

    /// Returns the newest message of each conversation: everything so far counts as read.
    #[must_use]
    pub fn at_the_end(conversations: &[Conversation], now: &str) -> Self {
        let mut positions = Self::default();
        for conversation in conversations {
            positions.record(conversation, &conversation.lastmessageid, now);
        }
        positions
    }

    /// Records that a conversation was read up to a message. An empty ID stands for an empty conversation: everything in it
    /// is new, whatever the date, because a message may have been accepted before this second and committed since.
    pub fn record(&mut self, conversation: &Conversation, id: &str, now: &str) {
        let Conversation { instance, .. } = conversation;
        let now = if id.is_empty() { "" } else { now };
        let (instance, id, date) = (instance.clone(), id.to_owned(), now.to_owned());
        self.0.insert(conversation.id.clone(), Position { instance, id, date });
    }

    /// Returns where reading goes on, or `None` if nothing is new. A cleared conversation is read from its beginning.
    fn cursor(&self, conversation: &Conversation) -> Option<Cursor> {
        let position = self.0.get(&conversation.id);
        let position = position.filter(|position| position.instance == conversation.instance);
        let cursor = position.map_or_else(Cursor::default, |position| Cursor {
            id: position.id.clone(),
            date: position.date.clone(),
        });
        (cursor.id != conversation.lastmessageid).then_some(cursor)
    }
}

/// New messages of a session.
pub struct Inbox<'a> {
    session: &'a Session,
    listener: Listener<'a>,
    /// Sequence number of the notification that is being read.
    unacknowledged: Option<u64>,
    /// How far each conversation was read.
    pub positions: Positions,
    /// The only conversation to read; `None` for all.
    pub only: Option<String>,
}

impl<'a> Inbox<'a> {
    /// Prepares an inbox that goes on at these positions. The credentials have the station that listens.
    #[must_use]
    pub fn new(session: &'a Session, credentials: Credentials, positions: Positions) -> Self {
        let listener = Listener::new(&session.api, credentials);
        Self { session, listener, unacknowledged: None, positions, only: None }
    }

    /// Hands over each new message, and goes on until a failure. A message whose handling fails comes again. So does one
    /// whose position was recorded in memory alone.
    ///
    /// # Errors
    ///
    /// [`Error`], which is never one that may pass.
    pub async fn run(
        &mut self,
        mut handle: impl AsyncFnMut(&Conversation, Received, &mut Positions) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            // Also before the first notification: the hints of this station may have been acknowledged by an earlier run.
            self.read_patiently(&mut handle).await?;
            if let Some(sequence) = self.unacknowledged.take() {
                self.listener.acknowledge(sequence).await;
            }
            self.unacknowledged = Some(self.listener.next().await?.sequence);
        }
    }

    /// Reads until it succeeds, while the server is away or a conversation is cleared under the reader.
    async fn read_patiently(
        &mut self,
        handle: &mut impl AsyncFnMut(&Conversation, Received, &mut Positions) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        loop {
            match self.read_news(handle).await {
                Err(error) if error.may_pass() || error.is("instance_changed") => {
                    sleep(backoff.next()).await;
                }
                read => return read,
            }
        }
    }

    async fn read_news(
        &mut self,
        handle: &mut impl AsyncFnMut(&Conversation, Received, &mut Positions) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for conversation in self.session.conversations().await? {
            if self.only.as_ref().is_some_and(|only| *only != conversation.id) {
                continue;
            }
            let Some(cursor) = self.positions.cursor(&conversation) else { continue };
            let session = self.session;
            let all = &mut self.positions;
            session
                .read_behind(&conversation, cursor, async |received| {
                    let id = received.id.clone();
                    // Recorded first: the handler may save the positions.
                    let before = all.0.get(&conversation.id).cloned();
                    all.record(&conversation, id.as_str(), &session.api.now());
                    let handled = handle(&conversation, received, all).await;
                    if handled.is_err() {
                        match before {
                            Some(before) => all.0.insert(conversation.id.clone(), before),
                            None => all.0.remove(&conversation.id),
                        };
                    }
                    handled
                })
                .await?;
        }
        Ok(())
    }
}
