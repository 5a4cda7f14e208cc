//! The README names every error code, exit status and key of run.toml.

use backpropd::config::RunConfig;
use backpropd::domain::Code;
use std::path::Path;

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_error_code_stands_in_the_readme_with_its_exit_status() {
    let readme = readme();
    for code in Code::ALL {
        let row = format!("| {} | `{}` |", code.exit_status(), code.as_str());
        assert!(readme.contains(&row), "{row} is missing");
    }
}

#[test]
fn every_key_of_a_resolved_run_stands_in_the_readme() {
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/run.toml");
    let config = RunConfig::read(&quickstart, &[]).unwrap();
    let table: toml::Table = toml::from_str(&config.to_toml().unwrap()).unwrap();
    let readme = readme();
    let mut keys = 0;
    for (name, value) in &table {
        let inner = value.as_table();
        let names: Vec<String> = match inner {
            None => vec![name.clone()],
            Some(inner) => inner.keys().map(|key| format!("{name}.{key}")).collect(),
        };
        for key in names {
            assert!(readme.contains(&format!("`{key}`")), "{key} is missing");
            keys += 1;
        }
    }
    assert!(keys > 40, "{keys} keys");
}
