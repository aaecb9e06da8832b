//! PostgreSQL servers and databases that can't be used. Each refusal names the server, and what to do.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::postgres::{PostgresDatabase, SUPERUSER, USER};
use crate::harness::process::{Workplace, free_address};

/// Runs `migrate`, which fails, and asserts that the sentence has these parts. Returns how long it took.
#[track_caller]
fn refused(url: &str, parts: &[&str]) -> Duration {
    let begun = Instant::now();
    let said = Workplace::new().fails(&["migrate", "--database-url", url]);
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    begun.elapsed()
}

#[test]
fn a_server_that_does_not_listen_is_unreachable() {
    let address = free_address();
    let url = format!("postgres://chat@{address}/chat");
    refused(&url, &[&format!("postgres://{address}/chat can't be reached"), "Connection refused"]);
    refused(
        "postgres://chat@db.invalid/chat",
        &["postgres://db.invalid:5432/chat can't be reached"],
    );
}

#[test]
fn a_server_that_does_not_answer_is_unreachable() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let url = format!("postgres://chat@{address}/chat");
    let took =
        refused(&url, &[&format!("{address}/chat can't be reached"), "no answer within 5 s"]);
    assert!(took >= Duration::from_secs(5));
}

/// Answers the start of a session as a server of this version does.
fn serves_version(listener: &TcpListener, version: &str) {
    let (mut client, _) = listener.accept().unwrap();
    start_message(&mut client);
    let parameter = format!("server_version\0{version}\0");
    let mut answer = Vec::new();
    for (kind, content) in [(b'R', &[0; 4][..]), (b'S', parameter.as_bytes()), (b'Z', b"I")] {
        answer.push(kind);
        answer.extend(u32::try_from(content.len() + 4).unwrap().to_be_bytes());
        answer.extend(content);
    }
    client.write_all(&answer).unwrap();
    drop(client.read_to_end(&mut Vec::new()));
}

fn start_message(client: &mut TcpStream) {
    let mut length = [0; 4];
    client.read_exact(&mut length).unwrap();
    let rest = usize::try_from(u32::from_be_bytes(length)).unwrap() - length.len();
    client.read_exact(&mut vec![0; rest]).unwrap();
}

#[test]
fn a_server_that_is_too_old_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://chat@{}/chat?sslmode=disable", listener.local_addr().unwrap());
    let server = thread::spawn(move || serves_version(&listener, "14.19 (Debian 14.19-1)"));
    refused(&url, &["is PostgreSQL 14.19", "needs 15 or newer"]);
    server.join().unwrap();
}

#[tokio::test]
async fn a_read_only_database_is_refused() {
    let Some(database) = PostgresDatabase::empty() else { return };
    database
        .runs(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name));
    let shown = format!("127.0.0.1:{}/{}", database.port(), database.name);
    refused(&database.url(), &[&shown, "read-only", "default_transaction_read_only is on"]);
}

#[tokio::test]
async fn a_database_in_another_encoding_is_refused() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let name = format!("{}_ascii", database.name);
    database.runs(&format!(
        "CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
    ));
    let url = database.url().replace(&database.name, &name);
    refused(&url, &[&name, "SQL_ASCII", "UTF8"]);
    database.runs(&format!("DROP DATABASE {name}"));
}

#[tokio::test]
async fn a_missing_database_is_refused_with_how_to_create_it() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let url = database.url().replace(&database.name, "nowhere");
    refused(&url, &["\"nowhere\" does not exist", "CREATE DATABASE"]);
}

#[tokio::test]
async fn a_user_without_rights_is_refused_with_what_is_needed() {
    let Some(database) = PostgresDatabase::empty() else { return };
    database.runs("CREATE ROLE guest LOGIN");
    let url = database.url_of("guest", "127.0.0.1", "sslmode=disable");
    refused(&url, &["can't be migrated", "permission denied", "must own the database"]);
    database.runs("DROP ROLE guest");
}

#[tokio::test]
async fn a_socket_is_as_good_as_an_address() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let host = database.socket().to_str().unwrap().replace('/', "%2F");
    let url = database.url_of(SUPERUSER, &host, "");
    let shown = format!("postgres://{}:{}", database.socket().display(), database.port());
    let told = Workplace::new().tells(&["migrate", "--database-url", &url]);
    assert_eq!(told["url"], format!("{shown}/{}", database.name));
    // The user who needs a password over TCP needs none here: only its right to create tables is missing.
    refused(&database.url_of(USER, &host, ""), &["permission denied"]);
}
