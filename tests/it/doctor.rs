//! `chatserver doctor`: what it finds, and what it advises.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use chrono::{DateTime, Datelike as _, TimeDelta};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;

use crate::harness::nginx::{Nginx, PASSES_ALL};
use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::{KEY_FILE, Process, Workplace};

/// The outcome of a run.
struct Examined {
    output: Output,
    told: Value,
}

impl Workplace {
    /// Runs `doctor` with these settings.
    fn is_examined(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Examined {
        let arguments = [&["doctor", "--json"], arguments].concat();
        let output = self.runs_with(&arguments, "", settings);
        let told = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        Examined { output, told }
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Examined {
    /// Asserts that a check has this level, and says this in what it found or advises.
    #[track_caller]
    fn says(&self, check: &str, level: &str, part: &str) -> &Self {
        let checks = self.told["checks"].as_array().unwrap();
        let found = checks.iter().find(|one| one["check"] == check);
        let found = found.unwrap_or_else(|| panic!("{check} is not in {}", self.told));
        assert_eq!(found["level"], level, "{found}");
        let text = format!("{} {}", found["found"], found["advice"]);
        assert!(text.contains(part), "{part:?} is not in {text}");
        self
    }

    /// Asserts the number of problems, by which the command fails or not.
    #[track_caller]
    fn has_problems(&self, count: usize) {
        assert_eq!(self.told["problems"], count, "{}", self.told);
        assert_eq!(self.output.status.code(), Some(i32::from(count > 0)), "{:?}", self.output);
        let failure = String::from_utf8_lossy(&self.output.stderr);
        assert_eq!(failure.contains("problems_found"), count > 0, "{failure}");
    }
}

fn listen(server: &Process) -> String {
    server.address.to_string()
}

#[tokio::test]
async fn a_sound_server_has_no_problem_and_is_not_disturbed() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("before").await;
    place.tells(&["backup", "backup.db"]);
    let files = place.files();
    let settings = [("CHATSERVER_HTTP__LISTEN", &*listen(&server))];
    for arguments in [&[][..], &["--full"]] {
        let examined = place.is_examined(arguments, &settings);
        examined
            .says("settings", "ok", "(environment CHATSERVER_HTTP__LISTEN)")
            .says("flush", "ok", "an fsync takes")
            .says("files", "ok", "no other user")
            .says("certificate", "ok", "no TLS of its own")
            .says("migrations", "ok", "has all")
            .says("journal", "ok", "wal")
            .says("keyfile", "ok", "as the database records")
            .says("clock", "ok", "the newest date in the database")
            .says("backup", "ok", "backup.db")
            .says("publicurl", "ok", "answers")
            .says("proxy", "ok", "127.0.0.1")
            .says("websocket", "ok", "opens")
            .says("integrity", "ok", if arguments.is_empty() { "--full" } else { "whole" })
            .has_problems(0);
    }
    assert_eq!(place.files(), files, "nothing is left behind");
    alice.sends("after").await;
    assert_eq!(bob.reads().await, ["before", "after"]);
    server.stops(&place).await;
}

#[tokio::test]
async fn problems_of_a_database_are_found_with_what_to_do() {
    let place = Workplace::new();
    place.is_examined(&[], &[]).says("database", "note", "there is no database").has_problems(0);
    assert_eq!(place.files(), Vec::<String>::new(), "nothing was created");
    let server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    alice.sends("hi").await;
    server.stops(&place).await;

    fs::set_permissions(place.database(), Permissions::from_mode(0o644)).unwrap();
    let examined = place.is_examined(&[], &[]);
    examined.says("files", "problem", "(mode 644)").says("files", "problem", "chmod o= ");
    examined
        .says("publicurl", "note", "no server runs")
        .says("backup", "note", "made none")
        .has_problems(1);
    fs::set_permissions(place.database(), Permissions::from_mode(0o600)).unwrap();

    let mut database = place.opens_database().await;
    // With an empty log, as after a stop: what stands in a log may belong to another database.
    let mut changes = async |change: &str| {
        database.runs(&format!("{change}; PRAGMA wal_checkpoint(TRUNCATE)")).await;
        place.is_examined(&[], &[])
    };
    let ahead = "UPDATE conversations SET last_access = last_access + 864000";
    changes(ahead).await.says("clock", "problem", "NTP").has_problems(1);
    let damaged =
        "UPDATE conversations SET last_access = last_access - 864000, next_seq = next_seq + 1";
    let damaged = changes(damaged).await;
    damaged.says("integrity", "problem", "chatserver restore").has_problems(1);
    let wholly = place.is_examined(&["--full"], &[]);
    wholly.says("integrity", "problem", "chatserver restore").has_problems(1);
    changes("UPDATE conversations SET next_seq = next_seq - 1").await.has_problems(0);
    let unsafely = changes("PRAGMA journal_mode = DELETE").await;
    unsafely.says("journal", "problem", "delete").has_problems(1);
    let newest = "(SELECT max(version) FROM _sqlx_migrations)";
    let older = changes(&format!("DELETE FROM _sqlx_migrations WHERE version = {newest}")).await;
    older.says("database", "problem", "chatserver migrate").has_problems(1);
}

#[tokio::test]
async fn a_proxy_that_hides_clients_or_passes_no_websocket_is_a_problem() {
    let place = Workplace::new();
    let trusted = ("CHATSERVER_HTTP__TRUSTED_PROXIES", "127.0.0.1");
    let server = place.serves(&[trusted]).await;
    let examined = async |passes: &str, settings: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        let nginx = Nginx::start(folder.path(), &listen(&server), passes).await?;
        let url = format!("http://{}/", nginx.address);
        let url = [("CHATSERVER_HTTP__PUBLIC_URL", url.as_str())];
        Some(place.is_examined(&[], &[&url, settings].concat()))
    };
    let Some(hidden) = examined("proxy_set_header X-Forwarded-For '';", &[trusted]).await else {
        return;
    };
    hidden
        .says("proxy", "problem", "X-Forwarded-For")
        .says("websocket", "problem", "Upgrade")
        .has_problems(2);
    // This command is at a trusted address itself, so what it claims is believed.
    let passed = examined(PASSES_ALL, &[trusted]).await.unwrap();
    passed.says("proxy", "note", "192.0.2.1").says("websocket", "ok", "opens").has_problems(0);
    let gone = [("CHATSERVER_HTTP__PUBLIC_URL", "http://127.0.0.1:1/")];
    place
        .is_examined(&[], &gone)
        .says("publicurl", "problem", "does the server run")
        .has_problems(1);
}

#[test]
fn a_certificate_that_clients_refuse_is_a_problem() {
    let place = Workplace::new();
    let (certificate, key) = (place.path().join("chain.pem"), place.path().join("key.pem"));
    let now = DateTime::from_timestamp(chatserver::clock::Clock::system().now().unix(), 0).unwrap();
    let at = |days: i64| {
        let date = now + TimeDelta::days(days);
        rcgen::date_time_ymd(
            date.year(),
            date.month().try_into().unwrap(),
            date.day().try_into().unwrap(),
        )
    };
    let settings = [
        ("CHATSERVER_HTTP__TLS_CERTIFICATE", certificate.to_str().unwrap()),
        ("CHATSERVER_HTTP__TLS_KEY", key.to_str().unwrap()),
        ("CHATSERVER_HTTP__PUBLIC_URL", "https://chat.example.com/"),
    ];
    place
        .is_examined(&[], &settings)
        .says("certificate", "problem", "No such file")
        .has_problems(1);
    for (name, days, level, part, problems) in [
        ("chat.example.com", 60, "ok", "it is valid from", 0),
        ("chat.example.com", 5, "note", "renew it", 0),
        ("chat.example.com", -1, "problem", "clients refuse it", 1),
        ("example.com", 60, "problem", "it is not for chat.example.com", 1),
    ] {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (at(days - 90), at(days));
        let pair = KeyPair::generate().unwrap();
        fs::write(&certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        place.is_examined(&[], &settings).says("certificate", level, part).has_problems(problems);
    }
}

#[tokio::test]
async fn a_postgres_database_is_examined_too() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let database = Arc::new(database);
    let place = Workplace::on(Arc::clone(&database));
    let server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    alice.sends("hi").await;
    let url = database.url();
    let settings =
        [("CHATSERVER_HTTP__LISTEN", &*listen(&server)), ("CHATSERVER_DATABASE__URL", &*url)];
    place
        .is_examined(&["--full"], &settings)
        .says("migrations", "ok", "postgres://")
        .says("integrity", "note", "pg_amcheck")
        .says("clock", "ok", "the newest date")
        .says("backup", "note", "pg_dump")
        .says("keyfile", "ok", "as the database records")
        .says("websocket", "ok", "opens");
    let settings = [("CHATSERVER_DATABASE__URL", "postgres://chat@127.0.0.1:1/chat")];
    place.is_examined(&[], &settings).says("database", "problem", "can't be reached");
}

#[test]
fn findings_are_lines_for_people() {
    let place = Workplace::new();
    let output = place.runs(&["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for line in
        ["ok       settings: all have their defaults", "note     database: there is no database"]
    {
        assert!(text.lines().any(|one| one.starts_with(line)), "{line} is not in {text}");
    }
    assert!(text.contains("\n         -> start the server, and run this again"), "{text}");
}

#[test]
fn check_config_opens_the_files_that_the_settings_name() {
    let place = Workplace::new();
    let path = |name: &str| place.path().join(name).display().to_string();
    fs::write(path("no-certificate.pem"), "no certificate\n").unwrap();
    let authority = format!(
        "postgres://chat@db/chat?sslmode=verify-full&sslrootcert={}",
        path("no-certificate.pem")
    );
    let nowhere = path("nowhere");
    let database = format!("sqlite://{nowhere}/chat.db");
    let url = ("CHATSERVER_DATABASE__URL", "postgres://chat@db/chat");
    let key_file = (KEY_FILE, &*nowhere);
    for (settings, part) in [
        (
            &[
                ("CHATSERVER_HTTP__TLS_CERTIFICATE", &*nowhere),
                ("CHATSERVER_HTTP__TLS_KEY", &nowhere),
            ][..],
            "http.tls_certificate",
        ),
        (
            &[url, key_file, ("CHATSERVER_DATABASE__PASSWORD_FILE", &nowhere)],
            "database.password_file",
        ),
        (
            &[("CHATSERVER_DATABASE__URL", &authority), key_file],
            "it holds no certificate of an authority",
        ),
        (&[("CHATSERVER_DATABASE__URL", &database)], "create its folder first"),
    ] {
        let output = place.runs_with(&["check-config"], "", settings);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(place.files(), ["no-certificate.pem"], "nothing was created");
}

/// Makes a database with Alice, and returns the path of its key file.
fn key_file_of_alice(place: &Workplace) -> PathBuf {
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    place.path().join("chatserver.db.key")
}

#[test]
fn a_key_file_that_the_server_would_refuse_is_a_problem() {
    let place = Workplace::new();
    place.is_examined(&[], &[]).says("keyfile", "ok", "makes it").has_problems(0);
    let key_file = key_file_of_alice(&place);
    let status = place.tells(&["keys", "status"]);
    let fingerprint = status["keys"][0]["fingerprint"].as_str().unwrap();
    place.is_examined(&[], &[]).says("keyfile", "ok", fingerprint).has_problems(0);

    fs::set_permissions(&key_file, Permissions::from_mode(0o640)).unwrap();
    place.is_examined(&[], &[]).says("keyfile", "problem", "chmod 600").has_problems(1);
    fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();

    let text = fs::read_to_string(&key_file).unwrap();
    let other = format!("1 {}\n", "0123456789abcdef".repeat(4));
    fs::write(&key_file, &other).unwrap();
    place.is_examined(&[], &[]).says("keyfile", "problem", fingerprint).has_problems(1);
    fs::write(&key_file, other.replace("1 ", "2 ")).unwrap();
    place.is_examined(&[], &[]).says("keyfile", "problem", "lacks key 1").has_problems(1);
    fs::remove_file(&key_file).unwrap();
    place
        .is_examined(&[], &[])
        .says("keyfile", "problem", "restore the file from its backup")
        .has_problems(1);
    assert!(!key_file.exists(), "doctor makes none");
    fs::write(&key_file, text).unwrap();
    fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
    place.is_examined(&[], &[]).has_problems(0);
}

#[test]
fn a_key_file_of_another_user_is_a_problem() {
    let place = Workplace::new();
    let key_file = key_file_of_alice(&place);
    if chown(&key_file, Some(65_534), None).is_err() {
        // Only root can give a file away. Others have no way to meet this.
        return;
    }
    place.is_examined(&[], &[]).says("keyfile", "problem", "chown --reference=").has_problems(1);
}

#[test]
fn check_config_reads_the_key_file_and_makes_none() {
    let place = Workplace::new();
    let checks = || {
        let output = place.runs(&["check-config"]);
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(checks(), (true, String::new()));
    assert_eq!(place.files(), Vec::<String>::new(), "nothing was created");
    let key_file = key_file_of_alice(&place);
    assert_eq!(checks(), (true, String::new()));
    fs::set_permissions(&key_file, Permissions::from_mode(0o644)).unwrap();
    let (is_valid, said) = checks();
    assert!(!is_valid && said.contains("chmod 600"), "{said}");
    fs::remove_file(&key_file).unwrap();
    let (is_valid, said) = checks();
    assert!(is_valid && said.contains("warning: there is no key file"), "{said}");
    assert!(!key_file.exists(), "check-config makes none");
}

#[test]
fn a_failed_start_is_json_where_the_log_is() {
    let place = Workplace::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let json = [("CHATSERVER_LOG__FORMAT", "json")];
    let output = place.runs_with(&["serve", "--listen", &address], "", &json);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap()["errorcode"], "cannot_listen", "{said}");
}
