//! Rolling upgrades: nodes of the previous schema go on working on the newest one (`migrations/README.md`).
//!
//! `migrations/statements/` has the statements of each schema, as the newest build with that schema ran them.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use chatserver::store::statements;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Executor as _, SqlSafeStr as _};

use super::statements::{named, prepares, prepares_with};
use crate::harness::database::Database;
use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::Workplace;

/// Environment variable that has the record of the newest schema written instead of compared.
const RECORD: &str = "CHATSERVER_RECORD_STATEMENTS";

/// Columns of a PostgreSQL database, and which of them an INSERT must name.
const COLUMNS: &str = "
    SELECT concat(relname, '.', attname, CASE WHEN attnotnull AND NOT atthasdef AND attidentity = '' THEN ' required' END)
    FROM pg_class AS t JOIN pg_attribute ON attrelid = t.oid AND attnum > 0 AND NOT attisdropped
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname, attnum";

/// The statements, types and columns that nodes of a schema need.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    statements: Vec<Recorded>,
    /// As [`COLUMNS`] selects them.
    columns: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Recorded {
    /// Its file, and the name of the constant.
    name: String,
    sqlite: Option<String>,
    postgres: String,
    /// Types of the values that the store binds, in PostgreSQL.
    parameters: Vec<String>,
    /// Types of the columns that the store reads, in PostgreSQL.
    columns: Vec<String>,
}

fn migrations() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")
}

/// Returns the numbers that the files of a folder begin with, in order.
fn numbers(folder: &str) -> Vec<String> {
    let files = fs::read_dir(migrations().join(folder)).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut numbers: Vec<_> = names.map(|name| name[..4].to_owned()).collect();
    numbers.sort_unstable();
    numbers
}

/// The first schema whose statements were recorded.
const FIRST: &str = "0011";

/// The test that writes a record, as it is given to Cargo.
const RECORDING: &str = "the_statements_of_the_newest_schema_are_recorded";

/// Returns the number of the newest schema. SQLite's count, since PostgreSQL began later.
fn newest() -> String {
    numbers("sqlite").pop().unwrap()
}

fn file_of(schema: &str) -> PathBuf {
    migrations().join("statements").join(schema).with_extension("json")
}

fn recorded(schema: &str) -> Record {
    let file = file_of(schema);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!("{}: {error}. {RECORD}=1 cargo test {RECORDING} writes it", file.display())
    });
    serde_json::from_str(&text).unwrap()
}

/// Returns what this build needs, on a database with the newest schema.
async fn of_this_build(database: &PostgresDatabase) -> Record {
    let mut postgres = database.connects().await;
    let mut recorded = Vec::new();
    for statement in statements() {
        let described = prepares(&mut postgres, &statement).await.unwrap();
        recorded.push(Recorded {
            name: named(&statement),
            sqlite: statement.sqlite,
            postgres: statement.postgres,
            parameters: described.parameters.into_iter().map(str::to_owned).collect(),
            columns: described.columns,
        });
    }
    Record { statements: recorded, columns: database.texts(COLUMNS).await }
}

/// Returns what of a record does not work on an SQLite database.
async fn broken_on_sqlite(record: &Record, sqlite: &mut Database) -> Vec<String> {
    let mut broken = Vec::new();
    for Recorded { name, sqlite: text, .. } in &record.statements {
        let Some(text) = text.clone() else { continue };
        let prepared = sqlite.connection().prepare(AssertSqlSafe(text).into_sql_str()).await;
        broken.extend(prepared.err().map(|error| format!("{name}: {error}")));
    }
    broken
}

/// Returns what of a record does not work on a PostgreSQL database: statements that do not prepare or that yield other
/// types, and columns that an INSERT of the record lacks.
async fn broken_on_postgres(record: &Record, database: &PostgresDatabase) -> Vec<String> {
    let mut postgres = database.connects().await;
    let mut broken = Vec::new();
    for Recorded { name, postgres: text, parameters, columns, .. } in &record.statements {
        let types = ["text", "bigint", "boolean", "text[]", "bigint[]", "boolean[]"];
        let known = |name: &String| types.into_iter().find(|known| known == name).unwrap();
        let types = parameters.iter().map(known).collect();
        match prepares_with(&mut postgres, text, types).await {
            Err(error) => broken.push(format!("{name}: {error}")),
            Ok(described) if described.columns != *columns => {
                broken.push(format!("{name}: {columns:?} became {:?}", described.columns));
            }
            Ok(_) => {}
        }
    }
    let table = |column: &str| column.split('.').next().unwrap().to_owned();
    let tables: BTreeSet<_> = record.columns.iter().map(|column| table(column)).collect();
    for column in database.texts(COLUMNS).await {
        let is_new = tables.contains(&table(&column)) && !record.columns.contains(&column);
        if is_new && column.ends_with(" required") {
            broken.push(column);
        }
    }
    broken
}

