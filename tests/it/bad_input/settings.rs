//! A wrong setting is refused with its name, its value and what is expected.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;

use chatserver::config::{Config, DEFAULT, Error};
use proptest::prelude::*;
use proptest::sample::select;

use crate::harness::process::Workplace;
use crate::harness::random::cases;

/// Numeric settings with their lowest and highest values.
const NUMBERS: &[(&str, u64, u64)] = &[
    ("http.drain_seconds", 0, 3600),
    ("http.header_timeout_seconds", 1, 3600),
    ("http.keep_alive_seconds", 1, 3600),
    ("http.body_timeout_seconds", 1, 3600),
    ("http.request_timeout_seconds", 1, 3600),
    ("http.write_timeout_seconds", 1, 3600),
    ("http.listeners", 1, 1_000_000),
    ("http.listeners_per_user", 1, 1000),
    ("http.listener_ping_seconds", 1, 3600),
    ("presence.timeout_seconds", 1, 3600),
    ("retention.days", 0, 36_500),
    ("audit.days", 0, 36_500),
    ("limits.conversation_bytes", 0, 1_000_000_000_000_000_000),
    ("limits.friends", 0, 1_000_000),
    ("limits.disk_reserve_bytes", 0, 1_000_000_000_000_000_000),
    ("limits.stations_per_user", 1, 1000),
    ("auth.clock_skew_seconds", 1, 900),
    ("limits.connections", 1, 1_000_000),
    ("limits.connections_per_address", 0, 1_000_000),
    ("limits.buffered_bytes", 16_777_216, 4_294_967_295),
    ("limits.body_bytes", 1024, 16_777_216),
    ("limits.message_bytes", 1, 8_388_608),
    ("limits.download_messages", 2, 100_000),
    ("limits.download_bytes", 1024, 16_777_216),
    ("limits.failures_per_minute", 0, 1_000_000),
    ("limits.requests_per_second", 0, 1_000_000),
    ("limits.requests_burst", 1, 1_000_000),
];

/// Settings whose value is text.
const TEXTS: &[&str] = &[
    "http.listen",
    "http.public_url",
    "http.tls_certificate",
    "http.tls_key",
    "http.acme_domains",
    "http.acme_contact",
    "http.acme_directory",
    "http.acme_cache",
    "http.error_status",
    "http.trusted_proxies",
    "http.cors_origins",
    "http.listener_origins",
    "http.web",
    "auth.unsigned_notifications",
    "auth.registration",
    "retention.valid_until",
    "http.metrics_listen",
    "admin.listen",
    "database.url",
    "database.password",
    "database.password_file",
    "auth.key_file",
    "log.format",
    "log.filter",
];

fn is_setting(name: &str) -> bool {
    NUMBERS.iter().any(|(number, ..)| *number == name) || TEXTS.contains(&name)
}

/// Returns what is expected of the text, or `None` if it is valid.
fn objection(name: &str, text: &str) -> Option<&'static str> {
    let is_address = text.parse::<SocketAddr>().is_ok();
    let (right, expected) = match name {
        "http.listen" => (
            is_address || text == "systemd",
            "an address and a port, such as 127.0.0.1:8080, or unix: and an absolute path, such as unix:/run/chatserver/chatserver.sock, or systemd",
        ),
        "http.metrics_listen" => (
            is_address || text.is_empty(),
            "empty or an address and a port, such as 127.0.0.1:9464",
        ),
        "http.error_status" => {
            (["real", "always_200"].contains(&text), "\"real\" or \"always_200\"")
        }
        "http.web" | "auth.unsigned_notifications" => {
            (["true", "false"].contains(&text), "true or false")
        }
        "log.format" => (["text", "json"].contains(&text), "\"text\" or \"json\""),
        "database.url" => {
            let path = text.strip_prefix("sqlite://").unwrap_or_default();
            let right =
                !path.is_empty() && !path.starts_with(':') && !path.contains(['?', '#', '\0']);
            (
                right,
                "sqlite:// and the path of a file, such as sqlite://chatserver.db, or the URL of a PostgreSQL database, such as postgres://chat@db.example.com/chat",
            )
        }
        other => panic!("{other}"),
    };
    (!right).then_some(expected)
}

/// Returns the value as error messages show it. A value that may hold a secret is not shown.
fn shown(value: &str) -> String {
    let shown = format!("{value:?}");
    let lower = shown.to_lowercase();
    let signs = ["@", "pass", "pwd", "secret", "token", "key", "postgres"];
    let may_be_secret = signs.iter().any(|sign| lower.contains(sign));
    if may_be_secret { "(not shown)".to_owned() } else { shown }
}

