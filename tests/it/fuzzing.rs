//! The fuzz targets of `fuzz/`, run without the engine. The corpus of each must reach everything that the
//! target parses.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use chatserver::api::ACTIONS;
use chatserver::fuzzing::{TARGETS, Target};

/// Reads the stored inputs of a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(folder).unwrap();
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

/// Runs a target on its corpus and returns what it recognized.
fn read_of(name: &str) -> BTreeSet<&'static str> {
    let (_, target): &(_, Target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    corpus(name).iter().flat_map(|input| target(input)).collect()
}

#[test]
fn the_corpus_of_requests_has_every_action() {
    let read = read_of("request");
    for action in ACTIONS {
        assert!(read.contains(action.name), "{} {}", action.api.name, action.name);
    }
}

#[test]
fn the_corpus_of_headers_has_every_api_and_header() {
    let read = read_of("headers");
    let headers =
        ["content-type", "ozeki-station", "ozeki-user", "ozeki-signature", "x-forwarded-for"];
    let apis = ACTIONS.iter().map(|action| action.api.name);
    for name in apis.chain(headers) {
        assert!(read.contains(name), "{name}");
    }
}

#[test]
fn the_corpora_of_messages_and_frames_have_well_formed_inputs() {
    assert_eq!(read_of("message"), BTreeSet::from(["message"]));
    assert_eq!(read_of("listener"), BTreeSet::from(["ack", "ping", "subscribe"]));
}

#[test]
fn every_target_can_be_run_by_the_engine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("[[bin]]\nname = \"{name}\"\n")), "{name}");
        let calls = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(calls.contains(&format!("chatserver::fuzzing::{name}(bytes)")), "{name}");
    }
}
