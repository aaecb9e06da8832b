//! A bot's or reader's inbox: waits for the listener's hints, and hands over each new message.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::backoff::Backoff;
use super::profile;
use super::session::Cursor;
use super::{Conversation, Credentials, Error, Listener, Notification, Received, Session};

/// Maximum conversations that are requested one by one. The list is one request for all.
const SHOWN: usize = 10;

/// How far one user on one server has read each conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    url: String,
    userid: String,
    /// By the id of the conversation.
    conversations: BTreeMap<String, Position>,
    /// The file; `None` for positions in memory alone.
    #[serde(skip)]
    path: Option<PathBuf>,
}

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
    /// Returns the positions of this user in memory: nothing was read.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        let (url, userid) = (session.api.url().to_string(), session.user().to_string());
        Self { url, userid, ..Self::default() }
    }

    /// Reads a file of positions. If there is none, or if it belongs to another user or server, everything so far counts as
    /// read, and the file is written.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn open(session: &Session, path: &Path) -> Result<Self, Error> {
        let mut positions = Self::of(session);
        let saved: Option<Self> = profile::read(path)?;
        let saved = saved
            .filter(|saved| (&saved.url, &saved.userid) == (&positions.url, &positions.userid));
        if let Some(saved) = saved {
            return Ok(Self { path: Some(path.to_owned()), ..saved });
        }
        positions.path = Some(path.to_owned());
        for conversation in session.conversations().await? {
            positions.record(&conversation, &conversation.lastmessageid, &session.api.now());
        }
        positions.save()?;
        Ok(positions)
    }

    /// Writes the file, with mode 0600. Does nothing for positions in memory.
    ///
    /// # Errors
    ///
    /// [`Error::Profile`].
    pub fn save(&self) -> Result<(), Error> {
        if let Some(path) = &self.path {
            profile::write(path, self)?;
        }
        Ok(())
    }

    /// Records that a conversation was read up to a message. An empty ID stands for an empty conversation: everything in it
    /// is new, whatever the date, because a message may have been accepted before this second and committed since.
    pub fn record(&mut self, conversation: &Conversation, id: &str, now: &str) {
        let Conversation { instance, .. } = conversation;
        let now = if id.is_empty() { "" } else { now };
        let (instance, id, date) = (instance.clone(), id.to_owned(), now.to_owned());
        self.conversations.insert(conversation.id.clone(), Position { instance, id, date });
    }

    /// Returns where reading goes on, or `None` if nothing is new. A cleared conversation is read from its beginning.
    fn cursor(&self, conversation: &Conversation) -> Option<Cursor> {
        let position = self.conversations.get(&conversation.id);
        let position = position.filter(|position| position.instance == conversation.instance);
        let cursor = position.map_or_else(Cursor::default, |position| Cursor {
            id: position.id.clone(),
            date: position.date.clone(),
        });
        (cursor.id != conversation.lastmessageid).then_some(cursor)
    }
}

/// When the position behind a handled message is saved. Each time costs two fsyncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Save {
    /// At once: handling the message again would do harm.
    Now,
    /// With the other messages of the page.
    WithPage,
}

/// Conversations that may have new messages.
enum Scope {
    All,
    These(Vec<String>),
}

/// New messages of a session.
pub struct Inbox<'a> {
    session: &'a Session,
    listener: Listener<'a>,
    /// Number of the subscription that the last notification came from.
    subscription: u64,
    /// Whether a position was recorded since the last save.
    is_unsaved: bool,
    /// Conversations whose key can't be opened.
    unreadable: BTreeSet<String>,
    /// How far each conversation was read.
    pub positions: Positions,
    /// The only conversation to read; `None` for all.
    pub only: Option<String>,
    /// Is told of a conversation that is skipped because its key can't be opened, once for each, and of the begin and end
    /// of each time without an answer of the server.
    pub warn: fn(&str),
}

impl<'a> Inbox<'a> {
    /// Prepares an inbox that goes on at these positions. The credentials have the station that listens.
    #[must_use]
    pub fn new(session: &'a Session, credentials: Credentials, positions: Positions) -> Self {
        Self {
            session,
            listener: Listener::new(&session.api, credentials),
            subscription: 0,
            is_unsaved: false,
            unreadable: BTreeSet::new(),
            positions,
            only: None,
            warn: |_| (),
        }
    }

