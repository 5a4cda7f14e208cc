//! The OpenAPI document says what there is, and there is what it says.

use crate::common::Fixture;
use crate::common::daemon::Daemon;
use serde_json::Value;
use std::path::Path;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// (path, its methods in capitals)
fn operations(document: &Value) -> Vec<(String, Vec<String>)> {
    let paths = document["paths"].as_object().unwrap();
    let methods = |item: &Value| {
        let item = item.as_object().unwrap().keys();
        let methods = item.filter(|key| METHODS.contains(&key.as_str()));
        methods.map(|method| method.to_uppercase()).collect()
    };
    let each = paths.iter();
    each.map(|(path, item)| (path.clone(), methods(item)))
        .collect()
}

#[test]
fn every_route_is_in_the_document_and_the_other_way_round() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let document = daemon.http("GET", "/v1/openapi.json", "").json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let operations = operations(&document);
    assert!(operations.len() >= 11, "{operations:?}");
    for (path, methods) in &operations {
        // No route takes this one, so each says which it takes.
        let asked = path.replace(['{', '}'], "");
        let answer = daemon.http("TRACE", &asked, "");
        assert_eq!(answer.status, 405, "{path}: {answer:?}");
        let allow = answer.head.lines().find_map(|l| l.strip_prefix("allow: "));
        let taken = allow.unwrap_or_default().to_uppercase();
        let mut taken: Vec<&str> = taken.split(',').filter(|m| *m != "HEAD").collect();
        taken.sort_unstable();
        let mut methods = methods.clone();
        methods.sort_unstable();
        assert_eq!(taken, methods, "{path}");
    }
    // A router cannot be asked for its paths, so none may come in without its documentation.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let undocumented = code.filter(|line| line.contains(".route(")).count();
        assert_eq!(undocumented, 0, "{} has a bare `route`", path.display());
    }
}

#[test]
fn every_operation_has_a_name_a_summary_an_answer_and_a_problem() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let document = daemon.http("GET", "/v1/openapi.json", "").json();
    let mut names = std::collections::BTreeSet::new();
    for (path, methods) in operations(&document) {
        for method in methods {
            let operation = &document["paths"][&path][method.to_lowercase()];
            let told = |key: &str| operation[key].as_str().unwrap_or_default().to_owned();
            assert!(!told("summary").is_empty(), "{method} {path}");
            assert!(names.insert(told("operationId")), "{method} {path}");
            let responses = operation["responses"].as_object().unwrap();
            let good = responses.keys().any(|status| status.starts_with('2'));
            assert!(good, "{method} {path}: {responses:?}");
            let parameters = operation["parameters"].as_array();
            let named = parameters.map_or(0, |all| {
                all.iter()
                    .filter(|parameter| parameter["in"] == "path")
                    .count()
            });
            assert_eq!(named, path.matches('{').count(), "{method} {path}");
        }
    }
    let problem = &document["components"]["schemas"]["Problem"]["properties"];
    assert!(problem["code"]["description"].is_string(), "{problem}");
}
