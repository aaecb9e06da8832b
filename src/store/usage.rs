//! The space that conversations and users take. It follows from the rows of the conversations, which hold the sums of their
//! messages, so no message is read. The rows are read in steps: one long read would keep the write-ahead log from being
//! emptied.

use std::collections::HashMap;

use super::engine::Engine;
use super::error::Doing as _;
use super::listing::listed;
use super::sql::Sql;
use super::sqlite::space::free_bytes;
use super::{Error, Store, stored};
use crate::domain::ConversationId;

listed!(USERS, CONVERSATIONS, SIZE);

const USERS: Sql =
    Sql::both("SELECT number, email FROM users WHERE number > $1 ORDER BY number LIMIT 1000");

const CONVERSATIONS: Sql = Sql::both(
    "
    SELECT c.number, c.id, (c.generation << 32) + c.next_seq - max(c.first_message, (c.generation << 32) + 1),
           (c.generation << 32) + c.next_report_seq - max(c.first_report, (c.generation << 32) + 1), c.data_bytes,
           (SELECT min(p.user_number) FROM participants p WHERE p.conversation_number = c.number),
           (SELECT max(p.user_number) FROM participants p WHERE p.conversation_number = c.number)
    FROM conversations c WHERE c.number > $1 ORDER BY c.number LIMIT 1000",
);

const SIZE: Sql = Sql::of_postgres("SELECT pg_database_size(current_database())");

/// The space of one conversation, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Space {
    /// Bytes of the messages' `Data`.
    pub(crate) bytes: i64,
    pub(crate) messages: i64,
    pub(crate) reports: i64,
}

impl Space {
    pub(crate) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.messages += other.messages;
        self.reports += other.reports;
    }
}

pub(crate) struct ConversationSpace {
    pub(crate) id: ConversationId,
    /// Numbers of the two users: keys of [`Usage::users`].
    pub(crate) users: [i64; 2],
    pub(crate) space: Space,
}

/// Bytes that the database takes, with all tables and indexes.
pub(crate) enum DatabaseSize {
    /// The file, its free pages, and its write-ahead log.
    File { bytes: u64, free_bytes: u64, log_bytes: u64 },
    /// A database of PostgreSQL, which does not tell how much of it is free.
    Server { bytes: u64 },
}

/// The space of all conversations.
pub(crate) struct Usage {
    /// E-mail addresses by the users' numbers.
    pub(crate) users: HashMap<i64, String>,
    pub(crate) conversations: Vec<ConversationSpace>,
    pub(crate) size: DatabaseSize,
}

impl Store {
    /// Reads the space of all conversations. What changes meanwhile may be counted before or after the change.
    pub(crate) async fn usage(&self) -> Result<Usage, Error> {
        let conversations = self.space_of_conversations().await?;
        // Read afterwards, so that the users of every conversation are there.
        let users = self.emails().await?;
        Ok(Usage { users, conversations, size: self.size().await? })
    }

    async fn space_of_conversations(&self) -> Result<Vec<ConversationSpace>, Error> {
        type Row = (i64, String, i64, i64, i64, i64, i64);
        let mut found = Vec::new();
        let mut last = 0;
        loop {
            let rows = self.reader().await?.query(CONVERSATIONS).bind(last).all::<Row>().await;
            let rows = rows.doing("reading the space of conversations")?;
            let Some(row) = rows.last() else { return Ok(found) };
            last = row.0;
            for (_, id, messages, reports, bytes, one, other) in rows {
                let space = Space { bytes, messages, reports };
                found.push(ConversationSpace { id: stored(&id)?, users: [one, other], space });
            }
        }
    }

    async fn emails(&self) -> Result<HashMap<i64, String>, Error> {
        let mut found = HashMap::new();
        let mut last = 0;
        loop {
            let rows = self.reader().await?.query(USERS).bind(last).all::<(i64, String)>().await;
            let rows = rows.doing("reading the addresses of users")?;
            let Some(row) = rows.last() else { return Ok(found) };
            last = row.0;
            found.extend(rows);
        }
    }

    async fn size(&self) -> Result<DatabaseSize, Error> {
        let mut reads = self.reader().await?;
        if let Engine::Sqlite(local) = &self.engine {
            let free_bytes = free_bytes(reads.sqlite()).await?;
            let (bytes, log_bytes) = (local.database_bytes(), local.log_bytes());
            return Ok(DatabaseSize::File { bytes, free_bytes, log_bytes });
        }
        let bytes: i64 =
            reads.query(SIZE).value().await.doing("reading the size of the database")?;
        Ok(DatabaseSize::Server { bytes: bytes.unsigned_abs() })
    }
}
