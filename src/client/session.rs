//! A user's session: finds conversations, sends, and reads.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;
use uuid::Uuid;

use super::payload::{self, MessageAddress, OpenError};
use super::wire::{Conversations, Friends, Message, Page, Shown};
use super::{Answer, Api, Conversation, Credentials, Error, Friend, PrivateKey, Profile, Requests};
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
    /// Logs in. Returns the session, and the profile that keeps it.
    ///
    /// # Errors
    ///
    /// [`Error`], also if the password does not open the private key.
    pub async fn log_in(
        url: Url,
        api_key: &ApiKey,
        password: &EncryptionPassword,
        station: StationId,
    ) -> Result<(Self, Profile), Error> {
        let api = Api::new(url, Clock::system())?;
        let login = api.login(station, api_key).await?;
        let key = PrivateKey::open(&login.rsakey, password)?;
        let user = UserId::parse(&login.userid);
        let user = user.ok_or_else(|| Error::Answer("userid is malformed".to_owned()))?;
        let profile = Profile {
            url: api.url().to_string(),
            userid: login.userid,
            nick: login.nick,
            stationid: station.as_str().to_owned(),
            apikey: api_key.as_str().to_owned(),
            encryptionpassword: password.as_str().to_owned(),
            rsakey: login.rsakey,
        };
        Ok((Self { api, credentials: Credentials::new(user, station, api_key), key }, profile))
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
    pub async fn call(&self, api: &str, fields: &Value) -> Result<Answer, Error> {
        self.api.call(&self.credentials, api, fields).await
    }

    /// Returns all conversations, those with the newest messages first.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn conversations(&self) -> Result<Vec<Conversation>, Error> {
        self.list(&json!({ "action": "list" })).await
    }

    /// Returns all conversations like [`Self::conversations`], each with its number of unread messages.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn conversations_with_unread(&self) -> Result<Vec<Conversation>, Error> {
        self.list(&json!({ "action": "list", "extended": true })).await
    }

    async fn list(&self, list: &Value) -> Result<Vec<Conversation>, Error> {
        let listed: Conversations = self.call("chatconversation", list).await?.parse()?;
        Ok(listed.conversations)
    }

    /// Returns the conversation with this id, or `None` if the user takes part in no such conversation.
    pub(super) async fn show(&self, id: &str) -> Result<Option<Conversation>, Error> {
        let show = json!({ "action": "show", "conversationid": id });
        match self.call("chatconversation", &show).await {
            Err(error) if error.is("conversation_not_found") => Ok(None),
            shown => Ok(Some(shown?.parse::<Shown>()?.conversation)),
        }
    }

    /// Returns the friends and their availability.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn friends(&self) -> Result<Vec<Friend>, Error> {
        let list = json!({ "action": "list" });
        let listed: Friends = self.call("chatfriends", &list).await?.parse()?;
        Ok(listed.availabilities)
    }

    /// Returns the open friend requests.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn friend_requests(&self) -> Result<Requests, Error> {
        self.call("chatfriends", &json!({ "action": "requests" })).await?.parse()
    }

    /// Finds the conversation with this id, or with the user of this e-mail address, user id or nick. A name with the form
    /// of an address or of an id is never a nick: another user may have chosen it as one.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none, or more than one user has the nick.
    pub async fn conversation(&self, name: &str) -> Result<Conversation, Error> {
        let not_found = || Error::NotFound(format!("there is no conversation with {name}"));
        if let Some(ids) = self.ids_of(name) {
            for id in ids {
                if let Some(conversation) = self.show(id.as_str()).await? {
                    return Ok(conversation);
                }
            }
            return Err(not_found());
        }
        let me = self.user();
        let mut found = self.conversations().await?;
        found.retain(|conversation| {
            let other = conversation.other_than(me.as_str());
            other.is_some_and(|other| other.username == name)
        });
        let conversation = found.pop().ok_or_else(not_found)?;
        if found.is_empty() {
            return Ok(conversation);
        }
        let sentence = format!("more than one user is called {name}: give the e-mail address");
        Err(Error::NotFound(sentence))
    }

    /// Returns the conversations that an address or an id may mean; `None` for a nick.
    fn ids_of(&self, name: &str) -> Option<Vec<ConversationId>> {
        let id = name.trim().to_ascii_lowercase();
        let user = UserId::parse(&id).or_else(|| UserId::named(name));
        let with_user = user.map(|user| ConversationId::one_to_one(self.user(), user));
        let ids: Vec<_> = ConversationId::parse(&id).into_iter().chain(with_user).collect();
        (!ids.is_empty() || name.contains('@')).then_some(ids)
    }

    /// Sends a text under an ID to the current instance of a conversation.
    ///
    /// # Errors
    ///
    /// [`Error`]. `instance_changed` means that the conversation was cleared meanwhile: the message is not sent.
    pub async fn send(
        &self,
        conversation: &Conversation,
        text: &str,
        id: &MessageId,
    ) -> Result<(), Error> {
        let address = address_of(conversation, id)?;
        let data = payload::seal(&self.secret(conversation)?, &address, self.user(), text);
        let message = json!({
            "ID": id.as_str(), "Type": "Message", "Created": self.api.now(), "ValidUntil": "", "Data": data,
        });
        let add = json!({
            "action": "add", "conversationid": conversation.id, "instance": conversation.instance,
            "message": message,
        });
        self.call("chatconversation", &add).await.map(drop)
    }

    /// Sends the answer to a message. Its ID follows from the message, so the server stores one answer, whatever crashes.
    ///
    /// # Errors
    ///
    /// [`Error`]. See [`Error::refuses_message`].
    pub async fn answer(
        &self,
        conversation: &Conversation,
        message: &MessageId,
        text: &str,
    ) -> Result<(), Error> {
        let Conversation { id, instance, .. } = conversation;
        let id = MessageId::parse(&derived_id(&["answer", id, instance, message.as_str()]));
        let id = id.expect("hexadecimal characters are a message ID");
        match self.send(conversation, text, &id).await {
            // An earlier attempt, or an earlier run, has sent it.
            Err(error) if error.is("message_conflict") => Ok(()),
            sent => sent,
        }
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
        Ok(messages
            .filter_map(|message| read(conversation, &secret, self.user(), message))
            .collect())
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
        let mut pages = self.pages(conversation, cursor)?;
        let mut received = Vec::new();
        while let Some(messages) = pages.next().await? {
            received.extend(messages);
        }
        if pages.is_known == Some(true) {
            return Ok(received);
        }
        Err(Error::NotFound(format!("the conversation has no message {id}")))
    }

    /// Prepares to read the messages behind a cursor.
    pub(super) fn pages<'a>(
        &'a self,
        conversation: &'a Conversation,
        cursor: Cursor,
    ) -> Result<Pages<'a>, Error> {
        let secret = self.secret(conversation)?;
        Ok(Pages { session: self, conversation, secret, cursor, is_known: None, more: true })
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
        self.call("chatconversation", &fields).await?.parse()
    }

    fn secret(&self, conversation: &Conversation) -> Result<ConversationSecret, Error> {
        Ok(self.key.conversation_secret(&conversation.secret)?)
    }
}

