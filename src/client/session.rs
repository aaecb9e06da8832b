//! What a user does: find a conversation, send, and read.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::payload::{self, OpenError, Place};
use super::wire::{Message, Page};
use super::{Api, Conversation, Credentials, Error, Friend, PrivateKey, Profile, Requests};
use crate::clock::Clock;
use crate::domain::{ApiKey, ConversationId, Instance, MessageId, Parse, StationId, UserId};
use crate::keys::{ConversationSecret, EncryptionPassword};

/// The cursor of the reports, which these pages leave out.
const NO_REPORTS: &str = "9999-12-31 23:59:59";

/// A user who has logged in.
pub struct Session {
    /// The server.
    pub api: Api,
    /// The user and the device.
    pub credentials: Credentials,
    key: PrivateKey,
}

/// A message as this client read it.
#[derive(Clone, Debug)]
pub struct Received {
    /// The message ID, as the server returns it.
    pub id: MessageId,
    /// The sender's date.
    pub created: String,
    /// The user id of the sender, as the server names it.
    pub sender: Option<UserId>,
    /// The text, if the message opens and names the sender that the server names.
    pub text: Result<String, OpenError>,
}

/// A place in a conversation from which reading goes on.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// ID of the last message that was read; empty for none.
    pub(super) id: String,
    /// The server's date of the last read. It decides if the server does not know the ID, as after a restore.
    pub(super) date: String,
}

impl Session {
    /// Logs in and returns what a profile keeps.
    ///
    /// # Errors
    ///
    /// [`Error`], also if the password does not open the private key.
    pub async fn log_in(
        url: Url,
        api_key: &ApiKey,
        password: &EncryptionPassword,
        station: StationId,
    ) -> Result<Profile, Error> {
        let api = Api::new(url, Clock::system())?;
        let login = api.login(station, api_key).await?;
        PrivateKey::open(&login.rsakey, password)?;
        Ok(Profile {
            url: api.url().to_string(),
            userid: login.userid,
            nick: login.nick,
            stationid: station.as_str().to_owned(),
            apikey: api_key.as_str().to_owned(),
            encryptionpassword: password.as_str().to_owned(),
            rsakey: login.rsakey,
        })
    }

    /// Opens a session with the keys of a profile. Makes no request.
    ///
    /// # Errors
    ///
    /// [`Error::Profile`] or [`Error::Key`].
    pub fn of(profile: &Profile, path: &Path) -> Result<Self, Error> {
        Ok(Self {
            api: Api::new(profile.url(path)?, Clock::system())?,
            credentials: profile.credentials(path)?,
            key: PrivateKey::open(&profile.rsakey, &profile.password(path)?)?,
        })
    }

