//! All that is held about a user, row by row.
//!
//! No transaction spans an export: a long one would keep SQLite's write-ahead log from being emptied. So a change that
//! is made meanwhile may be in the export or not.

use serde::{Serialize, Serializer};
use sqlx::FromRow;

use super::error::Doing as _;
use super::listing::listed;
use super::row_keys::{row_key, seq};
use super::sql::Sql;
use super::{Error, Store};
use crate::domain::{Timestamp, UserId};

listed!(
    USER,
    STATIONS,
    FRIENDS,
    SENT_REQUESTS,
    RECEIVED_REQUESTS,
    BLOCKS,
    WORKSPACES,
    INVITATIONS,
    AUDIT,
    PARTICIPATIONS,
    CONVERSATION,
    MESSAGES,
    REPORTS
);

/// Messages read at once: with the default `limits.message_bytes`, 4 MiB.
const MESSAGES_AT_ONCE: i64 = 16;

const REPORTS_AT_ONCE: i64 = 512;

const ENTRIES_AT_ONCE: i64 = 512;

const USER: Sql = Sql::both(
    "
    SELECT id, email, nick, full_name, is_disabled, availability, public_key, private_key,
           (SELECT newest FROM change_numbers WHERE user_number = number) AS newest_change
    FROM users WHERE id = $1",
);

const STATIONS: Sql = Sql::both(
    "
    SELECT station_id, bound_at, used_at, position FROM stations
    WHERE user_id = $1 ORDER BY bound_at, station_id",
);

const FRIENDS: Sql = Sql::both(
    "
    SELECT u.id, u.nick FROM friends f JOIN users u ON u.id = f.friend_id
    WHERE f.user_id = $1 ORDER BY u.id",
);

/// Without `is_silent`: the user must not learn whether the addressee has declined.
const SENT_REQUESTS: Sql =
    Sql::both("SELECT to_id FROM friend_requests WHERE from_id = $1 AND is_open ORDER BY to_id");

const RECEIVED_REQUESTS: Sql = Sql::both(
    "
    SELECT u.id, u.nick, r.is_silent FROM friend_requests r JOIN users u ON u.id = r.from_id
    WHERE r.to_id = $1 AND r.is_open ORDER BY u.id",
);

const BLOCKS: Sql =
    Sql::both("SELECT blocked_id FROM blocks WHERE user_id = $1 ORDER BY blocked_id");

const WORKSPACES: Sql =
    Sql::both("SELECT name, registered_at FROM workspaces WHERE owner_id = $1 ORDER BY name");

const INVITATIONS: Sql = Sql::both(
    "
    SELECT i.nick, i.created_at, i.expires_at, i.used_at IS NOT NULL AS is_used
    FROM invitations i JOIN users u ON u.email = i.email WHERE u.id = $1",
);

/// The address is the user's own: others' stay out.
const AUDIT: Sql = Sql::both(
    "
    SELECT a.number, a.at, a.action, a.via, CASE WHEN a.actor_number = u.number THEN a.address ELSE '' END AS address,
           by_user.id AS actor, subject.id AS subject, other.id AS other, a.details
    FROM users u
    JOIN audit a ON a.number IN (
        SELECT number FROM audit WHERE subject_number = u.number
        UNION ALL SELECT number FROM audit WHERE other_number = u.number
        UNION ALL SELECT number FROM audit WHERE actor_number = u.number)
    LEFT JOIN users by_user ON by_user.number = a.actor_number
    LEFT JOIN users subject ON subject.number = a.subject_number
    LEFT JOIN users other ON other.number = a.other_number
    WHERE u.id = $1 AND a.number > $2 ORDER BY a.number LIMIT $3",
);

const PARTICIPATIONS: Sql =
    Sql::both("SELECT place FROM participants WHERE user_id = $1 ORDER BY place");

const CONVERSATION: Sql = Sql::both(
    "
    SELECT c.id, c.generation, c.instance, c.last_access, u.id AS partner, u.nick AS partner_nick,
           p.standing, p.secret, p.display_name, p.is_muted, p.is_favorite, p.is_hidden, p.hide_id,
           p.background_color, p.read_to
    FROM participants p
    JOIN conversations c ON c.number = p.conversation_number
    LEFT JOIN users u ON u.number = p.partner_number
    WHERE p.place = $1",
);

const MESSAGES: Sql = Sql::both(
    "
    SELECT m.place, m.id, u.id AS sender, coalesce(m.type, 'Message') AS kind, m.created, m.accepted_at,
           m.valid_until, m.data
    FROM messages m LEFT JOIN users u ON u.number = m.sender_number
    WHERE m.place > $1 AND m.place < $2 ORDER BY m.place LIMIT $3",
);