/// The messages behind a cursor, page by page.
pub(super) struct Pages<'a> {
    session: &'a Session,
    conversation: &'a Conversation,
    secret: ConversationSecret,
    cursor: Cursor,
    /// Whether the server knew the ID of the first cursor; `None` before the first page.
    is_known: Option<bool>,
    more: bool,
}

impl Pages<'_> {
    /// Returns the next page, or `None` behind the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Received>>, Error> {
        if !self.more {
            return Ok(None);
        }
        let download = json!({
            "action": "download", "firstmessageid": self.cursor.id, "firstmessagedate": self.cursor.date,
            "firstreportid": "", "firstreportdate": NO_REPORTS,
        });
        let page = self.session.page(self.conversation, download).await?;
        let mut messages = page.messages.into_iter().peekable();
        // A page from a known cursor begins with the cursor's own message.
        let own = messages.next_if(|message| message.id == self.cursor.id);
        self.is_known.get_or_insert(own.is_some());
        let messages: Vec<_> = messages.collect();
        if let Some(last) = messages.last() {
            self.cursor = Cursor { id: last.id.clone(), date: String::new() };
        } else if page.more {
            // The same page would come for ever.
            return Err(Error::Answer("a page without new messages announces more".to_owned()));
        }
        self.more = page.more;
        let opened = messages.into_iter();
        let opened = opened.filter_map(|message| {
            read(self.conversation, &self.secret, self.session.user(), message)
        });
        Ok(Some(opened.collect()))
    }
}

/// Returns a random message ID.
#[must_use]
pub fn new_message_id() -> MessageId {
    MessageId::parse(&Uuid::new_v4().to_string()).expect("a UUID is a message ID")
}

/// Returns 32 hexadecimal characters of a digest: an ID that is the same in each run.
#[must_use]
pub fn derived_id(parts: &[&str]) -> String {
    hex::encode(&Sha256::digest(parts.join("\n"))[..16])
}

fn address_of<'a>(
    conversation: &Conversation,
    id: &'a MessageId,
) -> Result<MessageAddress<'a>, Error> {
    let malformed = || Error::Answer("a conversation has a malformed id or instance".to_owned());
    Ok(MessageAddress {
        conversation: ConversationId::parse(&conversation.id).ok_or_else(malformed)?,
        instance: Instance::parse(&conversation.instance).ok_or_else(malformed)?,
        id,
    })
}

/// Opens a message. Skips a message with a malformed ID by returning `None`: no server stores one. Skips one that has
/// expired, too: its data is gone (docs/protocol.md#retention-c).
fn read(
    conversation: &Conversation,
    secret: &ConversationSecret,
    reader: UserId,
    message: Message,
) -> Option<Received> {
    let id = MessageId::parse(&message.id)?;
    if message.data.is_empty() && !message.valid_until.is_empty() {
        return None;
    }
    let sender = message.user_id.as_deref().and_then(UserId::parse);
    let text = match (sender, address_of(conversation, &id)) {
        (Some(sender), Ok(address)) => {
            payload::open_from(secret, &address, &message.data, [sender, reader])
        }
        _ => Err(OpenError::Sender),
    };
    Some(Received { id, created: message.created, sender, text })
}
