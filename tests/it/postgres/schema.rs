//! Both folders of migrations make the same schema, but for what only one database needs.

use std::collections::BTreeSet;

use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::Workplace;

/// Columns with their type, in the words of PostgreSQL. A flag is an INTEGER in SQLite.
const SQLITE_COLUMNS: &str = r#"
    SELECT concat(t.name, '.', c.name, ' ', CASE
               WHEN c.type = 'TEXT' THEN 'text'
               WHEN c.type = 'INTEGER' AND c.name GLOB 'is_*' THEN 'boolean'
               WHEN c.type = 'INTEGER' THEN 'bigint'
               ELSE c.type END,
               CASE WHEN c."notnull" OR c.pk > 0 THEN ' not null' END,
               ' default ' || CASE WHEN c.name GLOB 'is_*' AND c.dflt_value = '0' THEN 'false' ELSE c.dflt_value END)
    FROM sqlite_schema AS t, pragma_table_info(t.name) AS c WHERE t.type = 'table'"#;

const POSTGRES_COLUMNS: &str = "
    SELECT concat(t.relname, '.', attname, ' ', format_type(atttypid, atttypmod),
                  CASE WHEN attnotnull THEN ' not null' END,
                  ' default ' || replace(pg_get_expr(adbin, adrelid), '::text', ''))
    FROM pg_class AS t JOIN pg_attribute ON attrelid = t.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef ON adrelid = t.oid AND adnum = attnum
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";

const SQLITE_KEYS: &str = "
    SELECT concat(t.name, ' primary key (', (SELECT group_concat(name, ', ' ORDER BY pk)
                                             FROM pragma_table_info(t.name) WHERE pk > 0), ')')
    FROM sqlite_schema AS t WHERE t.type = 'table'";

const SQLITE_INDEXES: &str = r#"
    SELECT concat(t.name, CASE WHEN i.origin = 'u' THEN ' unique'
                               ELSE concat(' index ', i.name, CASE WHEN i."unique" THEN ' unique' END) END,
                  ' (', (SELECT group_concat(name, ', ' ORDER BY seqno) FROM pragma_index_info(i.name)), ')')
    FROM sqlite_schema AS t, pragma_index_list(t.name) AS i WHERE t.type = 'table' AND i.origin <> 'pk'"#;

const SQLITE_REFERENCES: &str = r#"
    SELECT concat(t.name, ' foreign key (', f."from", ') references ', f."table", ' (', f."to", ')')
    FROM sqlite_schema AS t, pragma_foreign_key_list(t.name) AS f WHERE t.type = 'table'"#;

const POSTGRES_INDEXES: &str = "
    SELECT concat(t.relname, CASE WHEN indisprimary THEN ' primary key'
                                  WHEN k.oid IS NOT NULL THEN ' unique'
                                  ELSE concat(' index ', i.relname, CASE WHEN indisunique THEN ' unique' END) END,
                  ' (', (SELECT string_agg(attname, ', ' ORDER BY o)
                         FROM unnest(indkey::int[]) WITH ORDINALITY AS c (n, o)
                         JOIN pg_attribute ON attrelid = t.oid AND attnum = n), ')')
    FROM pg_index JOIN pg_class AS t ON t.oid = indrelid JOIN pg_class AS i ON i.oid = indexrelid
    LEFT JOIN pg_constraint AS k ON k.conindid = indexrelid AND k.contype = 'u'
    WHERE t.relnamespace = 'public'::regnamespace";

const POSTGRES_REFERENCES: &str = r"
    SELECT concat(conrelid::regclass, ' ', lower(regexp_replace(pg_get_constraintdef(oid), '(\w)[(]', '\1 (', 'g')))
    FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace";

const POSTGRES_CONSTRAINTS: &str = "
    SELECT concat(conrelid::regclass, ' constraint ', conname)
    FROM pg_constraint WHERE contype <> 'n' AND connamespace = 'public'::regnamespace";

const POSTGRES_OTHERS: &str = "
    SELECT concat('sequence ', relname) FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT concat('function ', oid::regprocedure) FROM pg_proc WHERE pronamespace = 'public'::regnamespace";

/// Checks of flags, which are a type of their own in PostgreSQL; and numbers that the single writer gives as max + 1.
const ONLY_SQLITE: &[&str] = &[
    "conversations.generation bigint not null",
    "conversations.number bigint not null",
    "friend_requests constraint friend_requests_is_open_boolean",
    "friend_requests constraint friend_requests_is_silent_boolean",
    "participants constraint participants_is_favorite_boolean",
    "participants constraint participants_is_hidden_boolean",
    "participants constraint participants_is_muted_boolean",
    "sealing_keys constraint sealing_keys_is_active_boolean",
    "users constraint users_is_deleted_boolean",
    "users constraint users_is_disabled_boolean",
    "users.number bigint not null default 0",
];

