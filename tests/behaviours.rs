//! The catalogue in docs/behaviours.md against the tests that name its rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What precedes the ids that a test proves, in its doc comment.
const MARK: &str = "behaviour: ";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each row's id, and whether it waits for a part of the program that is not there.
fn catalogue() -> BTreeMap<String, bool> {
    let text = fs::read_to_string(root().join("docs/behaviours.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let id = cells[0];
        if id == "id" {
            continue;
        }
        assert_eq!(
            cells.len(),
            3,
            "a row has an id, a behaviour and a mark: {line}"
        );
        let later = cells[2].starts_with("later: ");
        assert!(
            later || cells[2].is_empty(),
            "{id}: {:?} is no mark",
            cells[2]
        );
        let twice = rows.insert(id.to_owned(), later);
        assert!(twice.is_none(), "{id} stands there twice");
    }
    rows
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every id that a doc comment names, with the file.
fn named() -> BTreeMap<String, PathBuf> {
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        sources(&root().join(folder), &mut files);
    }
    let mut named = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        for (at, line) in lines.iter().enumerate() {
            let doc = line.strip_prefix("///");
            let Some((_, ids)) = doc.and_then(|doc| doc.split_once(MARK)) else {
                continue;
            };
            let head = lines[at..]
                .iter()
                .take_while(|line| line.starts_with(['/', '#']));
            let is_test = head
                .into_iter()
                .any(|line| line.starts_with('#') && line.contains("test"));
            assert!(is_test, "{}:{}: belongs to no test", file.display(), at + 1);
            for id in ids.split(',') {
                named.insert(id.trim().trim_end_matches('.').to_owned(), file.clone());
            }
        }
    }
    named
}

#[test]
fn every_row_of_the_catalogue_has_a_test_and_every_test_a_row() {
    let (rows, named) = (catalogue(), named());
    assert!(rows.len() > 100, "the catalogue was not read");
    let unproven: BTreeSet<_> = rows
        .iter()
        .filter(|(id, later)| !**later && !named.contains_key(*id))
        .map(|(id, _)| id)
        .collect();
    let unknown: Vec<_> = named
        .iter()
        .filter(|(id, _)| !rows.contains_key(*id))
        .collect();
    let early: Vec<_> = named
        .iter()
        .filter(|(id, _)| rows.get(*id).copied().unwrap_or(false))
        .collect();
    assert!(
        unproven.is_empty() && unknown.is_empty() && early.is_empty(),
        "rows without a test: {unproven:?}\ntests of rows that are not there: {unknown:?}\n\
         tests of rows that are marked `later`: {early:?}"
    );
}