const REPORTS: Sql = Sql::both(
    "
    SELECT r.place, r.id, r.type AS kind, r.created, coalesce(m.id, r.message_id) AS message, r.user_id
    FROM reports r LEFT JOIN messages m ON m.place = r.message_place
    WHERE r.place > $1 AND r.place < $2 ORDER BY r.place LIMIT $3",
);

/// The user's own row, but for the API key.
#[derive(FromRow, Serialize)]
pub(crate) struct UserRecord {
    #[serde(rename = "userid")]
    id: String,
    email: String,
    nick: String,
    #[serde(rename = "fullname")]
    full_name: String,
    #[serde(rename = "disabled")]
    is_disabled: bool,
    availability: String,
    #[serde(rename = "publickey")]
    public_key: String,
    /// PEM, encrypted under a password that the server does not have.
    #[serde(rename = "rsakey")]
    private_key: String,
    #[serde(rename = "newestchange")]
    newest_change: Option<i64>,
}

#[derive(FromRow, Serialize)]
struct StationRecord {
    #[serde(rename = "stationid")]
    station_id: String,
    #[serde(rename = "bound", serialize_with = "as_date")]
    bound_at: i64,
    #[serde(rename = "used", serialize_with = "as_date")]
    used_at: i64,
    /// The change number up to which the station was told.
    position: Option<i64>,
}

#[derive(FromRow, Serialize)]
struct OtherUser {
    #[serde(rename = "userid")]
    id: String,
    nick: String,
}

#[derive(FromRow, Serialize)]
struct ReceivedRequest {
    #[serde(rename = "userid")]
    id: String,
    nick: String,
    /// Whether the user has declined it, or has blocked the asking user.
    #[serde(rename = "silent")]
    is_silent: bool,
}

#[derive(FromRow, Serialize)]
struct WorkspaceRecord {
    name: String,
    #[serde(rename = "registered", serialize_with = "as_date")]
    registered_at: i64,
}

/// An invitation of the user's address, without its token.
#[derive(FromRow, Serialize)]
struct InvitationRecord {
    nick: String,
    #[serde(rename = "invited", serialize_with = "as_date")]
    created_at: i64,
    #[serde(rename = "expires", serialize_with = "as_date")]
    expires_at: i64,
    #[serde(rename = "isused")]
    is_used: bool,
}

/// An entry of the audit log that names the user.
#[derive(FromRow, Serialize)]
pub(crate) struct AuditRecord {
    #[serde(skip)]
    number: i64,
    #[serde(rename = "date", serialize_with = "as_date")]
    at: i64,
    action: String,
    #[serde(rename = "by")]
    via: String,
    address: String,
    #[serde(rename = "actorid")]
    actor: Option<String>,
    #[serde(rename = "userid")]
    subject: Option<String>,
    #[serde(rename = "friendid")]
    other: Option<String>,
    details: String,
}

#[derive(Serialize)]
struct Requests {
    sent: Vec<String>,
    received: Vec<ReceivedRequest>,
}

/// Everything about a user that is not in a conversation.
#[derive(Serialize)]
pub(crate) struct Account {
    user: UserRecord,
    stations: Vec<StationRecord>,
    friends: Vec<OtherUser>,
    requests: Requests,
    blocked: Vec<String>,
    workspaces: Vec<WorkspaceRecord>,
    invitations: Vec<InvitationRecord>,
}

/// A conversation with the user's own settings, without its messages and reports.
#[derive(FromRow, Serialize)]
pub(crate) struct ConversationRecord {
    #[serde(rename = "conversationid")]
    id: String,
    #[serde(skip)]
    pub(crate) generation: i64,
    instance: String,
    #[serde(rename = "lastaccess", serialize_with = "as_date")]
    last_access: i64,
    #[serde(rename = "partnerid")]
    partner: Option<String>,
    #[serde(rename = "partnernick")]
    partner_nick: Option<String>,
    #[serde(rename = "access")]
    standing: String,
    secret: String,
    #[serde(rename = "displayname")]
    display_name: String,
    #[serde(rename = "ismuted")]
    is_muted: bool,
    #[serde(rename = "isfavorite")]
    is_favorite: bool,
    #[serde(rename = "ishidden")]
    is_hidden: bool,
    #[serde(rename = "hideid")]
    hide_id: String,
    #[serde(rename = "listitembackgroundcolor")]
    background_color: String,
    /// How many of the other one's messages the user has viewed.
    #[serde(rename = "viewed", serialize_with = "as_count")]
    read_to: i64,
}

/// A row that is read page by page.
pub(crate) trait Paged: Serialize {
    /// The key of an array of such rows in the export.
    const NAME: &'static str;

    /// The sequence number of the row: that within its generation, or that of the audit log.
    fn seq(&self) -> i64;
}

impl Paged for AuditRecord {
    const NAME: &'static str = "audit";

    fn seq(&self) -> i64 {
        self.number
    }
}

