//! The load generator, run from the command line.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::{KEY_FILE, Process, Workplace};

/// Arguments of the shortest possible run.
const SHORT: [&str; 6] = ["--seconds", "1", "--warm-up", "0", "--connections", "4"];

const PROGRAM: &str = env!("CARGO_BIN_EXE_chatserver-load");

impl Workplace {
    fn loads(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(self.path()).env_clear().stdin(Stdio::null());
        // Of a database of PostgreSQL's. A file has it beside it.
        if arguments.iter().any(|argument| argument.starts_with("postgres:")) {
            command.env(KEY_FILE, self.key_file());
        }
        command.output().unwrap()
    }

    /// Runs a measurement with `--json` and asserts that it succeeds.
    #[track_caller]
    fn measures(&self, arguments: &[&str]) -> Value {
        let output = self.loads(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a measurement, asserts that it fails, and returns its stdout and stderr.
    #[track_caller]
    fn does_not_measure(&self, arguments: &[&str]) -> String {
        let output = self.loads(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }
}

/// Returns the arguments that measure a server that is already running.
fn running(server: &Process) -> [String; 4] {
    let url = format!("http://{}/", server.address);
    ["--url".into(), url, "--database-url".into(), "sqlite://chatserver.db".into()]
}

#[track_caller]
fn is_without_errors(figures: &Value) {
    assert!(figures["requests"].as_u64().unwrap() > 0, "{figures}");
    assert_eq!(figures["errors"], Value::Object(serde_json::Map::new()), "{figures}");
    let percentiles =
        ["p50_ms", "p95_ms", "p99_ms", "max_ms"].map(|of| figures[of].as_f64().unwrap());
    assert!(percentiles[0] > 0.0 && percentiles.is_sorted(), "{figures}");
}

#[test]
fn every_scenario_is_answered_ok() {
    let place = Workplace::new();
    for scenario in ["send", "send-hot", "list", "page", "page-read", "properties", "mixed"] {
        let measured = place.measures(&[&[scenario], &SHORT[..]].concat());
        assert_eq!(measured["scenario"], scenario);
        is_without_errors(&measured["server"]);
        assert!(measured["server"]["cpu_micros"].as_f64().unwrap() > 0.0, "{measured}");
        assert!(measured["server"]["rss_after"].as_u64().unwrap() > 0, "{measured}");
    }
}

#[test]
fn ceilings_are_measured_in_turn_with_the_server() {
    let place = Workplace::new();
    let rounds = ["--ceiling", "--rounds", "1"];
    for (scenario, names) in [("send", ["echo", "insert"]), ("page", ["echo", "row"])] {
        let measured = place.measures(&[&[scenario], &SHORT[..], &rounds[..]].concat());
        has_ceilings(&measured, &names);
    }
}

/// Asserts that these ceilings answered like the server.
#[track_caller]
fn has_ceilings(measured: &Value, names: &[&str]) {
    let ceilings = measured["ceilings"].as_object().unwrap();
    assert!(ceilings.keys().eq(names), "{measured}");
    for ceiling in ceilings.values() {
        is_without_errors(ceiling);
        // Answers of a ceiling and of the server have the same size, so both send the same bytes.
        let bytes = |figures: &Value| figures["answer_bytes"].as_u64().unwrap();
        assert!(bytes(ceiling).abs_diff(bytes(&measured["server"])) <= 2, "{measured}");
        for ratio in ["per_second", "p99", "cpu"] {
            assert!(ceiling["ratios"][ratio].as_f64().unwrap() > 0.0, "{measured}");
        }
    }
}

#[tokio::test]
async fn ceilings_on_postgres_leave_no_table_behind() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let (place, url) = (Workplace::new(), database.url());
    let rounds = ["--ceiling", "--rounds", "1", "--database-url", &url];
    let scenarios = [("send", &["echo", "insert", "single"][..]), ("page", &["echo", "row"])];
    for (scenario, names) in scenarios {
        let measured = place.measures(&[&[scenario], &SHORT[..], &rounds[..]].concat());
        is_without_errors(&measured["server"]);
        has_ceilings(&measured, names);
    }
    let tables = r"SELECT count(*) FROM pg_class WHERE relname LIKE 'load\_%'";
    assert_eq!(database.number(tables).await, 0);
}

#[tokio::test]
async fn nodes_on_postgres_are_measured_together() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let (place, url) = (Workplace::new(), database.url());
    let nodes = ["--nodes", "2", "--database-url", &url];
    let measured = place.measures(&[&["send"], &SHORT[..], &nodes].concat());
    is_without_errors(&measured["server"]);
    assert_eq!(measured["nodes"], 2);
    assert!(measured["server"]["cpu_micros"].as_f64().unwrap() > 0.0, "{measured}");
    assert!(measured["lock_waits"]["samples"].as_u64().unwrap() > 1, "{measured}");
    let shared = place.measures(&[&["list", "--shared"], &SHORT[..], &nodes].concat());
    is_without_errors(&shared["server"]);

    let short = ["--listeners", "20", "--rate", "20", "--connections", "3", "--seconds", "1"];
    let measured = place.measures(&[&["listeners"], &short[..], &nodes].concat());
    let requests = |of: &str| measured[of]["requests"].as_u64().unwrap();
    assert_eq!([requests("sends"), requests("pushes")], [20, 20], "{measured}");
}

#[test]
fn each_message_to_a_listener_is_timed_until_its_push() {
    let place = Workplace::new();
    let measured = place.measures(&[&["send-live"], &SHORT[..], &["--rate", "50"]].concat());
    is_without_errors(&measured["server"]);
    is_without_errors(&measured["pushes"]);
    let requests = |of: &str| measured[of]["requests"].as_u64().unwrap();
    assert_eq!([requests("server"), requests("pushes")], [50, 50], "{measured}");
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let place = Workplace::new();
    let postgres = ["--database-url", "postgres://chat@127.0.0.1:1/chat"];
    let running = ["--url", "http://127.0.0.1:1/", "--url", "http://127.0.0.1:2/"];
    for (arguments, refusal) in [
        (&["send", "--nodes", "2"][..], "several nodes need a PostgreSQL database"),
        (&["send", "--shared"], "--shared needs several nodes"),
        (&["send", "--database-url", "sqlite://chat.db"], "must be postgres://"),
        (&[&["growth"], &postgres[..]].concat(), "it can't have --database-url"),
        (&[&["overload", "--nodes", "2"], &postgres[..]].concat(), "measures one server, not 2"),
        (
            &[&["send-live", "--nodes", "2", "--shared"], &postgres[..]].concat(),
            "send-live can't have --shared",
        ),
        (&[&["send", "--pid", "1"], &running[..], &postgres[..]].concat(), "1 --pid for 2 --url"),
        (&[&["send"], &postgres[..]].concat(), "postgres://127.0.0.1:1/chat can't be reached"),
    ] {
        let told = place.does_not_measure(arguments);
        assert!(told.contains(refusal), "{arguments:?}: {told}");
    }
}

#[test]
fn an_open_loop_sends_at_its_rate() {
    let place = Workplace::new();
    let measured = place.measures(&[&["list", "--rate", "50"], &SHORT[..]].concat());
    assert_eq!(measured["server"]["requests"], 50, "each that was due, and no other");
}

#[tokio::test]
async fn listeners_hear_of_each_message() {
    let place = Workplace::new();
    let short = ["--listeners", "20", "--rate", "40", "--connections", "4", "--seconds", "1"];
    let measured = place.measures(&[&["listeners"], &short[..]].concat());
    is_without_errors(&measured["sends"]);
    is_without_errors(&measured["pushes"]);
    let requests = |of: &str| measured[of]["requests"].as_u64().unwrap();
    // Messages of the two seconds of warm-up are received, but not measured.
    assert_eq!([requests("sends"), requests("pushes")], [40, 40], "{measured}");
    assert!(measured["listener_bytes"].is_u64(), "{measured}");
}

#[test]
fn hostile_clients_are_bounded_in_memory_and_a_bystander_is_served() {
    let place = Workplace::new();
    // The command fails if memory exceeds its bound or a bystander's list is not answered.
    let short = ["--budget", "16", "--users", "8", "--seconds", "3"];
    let measured = place.measures(&[&["overload"], &short[..]].concat());
    let attacks = measured["attacks"].as_array().unwrap();
    assert_eq!(attacks.len(), 10, "{measured}");
    for attack in attacks {
        is_without_errors(&attack["bystander"]);
        let peak = attack["peak_rss"].as_u64().unwrap();
        assert!(peak > 0 && peak <= measured["bound"].as_u64().unwrap(), "{measured}");
    }
    let keys = attacks.iter().find(|attack| attack["attack"] == "many keys").unwrap();
    assert!(keys["hits"].as_u64().unwrap() > 0, "the parser refused none of them: {keys}");
}

#[test]
fn a_database_grows_and_its_server_is_stopped_and_killed() {
    let place = Workplace::new();
    let sizes = ["--conversations", "10", "--messages", "20,100"];
    let measured = place.measures(&[&["growth"], &sizes[..], &SHORT[..]].concat());
    let sizes = measured["sizes"].as_array().unwrap();
    let messages: Vec<_> = sizes.iter().map(|size| size["messages"].as_u64().unwrap()).collect();
    // The second size includes the messages that were sent in between.
    assert!(messages[0] == 20 && messages[1] >= 100, "{measured}");
    for size in sizes {
        for path in ["send", "page_of_one", "page"] {
            is_without_errors(&size[path]);
        }
        assert!(size["database_to_data"].as_f64().unwrap() > 1.0, "{measured}");
        assert!(size["ready_after_kill_ms"].as_f64().unwrap() > 0.0, "{measured}");
    }
    let refused = place.does_not_measure(&["growth", "--conversations", "10", "--messages", "15"]);
    assert!(refused.contains("--messages must be multiples of 10"), "{refused}");
}

/// A run that measures refusals has measured nothing.
#[tokio::test]
async fn refusals_are_counted_by_code_and_fail_the_run() {
    let place = Workplace::new();
    // A small rate and burst, so that a slow machine exceeds them too. The requests before the run use the burst as
    // well.
    let limits = [
        ("CHATSERVER_LIMITS__REQUESTS_PER_SECOND", "1"),
        ("CHATSERVER_LIMITS__REQUESTS_BURST", "2"),
    ];
    let server = place.serves(&limits).await;
    let running = running(&server);
    let arguments = [&["send"][..], &SHORT, &running.each_ref().map(String::as_str)].concat();
    let told = place.does_not_measure(&arguments);
    assert!(told.contains("limits.requests_per_second must be 0 at that server"), "{told}");
    assert!(told.contains(" x rate_limited\n"), "{told}");
}

#[tokio::test]
async fn a_running_server_is_measured_and_keeps_running() {
    let place = Workplace::new();
    let server = place.serves(&[("CHATSERVER_LIMITS__REQUESTS_PER_SECOND", "0")]).await;
    let running = running(&server);
    let running = running.each_ref().map(String::as_str);
    let measured = place.measures(&[&["send"][..], &SHORT, &running].concat());
    is_without_errors(&measured["server"]);
    assert_eq!(measured["server"]["cpu_micros"], Value::Null, "it was not told the process");
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("still there?").await;
    assert_eq!(bob.reads().await, ["still there?"]);
}

/// Thousands of sockets need a higher limit of open files. The command says so before it opens any.
#[test]
fn too_low_a_limit_of_open_files_is_reported_before_any_connection() {
    let place = Workplace::new();
    let limited = Command::new("sh")
        .args(["-c", r#"ulimit -n 250 && exec "$0" listeners --listeners 1000"#, PROGRAM])
        .current_dir(place.path())
        .output()
        .unwrap();
    assert_eq!(limited.status.code(), Some(1), "{limited:?}");
    let told = String::from_utf8(limited.stderr).unwrap();
    let needed = "1064 connections need 1264 open files, 250 are allowed: ulimit -n 1264";
    assert!(told.contains(needed), "{told}");
}

#[test]
fn floors_are_reported_as_held_or_missed() {
    let place = Workplace::new();
    let file = place.path().join("floors.toml");
    let floors = |text: &str| {
        fs::write(&file, text).unwrap();
        ["floors", "floors.toml", "--rounds", "1"]
    };
    let low = place.loads(&[&floors("[send]\ninsert = 0.001\n")[..], &SHORT].concat());
    assert!(low.status.success(), "{low:?}");
    let told = String::from_utf8(low.stderr).unwrap();
    assert!(told.contains("send to (b) insert") && told.contains("0.00 holds"), "{told}");

    let told = place.does_not_measure(&[&floors("[page]\nrow = 1000.0\n")[..], &SHORT].concat());
    assert!(told.contains("the floor of 1000.00 IS MISSED"), "{told}");
    let told = place.does_not_measure(&[&floors("[page]\ninsert = 0.1\n")[..], &SHORT].concat());
    assert!(told.contains("floors.toml: page has no ceiling (b) insert"), "{told}");
    let told = place.does_not_measure(&[&floors("[pages]\nrow = 0.1\n")[..], &SHORT].concat());
    assert!(told.contains("unknown variant `pages`"), "{told}");
    assert!(place.does_not_measure(&floors("")).contains("floors.toml names no scenario"));
}

#[test]
fn a_missing_server_is_reported_by_name() {
    let place = Workplace::new();
    let told = place.does_not_measure(&["send", "--server", "no/such/chatserver"]);
    assert!(told.contains("no/such/chatserver"), "{told}");
    let nobody = ["--url", "http://127.0.0.1:1/", "--database-url", "sqlite://chatserver.db"];
    let told = place.does_not_measure(&[&["send"][..], &nobody].concat());
    assert!(told.contains("http://127.0.0.1:1/ is not ready"), "{told}");
}