/// Numbers from sequences, functions that SQLite has built in, the version that the compare-and-set of a batch needs, and
/// what is between nodes.
const ONLY_POSTGRES: &[&str] = &[
    "conversations.access_version bigint not null default 0",
    "conversations.generation bigint not null default nextval('generations'::regclass)",
    "conversations.number bigint not null default nextval('conversation_numbers'::regclass)",
    "function datetime(bigint,text)",
    "function json_quote(text)",
    "function max(bigint,bigint)",
    "function max(text,text)",
    "function min(bigint,bigint)",
    "function min(text,text)",
    "nodes constraint nodes_pk",
    "nodes primary key (number)",
    "nodes.lease_until timestamp with time zone not null",
    "nodes.number bigint not null",
    "presence constraint presence_pk",
    "presence primary key (user_number, node)",
    "presence.choices bigint not null",
    "presence.listens boolean not null",
    "presence.node bigint not null",
    "presence.reachable_until timestamp with time zone not null",
    "presence.user_number bigint not null",
    "presence.written_at timestamp with time zone not null default clock_timestamp()",
    "sequence conversation_numbers",
    "sequence generations",
    "sequence node_numbers",
    "sequence user_numbers",
    "users.number bigint not null default nextval('user_numbers'::regclass)",
];

async fn of_sqlite() -> BTreeSet<String> {
    let place = Workplace::new();
    place.tells(&["migrate"]);
    let mut database = place.opens_database().await;
    let mut schema = BTreeSet::new();
    for query in [SQLITE_COLUMNS, SQLITE_KEYS, SQLITE_INDEXES, SQLITE_REFERENCES] {
        schema.extend(database.texts(query).await);
    }
    let tables = "SELECT name || ' ' || sql FROM sqlite_schema WHERE type = 'table'";
    for table in database.texts(tables).await {
        let name = table.split(' ').next().unwrap();
        let constraints =
            table.split("CONSTRAINT ").skip(1).filter_map(|rest| rest.split(' ').next());
        schema.extend(constraints.map(|constraint| format!("{name} constraint {constraint}")));
    }
    schema
}

async fn of_postgres(database: &PostgresDatabase) -> BTreeSet<String> {
    let mut schema = BTreeSet::new();
    for query in [
        POSTGRES_COLUMNS,
        POSTGRES_INDEXES,
        POSTGRES_REFERENCES,
        POSTGRES_CONSTRAINTS,
        POSTGRES_OTHERS,
    ] {
        schema.extend(database.texts(query).await);
    }
    schema
}

#[tokio::test]
async fn both_folders_of_migrations_make_the_same_schema() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let (sqlite, postgres) = (of_sqlite().await, of_postgres(&database).await);
    // The migrator makes its own table.
    let is_ours = |line: &&&str| !line.starts_with("_sqlx_migrations");
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        let lines = one.difference(other).map(String::as_str).collect::<Vec<_>>();
        lines.iter().filter(is_ours).map(|line| (*line).to_owned()).collect::<Vec<_>>()
    };
    assert!(sqlite.intersection(&postgres).count() > 100, "{sqlite:#?}");
    assert_eq!(only(&sqlite, &postgres), ONLY_SQLITE, "only SQLite has this");
    assert_eq!(only(&postgres, &sqlite), ONLY_POSTGRES, "only PostgreSQL has this");
}

#[tokio::test]
async fn every_text_is_sorted_by_its_bytes() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let others = "
        SELECT concat(attrelid::regclass, '.', attname) FROM pg_attribute JOIN pg_class AS t ON t.oid = attrelid
        WHERE attcollation NOT IN (0, '\"C\"'::regcollation) AND attnum > 0
          AND relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let others = database.texts(others).await;
    assert_eq!(others, ["_sqlx_migrations.description"]);
}

#[tokio::test]
async fn ids_have_the_same_order_in_both_databases() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let ids = [
        "b", "B", "a", "A", "_", "-", "1", "10", "2", "é", "e\u{301}", "Z", "~", "ß", "\u{ffff}",
        "😀", "",
    ];
    let values = (1..).zip(ids).map(|(n, id)| format!("({n}, '{id}', 1, 0, '', 0, '')"));
    let insert = format!(
        "INSERT INTO messages (place, id, sender_number, created, valid_until, accepted_at, data) VALUES {}",
        values.collect::<Vec<_>>().join(", ")
    );
    let place = Workplace::new();
    place.tells(&["migrate"]);
    let mut sqlite = place.opens_database().await;
    sqlite.runs(&insert).await;
    database.runs(&insert);
    let sorted = "SELECT id FROM messages ORDER BY id";
    let mut by_bytes = ids;
    by_bytes.sort_unstable();
    assert_eq!(sqlite.texts(sorted).await, by_bytes);
    assert_eq!(database.texts(sorted).await, by_bytes);
    // The locale of the database has another order.
    let by_locale = "SELECT id FROM messages ORDER BY id COLLATE \"default\"";
    assert_ne!(database.texts(by_locale).await, by_bytes);
}