    /// Hands over each new message, and goes on until a failure. A message whose handling fails comes again. If the future
    /// is dropped, [`Self::positions`] are those of the messages that were handled.
    ///
    /// # Errors
    ///
    /// [`Error`], which is never one that may pass.
    pub async fn run(
        &mut self,
        mut handle: impl AsyncFnMut(&Conversation, Received) -> Result<Save, Error>,
    ) -> Result<(), Error> {
        self.listener.outage.warn = self.warn;
        // Also before the first notification: the hints of this station may have been acknowledged by an earlier run.
        let mut scope = Scope::All;
        let mut unacknowledged = None;
        loop {
            self.read_patiently(&scope, &mut handle).await?;
            if let Some(sequence) = unacknowledged {
                self.listener.acknowledge(sequence).await;
            }
            let notification = self.listener.next().await?;
            unacknowledged = Some(notification.sequence);
            scope = self.scope_of(notification);
        }
    }

    /// Returns the conversations that a notification names; all if the list has changed, and after each subscription.
    fn scope_of(&mut self, notification: Notification) -> Scope {
        let subscription = mem::replace(&mut self.subscription, self.listener.subscriptions);
        let Notification { conversationchangedof: named, conversationlistchangedof, .. } =
            notification;
        let is_new = subscription != self.subscription;
        if is_new || !conversationlistchangedof.is_empty() || named.len() > SHOWN {
            return Scope::All;
        }
        Scope::These(named)
    }

    /// Reads until it succeeds, while the server is away or a conversation is cleared under the reader.
    async fn read_patiently(
        &mut self,
        scope: &Scope,
        handle: &mut impl AsyncFnMut(&Conversation, Received) -> Result<Save, Error>,
    ) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        loop {
            let read = self.read_scope(scope, handle).await;
            self.save()?;
            match read {
                Err(error) if error.may_pass() => {
                    self.listener.outage.begins(&error);
                    sleep(backoff.next()).await;
                }
                Err(error) if error.is("instance_changed") => sleep(backoff.next()).await,
                read => return read,
            }
        }
    }

    async fn read_scope(
        &mut self,
        scope: &Scope,
        handle: &mut impl AsyncFnMut(&Conversation, Received) -> Result<Save, Error>,
    ) -> Result<(), Error> {
        for conversation in self.conversations(scope).await? {
            match self.read_conversation(&conversation, handle).await {
                // It must not keep the others from being read.
                Err(Error::Key(error)) => self.skip(&conversation, &error.to_string()),
                // It is gone since the list was read.
                Err(error) if error.is("conversation_not_found") => {}
                read => read?,
            }
        }
        Ok(())
    }

    fn skip(&mut self, conversation: &Conversation, problem: &str) {
        if self.unreadable.insert(conversation.id.clone()) {
            (self.warn)(&format!("conversation {} is skipped: {problem}", conversation.id));
        }
    }

    async fn conversations(&self, scope: &Scope) -> Result<Vec<Conversation>, Error> {
        let ids: Vec<&String> = match (scope, &self.only) {
            (Scope::All, None) => return self.session.conversations().await,
            (Scope::All, Some(only)) => vec![only],
            (Scope::These(ids), only) => {
                ids.iter().filter(|id| only.as_ref().is_none_or(|only| only == *id)).collect()
            }
        };
        let mut conversations = Vec::with_capacity(ids.len());
        for id in ids {
            conversations.extend(self.session.show(id).await?);
        }
        Ok(conversations)
    }

    async fn read_conversation(
        &mut self,
        conversation: &Conversation,
        handle: &mut impl AsyncFnMut(&Conversation, Received) -> Result<Save, Error>,
    ) -> Result<(), Error> {
        let Some(cursor) = self.positions.cursor(conversation) else { return Ok(()) };
        let session = self.session;
        let mut pages = session.pages(conversation, cursor)?;
        while let Some(messages) = pages.next().await? {
            for message in messages {
                let id = message.id.clone();
                let save = handle(conversation, message).await?;
                self.positions.record(conversation, id.as_str(), &session.api.now());
                self.is_unsaved = true;
                if save == Save::Now {
                    self.save()?;
                }
            }
            self.save()?;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), Error> {
        if mem::take(&mut self.is_unsaved) { self.positions.save() } else { Ok(()) }
    }
}
