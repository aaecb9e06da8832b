//! Conversations as their participants see them, and the changes of what one participant sees.

use sqlx::SqliteConnection;

use super::changes::{Changes, Subject};
use super::error::Doing as _;
use super::writer::{Change, Writing};
use super::{Error, Replay, Store, WireText, stored};
use crate::id::{ConversationId, Instance, StationId, UserId};

/// The conversation object of the protocol (section 3) for participant `p` of conversation `c`. All
/// that is not quoted here is hexadecimal, base64, alphanumeric or a colour, and needs no escape.
macro_rules! conversation_object {
    () => {
        r#" '{"id":"' || c.id || '","isgroup":false,"participantids":['
        || (SELECT string_agg('"' || o.user_id || '"', ',' ORDER BY o.user_id)
            FROM participants o WHERE o.conversation_id = c.id)
        || '],"participants":['
        || (SELECT string_agg('{"userid":"' || o.user_id || '","username":' || json_quote(u.nick) || '}',
                              ',' ORDER BY o.user_id)
            FROM participants o JOIN users u ON u.id = o.user_id WHERE o.conversation_id = c.id)
        || '],"displayname":"' || p.display_name
        || '","lastmessageid":"' || c.last_message_id
        || '","lastreportid":"' || replace(c.last_report_id, '-', '')
        || '","lastaccess":' || c.last_access
        || ',"secret":"' || p.secret
        || '","instance":"' || c.instance
        || '","mutedby":[' || CASE WHEN p.is_muted THEN '"' || p.user_id || '"' ELSE '' END
        || '],"favoriteby":[' || CASE WHEN p.is_favorite THEN '"' || p.user_id || '"' ELSE '' END
        || '],"hiddenby":[' || CASE WHEN p.is_hidden THEN '"' || p.user_id || '"' ELSE '' END
        || '],"properties":[{"userid":"' || p.user_id
        || '","ismuted":' || CASE WHEN p.is_muted THEN 'true' ELSE 'false' END
        || ',"isfavorite":' || CASE WHEN p.is_favorite THEN 'true' ELSE 'false' END
        || ',"hideid":' || json_quote(p.hide_id)
        || ',"listitembackgroundcolor":"' || p.background_color || '"}]}' "#
    };
}

const CONVERSATION: &str = concat!(
    "SELECT",
    conversation_object!(),
    "FROM participants p JOIN conversations c ON c.id = p.conversation_id
     WHERE p.conversation_id = $1 AND p.user_id = $2"
);

const CONVERSATIONS: &str = concat!(
    "SELECT coalesce(string_agg(object, ',' ORDER BY last_access DESC, id), '') FROM (
     SELECT c.id, c.last_access,",
    conversation_object!(),
    "AS object FROM participants p JOIN conversations c ON c.id = p.conversation_id
     WHERE p.user_id = $1) AS mine"
);

/// Instance, generation, next place, the other participant, friendship and blocks, for a participant.
const STANDING: &str = "
    SELECT c.instance, c.generation, c.next_seq, o.user_id,
           f.friend_id IS NOT NULL, mine.blocked_id IS NOT NULL, theirs.blocked_id IS NOT NULL
    FROM participants p
    JOIN conversations c ON c.id = p.conversation_id
    JOIN participants o ON o.conversation_id = p.conversation_id AND o.user_id <> p.user_id
    LEFT JOIN friends f ON f.user_id = p.user_id AND f.friend_id = o.user_id
    LEFT JOIN blocks mine ON mine.user_id = p.user_id AND mine.blocked_id = o.user_id
    LEFT JOIN blocks theirs ON theirs.user_id = o.user_id AND theirs.blocked_id = p.user_id
    WHERE p.conversation_id = $1 AND p.user_id = $2";

const CLEAR: &str = "
    UPDATE conversations
    SET generation = generation + 1, instance = $2, next_seq = 1, last_message_id = '',
        next_report_seq = 1, last_report_id = ''
    WHERE id = $1";

const NOTHING_DELIVERED: &str =
    "UPDATE participants SET delivered_to = 0 WHERE conversation_id = $1 AND delivered_to > 0";

const PURGE_LATER: &str = "INSERT INTO purges (conversation_id, generation) VALUES ($1, $2)";

const NEXT_PURGE: &str =
    "SELECT conversation_id, generation FROM purges ORDER BY conversation_id, generation LIMIT 1";

const PURGE: &str = "
    DELETE FROM messages WHERE conversation_id = $1 AND generation = $2 AND seq <= (
        SELECT max(seq) FROM (
            SELECT seq, row_number() OVER (ORDER BY seq) AS place,
                   sum(bytes) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS bytes
            FROM (
                SELECT seq, octet_length(data) AS bytes FROM messages
                WHERE conversation_id = $1 AND generation = $2 ORDER BY seq LIMIT $3
            ) AS oldest
        ) AS sized WHERE place = 1 OR bytes <= $4)";

