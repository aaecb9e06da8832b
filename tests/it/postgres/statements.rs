//! Every statement of the store is one for both databases.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use chatserver::store::{Statement, statements};
use sqlx::postgres::PgTypeInfo;
use sqlx::{
    AssertSqlSafe, Either, Executor as _, PgConnection, SqlSafeStr as _, Statement as _,
    TypeInfo as _,
};

use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::Workplace;

/// Types of parameters that PostgreSQL can't tell from the statement. The values that are bound have them.
const PARAMETERS: &[(&str, &[&str])] =
    &[("src/store/changes.rs PENDING", &["text", "text", "bigint", "boolean", "bigint"])];

/// Prepares a statement for the types of values that the store binds: texts, numbers of 64 bits, flags and arrays of
/// these. From the statement alone, PostgreSQL may find others, such as a number of 32 bits, and then refuse a value.
async fn prepares(postgres: &mut PgConnection, statement: &Statement) -> Result<(), sqlx::Error> {
    let named = named(statement);
    let known = PARAMETERS.iter().find(|(name, _)| *name == named);
    let known = known.map(|(_, types)| types.to_vec()).or(statement.parameters.clone());
    let text = || AssertSqlSafe(statement.postgres.clone()).into_sql_str();
    let types = if let Some(types) = known {
        types.into_iter().map(PgTypeInfo::with_name).collect()
    } else {
        let prepared = (&mut *postgres).prepare(text()).await?;
        let Some(Either::Left(types)) = prepared.parameters() else { panic!("{named}") };
        let bound = |found: &PgTypeInfo| match found.name().to_lowercase().as_str() {
            "int2" | "int4" | "int8" => PgTypeInfo::with_name("bigint"),
            "text" | "varchar" | "name" => PgTypeInfo::with_name("text"),
            "bool" | "text[]" | "int8[]" | "bool[]" => found.clone(),
            other => {
                panic!("{named} has a parameter of the type {other}, which the store can't bind")
            }
        };
        types.iter().map(bound).collect::<Vec<_>>()
    };
    (&mut *postgres).prepare_with(text(), &types).await.map(drop)
}

fn named(statement: &Statement) -> String {
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
    let made =
        ["Sql::both(", "Sql::pair(", "ManyRows::new(", "ManyRows::pair(", "ManyRows::values_of("];
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
        let text = AssertSqlSafe(statement.sqlite.clone()).into_sql_str();
        let prepared = sqlite.connection().prepare(text).await;
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
