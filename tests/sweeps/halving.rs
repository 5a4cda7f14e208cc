//! Successive halving, and weights that go from run to run.

use super::common::daemon::Daemon;
use super::common::of_kind;
use super::{Sweeps, fixture, is_step, place, places};

#[test]
fn the_best_go_on_from_a_rung_exactly_and_the_others_end() {
    let halving = "[halving]\nmetric = \"ce_recovered\"\nrungs = [6, 13]\nkeep = 0.5\n";
    let sweep = format!("parallel = 2\n[grid]\nsae.k = [2, 4, 8, 16]\n{halving}");
    let fixture = fixture(24, &sweep);
    let daemon = Daemon::start_with(&fixture, &[("BACKPROPD_WORKERS__LIMIT", "2")]);
    let id = daemon.begin();
    let events = daemon.events_of(id);
    let rungs = of_kind(&events, "rung_completed");
    assert_eq!(rungs.len(), 2);
    let indices = |rung: usize, key: &str| -> Vec<u64> {
        let list = rungs[rung][key].as_array().unwrap();
        list.iter().map(|index| index.as_u64().unwrap()).collect()
    };
    assert_eq!(
        (&rungs[0]["step"], &rungs[1]["step"]),
        (&6.into(), &13.into())
    );
    assert_eq!(
        (indices(0, "kept").len(), indices(0, "dropped").len()),
        (2, 2)
    );
    let winner = indices(1, "kept");
    assert_eq!((winner.len(), indices(1, "dropped").len()), (1, 1));
    let winner = winner[0];
    // Nobody beats what goes on.
    let sweep = daemon.sweep(id);
    let value = |index: u64, step: u64| {
        let of_run = places(&events, |e| {
            e["kind"] == "validation" && e["run_idx"] == index && e["step"] == step
        });
        events[of_run[0]]["sites"][0]["ce_recovered"]
            .as_f64()
            .unwrap()
    };
    for kept in indices(0, "kept") {
        for dropped in indices(0, "dropped") {
            assert!(value(kept, 6) >= value(dropped, 6));
        }
    }
    for index in 1..=4 {
        let complete = &events[place(&events, "run_complete", index)];
        let steps = match index {
            _ if index == winner => 24,
            _ if indices(1, "dropped").contains(&index) => 13,
            _ => 6,
        };
        assert_eq!(complete["step"], steps, "run {index}");
        let state = if steps == 24 {
            "completed"
        } else {
            "early_stopped"
        };
        assert_eq!(complete["state"], state);
        assert_eq!(
            places(&events, is_step(index)).len() as u64,
            steps,
            "no step twice"
        );
        assert_eq!(complete["measures"]["ce_recovered"], value(index, steps));
    }
    assert_eq!(sweep["state"], "completed");

    // The one that stood at two rungs is the one that stood at none.
    let k = ["2", "4", "8", "16"][winner as usize - 1];
    fixture.events("alone", &["--set", &format!("sae.k={k}")]);
    let (run, alone) = (
        fixture.result(&format!("out/run-{winner}")),
        fixture.result("alone"),
    );
    assert_eq!((run.tensors, run.metrics), (alone.tensors, alone.metrics));
}

#[test]
fn weights_are_carried_from_run_to_run() {
    let fixture = fixture(
        40,
        "carry_over = true\n[grid]\noptimizer.lr = [0.003, 0.002]\n",
    );
    let daemon = Daemon::start(&fixture);
    let id = daemon.begin();
    let events = daemon.events_of(id);
    let loss = |index: u64, at: usize| {
        let steps = places(&events, is_step(index));
        events[steps[at]]["loss"].as_f64().unwrap()
    };
    let (fresh, trained, carried) = (loss(1, 0), loss(1, 39), loss(2, 0));
    assert!(trained < fresh, "{fresh} {trained}");
    assert!(
        (carried - trained).abs() < (fresh - trained) / 3.0,
        "{fresh} {trained} {carried}"
    );
    let toml = std::fs::read_to_string(fixture.path("out/run-2/run.toml")).unwrap();
    let from = fixture.path("out/run-1");
    assert!(
        toml.contains(&format!("init_from = \"{}\"", from.display())),
        "{toml}"
    );
}

#[test]
fn weights_of_another_shape_are_refused_by_the_tensor() {
    let fixture = fixture(4, "");
    fixture.events("first", &[]);
    let from = ["--set", "training.init_from=first"];
    fixture.events("second", &from);
    let cases = [
        ("sae.d_sae=48", "param.w_enc"),
        (
            "model.hooks=[\"blocks.0.hook_resid_post\"]",
            "no autoencoder at blocks.0",
        ),
        ("sae = { variant = \"gated\", d_sae = 96 }", "r_mag"),
        ("training.init_from=nowhere", "nowhere/checkpoints"),
    ];
    for (n, (set, part)) in cases.into_iter().enumerate() {
        let output = fixture.run(&format!("case-{n}"), &[&from[..], &["--set", set]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        let code = if set.contains("nowhere") { 41 } else { 42 };
        assert_eq!(output.status.code(), Some(code), "{set}: {said}");
        assert!(
            said.contains(part) && said.contains("training.init_from"),
            "{set}: {said}"
        );
    }
}

#[test]
fn a_run_that_stops_at_a_step_goes_on_exactly() {
    let fixture = fixture(12, "");
    fixture.events("alone", &[]);
    let events = fixture.events("run", &["--set", "training.stop_at=7"]);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["kind"], &last["step"]),
        (&"stopped".into(), &7.into())
    );
    assert_eq!(last["validation"]["step"], 7, "it is measured there");
    fixture.events("run", &["--resume"]);
    let (run, alone) = (fixture.result("run"), fixture.result("alone"));
    assert_eq!((run.tensors, run.metrics), (alone.tensors, alone.metrics));
}