#[derive(FromRow, Serialize)]
pub(crate) struct MessageRecord {
    #[serde(skip)]
    place: i64,
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "UserID")]
    sender: Option<String>,
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Created", serialize_with = "as_date")]
    created: i64,
    #[serde(rename = "Accepted", serialize_with = "as_date")]
    accepted_at: i64,
    #[serde(rename = "ValidUntil")]
    valid_until: String,
    #[serde(rename = "Data")]
    data: String,
}

impl Paged for MessageRecord {
    const NAME: &'static str = "messages";

    fn seq(&self) -> i64 {
        seq(self.place)
    }
}

#[derive(FromRow, Serialize)]
pub(crate) struct ReportRecord {
    #[serde(skip)]
    place: i64,
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Created")]
    created: String,
    #[serde(rename = "MessageID")]
    message: Option<String>,
    #[serde(rename = "UserID")]
    user_id: String,
}

impl Paged for ReportRecord {
    const NAME: &'static str = "reports";

    fn seq(&self) -> i64 {
        seq(self.place)
    }
}

/// Writes unix seconds as a date of the protocol; a number that is none stays a number.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn as_date<S: Serializer>(seconds: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    match Timestamp::from_unix(*seconds) {
        Some(date) => serializer.collect_str(&date),
        None => serializer.serialize_i64(*seconds),
    }
}

/// Writes the lower half of a read position.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn as_count<S: Serializer>(read_to: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(seq(*read_to))
}

impl Store {
    /// Returns what is held about a user outside conversations; `None` if there is no such user.
    pub(crate) async fn exported_account(&self, user: UserId) -> Result<Option<Account>, Error> {
        let mut reads = self.reader().await?;
        let id = user.as_str();
        let row = reads.query(USER).bind(id).optional().await.doing("exporting a user")?;
        let Some(user) = row else { return Ok(None) };
        let stations = reads.query(STATIONS).bind(id).all().await.doing("exporting stations")?;
        let friends = reads.query(FRIENDS).bind(id).all().await.doing("exporting friends")?;
        let sent = reads.query(SENT_REQUESTS).bind(id).values().await;
        let received = reads.query(RECEIVED_REQUESTS).bind(id).all().await;
        let requests = Requests {
            sent: sent.doing("exporting friend requests")?,
            received: received.doing("exporting friend requests")?,
        };
        let blocked = reads.query(BLOCKS).bind(id).values().await.doing("exporting blocks")?;
        let workspaces = reads.query(WORKSPACES).bind(id).all().await;
        let workspaces = workspaces.doing("exporting workspaces")?;
        let invitations = reads.query(INVITATIONS).bind(id).all().await;
        let invitations = invitations.doing("exporting invitations")?;
        Ok(Some(Account { user, stations, friends, requests, blocked, workspaces, invitations }))
    }

    /// Returns the entries of the audit log that name a user and have higher numbers.
    pub(crate) async fn exported_audit(
        &self,
        user: UserId,
        after: i64,
    ) -> Result<Vec<AuditRecord>, Error> {
        let mut reads = self.reader().await?;
        let rows = reads.query(AUDIT).bind(user.as_str()).bind(after).bind(ENTRIES_AT_ONCE);
        rows.all().await.doing("exporting the audit log")
    }

    /// Returns the row keys of the user's conversations.
    pub(crate) async fn participations(&self, user: UserId) -> Result<Vec<i64>, Error> {
        let mut reads = self.reader().await?;
        let keys = reads.query(PARTICIPATIONS).bind(user.as_str()).values().await;
        keys.doing("listing conversations")
    }

    /// Returns a conversation by the user's row key in it; `None` if that row is gone.
    pub(crate) async fn exported_conversation(
        &self,
        participation: i64,
    ) -> Result<Option<ConversationRecord>, Error> {
        let mut reads = self.reader().await?;
        let row = reads.query(CONVERSATION).bind(participation).optional().await;
        row.doing("exporting a conversation")
    }

    /// Returns the messages of a generation that follow a sequence number; none after the last one.
    pub(crate) async fn exported_messages(
        &self,
        generation: i64,
        after: i64,
    ) -> Result<Vec<MessageRecord>, Error> {
        let mut reads = self.reader().await?;
        let page =
            reads.query(MESSAGES).bind(row_key(generation, after)).bind(row_key(generation + 1, 0));
        page.bind(MESSAGES_AT_ONCE).all().await.doing("exporting messages")
    }

    /// Returns the reports of a generation that follow a sequence number; none after the last one.
    pub(crate) async fn exported_reports(
        &self,
        generation: i64,
        after: i64,
    ) -> Result<Vec<ReportRecord>, Error> {
        let mut reads = self.reader().await?;
        let page =
            reads.query(REPORTS).bind(row_key(generation, after)).bind(row_key(generation + 1, 0));
        page.bind(REPORTS_AT_ONCE).all().await.doing("exporting reports")
    }
}
