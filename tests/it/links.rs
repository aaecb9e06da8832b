//! Checks that links in the documentation, and citations of it in comments, lead to an existing heading.

use std::collections::BTreeSet;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the files below a folder of the project, or the file itself.
fn files(path: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut paths = vec![root().join(path)];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push(path);
        }
    }
    found
}

/// Returns the anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(document: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(document).unwrap();
    let mut is_code = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        let heading = line.trim_start_matches('#');
        if !is_code && line.len() > heading.len() && heading.starts_with(' ') {
            let anchor = anchor(heading.trim());
            // GitHub numbers the anchors of repeated headings, from the second on.
            let numbered = (1..).map(|number| format!("{anchor}-{number}"));
            let mut anchors = iter::once(anchor.clone()).chain(numbered);
            found.extend(anchors.find(|anchor| !found.contains(anchor)));
        }
    }
    found
}

/// Asserts that a link leads to an existing file, and to a heading in it. Paths are relative to `base`.
fn leads_somewhere(file: &Path, base: &Path, link: &str) {
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { file.to_owned() } else { base.join(path) };
    assert!(target.exists(), "{}: {link} leads to no file", file.display());
    if !heading.is_empty() {
        let known = anchors(&target);
        assert!(known.contains(heading), "{}: {link} leads to no heading", file.display());
    }
}

#[test]
fn links_in_documents_resolve() {
    let mut count = 0;
    for document in ["README.md", "CHANGELOG.md", "docs", ".github"].into_iter().flat_map(files) {
        if document.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.contains("://") {
                leads_somewhere(&document, document.parent().unwrap(), link);
                count += 1;
            }
        }
    }
    assert!(count > 50, "{count} links were found");
}

#[test]
fn links_in_comments_resolve() {
    let places = [
        "src",
        "tests",
        "load",
        "benches",
        "fuzz/fuzz_targets",
        "migrations",
        "config",
        "packaging",
    ];
    let further = [".ci", ".github", "Cargo.toml", "fuzz/Cargo.toml", "README.md"];
    let is_of_link = |c: char| c.is_ascii_alphanumeric() || "-_./#".contains(c);
    let mut count = 0;
    for file in places.into_iter().chain(further).flat_map(files) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let of_the_project = |start: &usize| !text[..*start].ends_with('/');
        let starts = text.match_indices(concat!("docs", "/")).map(|(start, _)| start);
        for start in starts.filter(of_the_project) {
            let cited = text[start..].split(|c| !is_of_link(c)).next().unwrap();
            leads_somewhere(&file, root(), cited.trim_end_matches('.'));
            count += 1;
        }
    }
    assert!(count > 40, "{count} citations were found");
}

#[test]
fn comments_cite_sections_by_link() {
    for file in ["src", "tests", "load", "benches"].into_iter().flat_map(files) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for line in text.lines().filter(|line| !line.contains("RFC")) {
            let mut rest = line.split(concat!("sec", "tion ")).skip(1);
            let by_number = rest.any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            assert!(!by_number, "{}: {line}", file.display());
        }
    }
}
