//! TLS to PostgreSQL. The certificate is for `localhost`, not for 127.0.0.1.

use std::path::Path;

use crate::harness::postgres::{PostgresDatabase, SUPERUSER, migrations};
use crate::harness::process::Workplace;

fn verified(mode: &str, authority: &Path) -> String {
    format!("sslmode={mode}&sslrootcert={}", authority.display())
}

#[tokio::test]
async fn a_verified_server_is_used_over_tls() {
    let Some(database) = PostgresDatabase::empty() else { return };
    // Counts the sessions with TLS: each migration runs in one.
    database.runs(
        "CREATE SCHEMA seen; CREATE TABLE seen.sessions (ssl boolean);
         CREATE FUNCTION seen.look() RETURNS event_trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO seen.sessions SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid(); END $$;
         CREATE EVENT TRIGGER look ON ddl_command_end EXECUTE FUNCTION seen.look()",
    );
    let query = verified("verify-full", &database.certificates().authority);
    let url = database.url_of(SUPERUSER, "localhost", &query);
    assert_eq!(
        Workplace::new().tells(&["migrate", "--database-url", &url])["migrations"],
        migrations()
    );
    assert!(database.number("SELECT count(*) FROM seen.sessions WHERE ssl").await > 0);
    assert_eq!(database.number("SELECT count(*) FROM seen.sessions WHERE NOT ssl").await, 0);
}

#[tokio::test]
async fn each_mode_verifies_what_it_says() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let place = Workplace::new();
    let certificates = database.certificates();
    let (authority, other) = (&certificates.authority, &certificates.other_authority);
    for (host, query, refusal) in [
        ("localhost", verified("verify-full", authority), None),
        ("127.0.0.1", verified("verify-ca", authority), None),
        ("127.0.0.1", "sslmode=require".to_owned(), None),
        ("127.0.0.1", verified("verify-full", authority), Some("not valid for name")),
        ("localhost", verified("verify-full", other), Some("UnknownIssuer")),
        ("127.0.0.1", verified("verify-ca", other), Some("UnknownIssuer")),
        // Without a file, only authorities that browsers trust, too.
        ("localhost", "sslmode=verify-full".to_owned(), Some("UnknownIssuer")),
        ("localhost", verified("verify-full", Path::new("/nowhere.pem")), Some("/nowhere.pem")),
    ] {
        let url = database.url_of(SUPERUSER, host, &query);
        let migrate = ["migrate", "--database-url", &url];
        match refusal {
            None => drop(place.tells(&migrate)),
            Some(refusal) => {
                let said = place.fails(&migrate);
                assert!(said.contains(refusal), "{url}: {said}");
            }
        }
    }
}
