//! Settings: four layers, each setting with a name, and nothing silently ignored.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Output;

use chatserver::config::{Config, DEFAULT, Error};
use serde_json::{Value, json};
use toml::Table;

use crate::harness::process::Workplace;

/// All settings: name, a value other than the default, a wrong value, and what the refusal says is expected.
const SETTINGS: [(&str, &str, &str, &str); 51] = [
    ("http.listen", "127.0.0.1:8081", "localhost", "an address and a port"),
    ("http.public_url", "https://chat.example.com/", "ftp://chat", "http or https URL"),
    ("http.tls_certificate", "/etc/chat/chain", "etc/chat", "empty or an absolute path"),
    ("http.tls_key", "/etc/chat/private", "etc/chat", "empty or an absolute path"),
    ("http.acme_domains", "chat.example.com", "*.example.com", "a domain name in lower case"),
    ("http.acme_contact", "admin@example.com", "admin", "empty or an e-mail address"),
    ("http.acme_directory", "https://acme.example.com/", "http://acme", "an https URL"),
    ("http.acme_cache", "/var/lib/chat/acme", "acme", "empty or an absolute path"),
    ("http.error_status", "always_200", "sometimes", r#""real" or "always_200""#),
    ("http.trusted_proxies", "10.0.0.0/8", "10.0.0.0/99", "an address or a network"),
    ("http.cors_origins", "https://chat.example.com", "https://chat.example.com/a", "an origin"),
    ("http.listener_origins", "https://chat.example.com", "chat.example.com", "an origin"),
    ("http.listeners", "7", "0", "from 1 to 1000000"),
    ("http.listeners_per_user", "7", "1001", "from 1 to 1000"),
    ("http.listener_ping_seconds", "7", "0", "from 1 to 3600"),
    ("http.drain_seconds", "7", "3601", "from 0 to 3600"),
    ("http.metrics_listen", "127.0.0.1:9999", "metrics", "empty or an address and a port"),
    ("http.header_timeout_seconds", "7", "0", "from 1 to 3600"),
    ("http.keep_alive_seconds", "7", "0", "from 1 to 3600"),
    ("http.body_timeout_seconds", "7", "0", "from 1 to 3600"),
    ("http.request_timeout_seconds", "7", "-1", "from 1 to 3600"),
    ("http.write_timeout_seconds", "7", "1.5", "from 1 to 3600"),
    ("admin.listen", "127.0.0.1:8081", "everywhere", "empty or a loopback address and a port"),
    ("database.url", "sqlite://other.db", "mysql://chat", "sqlite:// and the path of a file"),
    ("database.password", "hunter2", "hunter\t2", "without control characters"),
    ("database.password_file", "/etc/chat", "etc/chat", "empty or an absolute path"),
    ("auth.key_file", "/etc/chat", "etc/chat", "empty or an absolute path"),
    ("auth.clock_skew_seconds", "7", "soon", "from 1 to 900"),
    ("http.web", "false", "no", "must be true or false"),
    ("auth.unsigned_notifications", "false", "no", "must be true or false"),
    ("auth.registration", "closed", "open", r#""invite" or "closed""#),
    ("presence.timeout_seconds", "7", "0", "from 1 to 3600"),
    ("retention.days", "7", "36501", "from 0 to 36500"),
    ("retention.valid_until", "true", "yes", "must be true or false"),
    ("audit.days", "7", "36501", "from 0 to 36500"),
    ("limits.connections", "7", "0", "from 1 to"),
    ("limits.connections_per_address", "0", "1000001", "from 0 to 1000000"),
    ("limits.buffered_bytes", "20000000", "1", "from 16777216 to"),
    ("limits.body_bytes", "2000000", "1023", "from 1024 to"),
    ("limits.message_bytes", "7", "8388609", "from 1 to 8388608"),
    ("limits.download_messages", "7", "1", "from 2 to"),
    ("limits.download_bytes", "2048", "", "from 1024 to"),
    ("limits.conversation_bytes", "7", "1000000000000000001", "from 0 to"),
    ("limits.friends", "7", "1000001", "from 0 to 1000000"),
    ("limits.disk_reserve_bytes", "7", "-1", "from 0 to"),
    ("limits.stations_per_user", "7", "0", "from 1 to 1000"),
    ("limits.failures_per_minute", "7", "1000001", "from 0 to"),
    ("limits.requests_per_second", "7", "true", "from 0 to"),
    ("limits.requests_burst", "7", "0", "from 1 to"),
    ("log.format", "json", "xml", r#""text" or "json""#),
    ("log.filter", "debug", "inof", "a level or directives"),
];

/// Returns the environment variable of a setting.
fn variable(name: &str) -> String {
    format!("CHATSERVER_{}", name.to_uppercase().replace('.', "__"))
}

/// Returns a settings file with one setting.
fn file(name: &str, value: &str) -> String {
    let (section, name) = name.split_once('.').unwrap();
    let is_bare = value.parse::<f64>().is_ok() || value == "true";
    let value = if is_bare { value.to_owned() } else { format!("{value:?}") };
    format!("[{section}]\n{name} = {value}\n")
}

fn check(place: &Workplace, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    place.runs_with(&[&["check-config"], arguments].concat(), "", environment)
}

#[track_caller]
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn defaults(text: &str) -> Table {
    text.parse().unwrap()
}

/// Returns the names of all settings in the default file.
fn names_in_the_file() -> BTreeSet<String> {
    let tree = defaults(DEFAULT);
    let names = tree.iter().flat_map(|(section, settings)| {
        settings.as_table().unwrap().keys().map(move |name| format!("{section}.{name}"))
    });
    names.collect()
}

#[test]
fn check_config_shows_every_setting_with_its_value_and_source() {
    let place = Workplace::new();
    let file = "[limits]\nfriends = 7\n[http]\ncors_origins = [\"https://a.example\"]\n";
    fs::write(place.path().join("chat.toml"), file).unwrap();
    let listen = ("CHATSERVER_HTTP__LISTEN", "127.0.0.1:8081");
    let arguments = ["--config", "chat.toml", "--database-url", "sqlite://other.db"];
    let shown = check(&place, &arguments, &[listen, ("CHATSERVER_LIMITS__FRIENDS", "8")]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    for line in [
        "http.listen = 127.0.0.1:8081 (environment CHATSERVER_HTTP__LISTEN)",
        "http.cors_origins = [\"https://a.example\"] (file chat.toml)",
        "limits.friends = 8 (environment CHATSERVER_LIMITS__FRIENDS)",
        "database.url = sqlite://other.db (command line)",
        "database.password = \"\" (default)",
        "log.format = text (default)",
    ] {
        assert!(shown.lines().any(|one| one == line), "{line} is not in {shown}");
    }
    let settings = &place.tells(&["check-config"])["settings"];
    let names = settings.as_array().unwrap().iter();
    let names: BTreeSet<_> = names.map(|one| one["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, names_in_the_file());
}

#[test]
fn the_default_file_says_which_values_the_server_accepts() {
    let lines: Vec<_> = DEFAULT.lines().collect();
    for (name, _, wrong, _) in SETTINGS {
        let Err(Error::Wrong { problem, .. }) = Config::load(None, [], &[(name, wrong)]) else {
            panic!("{name} = {wrong} is not refused")
        };
        let accepted = problem.strip_prefix("must be ").unwrap();
        let accepted = accepted.strip_prefix("a whole number from ").unwrap_or(accepted);
        let (section, key) = name.split_once('.').unwrap();
        let header = format!("[{section}]");
        let in_section = lines.iter().skip_while(|line| **line != header).collect::<Vec<_>>();
        let setting = format!("{key} = ");
        let at = in_section.iter().position(|line| line.starts_with(&setting)).unwrap();
        let (last, meaning) = (in_section[at - 1], in_section[at - 2]);
        assert_eq!(*last, format!("# Value: {accepted}"), "{name}");
        assert!(meaning.starts_with("# "), "{name} has no comment that says its meaning");
    }
}

#[test]
fn the_default_file_has_every_setting_with_a_comment() {
    // `Debug` names every field: sections at the first level, settings at the second.
    let all = format!("{:#?}", Config::load(None, [], &[]).unwrap());
    let mut section = String::new();
    let mut fields = BTreeSet::new();
    for line in all.lines() {
        let Some((name, _)) = line.split_once(": ") else { continue };
        match (name.len() - name.trim_start().len(), name.trim_start()) {
            (4, name) => name.clone_into(&mut section),
            (8, name) => drop(fields.insert(format!("{section}.{name}"))),
            _ => {}
        }
    }
    assert_eq!(fields, names_in_the_file());
    assert_eq!(fields, SETTINGS.map(|(name, ..)| name.to_owned()).into());

    let mut before = "";
    for line in DEFAULT.lines() {
        let is_setting = line.starts_with(|first: char| first.is_ascii_lowercase());
        assert!(!is_setting || before.starts_with("# "), "{line:?} has no comment");
        assert!(is_setting || line.is_empty() || line.starts_with(['#', '[']), "{line:?}");
        before = line;
    }
}

#[test]
fn every_line_of_the_default_file_is_required() {
    assert!(defaults(DEFAULT).try_into::<Config>().is_ok());
    let lines: Vec<_> = DEFAULT.lines().collect();
    let mut settings = 0;
    for (place, line) in lines.iter().enumerate() {
        if line.starts_with('#') || !line.contains(" = ") {
            continue;
        }
        settings += 1;
        let others = [&lines[..place], &lines[place + 1..]].concat().join("\n");
        assert!(defaults(&others).try_into::<Config>().is_err(), "without {line:?}");
    }
    assert_eq!(settings, SETTINGS.len());
}

/// Returns another setting that a setting needs, with a value.
fn needed_by(name: &str) -> Option<(&'static str, &'static str)> {
    match name {
        "http.tls_certificate" => Some(("http.tls_key", "/etc/chat/private")),
        "http.tls_key" => Some(("http.tls_certificate", "/etc/chat/chain")),
        "http.acme_domains" => Some(("http.acme_cache", "/var/lib/chat/acme")),
        _ => None,
    }
}

#[test]
fn every_setting_is_read_from_the_file_and_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.toml");
    let default = format!("{:?}", Config::load(None, [], &[]).unwrap());
    for (name, value, ..) in SETTINGS {
        fs::write(&path, file(name, value)).unwrap();
        let needed: Vec<_> = needed_by(name).into_iter().collect();
        let flags = [&needed[..], &[(name, value)]].concat();
        let by_flag = format!("{:?}", Config::load(None, [], &flags).unwrap());
        let variables = flags.iter().map(|(name, value)| (variable(name), (*value).to_owned()));
        let by_variable = format!("{:?}", Config::load(None, variables, &[]).unwrap());
        assert_ne!(by_flag, default, "{name}");
        assert_eq!(by_variable, by_flag, "{name}");
        // In a file a list may also be an array.
        let is_list = ["trusted_proxies", "cors_origins", "listener_origins", "acme_domains"]
            .iter()
            .any(|list| name.ends_with(list));
        if is_list {
            fs::write(&path, file(name, value).replace(" = ", " = [") + "]").unwrap();
        }
        let by_file = format!("{:?}", Config::load(Some(&path), [], &needed).unwrap());
        assert_eq!(by_file, by_flag, "{name}");
    }
    let several = (variable("http.trusted_proxies"), "127.0.0.1, 10.0.0.0/8".to_owned());
    let several = Config::load(None, [several], &[]).unwrap().http.trusted_proxies.0;
    assert_eq!(several.len(), 2);
}

#[test]
fn a_wrong_setting_is_refused_with_its_name_its_value_and_its_grammar() {
    let place = Workplace::new();
    let path = place.path().join("chat.toml");
    for (name, _, wrong, expected) in SETTINGS {
        fs::write(&path, file(name, wrong)).unwrap();
        for output in [
            check(&place, &[], &[(&variable(name), wrong)]),
            check(&place, &["--config", "chat.toml"], &[]),
        ] {
            let error = refusal(&output);
            let shown = if name == "database.password" { "(not shown)" } else { wrong };
            for part in [name, shown, expected] {
                assert!(error.contains(part), "{name} = {wrong}: {part:?} is not in {error}");
            }
        }
    }
    let output = check(&place, &["--database-url", "mysql://chat"], &[]);
    assert!(refusal(&output).contains("mysql://chat"));
    let error = place.fails(&["serve", "--listen", "everywhere"]);
    assert!(error.contains("http.listen") && error.contains("everywhere"), "{error}");
}

#[test]
fn an_unknown_setting_is_refused() {
    let place = Workplace::new();
    for (name, value) in [
        ("http.listen_on", "127.0.0.1:1"),
        ("htpp.listen", "127.0.0.1:1"),
        ("http.listen.port", "80"),
        ("smtp.password", "hunter2"),
    ] {
        let output = check(&place, &[], &[(&variable(name), value)]);
        let error = refusal(&output);
        let name = name.strip_suffix(".port").unwrap_or(name);
        assert!(error.contains(name) && !error.contains(value), "{name}: {error}");
    }
    for (text, name) in [
        ("[http]\nlisten_on = \"x\"\n", "http.listen_on"),
        ("[htpp]\nlisten = \"x\"\n", "htpp.listen"),
        ("listen = \"x\"\n", "listen"),
        ("http = 5\n", "http"),
        ("[http.listen]\nport = 80\n", "http.listen"),
    ] {
        fs::write(place.path().join("chat.toml"), text).unwrap();
        let error = refusal(&check(&place, &["--config", "chat.toml"], &[]));
        assert!(error.contains(name), "{text}: {error}");
    }
    fs::write(place.path().join("chat.toml"), "[http]\nlisten = \n").unwrap();
    let error = refusal(&check(&place, &["--config", "chat.toml"], &[]));
    assert!(error.contains("chat.toml") && error.contains("line 2"), "{error}");
    let error = refusal(&check(&place, &["--config", "nowhere.toml"], &[]));
    assert!(error.contains("nowhere.toml"), "{error}");
}

#[test]
fn the_metrics_must_have_an_address_of_their_own() {
    let place = Workplace::new();
    let listens = |address| ("CHATSERVER_HTTP__METRICS_LISTEN", address);
    let error = refusal(&check(&place, &[], &[listens("127.0.0.1:8080")]));
    assert!(error.contains("http.metrics_listen") && error.contains("http.listen"), "{error}");
    let error = refusal(&check(&place, &[], &[listens("0.0.0.0:8080")]));
    assert!(error.contains("http.metrics_listen"), "{error}");
    assert!(check(&place, &[], &[listens("127.0.0.1:8081")]).status.success());
}

#[test]
fn the_admin_page_must_have_a_local_address_of_its_own() {
    let place = Workplace::new();
    let check = |address: &str| check(&place, &[], &[("CHATSERVER_ADMIN__LISTEN", address)]);
    for open in ["0.0.0.0:8081", "[::]:8081", "192.0.2.1:8081", "[::ffff:192.0.2.1]:8081"] {
        let error = refusal(&check(open));
        for part in ["admin.listen", open, "a loopback address and a port", "ssh -L"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }
    for wrong in ["systemd", "unix:admin.sock", "unix:/run/", "localhost:8081", "8081"] {
        assert!(refusal(&check(wrong)).contains("admin.listen"), "{wrong}");
    }
    for taken in ["127.0.0.1:8080", "127.0.0.1:9464"] {
        assert!(refusal(&check(taken)).contains("must not be the address of http."), "{taken}");
    }
    for local in ["", "127.0.0.1:8081", "127.8.0.1:8081", "[::1]:8081", "unix:/run/admin.sock"] {
        assert!(check(local).status.success(), "{local}");
    }
}

#[test]
fn each_layer_overrides_the_one_below() {
    let place = Workplace::new();
    let text = "[http]\nlisten = \"127.0.0.1:1001\"\n[database]\nurl = \"sqlite://file.db\"\n";
    fs::write(place.path().join("chat.toml"), text).unwrap();
    let told = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = check(&place, &[arguments, &["--json"]].concat(), environment);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        (told["listen"].clone(), told["url"].clone())
    };
    let told_is = |listen: &str, url: &str| (json!(listen), json!(url));
    let file = ["--config", "chat.toml"];
    let environment = [("CHATSERVER_DATABASE__URL", "sqlite://environment.db")];
    let flag = ["--config", "chat.toml", "--database-url", "sqlite://flag.db"];
    assert_eq!(told(&[], &[]), told_is("127.0.0.1:8080", "sqlite://chatserver.db"));
    assert_eq!(told(&file, &[]), told_is("127.0.0.1:1001", "sqlite://file.db"));
    assert_eq!(told(&file, &environment), told_is("127.0.0.1:1001", "sqlite://environment.db"));
    assert_eq!(told(&flag, &environment), told_is("127.0.0.1:1001", "sqlite://flag.db"));
    assert!(!place.path().join("chatserver.db").exists(), "a check starts nothing");
}

#[tokio::test]
async fn a_server_uses_the_settings_of_all_layers() {
    let place = Workplace::new();
    let text = "[database]\nurl = \"sqlite://file.db\"\n[http]\nerror_status = \"always_200\"\n";
    fs::write(place.path().join("chat.toml"), text).unwrap();
    // The `--listen` flag that `starts` adds overrides this.
    let environment = [("CHATSERVER_HTTP__LISTEN", "127.0.0.1:1")];
    let server = place.starts(&["serve", "--config", "chat.toml"], &environment).await;
    assert!(place.path().join("file.db").exists());
    let url = format!("http://{}/?srv=chatserver&api=chatlogin", server.address);
    let refused = reqwest::Client::new().post(url).send().await.unwrap();
    assert_eq!(refused.status(), 200);
    assert!(refused.text().await.unwrap().contains("unsupported_media_type"));
}

#[test]
fn unrelated_environment_variables_are_ignored() {
    let place = Workplace::new();
    let others = [
        ("CHATSERVER_APIKEY", "d040b0a1"),
        ("CHATSERVER_HTTP_LISTEN", "x"),
        ("OTHER__LISTEN", "x"),
        ("http__listen", "x"),
    ];
    let output = check(&place, &[], &others);
    assert!(output.status.success(), "{output:?}");
    // Other variables in the environment may hold any bytes.
    let mut command = place.command(&["check-config"]);
    let output = command.env("OTHER", OsStr::from_bytes(b"\xff\xfe")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut command = place.command(&["check-config"]);
    let wrong = OsStr::from_bytes(b"\xff\xfe");
    let output = command.env("CHATSERVER_HTTP__LISTEN", wrong).output().unwrap();
    assert!(refusal(&output).contains("http.listen"));
}