const PURGE_REPORTS: &str = "
    DELETE FROM reports WHERE conversation_id = $1 AND generation = $2 AND seq <= (
        SELECT max(seq) FROM (
            SELECT seq FROM reports
            WHERE conversation_id = $1 AND generation = $2 ORDER BY seq LIMIT $3) AS oldest)";

const PURGED: &str = "
    DELETE FROM purges WHERE conversation_id = $1 AND generation = $2
        AND NOT EXISTS (SELECT 1 FROM messages WHERE conversation_id = $1 AND generation = $2)
        AND NOT EXISTS (SELECT 1 FROM reports WHERE conversation_id = $1 AND generation = $2)";

const SET_MUTED: &str =
    "UPDATE participants SET is_muted = $3 WHERE conversation_id = $1 AND user_id = $2";

const SET_FAVORITE: &str =
    "UPDATE participants SET is_favorite = $3 WHERE conversation_id = $1 AND user_id = $2";

const SET_BACKGROUND_COLOR: &str =
    "UPDATE participants SET background_color = $3 WHERE conversation_id = $1 AND user_id = $2";

const SET_HIDDEN: &str = "
    UPDATE participants SET is_hidden = $3, hide_id = $4
    WHERE conversation_id = $1 AND user_id = $2";

/// The most messages and reports that one step of a purge removes, and the most bytes of data: it is to hold
/// the writer for milliseconds.
const PURGE_STEP: i64 = 256;
const PURGE_BYTES: i64 = 512 * 1024;

impl Store {
    /// All conversations of a user, newest `lastaccess` first: conversation objects, separated by commas.
    ///
    /// # Errors
    ///
    /// [`Error`] where they could not be read.
    pub async fn conversations(&self, user: UserId) -> Result<WireText, Error> {
        let all = sqlx::query_scalar(CONVERSATIONS).bind(user.as_str().to_owned());
        all.fetch_one(&self.reads).await.doing("listing conversations")
    }

    /// One conversation object, where the user takes part in it.
    ///
    /// # Errors
    ///
    /// [`Error`] where it could not be read.
    pub async fn conversation(
        &self,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<Option<WireText>, Error> {
        let mut reads = self.reads.acquire().await.doing("reading a conversation")?;
        object(&mut reads, conversation, user).await
    }

    /// Removes one step of the messages that a clear has left behind.
    ///
    /// # Errors
    ///
    /// [`Error`] where they could not be removed.
    pub async fn purge(&self) -> Result<Purged, Error> {
        let next = sqlx::query_as(NEXT_PURGE).fetch_optional(&self.reads).await;
        match next.doing("looking for cleared messages")? {
            Some((conversation, generation)) => {
                self.change(Purge { conversation, generation }).await
            }
            None => Ok(Purged::NothingLeft),
        }
    }
}

pub(super) async fn object(
    on: &mut SqliteConnection,
    conversation: ConversationId,
    user: UserId,
) -> Result<Option<WireText>, Error> {
    let one = sqlx::query_scalar(CONVERSATION)
        .bind(conversation.as_str().to_owned())
        .bind(user.as_str().to_owned());
    one.fetch_optional(on).await.doing("reading a conversation")
}

/// Something of a conversation that is one participant's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// `mute`, `unmute`.
    Muted(bool),
    /// `favorite`, `unfavorite`.
    Favorite(bool),
    /// `setlistitembackgroundcolor`: `#rrggbb`, lower-case.
    BackgroundColor(String),
    /// `hide` with a marker.
    HideId(String),
    /// `hide` without one: for good.
    Hidden,
    /// `unhide`: ends both.
    Shown,
}

/// A change of what one participant sees of a conversation.
#[derive(Clone, Debug)]
pub struct ChangeProperty {
    /// The conversation.
    pub conversation: ConversationId,
    /// The new value.
    pub property: Property,
    /// Where: that station is not told of it.
    pub station: Option<StationId>,
    /// Who changes it, and the signature that may not do so again.
    pub replay: Replay,
}

/// What became of a change of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyChanged {
    /// It is made: the conversation as it now stands.
    Changed(WireText),
    /// It was made before; the conversation as it now stands, if it is the caller's.
    Replayed(Option<WireText>),
    /// The user has no such conversation.
    NotFound,
}

impl Change for ChangeProperty {
    type Outcome = PropertyChanged;