/// Returns the environment variable of a setting.
fn variable(name: &str) -> String {
    format!("CHATSERVER_{}", name.to_uppercase().replace('.', "__"))
}

/// Returns the error for a setting. Asserts that it is the same for a flag and for the environment.
fn said(name: &str, value: &str) -> Option<String> {
    let by_flag = Config::load(None, [], &[(name, value)]).err();
    let environment = [(variable(name), value.to_owned())];
    let by_environment = Config::load(None, environment, &[]).err();
    let by_flag = by_flag.map(|error| error.to_string());
    assert_eq!(by_flag, by_environment.map(|error| error.to_string()));
    by_flag
}

/// Loads a configuration file with this text.
fn filed(text: &str) -> Result<Config, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    Config::load(Some(file.path()), [], &[])
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,12}",
        "[+-][0-9]{1,4}",
        "[ 0-9.eE_x]{0,6}",
        any::<u32>().prop_map(|n| n.to_string()),
        any::<String>()
    ]
}

#[test]
fn the_tables_name_every_setting() {
    let mut named: Vec<_> = NUMBERS.iter().map(|(name, ..)| *name).collect();
    named.extend(TEXTS);
    for name in &named {
        assert!(DEFAULT.contains(&format!("\n{} = ", name.split('.').nth(1).unwrap())), "{name}");
    }
    let settings = DEFAULT.lines().filter(|line| !line.starts_with('#') && line.contains(" = "));
    assert_eq!(settings.count(), named.len());
}

#[test]
fn names_that_look_like_paths_are_no_settings() {
    // As an array, the second name would need more memory than there is.
    for name in
        ["http.cors_origins[0]", "http.listen[99999999999999]", "a[-99999999999]", "http", ""]
    {
        let refused = Config::load(None, [], &[(name, "x")]).unwrap_err().to_string();
        assert_eq!(refused, format!("{name}: there is no such setting"));
    }
    let name = "CHATSERVER_LOG__FORMAT[99999999999999]".to_owned();
    let refused = Config::load(None, [(name, "x".to_owned())], &[]).unwrap_err().to_string();
    assert_eq!(refused, "log.format[99999999999999]: there is no such setting");
}

#[test]
fn variables_that_are_not_utf_8_are_refused_only_where_they_are_settings() {
    let place = Workplace::new();
    let no_text = OsStr::from_bytes(b"real\xff");
    let mut others = place.command(&["check-config"]);
    let others = others.env("LS_COLORS", no_text).env(no_text, "x").output().unwrap();
    assert!(others.status.success(), "{others:?}");
    let mut ours = place.command(&["check-config"]);
    let ours = ours.env("CHATSERVER_HTTP__ERROR_STATUS", no_text).output().unwrap();
    assert_eq!(ours.status.code(), Some(1), "{ours:?}");
    let said = String::from_utf8(ours.stderr).unwrap();
    assert!(said.contains("http.error_status = \"real\u{fffd}\": must be "), "{said}");
}

#[test]
fn values_of_another_type_are_refused_by_name() {
    for (name, least, most) in NUMBERS {
        let (section, key) = name.split_once('.').unwrap();
        for value in
            ["1.5", "true", "\"x\"", "[1]", "{}", "-1", "9223372036854775807", "1979-05-27"]
        {
            let refused = filed(&format!("[{section}]\n{key} = {value}")).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("{name} = ")), "{refused}");
            let expected = format!(": must be a whole number from {least} to {most}");
            assert!(refused.ends_with(&expected), "{refused}");
        }
    }
    for name in TEXTS {
        let (section, key) = name.split_once('.').unwrap();
        let refused = filed(&format!("[{section}]\n{key} = {{ a = 1 }}")).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{name} = ")), "{refused}");
    }
}

#[test]
fn files_with_unknown_settings_are_refused() {
    for (text, name) in [
        ("[nope]", "nope"),
        ("nope = 1", "nope"),
        ("[http]\nnope = 1", "http.nope"),
        ("http = 5", "http"),
        ("[http.listen]\nnope = 1", "http.listen"),
        ("[[http]]\nlisten = 1", "http"),
        ("\"http.listen\" = \"127.0.0.1:1\"", "http.listen"),
        ("[http]\n\"x[999999999999999]\" = 1", "http.x[999999999999999]"),
    ] {
        let refused = filed(text).unwrap_err().to_string();
        assert!(refused.contains(name), "{text}: {refused}");
    }
}

