//! Logging in, and the file that keeps the keys.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::process::{Workplace, free_address};
use crate::harness::terminal::Terminal;
use crate::harness::world::until;

#[tokio::test]
async fn a_profile_is_for_its_owner_alone() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.joins(&server, "Alice");
    let path = place.path().join(&alice.profile);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    alice.tells(&["conversations"]);
    for open in [0o640, 0o604, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
        assert_eq!(alice.fails(&["conversations"]), "invalid_profile");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    alice.tells(&["conversations"]);
    fs::remove_file(&path).unwrap();
    assert_eq!(alice.fails(&["conversations"]), "no_profile");
}

#[tokio::test]
async fn the_default_profile_is_in_the_folder_for_settings() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let told = place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let url = format!("http://{}/", server.address);
    let home = place.path().join("home");
    fs::create_dir(&home).unwrap();
    let settings = place.path().join("settings");
    for (variable, folder, profile) in [
        ("HOME", &home, home.join(".config/chatserver/client.json")),
        ("XDG_CONFIG_HOME", &settings, settings.join("chatserver/client.json")),
    ] {
        let environment = [(variable, folder.to_str().unwrap())];
        let output = place.runs_with(&["client", "login", &url], &told.to_string(), &environment);
        assert!(output.status.success(), "{output:?}");
        assert!(profile.is_file(), "{profile:?}");
        let folder = fs::metadata(profile.parent().unwrap()).unwrap();
        assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    }
    let error = place.fails(&["client", "conversations"]);
    assert!(error.contains("--profile") && error.contains("HOME"), "{error}");
}

#[tokio::test]
async fn the_keys_come_from_lines_files_or_the_environment() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let told = place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    let (key, password) = (text("apikey"), text("encryptionpassword"));
    fs::write(place.path().join("key"), format!("\u{feff}{key}\r\n")).unwrap();
    fs::write(place.path().join("password"), format!("{password}\n")).unwrap();
    let url = format!("http://{}/", server.address);
    let login = ["client", "login", &url, "--profile", "profile", "--json"];
    let files = ["--api-key-file", "key", "--encryption-password-file", "password"];
    let variables =
        [("CHATSERVER_APIKEY", key.as_str()), ("CHATSERVER_ENCRYPTION_PASSWORD", &password)];
    let lines = format!("{key}\n{password}\n");
    let spaced = format!(" {key} \n{password}\n");
    for (options, stdin, environment) in [
        (&[][..], lines.as_str(), &[][..]),
        (&[], &spaced, &[]),
        (&[], told.to_string().as_str(), &[]),
        (&files, "", &[]),
        (&files[..2], &password, &[]),
        (&files[2..], &key, &[]),
        (&[], "", &variables),
        (&[], &password, &variables[..1]),
        (&[], &key, &variables[1..]),
    ] {
        let output = place.runs_with(&[&login[..], options].concat(), stdin, environment);
        assert!(output.status.success(), "{options:?} {environment:?}: {output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&told["userid"], &told["nick"]), (&text("userid").into(), &"Alice".into()));
        fs::remove_file(place.path().join("profile")).unwrap();
    }
}

#[tokio::test]
async fn a_login_that_fails_says_why_and_keeps_nothing() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let told = place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let (key, password) = (&told["apikey"], &told["encryptionpassword"]);
    let (key, password) = (key.as_str().unwrap(), password.as_str().unwrap());
    let url = format!("http://{}/", server.address);
    let nowhere = format!("http://{}/", free_address());
    let (wrong, with_secret) = ("f".repeat(64), format!("{url}#apikey={key}"));
    for (url, stdin, code) in [
        (url.as_str(), format!("{wrong}\n{password}\n"), "invalid_credentials"),
        (&url, format!("{key}\nwrong password\n"), "wrong_password"),
        (&url, format!("{key}\n{password} \n"), "wrong_password"),
        (&url, format!("{key}\n"), "invalid_argument"),
        (&url, format!("x\n{password}\n"), "invalid_argument"),
        (&url, "{}".to_owned(), "invalid_argument"),
        (&with_secret, format!("{key}\n{password}\n"), "invalid_argument"),
        ("ftp://example.com/", format!("{key}\n{password}\n"), "invalid_argument"),
        ("example", format!("{key}\n{password}\n"), "invalid_argument"),
        (&nowhere, format!("{key}\n{password}\n"), "unreachable"),
    ] {
        let login = ["client", "login", url, "--profile", "profile", "--json"];
        let output = place.runs_with(&login, &stdin, &[]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{url}: {error}");
        let told: Value = serde_json::from_str(&error).unwrap_or_else(|_| panic!("{error}"));
        assert_eq!(told["errorcode"], code, "{error}");
        assert!(!error.contains(key) && !error.contains(password), "{error}");
        assert!(!place.path().join("profile").exists());
    }
}