    /// Returns the user.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.credentials.user
    }

    /// Makes a signed request.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn call(&self, api: &str, fields: &Value) -> Result<Value, Error> {
        self.api.call(&self.credentials, api, fields).await
    }

    /// Returns all conversations, those with the newest messages first.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn conversations(&self) -> Result<Vec<Conversation>, Error> {
        let list = json!({ "action": "list", "extended": true });
        field(self.call("chatconversation", &list).await?, "conversations")
    }

    /// Returns the friends and their availability.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn friends(&self) -> Result<Vec<Friend>, Error> {
        let list = json!({ "action": "list" });
        field(self.call("chatfriends", &list).await?, "availabilities")
    }

    /// Returns the open friend requests.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn friend_requests(&self) -> Result<Requests, Error> {
        let requests = self.call("chatfriends", &json!({ "action": "requests" })).await?;
        Requests::deserialize(requests).map_err(|error| Error::Answer(error.to_string()))
    }

    /// Finds the conversation with this id, or with the user of this e-mail address, user id or nick.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none, or more than one user has the nick.
    pub async fn conversation(&self, name: &str) -> Result<Conversation, Error> {
        let me = self.user();
        let user = UserId::named(name);
        let mut found = self.conversations().await?;
        found.retain(|conversation| {
            let Some(other) = conversation.other_than(me.as_str()) else { return false };
            conversation.id == name
                || user.is_some_and(|user| user.as_str() == other.userid)
                || other.username == name
        });
        let conversation = found.pop();
        let conversation = conversation
            .ok_or_else(|| Error::NotFound(format!("there is no conversation with {name}")))?;
        if found.is_empty() {
            return Ok(conversation);
        }
        let sentence = format!("more than one user is called {name}: give the e-mail address");
        Err(Error::NotFound(sentence))
    }

    /// Sends a text to the current instance of a conversation. Without an `id` it makes one. Returns the message ID.
    ///
    /// # Errors
    ///
    /// [`Error`]. `instance_changed` means that the conversation was cleared meanwhile: the message is not sent.
    pub async fn send(
        &self,
        conversation: &Conversation,
        text: &str,
        id: Option<MessageId>,
    ) -> Result<MessageId, Error> {
        let id = id.unwrap_or_else(new_id);
        let place = place(conversation, &id)?;
        let data = payload::seal(&self.secret(conversation)?, &place, self.user(), text);
        let message = json!({
            "ID": id.as_str(), "Type": "Message", "Created": self.api.now(), "ValidUntil": "", "Data": data,
        });
        let add = json!({
            "action": "add", "conversationid": conversation.id, "instance": conversation.instance,
            "message": message,
        });
        self.call("chatconversation", &add).await?;
        Ok(id)
    }

    /// Returns the newest messages, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn newest(
        &self,
        conversation: &Conversation,
        limit: u32,
    ) -> Result<Vec<Received>, Error> {
        let newest = json!({
            "action": "downloadpartial", "lastmessageid": "", "lastmessagedate": "",
            "lastreportdate": "0000-01-01 00:00:00", "limit": limit,
        });
        let messages = self.page(conversation, newest).await?.messages.into_iter();
        let secret = self.secret(conversation)?;
        Ok(messages.filter_map(|message| read(conversation, &secret, message)).collect())
    }

    /// Returns all messages behind one. The ID must be one of this instance.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the conversation has no such message.
    pub async fn since(
        &self,
        conversation: &Conversation,
        id: &str,
    ) -> Result<Vec<Received>, Error> {
        let cursor = Cursor { id: id.to_owned(), date: NO_REPORTS.to_owned() };
        let mut received = Vec::new();
        self.read_behind(conversation, cursor, async |message| {
            received.push(message);
            Ok(())
        })
        .await?
        .then_some(received)
        .ok_or_else(|| Error::NotFound(format!("the conversation has no message {id}")))
    }

    /// Hands over each message behind a cursor, page by page. Returns whether the server knew the cursor's ID.
    pub(super) async fn read_behind(
        &self,
        conversation: &Conversation,
        cursor: Cursor,
        mut handle: impl AsyncFnMut(Received) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let secret = self.secret(conversation)?;
        let Cursor { mut id, mut date } = cursor;
        let mut is_known = None;
        loop {
            let download = json!({
                "action": "download", "firstmessageid": id, "firstmessagedate": date,
                "firstreportid": "", "firstreportdate": NO_REPORTS,
            });
            let page = self.page(conversation, download).await?;
            let mut messages = page.messages.into_iter().peekable();
            // A page from a known cursor begins with the cursor's own message.
            let own = messages.next_if(|message| message.id == id);
            is_known.get_or_insert(own.is_some());
            for message in messages {
                id.clone_from(&message.id);
                if let Some(received) = read(conversation, &secret, message) {
                    handle(received).await?;
                }
            }
            if !page.more {
                return Ok(is_known.unwrap_or(false));
            }
            date.clear();
        }
    }

    /// Reports messages as viewed. The server skips the caller's own.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn viewed(
        &self,
        conversation: &Conversation,
        ids: &[MessageId],
    ) -> Result<(), Error> {
        for ids in ids.chunks(1000) {
            let ids: Vec<_> = ids.iter().map(MessageId::as_str).collect();
            let viewed = json!({
                "action": "viewed", "conversationid": conversation.id,
                "instance": conversation.instance, "messageids": ids,
            });
            self.call("chatreports", &viewed).await?;
        }
        Ok(())
    }

    async fn page(&self, conversation: &Conversation, mut fields: Value) -> Result<Page, Error> {
        fields["conversationid"] = conversation.id.as_str().into();
        fields["instance"] = conversation.instance.as_str().into();
        // So that the server names each sender.
        fields["extended"] = true.into();
        let page = self.call("chatconversation", &fields).await?;
        Page::deserialize(page).map_err(|error| Error::Answer(error.to_string()))
    }

    fn secret(&self, conversation: &Conversation) -> Result<ConversationSecret, Error> {
        Ok(self.key.conversation_secret(&conversation.secret)?)
    }
}

/// Returns a random message ID.
fn new_id() -> MessageId {
    MessageId::parse(&Uuid::new_v4().to_string()).expect("a UUID is a message ID")
}

fn place<'a>(conversation: &Conversation, id: &'a MessageId) -> Result<Place<'a>, Error> {
    let malformed = || Error::Answer("a conversation has a malformed id or instance".to_owned());
    Ok(Place {
        conversation: ConversationId::parse(&conversation.id).ok_or_else(malformed)?,
        instance: Instance::parse(&conversation.instance).ok_or_else(malformed)?,
        id,
    })
}

/// Opens a message. Returns `None` if its ID is none: a server returns no such message.
fn read(
    conversation: &Conversation,
    secret: &ConversationSecret,
    message: Message,
) -> Option<Received> {
    let id = MessageId::parse(&message.id)?;
    let sender = message.user_id.as_deref().and_then(UserId::parse);
    let text = match (sender, place(conversation, &id)) {
        (Some(sender), Ok(place)) => payload::open_from(secret, &place, &message.data, sender),
        _ => Err(OpenError::Sender),
    };
    Some(Received { id, created: message.created, sender, text })
}

/// Reads one field of an envelope.
fn field<T: DeserializeOwned>(mut envelope: Value, name: &str) -> Result<T, Error> {
    let value = envelope.get_mut(name).map(Value::take).unwrap_or_default();
    T::deserialize(value).map_err(|error| Error::Answer(format!("{name}: {error}")))
}
