//! Users as the admin page lists and describes them.
//!
//! No index has addresses or nicks, so a search reads users in steps by their numbers, and stops after a bounded number
//! of steps. The next page goes on where it stopped.

use sqlx::FromRow;

use super::error::Doing as _;
use super::listing::listed;
use super::sql::Sql;
use super::{Error, Store, stored};
use crate::domain::UserId;

listed!(USERS, COUNTS, FACTS, FRIENDS);

/// Maximum users of one page, and maximum friends in the description of a user.
pub(crate) const SHOWN_AT_ONCE: usize = 50;

/// Users that one step of a search reads: 4 MB of rows.
const STEP: usize = 1000;

/// Maximum steps of a search for one page.
const STEPS: usize = 20;

/// Newest first.
const USERS: Sql = Sql::both(
    "
    SELECT number, id, email, nick, full_name, is_disabled FROM users
    WHERE number < $1 AND NOT is_deleted ORDER BY number DESC LIMIT $2",
);

/// Reads the index `users_by_state` alone.
const COUNTS: Sql = Sql::both(
    "
    SELECT count(*), coalesce(sum(CASE WHEN is_disabled THEN 1 ELSE 0 END), 0) FROM users
    WHERE NOT is_deleted",
);

const FACTS: Sql = Sql::both(
    "
    SELECT (SELECT count(*) FROM friends WHERE user_id = $1) AS friends,
           (SELECT count(*) FROM participants WHERE user_id = $1) AS conversations,
           (SELECT CAST(coalesce(sum(c.data_bytes), 0) AS BIGINT)
            FROM participants p JOIN conversations c ON c.number = p.conversation_number
            WHERE p.user_id = $1) AS bytes",
);

const FRIENDS: Sql = Sql::both(
    "
    SELECT u.id, u.email, u.nick FROM friends f JOIN users u ON u.id = f.friend_id
    WHERE f.user_id = $1 ORDER BY f.friend_id LIMIT $2",
);

/// A user in a list.
pub(crate) struct ListedUser {
    number: i64,
    pub(crate) id: UserId,
    pub(crate) email: String,
    pub(crate) nick: String,
    pub(crate) full_name: String,
    pub(crate) is_disabled: bool,
}

#[derive(FromRow)]
struct UserRow {
    number: i64,
    id: String,
    email: String,
    nick: String,
    full_name: String,
    is_disabled: bool,
}

impl UserRow {
    fn user(self) -> Result<ListedUser, Error> {
        let Self { number, id, email, nick, full_name, is_disabled } = self;
        Ok(ListedUser { number, id: stored(&id)?, email, nick, full_name, is_disabled })
    }

    /// Whether the address, the nick or the full name has this text, which is in lower case.
    fn has(&self, text: &str) -> bool {
        let texts = [&self.email, &self.nick, &self.full_name];
        text.is_empty() || texts.into_iter().any(|one| one.to_lowercase().contains(text))
    }
}

/// Up to [`SHOWN_AT_ONCE`] users, newest first.
pub(crate) struct UserPage {
    pub(crate) users: Vec<ListedUser>,
    /// The number before which the next page begins. `None` after the last user.
    pub(crate) next: Option<i64>,
}

/// Numbers about one user.
#[derive(FromRow)]
pub(crate) struct UserFacts {
    pub(crate) friends: i64,
    pub(crate) conversations: i64,
    /// Bytes of `Data` in the user's conversations.
    pub(crate) bytes: i64,
}

/// A friend of a user.
pub(crate) struct Acquaintance {
    pub(crate) id: UserId,
    pub(crate) email: String,
    pub(crate) nick: String,
}

impl Store {
    /// Finds users whose address, nick or full name has this text, in any case. An empty text finds all. A page of a
    /// search has fewer users than fit, and a next page, where the search stopped at its bound.
    pub(crate) async fn find_users(
        &self,
        text: &str,
        before: Option<i64>,
    ) -> Result<UserPage, Error> {
        let text = text.to_lowercase();
        let step = if text.is_empty() { SHOWN_AT_ONCE + 1 } else { STEP };
        let mut users: Vec<ListedUser> = Vec::new();
        let mut last = before.unwrap_or(i64::MAX);
        for _ in 0..STEPS {
            let rows = self.users_before(last, step).await?;
            let is_end = rows.len() < step;
            for row in rows {
                last = row.number;
                if !row.has(&text) {
                    continue;
                }
                if users.len() == SHOWN_AT_ONCE {
                    let next = users.last().map(|user| user.number);
                    return Ok(UserPage { users, next });
                }
                users.push(row.user()?);
            }
            if is_end {
                return Ok(UserPage { users, next: None });
            }
        }
        Ok(UserPage { users, next: Some(last) })
    }

    async fn users_before(&self, number: i64, most: usize) -> Result<Vec<UserRow>, Error> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let mut reads = self.reader().await?;
        let rows = reads.query(USERS).bind(number).bind(most).all().await;
        rows.doing("searching users")
    }

    /// Returns the number of users, and how many of them are disabled.
    pub(crate) async fn count_users(&self) -> Result<(i64, i64), Error> {
        let counts = self.reader().await?.query(COUNTS).one().await;
        counts.doing("counting users")
    }

    pub(crate) async fn facts_about(&self, user: UserId) -> Result<UserFacts, Error> {
        let facts = self.reader().await?.query(FACTS).bind(user.as_str()).one().await;
        facts.doing("counting what a user has")
    }

    /// Returns the first [`SHOWN_AT_ONCE`] friends of a user, disabled ones included.
    pub(crate) async fn some_friends(&self, user: UserId) -> Result<Vec<Acquaintance>, Error> {
        let most = i64::try_from(SHOWN_AT_ONCE).unwrap_or(i64::MAX);
        let mut reads = self.reader().await?;
        let rows = reads.query(FRIENDS).bind(user.as_str()).bind(most).all().await;
        let rows: Vec<(String, String, String)> = rows.doing("listing friends")?;
        let friend =
            |(id, email, nick): (String, _, _)| Ok(Acquaintance { id: stored(&id)?, email, nick });
        rows.into_iter().map(friend).collect()
    }
}
