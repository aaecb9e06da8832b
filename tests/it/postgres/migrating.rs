//! `chatserver migrate` on PostgreSQL.

use std::fs::File;
use std::process::Stdio;

use serde_json::{Value, json};
use sqlx::migrate::Migrate as _;

use crate::harness::postgres::{PostgresDatabase, migrations};
use crate::harness::process::{Process, Workplace, free_address};

#[tokio::test]
async fn migrate_makes_the_schema_once_and_says_so() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let place = Workplace::new();
    let url = database.url();
    let migrate = ["migrate", "--database-url", &url];
    let shown = format!("postgres://127.0.0.1:{}/{}", database.port(), database.name);
    let first = place.tells(&migrate);
    assert_eq!(first, json!({ "url": shown, "migrations": migrations() }));
    let output = place.runs(&migrate);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("{shown} has the newest schema; it had it already\n"));
    assert_eq!(database.number("SELECT count(*) FROM epoch").await, 1);
}

#[tokio::test]
async fn of_several_processes_that_migrate_at_once_one_does_it() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let place = Workplace::new();
    let url = database.url();
    let processes = [(); 4].map(|()| {
        let mut command = place.command(&["migrate", "--database-url", &url, "--json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    let made = processes.into_iter().map(|process| {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["migrations"].as_u64().unwrap()
    });
    assert_eq!(made.sum::<u64>(), migrations());
}

#[tokio::test]
async fn a_process_that_waits_for_another_one_says_so() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let place = Workplace::new();
    let mut other = database.connects().await;
    other.lock().await.unwrap();
    let url = database.url();
    let mut command = place.command(&["migrate", "--database-url", &url]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(File::create(place.path().join("log.txt")).unwrap());
    let mut waiting = Process::of(command, free_address());
    place.logs("waiting for another process that migrates the database").await;
    other.unlock().await.unwrap();
    assert!(waiting.ended().await.success(), "{}", place.log());
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let place = Workplace::new();
    let url = database.url();
    let migrate = ["migrate", "--database-url", &url];
    database.runs(
        "INSERT INTO _sqlx_migrations SELECT version + 1, 'later', installed_on, success, checksum, execution_time
         FROM _sqlx_migrations ORDER BY version DESC LIMIT 1",
    );
    let told = place.tells(&migrate);
    assert_eq!(told["migrations"], 0);
    let output = place.runs(&migrate);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("has the schema of a newer version, which this one works with"),
        "{text}"
    );

    database.runs("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1");
    let failed = place.fails(&migrate);
    assert!(
        failed.contains("was made by a newer version of chatserver, or by another program"),
        "{failed}"
    );
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let Some(database) = PostgresDatabase::empty() else { return };
    database.runs("CREATE TABLE users (id bigint)");
    let failed = Workplace::new().fails(&["migrate", "--database-url", &database.url()]);
    assert!(failed.contains("by another program"), "{failed}");
    assert_eq!(
        database.number("SELECT count(*) FROM pg_class WHERE relname = '_sqlx_migrations'").await,
        0
    );
}

#[test]
fn commands_that_work_on_files_name_what_to_use_instead() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let place = Workplace::new();
    let url = database.url();
    for (command, instead) in [
        (&["backup", "copy.db"][..], "pg_dump"),
        (&["restore", "copy.db"], "point-in-time recovery"),
        (&["compact"], "autovacuum"),
    ] {
        let failed = place.fails(&[command, &["--database-url", &url]].concat());
        assert!(failed.contains("is a PostgreSQL database"), "{command:?}: {failed}");
        assert!(failed.contains(instead), "{command:?}: {failed}");
        assert!(!failed.contains('@'), "{command:?}: {failed}");
        let failed = place.fails(&[command, &["--json", "--database-url", &url]].concat());
        assert!(failed.contains("\"errorcode\":\"sqlite_only\""), "{command:?}: {failed}");
    }
}