#[test]
fn a_negative_zero_is_refused() {
    for (name, least, most) in NUMBERS {
        let expected = format!("{name} = \"-0\": must be a whole number from {least} to {most}");
        assert_eq!(said(name, "-0"), Some(expected));
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn unknown_names_are_refused_by_name(
        name in prop_oneof![
            "[a-z]{1,6}\\.[a-z_]{1,12}", "(http|log|limits)\\.[a-z_.\\[\\]0-9]{0,9}", any::<String>(),
        ],
        value in any::<String>(),
    ) {
        prop_assume!(!is_setting(&name));
        let refused = Config::load(None, [], &[(&name, &value)]).unwrap_err().to_string();
        prop_assert_eq!(refused, format!("{name}: there is no such setting"));
    }

    #[test]
    fn only_variables_of_settings_can_be_refused(name in "CHATSERVER_[A-Za-z_\\[\\]0-9.]{0,20}|.{0,30}", value in any::<String>()) {
        let is_one = name.strip_prefix("CHATSERVER_").is_some_and(|rest| rest.contains("__"));
        let loaded = Config::load(None, [(name.clone(), value)], &[]);
        // The names of settings are too long to be generated by chance.
        prop_assert_eq!(loaded.is_err(), is_one, "{}", name);
    }

    #[test]
    fn numbers_are_accepted_within_their_bounds(
        (name, least, most) in select(NUMBERS), value in number(),
    ) {
        let digits = value.strip_prefix('+').unwrap_or(&value);
        let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let right = is_whole
            && digits.parse::<u64>().is_ok_and(|number| (least..=most).contains(&number));
        let expected = format!("{name} = {}: must be a whole number from {least} to {most}", shown(&value));
        let said = said(name, &value).filter(|said| !(right && said.contains("must not exceed limits.body_bytes")));
        prop_assert_eq!(said, (!right).then_some(expected));
    }

    #[test]
    fn texts_are_accepted_by_their_grammar(
        name in select(vec![
            "http.listen", "http.metrics_listen", "http.error_status", "log.format", "database.url",
        ]),
        value in prop_oneof![
            "", "(real|always_200|text|json|Real|JSON)", "[0-9]{1,3}(\\.[0-9]{1,3}){3}:[0-9]{0,6}",
            "\\[[0-9a-f:]{2,6}\\]:[0-9]{1,5}", any::<String>(),
        ],
    ) {
        let expected = objection(name, &value);
        let expected = expected.map(|expected| format!("{name} = {}: must be {expected}", shown(&value)));
        // For `?` and `#` in a path the message goes on.
        let said = said(name, &value).map(|said| said.split("; its path holds").next().unwrap().to_owned());
        prop_assert_eq!(said, expected);
    }

    #[test]
    fn refusals_of_structured_texts_show_the_name_and_the_value(
        name in select(vec![
            "http.public_url", "http.trusted_proxies", "http.cors_origins", "log.filter",
            "http.tls_certificate", "http.acme_domains", "http.acme_contact", "http.acme_directory",
        ]),
        value in prop_oneof![
            "/[a-z/\\.]{0,12}", "[a-z*.-]{1,12}(,[a-z.]{0,9})?", "[a-z]{0,3}@[a-z.]{0,9}", "(https?|ftp)://[a-z.\\[\\]:@0-9]{0,12}[/?#]{0,2}[a-z]{0,3}", "[0-9./:, a-f]{0,20}",
            "[a-z:=,\\[\\]{}\"/]{0,20}", "(info|debug|off),?[a-z:]{0,8}(\\[[a-z{}=]{0,9}\\])?=?[a-z0-9]{0,5}",
            any::<String>(),
        ],
    ) {
        if let Some(refused) = said(name, &value) {
            // A certificate needs its key, and a domain a folder.
            prop_assume!(!refused.contains("must be set, because"));
            let begin = format!("{name} = {}: must be ", shown(&value));
            prop_assert!(refused.starts_with(&begin), "{}", refused);
            prop_assert!(refused.len() > begin.len() + 10, "{}", refused);
        }
    }

    #[test]
    fn arbitrary_files_are_loaded_or_refused_with_a_sentence(text in prop_oneof![
        "(\\[{1,2}[a-z.]{1,6}\\]{1,2}\n)?([a-z.\"]{1,9} ?= ?[-0-9a-z\"'\\[\\]{}.,:]{0,12}\n){0,4}",
        ".{0,200}", any::<String>(),
    ]) {
        if let Err(error) = filed(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
