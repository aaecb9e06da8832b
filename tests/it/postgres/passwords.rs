//! The password of a PostgreSQL database: where it comes from, and that nothing shows it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use crate::harness::postgres::{PASSWORD, PostgresDatabase, USER};
use crate::harness::process::Workplace;

/// Runs `migrate` as the user who needs a password, with all of the log. Asserts that the output has no password.
fn migrates(place: &Workplace, url: &str, environment: &[(&str, &str)]) -> Output {
    let log = [("CHATSERVER_LOG__FILTER", "trace")];
    let environment = [environment, &log].concat();
    let output = place.runs_with(&["migrate", "--database-url", url], "", &environment);
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(!text.contains(PASSWORD) && !text.contains("hunter3"), "{text}");
    output
}

#[tokio::test]
async fn a_password_comes_from_the_environment_a_file_or_the_url() {
    let Some(database) = PostgresDatabase::empty() else { return };
    database.runs(&format!("ALTER DATABASE {} OWNER TO {USER}", database.name));
    let place = Workplace::new();
    let url = database.url_of(USER, "127.0.0.1", "sslmode=disable");
    let with_password =
        database.url_of(&format!("{USER}:{PASSWORD}"), "127.0.0.1", "sslmode=disable");
    let file = place.path().join("database-password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let file = file.to_str().unwrap();
    for (url, environment) in [
        (&url, &[("CHATSERVER_DATABASE__PASSWORD", PASSWORD)][..]),
        (&url, &[("CHATSERVER_DATABASE__PASSWORD_FILE", file)]),
        (&url, &[("PGPASSWORD", PASSWORD)]),
        (&with_password, &[]),
        // The settings decide.
        (&url, &[("CHATSERVER_DATABASE__PASSWORD", PASSWORD), ("PGPASSWORD", "hunter3")]),
    ] {
        let output = migrates(&place, url, environment);
        assert!(output.status.success(), "{environment:?}: {output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("WARN"), "{output:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_with_where_it_belongs() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let place = Workplace::new();
    let url = database.url_of(USER, "127.0.0.1", "sslmode=disable");
    for environment in [&[][..], &[("CHATSERVER_DATABASE__PASSWORD", "hunter3")]] {
        let output = migrates(&place, &url, environment);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let shown = format!("postgres://127.0.0.1:{}/{}", database.port(), database.name);
        for part in [&shown, "password authentication failed", "CHATSERVER_DATABASE__PASSWORD"] {
            assert!(said.contains(part), "{said}");
        }
    }
}

/// Docker mounts secrets so that everyone in the container can read them.
#[tokio::test]
async fn a_password_file_that_others_can_read_gets_a_warning() {
    let Some(database) = PostgresDatabase::empty() else { return };
    database.runs(&format!("ALTER DATABASE {} OWNER TO {USER}", database.name));
    let place = Workplace::new();
    let file = place.path().join("database-password");
    fs::write(&file, PASSWORD).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let url = database.url_of(USER, "127.0.0.1", "sslmode=disable");
    let environment = [("CHATSERVER_DATABASE__PASSWORD_FILE", file.to_str().unwrap())];
    let output = migrates(&place, &url, &environment);
    assert!(output.status.success(), "{output:?}");
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("other users of this machine can read"), "{log}");
}

#[test]
fn an_unusable_password_file_is_refused_with_its_path() {
    let place = Workplace::new();
    let (empty, lines) = (place.path().join("empty"), place.path().join("lines"));
    fs::write(&empty, "\n").unwrap();
    fs::write(&lines, "hunter3\nhunter3\n").unwrap();
    let missing = place.path().join("missing");
    for (file, problem) in
        [(&missing, "No such file"), (&empty, "it is empty"), (&lines, "more than one line")]
    {
        let file = file.to_str().unwrap();
        let environment = [("CHATSERVER_DATABASE__PASSWORD_FILE", file)];
        let output = migrates(&place, "postgres://chat@127.0.0.1:1/chat", &environment);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(file) && said.contains(problem), "{said}");
    }
}

#[test]
fn two_passwords_are_refused() {
    let place = Workplace::new();
    let password = ("CHATSERVER_DATABASE__PASSWORD", "hunter3");
    let file = ("CHATSERVER_DATABASE__PASSWORD_FILE", "/run/database");
    let in_url = "postgres://chat:hunter3@127.0.0.1:1/chat";
    for (url, environment) in [
        ("postgres://chat@127.0.0.1:1/chat", &[password, file][..]),
        (in_url, &[password]),
        (in_url, &[file]),
    ] {
        let output = migrates(&place, url, environment);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("database.password"), "{said}");
    }
}

#[test]
fn check_config_shows_no_password() {
    let place = Workplace::new();
    let url = "postgres://chat:hunter3@db.example.com/chat";
    let told = place.tells(&["check-config", "--database-url", url]);
    assert_eq!(told["url"], "postgres://db.example.com:5432/chat");
    let password = ("CHATSERVER_DATABASE__PASSWORD", "hunter3");
    let url = "postgres://chat@db.example.com/chat";
    let shown = place.runs_with(&["check-config", "--database-url", url], "", &[password]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let line = "database.password = (not shown) (environment CHATSERVER_DATABASE__PASSWORD)";
    assert!(shown.contains(line) && !shown.contains("hunter3"), "{shown}");
    // With a mistake, too.
    let failed = place.fails(&["check-config", "--database-url", "postgres://chat:hunter3/chat"]);
    assert!(!failed.contains("hunter3"), "{failed}");
}
