//! The tables that a copy takes along. One description serves for reading, writing and digests on both databases.

use crate::store::many_rows::Column::{self, Flag, Integer, Text};

pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Name and type of each column. The first ones are the primary key.
    pub(crate) columns: &'static [(&'static str, Column)],
    /// Number of columns of the primary key.
    pub(crate) key: usize,
}

/// All tables, each after those that its foreign keys refer to.
///
/// Left out are `_sqlx_migrations`, which is the target's own, and what only PostgreSQL has: `nodes` and `presence` are
/// about running servers, and `conversations.access_version` is compared within a running transaction only.
/// Left out, too, is `admin_links`: a link lasts for ten minutes.
pub(crate) static TABLES: [Table; 19] = [
    Table {
        name: "users",
        columns: &[
            ("id", Text),
            ("email", Text),
            ("nick", Text),
            ("full_name", Text),
            ("api_key", Text),
            ("api_key_digest", Text),
            ("is_disabled", Flag),
            ("private_key", Text),
            ("public_key", Text),
            ("availability", Text),
            ("number", Integer),
            ("is_deleted", Flag),
            ("sealing_key", Integer),
            ("sealed_api_key", Text),
        ],
        key: 1,
    },
    Table { name: "friends", columns: &[("user_id", Text), ("friend_id", Text)], key: 2 },
    Table {
        name: "stations",
        columns: &[
            ("user_id", Text),
            ("station_id", Text),
            ("bound_at", Integer),
            ("used_at", Integer),
            ("position", Integer),
        ],
        key: 2,
    },
    Table {
        name: "friend_requests",
        columns: &[("from_id", Text), ("to_id", Text), ("is_open", Flag), ("is_silent", Flag)],
        key: 2,
    },
    Table {
        name: "invitations",
        columns: &[
            ("email", Text),
            ("token_digest", Text),
            ("nick", Text),
            ("created_at", Integer),
            ("expires_at", Integer),
            ("used_at", Integer),
        ],
        key: 1,
    },
    Table { name: "blocks", columns: &[("user_id", Text), ("blocked_id", Text)], key: 2 },
    Table {
        name: "workspaces",
        columns: &[("name", Text), ("owner_id", Text), ("registered_at", Integer)],
        key: 1,
    },
    Table {
        name: "conversations",
        columns: &[
            ("number", Integer),
            ("id", Text),
            ("generation", Integer),
            ("instance", Text),
            ("next_seq", Integer),
            ("last_message_id", Text),
            ("last_access", Integer),
            ("longest_data", Integer),
            ("next_report_seq", Integer),
            ("last_report_id", Text),
            ("data_bytes", Integer),
            ("max_accepted_at", Integer),
            ("sent_by_first", Integer),
            ("retention_days", Integer),
            ("first_message", Integer),
            ("first_report", Integer),
        ],
        key: 1,
    },
    Table {
        name: "participants",
        columns: &[
            ("place", Integer),
            ("user_id", Text),
            ("user_number", Integer),
            ("conversation_id", Text),
            ("conversation_number", Integer),
            ("standing", Text),
            ("secret", Text),
            ("display_name", Text),
            ("is_muted", Flag),
            ("is_favorite", Flag),
            ("is_hidden", Flag),
            ("hide_id", Text),
            ("background_color", Text),
            ("delivered_to", Integer),
            ("partner_number", Integer),
            ("read_to", Integer),
        ],
        key: 1,
    },
    Table {
        name: "messages",
        columns: &[
            ("place", Integer),
            ("id", Text),
            ("sender_number", Integer),
            ("type", Text),
            ("created", Integer),
            ("valid_until", Text),
            ("accepted_at", Integer),
            ("data", Text),
            ("nth", Integer),
        ],
        key: 1,
    },
    Table { name: "purges", columns: &[("generation", Integer)], key: 1 },
    Table {
        name: "reports",
        columns: &[
            ("place", Integer),
            ("id", Text),
            ("type", Text),
            ("created", Text),
            ("message_place", Integer),
            ("user_id", Text),
            ("max_created", Text),
            ("message_id", Text),
        ],
        key: 1,
    },
    Table { name: "replays", columns: &[("expires_at", Integer), ("signature", Text)], key: 2 },
    Table {
        name: "change_numbers",
        columns: &[("user_number", Integer), ("newest", Integer)],
        key: 1,
    },
    Table {
        name: "changes",
        columns: &[
            ("user_number", Integer),
            ("kind", Integer),
            ("subject", Integer),
            ("number", Integer),
            ("station", Integer),
            ("other_number", Integer),
        ],
        key: 3,
    },
    Table {
        name: "message_ids",
        columns: &[("generation", Integer), ("hash", Integer), ("seq", Integer)],
        key: 3,
    },
    Table {
        name: "audit",
        columns: &[
            ("number", Integer),
            ("at", Integer),
            ("action", Text),
            ("via", Text),
            ("operator", Text),
            ("address", Text),
            ("actor_number", Integer),
            ("subject_number", Integer),
            ("other_number", Integer),
            ("conversation_number", Integer),
            ("email", Text),
            ("details", Text),
        ],
        key: 1,
    },
    Table {
        name: SEALING_KEYS,
        columns: &[("number", Integer), ("fingerprint", Text), ("is_active", Flag)],
        key: 1,
    },
    Table {
        name: EPOCH,
        columns: &[("one", Integer), ("id", Text), ("began_at", Integer)],
        key: 1,
    },
];

