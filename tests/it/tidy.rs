//! Tests of the project structure: layers, file lengths and names.

use std::fs;
use std::path::{Path, PathBuf};

/// Maximum lines per file.
const LINES: usize = 500;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has sources");
    found
}

/// Asserts that only these folders or files name these crates.
fn only_in(places: &[&str], crates: &[&str]) {
    for (path, text) in sources("src") {
        for name in crates {
            let named =
                text.contains(&format!("{name}::")) || text.contains(&format!("use {name}"));
            let is_allowed = places.iter().any(|place| path.starts_with(place));
            assert!(!named || is_allowed, "{} names {name}", path.display());
        }
    }
}

#[test]
fn sql_stays_in_the_store() {
    only_in(&["src/store"], &["sqlx"]);
}

#[test]
fn http_stays_at_its_edges() {
    only_in(&["src/admin", "src/api", "src/web.rs"], &["axum"]);
    only_in(&["src/admin", "src/api"], &["tower", "tower_http"]);
    only_in(&["src/admin"], &["maud"]);
    let clients = ["src/client", "src/tls/acme"];
    only_in(&[&["src/api"], &clients[..]].concat(), &["hyper", "hyper_util", "http_body_util"]);
    only_in(&clients, &["hyper_rustls"]);
    only_in(&["src/tls.rs", "src/tls"], &["tokio_rustls", "instant_acme", "rcgen", "x509_parser"]);
}

/// Asserts that the sources of a folder or file name none of these modules.
fn knows_none_of(place: &str, modules: &[&str]) {
    for (path, text) in sources("src").iter().filter(|(path, _)| path.starts_with(place)) {
        for module in modules {
            let named = text.contains(&format!("crate::{module}"));
            assert!(!named, "{} names crate::{module}", path.display());
        }
    }
}

/// Modules of the service layer: operations of more than one store call.
const SERVICES: [&str; 13] = [
    "users",
    "friends",
    "stations",
    "conversations",
    "messages",
    "reports",
    "availability",
    "notifications",
    "invitations",
    "export",
    "usage",
    "retention",
    "admin_links",
];

#[test]
fn the_domain_knows_no_layer_above_it() {
    let above =
        ["admin", "api", "app", "live", "store", "config", "limits", "error", "clock", "commands"];
    knows_none_of("src/domain", &above);
    knows_none_of("src/domain", &SERVICES);
    for (path, text) in sources("src/domain") {
        let waits = text.contains("async ") || text.contains("tokio");
        assert!(!waits, "{} waits for something", path.display());
    }
}

#[test]
fn the_store_knows_no_layer_above_it() {
    knows_none_of("src/store", &["admin", "api", "app", "live", "error", "jobs", "commands"]);
    knows_none_of("src/store", &SERVICES);
}

#[test]
fn services_know_neither_the_api_nor_the_app() {
    for service in SERVICES {
        knows_none_of(&format!("src/{service}.rs"), &["admin", "api", "app"]);
    }
}

/// A client learns everything else over the network.
#[test]
fn the_client_knows_nothing_of_the_server() {
    let server = ["api", "app", "config", "error", "jobs", "limits", "live", "server", "store"];
    knows_none_of("src/client", &server);
    knows_none_of("src/client", &SERVICES);
    knows_none_of("src/client", &["commands"]);
    for folder in ["api", "domain", "live", "store"] {
        knows_none_of(&format!("src/{folder}"), &["client"]);
    }
}

#[test]
fn files_stay_short() {
    for (path, text) in ["src", "load", "tests"].into_iter().flat_map(sources) {
        let lines = text.lines().count();
        assert!(lines <= LINES, "{} has {lines} lines", path.display());
    }
}

#[test]
fn files_of_the_load_generator_use_each_other_in_no_circle() {
    let files = sources("load")
        .into_iter()
        .map(|(path, text)| (path.file_stem().unwrap().to_str().unwrap().to_owned(), text));
    // main.rs uses all files, and what they take from it is a type alias.
    let mut rest: Vec<_> = files.filter(|(name, _)| name != "main").collect();
    while !rest.is_empty() {
        let names: Vec<_> = rest.iter().map(|(name, _)| format!("super::{name}::")).collect();
        let before = rest.len();
        rest.retain(|(_, text)| names.iter().any(|name| text.contains(name)));
        assert!(rest.len() < before, "these use each other in a circle: {names:?}");
    }
}

#[test]
fn no_file_has_a_catch_all_name() {
    for (path, _) in ["src", "load", "tests"].into_iter().flat_map(sources) {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(!["utils", "util", "helpers", "common", "types", "misc"].contains(&name.as_str()));
    }
}

#[test]
fn no_test_is_ignored() {
    for (path, text) in sources("tests") {
        let switched_off = concat!("#[", "ignore");
        assert!(!text.contains(switched_off), "{}", path.display());
    }
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guarantees = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let named = guarantees.lines().filter_map(|line| line.strip_prefix("- `")?.strip_suffix('`'));
    let mut count = 0;
    for name in named {
        let (module, function) = name.rsplit_once("::").unwrap();
        let file = format!("{}.rs", module.replace("::", "/"));
        let files = ["tests/it", "src"].map(|folder| root.join(folder).join(&file));
        let text = files.iter().find_map(|file| fs::read_to_string(file).ok());
        let text = text.unwrap_or_else(|| panic!("{name}: there is no such file"));
        assert!(text.contains(&format!("fn {function}(")), "{name}: there is no such test");
        count += 1;
    }
    assert!(count > 50, "{count} tests are named");
}

#[test]
fn the_gate_runs_the_tests_as_the_readme_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let has_line = |file: &str, line: &str| {
        let text = fs::read_to_string(root.join(file)).unwrap();
        text.lines().any(|one| one.trim() == line)
    };
    for file in ["README.md", ".ci/run"] {
        assert!(has_line(file, "cargo test"), "{file}");
    }
    assert!(has_line(".github/workflows/ci.yml", "- run: .ci/run"));
}
