//! The walk with curl in docs/walkthrough.md, pasted unchanged.

use serde_json::Value;

use crate::harness::process::{Workplace, free_address};
use crate::harness::shells::{SHELLS, pasted};

/// Returns the shell commands of the walk in order, without those that need cargo or websocat.
fn blocks(port: u16) -> String {
    let walk = include_str!("../../docs/walkthrough.md");
    let blocks = walk.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let blocks = blocks.filter(|block| !block.contains("cargo ") && !block.contains("websocat"));
    let text: String = blocks.collect();
    assert!(!text.contains('#') || !text.contains("\n#"), "not every shell takes comments");
    assert_eq!(text.matches("8090").count(), 1, "the port is chosen in one place");
    text.replace("PORT=8090", &format!("PORT={port}"))
}

#[test]
fn the_walk_works_in_every_shell_at_any_port() {
    for shell in SHELLS {
        let place = Workplace::new();
        let lines = pasted(shell, place.path(), &blocks(free_address().port()));
        let log = std::fs::read_to_string(place.path().join("chatserver.log")).unwrap();
        let shown = || format!("{shell:?}: {lines:#?}\n{log}");
        assert!(lines.iter().any(|line| line == "Hello, Bob"), "{}", shown());
        let envelopes = lines.iter().filter(|line| line.starts_with("{\"status\""));
        let envelopes: Vec<Value> =
            envelopes.map(|line| serde_json::from_str(line).unwrap()).collect();
        let accepted = envelopes.iter().filter(|one| one["message"]["ID"].is_string());
        let accepted: Vec<_> = accepted.map(|one| &one["message"]["ID"]).collect();
        assert_eq!(accepted.len(), 3, "{}", shown());
        assert!(accepted[0] == accepted[1] && accepted[1] != accepted[2], "{}", shown());
        let (last, others) = envelopes.split_last().unwrap();
        assert_eq!(last["errorcode"], "instance_changed", "{}", shown());
        assert!(others.iter().all(|one| one["status"] == "OK"), "{}", shown());
        assert!(log.contains("stopping"), "{}", shown());
    }
}