/// The only table that has a row in a new database.
pub(crate) const EPOCH: &str = "epoch";

/// A table that has a row in a database which a server or a command has opened once.
pub(crate) const SEALING_KEYS: &str = "sealing_keys";

impl Table {
    /// Returns the names of the columns with commas between them.
    pub(crate) fn names(&self) -> String {
        names_of(self.columns)
    }

    /// The query of all rows in the order of the primary key.
    pub(crate) fn all(&self) -> String {
        let key = names_of(&self.columns[..self.key]);
        format!("SELECT {} FROM {} ORDER BY {key}", self.names(), self.name)
    }

    /// The query of the greatest primary key.
    pub(crate) fn last_key(&self) -> String {
        let key = names_of(&self.columns[..self.key]);
        let descending = key.replace(", ", " DESC, ");
        format!("SELECT {key} FROM {} ORDER BY {descending} DESC LIMIT 1", self.name)
    }

    pub(crate) fn count(&self) -> String {
        format!("SELECT count(*) FROM {}", self.name)
    }

    /// The statement that inserts this number of rows on SQLite.
    pub(crate) fn insert(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns.len()].join(", "));
        let rows = vec![row.as_str(); rows].join(", ");
        format!("INSERT INTO {} ({}) VALUES {rows}", self.name, self.names())
    }

    /// The statement that takes rows in the text form of `COPY` on PostgreSQL.
    pub(crate) fn copy_in(&self) -> String {
        format!("COPY {} ({}) FROM STDIN", self.name, self.names())
    }
}

fn names_of(columns: &[(&str, Column)]) -> String {
    columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, SqliteConnection};

    use super::*;

    /// A later migration that adds a column or a table must add it here. `tests/it/postgres/schema.rs` shows that
    /// PostgreSQL has the same.
    #[tokio::test]
    async fn the_description_has_every_column_in_the_order_of_the_schema() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::migrate!("migrations/sqlite").run_direct(None, &mut connection, false).await.unwrap();
        let columns: Vec<(String, String, String, i64)> = sqlx::query_as(
            "SELECT s.name, c.name, c.type, c.pk FROM sqlite_schema s, pragma_table_info(s.name) c
             WHERE s.type = 'table' AND s.name NOT GLOB '_sqlx_*' AND s.name <> 'admin_links' ORDER BY s.name, c.cid",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let found = columns.into_iter().map(|(table, name, kind, key)| {
            let column = match kind.as_str() {
                "TEXT" => Text,
                "INTEGER" if name.starts_with("is_") => Flag,
                _ => Integer,
            };
            (table, name, column, key)
        });
        let mut tables: Vec<_> = TABLES.iter().collect();
        tables.sort_by_key(|table| table.name);
        let described = tables.into_iter().flat_map(|table| {
            (0_i64..).zip(table.columns).map(|(n, (name, column))| {
                let key = if n < i64::try_from(table.key).unwrap() { n + 1 } else { 0 };
                (table.name.to_owned(), (*name).to_owned(), *column, key)
            })
        });
        assert_eq!(described.collect::<Vec<_>>(), found.collect::<Vec<_>>());
    }
}