#[tokio::test]
async fn the_address_of_the_web_client_leads_to_its_server() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.joins(&server, "Alice");
    for page in ["app", "app/"] {
        alice.logs_in(&format!("http://{}/{page}", server.address));
        let profile = fs::read(place.path().join(&alice.profile)).unwrap();
        let profile: Value = serde_json::from_slice(&profile).unwrap();
        assert_eq!(profile["url"], format!("http://{}/", server.address));
    }
}

#[tokio::test]
async fn logging_in_again_keeps_the_station() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.joins(&server, "Alice");
    let station = || {
        let profile = fs::read(place.path().join(&alice.profile)).unwrap();
        serde_json::from_slice::<Value>(&profile).unwrap()["stationid"].clone()
    };
    let before = station();
    let url = format!("http://{}/", server.address);
    let login = ["client", "login", &url, "--profile", &alice.profile];
    let keys = format!("{}\n{}\n", alice.person.api_key.as_str(), alice.person.password.as_str());
    assert!(place.runs_with(&login, &keys, &[]).status.success());
    assert_eq!(station(), before);
}

#[tokio::test]
async fn a_login_keeps_a_symbolic_link() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.joins(&server, "Alice");
    let path = |name: &str| place.path().join(name);
    fs::create_dir(path("kept")).unwrap();
    fs::rename(path(&alice.profile), path("kept/real")).unwrap();
    std::os::unix::fs::symlink("kept/real", path(&alice.profile)).unwrap();
    let before = fs::metadata(path("kept/real")).unwrap().ino();
    alice.logs_in(&format!("http://{}/", server.address));
    assert!(fs::symlink_metadata(path(&alice.profile)).unwrap().is_symlink());
    assert_ne!(fs::metadata(path("kept/real")).unwrap().ino(), before);
    alice.tells(&["conversations"]);
}

#[tokio::test]
async fn a_profile_is_a_regular_file() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let mut alice = place.joins(&server, "Alice");
    place.makes_fifo("fifo");
    fs::create_dir(place.path().join("folder")).unwrap();
    let login = format!("http://{}/", server.address);
    let keys = format!("{}\n{}\n", alice.person.api_key.as_str(), alice.person.password.as_str());
    for name in ["fifo", "folder"] {
        alice.profile = name.to_owned();
        let error = place.fails(&alice.arguments(&["conversations"]));
        assert!(error.contains("no regular file") && !error.contains("chmod"), "{error}");
        let login = ["client", "login", &login, "--profile", name, "--json"];
        let output = place.runs_with(&login, &keys, &[]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("invalid_profile") && error.contains("no regular file"), "{error}");
    }
}

#[tokio::test]
async fn the_path_of_a_url_is_completed() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    bob.logs_in(&format!("http://{}/ozeki", server.address));
    let listener = bob.starts("listened.txt", &["listen"]);
    until("it listens", async || bob.positions().exists()).await;
    alice.sends("Bob", "hello");
    listener.prints("hello").await;
    alice.sends("Bob", "live");
    listener.prints("live").await;
}

#[tokio::test]
async fn a_login_without_encryption_is_warned_of() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.joins(&server, "Alice");
    let port = server.address.port();
    for host in ["127.0.0.1", "localhost"] {
        let output = alice.logs_in(&format!("http://{host}:{port}/"));
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    // The system takes this address for its own, but it is none of the loopback.
    let output = alice.logs_in(&format!("http://0.0.0.0:{port}/"));
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("warning") && warning.contains("use https"), "{warning}");
}

/// Ctrl-C sends the first of these signals.
#[tokio::test]
async fn a_prompt_that_is_interrupted_leaves_a_terminal_with_echo() {
    let place = Workplace::new();
    for signal in ["INT", "TERM", "QUIT", "HUP"] {
        let terminal = Terminal::new();
        assert!(terminal.echoes());
        let mut command = place.command(&["client", "login", "http://localhost/"]);
        command.args(["--profile", "profile"]).stdin(terminal.stdin()).stderr(Stdio::piped());
        let mut login = command.spawn().unwrap();
        until("the prompt hides what is typed", async || !terminal.echoes()).await;
        let id = login.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        assert_eq!(login.wait().unwrap().code(), Some(1));
        assert!(terminal.echoes(), "{signal}");
    }
}
