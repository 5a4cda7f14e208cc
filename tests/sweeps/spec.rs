//! Sweeps that cannot be run are refused whole, before anything is queued.

use super::common::daemon::Daemon;
use super::{Sweeps, fixture, write};
use serde_json::json;

#[test]
fn a_bad_specification_is_one_line_with_file_line_and_key() {
    let fixture = fixture(5, "");
    let daemon = Daemon::start(&fixture);
    let axis = |key: &str| format!("{key} = [{}]\n", ["1"; 60].join(","));
    let absurd = format!(
        "[grid]\n{}",
        ["seed", "sae.k", "eval.every"].map(axis).concat()
    );
    let cases = [
        (
            "[grid]\nsae.k = [8, 1000]\n",
            "sweep.toml:5: grid.sae.k: 1000 exceeds d_sae 96",
        ),
        (
            "[grid]\nsae.q = [8]\n",
            "sweep.toml:5: grid.sae.q: unknown field",
        ),
        ("[grid]\nsae.k = [8\n", "sweep.toml:5"),
        (&absurd, "makes 216000 runs; 1000 is the most"),
    ];
    for (sweep, part) in cases {
        write(&fixture, sweep);
        let output = daemon.ctl(&["sweep", "submit", "sweep.toml"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(10), "{sweep}: {said}");
        assert!(
            said.contains(part) && said.lines().count() == 1,
            "{sweep}: {said}"
        );
    }
    std::fs::write(fixture.path("sweep.toml"), "run = \"no.toml\"\n").unwrap();
    let missing = daemon.ctl(&["sweep", "submit", "sweep.toml"]);
    assert_eq!(missing.status.code(), Some(11));
    let nothing = daemon.http("POST", "/v1/sweeps", "{}");
    assert_eq!(
        (nothing.status, &nothing.json()["code"]),
        (422, &json!("usage"))
    );
    assert_eq!(daemon.json(&["sweep", "list"]), json!([]));
    assert_eq!(daemon.json(&["runs"]), json!([]));
}

#[test]
fn a_key_begins_a_sweep_once_and_a_folder_with_runs_is_not_taken() {
    let fixture = fixture(5, "[grid]\nseed = [1]\n");
    let daemon = Daemon::start(&fixture);
    let submit = ["sweep", "submit", "sweep.toml", "--key", "a"];
    let first = daemon.json(&submit)["id"].clone();
    daemon.sweep_reaches(first.as_u64().unwrap(), "completed");
    assert_eq!(daemon.json(&submit)["id"], first);
    let again = daemon.ctl(&["sweep", "submit", "sweep.toml"]);
    assert_eq!(again.status.code(), Some(44));
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(
        said.contains("run-exists") && said.contains("`output`"),
        "{said}"
    );
}