#[tokio::test]
async fn the_statements_of_the_newest_schema_are_recorded() {
    let schema = newest();
    let database = PostgresDatabase::migrated();
    if env::var_os(RECORD).is_some() {
        let record = of_this_build(&database.expect("PostgreSQL")).await;
        let text = serde_json::to_string_pretty(&record).unwrap() + "\n";
        return fs::write(file_of(&schema), text).unwrap();
    }
    let recorded = recorded(&schema);
    let texts = recorded.statements.iter();
    let texts = texts.map(|one| (one.name.clone(), one.sqlite.clone(), one.postgres.clone()));
    let built = statements().into_iter().map(|one| (named(&one), one.sqlite, one.postgres));
    let how =
        format!("{RECORD}=1 cargo test {RECORDING} writes migrations/statements/{schema}.json");
    assert!(texts.eq(built), "the statements differ from the recorded ones: {how}");
    let Some(database) = database else { return };
    assert!(recorded == of_this_build(&database).await, "types or columns differ: {how}");
}

#[tokio::test]
async fn nodes_of_the_previous_schema_work_on_the_newest_one() {
    let newest = newest();
    let schemas = numbers("statements");
    let previous = schemas.iter().rfind(|schema| **schema < newest);
    assert!(previous.is_some() || newest == FIRST, "the record of the last release is missing");
    let place = Workplace::new();
    place.tells(&["migrate"]);
    let mut sqlite = place.opens_database().await;
    let database = PostgresDatabase::migrated();
    for schema in previous.into_iter().chain([&newest]) {
        let record = recorded(schema);
        let broken = broken_on_sqlite(&record, &mut sqlite).await;
        assert!(broken.is_empty(), "statements of schema {schema} on SQLite: {broken:#?}");
        let Some(database) = &database else { continue };
        let broken = broken_on_postgres(&record, database).await;
        assert!(broken.is_empty(), "statements of schema {schema} on PostgreSQL: {broken:#?}");
    }
}

/// Migrations that break nodes of the schema before them, and the beginnings of what each breaks.
const BREAKING: &[(&str, &[&str])] = &[
    ("ALTER TABLE users DROP COLUMN full_name", &["src/store/users.rs ADD: "]),
    ("ALTER TABLE users RENAME COLUMN full_name TO name", &["src/store/users.rs ADD: "]),
    ("DROP TABLE replays", &["src/store/replays.rs RECORD: "]),
];

/// Migrations that only PostgreSQL knows.
const BREAKING_POSTGRES: &[(&str, &[&str])] = &[
    (
        "ALTER TABLE users ALTER COLUMN full_name TYPE bytea USING full_name::bytea",
        &["src/store/users.rs ADD: "],
    ),
    ("ALTER TABLE users ADD COLUMN pronouns text NOT NULL", &["users.pronouns required"]),
    ("ALTER TABLE nodes RENAME COLUMN lease_until TO ends_at", &["src/store/postgres/presence.rs"]),
];

/// A migration that only expands.
const EXPANDING: &str = "
    ALTER TABLE users ADD COLUMN pronouns text;
    ALTER TABLE users ADD COLUMN language text NOT NULL DEFAULT '';
    CREATE TABLE badges (user_id text NOT NULL, name text NOT NULL);
    CREATE INDEX users_by_language ON users (language);";

fn finds(broken: &[String], beginnings: &[&str], migration: &str) {
    for beginning in beginnings {
        let found = broken.iter().any(|one| one.starts_with(beginning));
        assert!(found, "{migration}: {beginning} is not in {broken:#?}");
    }
}

#[tokio::test]
async fn a_migration_that_breaks_nodes_of_the_previous_schema_is_found() {
    let record = recorded(&newest());
    for (migration, beginnings) in BREAKING {
        let place = Workplace::new();
        place.tells(&["migrate"]);
        let mut sqlite = place.opens_database().await;
        sqlite.runs(migration).await;
        finds(&broken_on_sqlite(&record, &mut sqlite).await, beginnings, migration);
    }
    for (migration, beginnings) in BREAKING.iter().chain(BREAKING_POSTGRES) {
        let Some(database) = PostgresDatabase::migrated() else { return };
        database.runs(migration);
        finds(&broken_on_postgres(&record, &database).await, beginnings, migration);
    }
}

#[tokio::test]
async fn a_migration_that_only_expands_breaks_nothing() {
    let record = recorded(&newest());
    let place = Workplace::new();
    place.tells(&["migrate"]);
    let mut sqlite = place.opens_database().await;
    sqlite.runs(EXPANDING).await;
    assert_eq!(broken_on_sqlite(&record, &mut sqlite).await, [""; 0]);
    let Some(database) = PostgresDatabase::migrated() else { return };
    database.runs(EXPANDING);
    assert_eq!(broken_on_postgres(&record, &database).await, [""; 0]);
}
