//! A run that was killed, stopped or moved to other threads ends as one that never was.

mod common;

use common::Fixture;
use rustix::process::Signal;

/// behaviour: engine-03
#[test]
fn a_run_killed_again_and_again_equals_one_never_interrupted() {
    let fixture = Fixture::new(30);
    fixture.events("whole", &[]);
    // Before the first checkpoint, right after one, between two, within a window, near the end.
    let mut resume: &[&str] = &[];
    for step in [2, 6, 13, 14, 27] {
        let running = fixture.start_until("killed", resume, step);
        assert_eq!(running.signal(Signal::KILL), 128 + 9);
        resume = if step >= 6 { &["--resume"] } else { &[] };
    }
    fixture.events("killed", &["--resume"]);
    assert_eq!(fixture.result("killed"), fixture.result("whole"));
}

#[test]
fn sigint_and_sigterm_save_and_exit_130_and_143_and_the_run_goes_on_from_there() {
    let fixture = Fixture::new(400);
    fixture.events("whole", &[]);
    let stopped = fixture.start_until("stopped", &[], 3);
    assert_eq!(stopped.signal(Signal::INT), 130);
    let stopped = fixture.start_until("stopped", &["--resume"], 20);
    assert_eq!(stopped.signal(Signal::TERM), 143);
    let events = fixture.events("stopped", &["--resume"]);
    let started = common::of_kind(&events, "run_started");
    let step = started[0]["step"].as_u64().unwrap();
    assert!(step >= 20, "saved at the step under way: {step}");
    assert_eq!(fixture.result("stopped"), fixture.result("whole"));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let fixture = Fixture::new(12);
    fixture.events("two", &[]);
    fixture.events("one", &["--threads", "1"]);
    assert_eq!(fixture.result("one"), fixture.result("two"));
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_is_used() {
    let fixture = Fixture::new(15);
    fixture.events("whole", &[]);
    fixture.events("run", &[]);
    let newest = fixture.path("run/checkpoints/step-00000015/tensors.safetensors");
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let events = fixture.events("run", &["--resume"]);
    let warnings = common::of_kind(&events, "warning");
    let message = warnings[0]["message"].as_str().unwrap();
    assert!(
        message.contains("step-00000015") && message.contains("checksum"),
        "{message}"
    );
    assert_eq!(common::of_kind(&events, "run_started")[0]["step"], 10);
}

#[test]
fn settings_that_decide_the_result_must_not_change_on_resume() {
    let fixture = Fixture::new(10);
    fixture.events("run", &[]);
    let output = fixture.run("run", &["--resume", "--set", "sae.k=4"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(42), "{said}");
    assert!(
        said.contains("sae.k was 8") && said.contains("is 4 now"),
        "{said}"
    );
    // Where and how it is computed may.
    fixture.events(
        "run",
        &[
            "--resume",
            "--set",
            "activations.lm_batch=2",
            "--set",
            "eval.every=3",
        ],
    );
}
