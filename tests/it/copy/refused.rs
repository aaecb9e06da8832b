//! Copies that are refused.

use serde_json::Value;

use super::{copies, onto_a_target_that_refuses_reports, url_of};
use crate::harness::database::Database;
use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::{Workplace, free_address};

/// Asserts that a command is refused with this code and a sentence with this part.
#[track_caller]
fn fails_with(place: &Workplace, arguments: &[&str], code: &str, part: &str) {
    let error = place.fails(&[arguments, &["--json"]].concat());
    let told: Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
    assert_eq!(told["errorcode"], code, "{arguments:?}: {error}");
    assert!(told["errormessage"].as_str().unwrap().contains(part), "{arguments:?}: {error}");
}

/// Asserts that neither a server nor a command opens the target of a copy that is not finished.
#[track_caller]
pub fn is_unfinished(place: &Workplace, url: &str) {
    let listen = free_address().to_string();
    for command in [&["serve", "--listen", &listen][..], &["user", "list"], &["migrate"]] {
        let command = [command, &["--database-url", url]].concat();
        fails_with(place, &command, "unfinished_copy", "run the same `chatserver copy` again");
    }
    fails_with(
        place,
        &["copy", "--from", url, "--to", &url_of(place, "other.db")],
        "unfinished_copy",
        "--from: ",
    );
}

#[tokio::test]
async fn a_served_database_is_neither_copied_nor_filled() {
    let place = Workplace::with_key_file();
    let (from, to) = (url_of(&place, "chatserver.db"), url_of(&place, "copy.db"));
    let server = place.serves(&[]).await;
    fails_with(&place, &["copy", "--from", &from, "--to", &to], "in_use", "server");
    fails_with(&place, &["copy", "--from", &to, "--to", &from], "no_database", "--from: ");
    server.stops(&place).await;
    copies(&place, &from, &to);
    let Some(database) = PostgresDatabase::migrated() else { return };
    let other = url_of(&place, "other.db");
    let url = database.url();
    let server = place.serves(&[("CHATSERVER_DATABASE__URL", &url)]).await;
    fails_with(&place, &["copy", "--from", &url, "--to", &other], "in_use", "--from: ");
    fails_with(&place, &["copy", "--from", &from, "--to", &url], "in_use", "--to: ");
    server.stops(&place).await;
    copies(&place, &from, &url);
}

/// A server behind a pooler may have sessions of another name.
#[tokio::test]
async fn nothing_changes_the_source_on_postgresql_during_a_copy() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let place = Workplace::with_key_file();
    let (from, to) = (database.url(), url_of(&place, "copy.db"));
    let mut other = Database::Server(database.connects().await);
    other.runs("BEGIN; INSERT INTO purges (generation) VALUES (1)").await;
    let refusal = place.fails(&["copy", "--from", &from, "--to", &to]);
    assert!(refusal.contains("--from: ") && refusal.contains("lock timeout"), "{refusal}");
    other.unlocks().await;
    copies(&place, &from, &to);
}

#[tokio::test]
async fn a_target_with_anything_in_it_is_refused() {
    let place = Workplace::with_key_file();
    let (from, to) = (url_of(&place, "chatserver.db"), url_of(&place, "copy.db"));
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let copy = ["copy", "--from", &from, "--to", &to];
    copies(&place, &from, &to);
    fails_with(&place, &copy, "already_exists", "has rows in users");
    fails_with(&place, &["copy", "--from", &from, "--to", &from], "invalid_argument", "same");
    std::os::unix::fs::symlink("chatserver.db", place.path().join("link.db")).unwrap();
    let link = url_of(&place, "link.db");
    fails_with(&place, &["copy", "--from", &from, "--to", &link], "invalid_argument", "same");
    let foreign = url_of(&place, "foreign.db");
    let mut database = Database::creates(&place.path().join("foreign.db")).await;
    database.runs("CREATE TABLE here (x)").await;
    database.closes().await;
    fails_with(
        &place,
        &["copy", "--from", &from, "--to", &foreign],
        "database_failed",
        "another program",
    );
    let Some(database) = PostgresDatabase::empty() else { return };
    let url = database.url();
    fails_with(&place, &["copy", "--from", &url, "--to", &url], "invalid_argument", "same");
    fails_with(&place, &["copy", "--from", &url, "--to", &foreign], "no_database", "no tables");
    database.runs("CREATE TABLE here ()");
    fails_with(
        &place,
        &["copy", "--from", &from, "--to", &url],
        "database_failed",
        "another program",
    );
}

#[tokio::test]
async fn an_unfinished_copy_takes_no_rows_of_another_database() {
    let place = Workplace::with_key_file();
    let (from, to, mut target) = onto_a_target_that_refuses_reports(&place).await;
    place.fails(&["copy", "--from", &from, "--to", &to]);
    target.takes("reports").await;
    target.closes().await;
    let other = url_of(&place, "other.db");
    place.tells(&["migrate", "--database-url", &other]);
    let part = "unfinished copy of another database";
    fails_with(&place, &["copy", "--from", &other, "--to", &to], "already_exists", part);
    copies(&place, &from, &to);
}

#[tokio::test]
async fn an_older_source_is_refused() {
    let place = Workplace::with_key_file();
    place.tells(&["migrate"]);
    let mut source = place.opens_database().await;
    source.runs("DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)").await;
    source.closes().await;
    let (from, to) = (url_of(&place, "chatserver.db"), url_of(&place, "copy.db"));
    fails_with(&place, &["copy", "--from", &from, "--to", &to], "older_schema", "--from: ");
}

#[test]
fn a_wrong_url_is_refused_with_its_flag_and_is_not_repeated() {
    let place = Workplace::with_key_file();
    let (good, wrong) = (url_of(&place, "chatserver.db"), "postgres://chat:hunter2@db");
    for (from, to, flag) in [(wrong, good.as_str(), "--from"), (&good, wrong, "--to")] {
        let error = place.fails(&["copy", "--from", from, "--to", to]);
        assert!(error.contains(flag) && error.contains("names no database"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