    async fn apply(&self, on: &mut Writing) -> Result<PropertyChanged, Error> {
        let user = self.replay.user;
        if self.replay.is_known(on).await? {
            let object = object(&mut on.connection, self.conversation, user).await?;
            return Ok(PropertyChanged::Replayed(object));
        }
        let set = match &self.property {
            Property::Muted(muted) => self.set(SET_MUTED).bind(*muted),
            Property::Favorite(favorite) => self.set(SET_FAVORITE).bind(*favorite),
            Property::BackgroundColor(color) => self.set(SET_BACKGROUND_COLOR).bind(color.clone()),
            Property::HideId(hide_id) => self.set(SET_HIDDEN).bind(false).bind(hide_id.clone()),
            Property::Hidden => self.set(SET_HIDDEN).bind(true).bind(""),
            Property::Shown => self.set(SET_HIDDEN).bind(false).bind(""),
        };
        set.execute(&mut on.connection).await.doing("changing a property")?;
        match object(&mut on.connection, self.conversation, user).await? {
            Some(object) => {
                self.replay.record(on).await?;
                let subject = Subject::Conversation(self.conversation);
                Changes::default().with(user, subject, self.station).note(on).await?;
                Ok(PropertyChanged::Changed(object))
            }
            None => Ok(PropertyChanged::NotFound),
        }
    }
}

impl ChangeProperty {
    fn set(
        &self,
        statement: &'static str,
    ) -> sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments> {
        sqlx::query(statement)
            .bind(self.conversation.as_str().to_owned())
            .bind(self.replay.user.as_str().to_owned())
    }
}

/// Ends a generation of a conversation.
#[derive(Clone, Debug)]
pub struct Clear {
    /// The conversation.
    pub conversation: ConversationId,
    /// Who clears it.
    pub user: UserId,
    /// Where from: that station is not told of it.
    pub station: Option<StationId>,
    /// The instance that is to be cleared.
    pub instance: Instance,
    /// The instance that follows.
    pub next: Instance,
}

/// What became of a clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cleared {
    /// It is made: the conversation as it now stands.
    Cleared(WireText),
    /// The user has no such conversation.
    NotFound,
    /// The conversation was cleared before: as it now stands.
    InstanceChanged(WireText),
    /// The two are not friends, or the user is blocked.
    NotFriends,
    /// The user has blocked the other participant.
    Blocked,
}

impl Change for Clear {
    type Outcome = Cleared;

    async fn apply(&self, on: &mut Writing) -> Result<Cleared, Error> {
        let standing =
            sqlx::query_as(STANDING).bind(self.conversation.as_str()).bind(self.user.as_str());
        let standing: Option<(String, i64, i64, String, bool, bool, bool)> =
            standing.fetch_optional(&mut on.connection).await.doing("judging a clear")?;
        let Some((instance, generation, next_seq, other, friends, has_blocked, is_blocked)) =
            standing
        else {
            return Ok(Cleared::NotFound);
        };
        if instance != self.instance.as_str() {
            let object = object(&mut on.connection, self.conversation, self.user).await?;
            return Ok(object.map_or(Cleared::NotFound, Cleared::InstanceChanged));
        }
        if has_blocked {
            return Ok(Cleared::Blocked);
        }
        if is_blocked || !friends {
            return Ok(Cleared::NotFriends);
        }
        self.begin_generation(on, generation, next_seq > 1).await?;
        let subject = Subject::Conversation(self.conversation);
        let changes = Changes::default().with(self.user, subject, self.station);
        changes.with(stored(&other)?, subject, None).note(on).await?;
        let object = object(&mut on.connection, self.conversation, self.user).await?;
        Ok(object.map_or(Cleared::NotFound, Cleared::Cleared))
    }
}

impl Clear {
    async fn begin_generation(
        &self,
        on: &mut Writing,
        ended: i64,
        has_messages: bool,
    ) -> Result<(), Error> {
        let clear = sqlx::query(CLEAR).bind(self.conversation.as_str()).bind(self.next.as_str());
        clear.execute(&mut on.connection).await.doing("clearing a conversation")?;
        if has_messages {
            let nothing = sqlx::query(NOTHING_DELIVERED).bind(self.conversation.as_str());
            nothing.execute(&mut on.connection).await.doing("forgetting what was delivered")?;
            let later = sqlx::query(PURGE_LATER).bind(self.conversation.as_str()).bind(ended);
            later.execute(&mut on.connection).await.doing("noting cleared messages")?;
        }
        Ok(())
    }
}

/// What a step of the purge has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purged {
    /// There may be more to remove.
    Step,
    /// No cleared message is left.
    NothingLeft,
}

struct Purge {
    conversation: String,
    generation: i64,
}

impl Change for Purge {
    type Outcome = Purged;

    async fn apply(&self, on: &mut Writing) -> Result<Purged, Error> {
        let purge = sqlx::query(PURGE)
            .bind(&self.conversation)
            .bind(self.generation)
            .bind(PURGE_STEP)
            .bind(PURGE_BYTES);
        purge.execute(&mut on.connection).await.doing("removing cleared messages")?;
        let purge = sqlx::query(PURGE_REPORTS)
            .bind(&self.conversation)
            .bind(self.generation)
            .bind(PURGE_STEP);
        purge.execute(&mut on.connection).await.doing("removing cleared reports")?;
        let done = sqlx::query(PURGED).bind(&self.conversation).bind(self.generation);
        done.execute(&mut on.connection).await.doing("ending a purge")?;
        Ok(Purged::Step)
    }
}
