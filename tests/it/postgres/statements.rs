//! Every statement of the store is one for both databases.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use chatserver::store::{Statement, statements};
use sqlx::postgres::PgTypeInfo;
use sqlx::{
    AssertSqlSafe, Column as _, Either, Executor as _, PgConnection, SqlSafeStr as _,
    Statement as _, TypeInfo as _,
};

use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::Workplace;

/// Types of parameters that PostgreSQL can't tell from the statement. The values that are bound have them.
const PARAMETERS: &[(&str, &[&str])] = &[
    ("src/store/changes.rs PENDING", &["text", "text", "bigint", "boolean", "bigint"]),
    ("src/store/postgres/presence.rs FORGET_NODES", &["bigint"]),
    ("src/store/postgres/presence.rs FORGET_USERS", &["bigint"]),
    ("src/store/postgres/presence.rs READ", &["bigint", "bigint", "bigint"]),
    ("src/store/postgres/presence.rs REACHABLE", &["text", "bigint"]),
    ("src/store/postgres/presence.rs RENEW", &["bigint", "bigint"]),
];

/// Returns the type of the values that the store binds where PostgreSQL has found this one. The store binds texts,
/// numbers of 64 bits, flags and arrays of these.
fn bound(found: &str) -> Option<&'static str> {
    Some(match found.to_lowercase().as_str() {
        "int2" | "int4" | "int8" => "bigint",
        "text" | "varchar" | "name" => "text",
        "bool" => "boolean",
        "text[]" => "text[]",
        "int8[]" => "bigint[]",
        "bool[]" => "boolean[]",
        _ => return None,
    })
}

/// A statement as PostgreSQL has prepared it: the types of its parameters and of its columns.
pub struct Described {
    pub parameters: Vec<&'static str>,
    pub columns: Vec<String>,
}

/// Prepares a text for parameters of these types.
pub async fn prepares_with(
    postgres: &mut PgConnection,
    text: &str,
    parameters: Vec<&'static str>,
) -> Result<Described, sqlx::Error> {
    let text = AssertSqlSafe(text.to_owned()).into_sql_str();
    let types: Vec<_> = parameters.iter().map(|name| PgTypeInfo::with_name(name)).collect();
    let prepared = postgres.prepare_with(text, &types).await?;
    let columns = prepared.columns().iter();
    let columns = columns.map(|column| column.type_info().name().to_lowercase()).collect();
    Ok(Described { parameters, columns })
}

/// Prepares a statement for the types of values that the store binds. From the statement alone, PostgreSQL may find
/// others, such as a number of 32 bits, and then refuse a value.
pub async fn prepares(
    postgres: &mut PgConnection,
    statement: &Statement,
) -> Result<Described, sqlx::Error> {
    let named = named(statement);
    let known = PARAMETERS.iter().find(|(name, _)| *name == named);
    let known = known.map(|(_, types)| types.to_vec()).or(statement.parameters.clone());
    let types = if let Some(types) = known {
        types
    } else {
        let text = AssertSqlSafe(statement.postgres.clone()).into_sql_str();
        let prepared = (&mut *postgres).prepare(text).await?;
        let Some(Either::Left(types)) = prepared.parameters() else { panic!("{named}") };
        let bound = |found: &PgTypeInfo| {
            let found = found.name();
            bound(found).unwrap_or_else(|| {
                panic!("{named} has a parameter of the type {found}, which the store can't bind")
            })
        };
        types.iter().map(bound).collect()
    };
    prepares_with(postgres, &statement.postgres, types).await
}

pub fn named(statement: &Statement) -> String {
    format!("{} {}", statement.file, statement.name)
}

/// Returns the statements of a file or folder, as their definitions name them.
fn defined_in(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            defined_in(&entry.unwrap().path(), found);
        }
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = path.strip_prefix(root).unwrap().display().to_string();
    let text = fs::read_to_string(path).unwrap();
    let mut count = 0;
    for line in text.lines() {
        let Some((before, after)) = line.split_once(": ") else { continue };
        let is_one = ["Sql =", "ManyRows ="].iter().any(|kind| after.starts_with(kind));
        let mut words = before.split(' ').rev();
        if let (true, Some(name), Some("const" | "static")) = (is_one, words.next(), words.next()) {
            found.insert(format!("{file} {name}"));
            count += 1;
        }
    }
    // A statement without a name would not be listed.
    let made = [
        "Sql::both(",
        "Sql::pair(",
        "Sql::of_postgres(",
        "ManyRows::new(",
        "ManyRows::pair(",
        "ManyRows::values_of(",
    ];
    let made = made.iter().map(|made| text.matches(made).count()).sum::<usize>();
    // many_rows.rs passes on the texts that others name.
    if file != "src/store/many_rows.rs" {
        assert_eq!(made, count, "statements of {file} without a name");
    }
}

#[test]
fn every_statement_is_listed() {
    let mut defined = BTreeSet::new();
    defined_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store"), &mut defined);
    let listed = statements().iter().map(named).collect();
    assert_eq!(defined, listed, "the listed! of the file names each statement");
    assert!(defined.len() > 100, "{}", defined.len());
}

#[tokio::test]
async fn every_statement_prepares_on_both_databases() {
    let place = Workplace::new();
    place.tells(&["migrate"]);
    let mut sqlite = place.opens_database().await;
    for statement in statements() {
        let Some(text) = statement.sqlite.clone() else { continue };
        let prepared = sqlite.connection().prepare(AssertSqlSafe(text).into_sql_str()).await;
        assert!(prepared.is_ok(), "{}: {:?}", named(&statement), prepared.err());
    }
    let Some(database) = PostgresDatabase::migrated() else { return };
    let mut postgres = database.connects().await;
    let mut failed = Vec::new();
    for statement in statements() {
        if let Err(error) = prepares(&mut postgres, &statement).await {
            failed.push((named(&statement), error.to_string()));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
