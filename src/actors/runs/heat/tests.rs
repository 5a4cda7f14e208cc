use super::*;
use crate::domain::gpu::Lease;
use crate::domain::run_state::Report;
use crate::store::{NewRun, Store};
use tempfile::TempDir;

fn gpu(index: u32) -> GpuName {
    GpuName {
        index,
        uuid: Some(format!("GPU-{index}")),
    }
}

fn hold(stance: Stance) -> GpuHold {
    GpuHold {
        gpu: gpu(0),
        stance,
        reason: "94 °C".into(),
    }
}

fn wants(index: u32, hold: Hold) -> Wanted {
    Wanted {
        gpu: gpu(index),
        hold,
        reason: "94 °C".into(),
    }
}

/// A store with a run that computes on GPU 0.
fn running() -> (TempDir, Store, RunId) {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path(), 0).unwrap();
    let run = store.write(|tx| {
        let run = tx.submit(&NewRun::new("a", ""), None, 0)?.run;
        let _ = tx.apply(run, Report::Given, 1)?;
        let device = "GPU-0".into();
        tx.set_lease(
            run,
            &Lease {
                gpu: gpu(0),
                device,
            },
        )?;
        let _ = tx.apply(run, Report::Started, 2)?;
        Ok(run)
    });
    (dir, store, run.unwrap())
}

#[test]
fn the_rule_for_a_run_and_its_gpu_in_every_state() {
    use RunState::{Held, Paused, Pausing, Resuming, Running, Starting, Stopping};
    let (_dir, store, run) = running();
    let run = store.view().run(run).unwrap();
    let (pause, resume) = (Some(Decision::Pause), Some(Decision::Resume));
    let (end, forget) = (Some(Decision::End), Some(Decision::Forget));
    let by_monitor = Some(Stance::Paused);
    for (wanted, stance, states, decision) in [
        (
            Hold::Run,
            None,
            &[Starting, Running, Paused, Held][..],
            None,
        ),
        (Hold::Run, by_monitor, &[Pausing, Paused, Held], resume),
        (
            Hold::Run,
            by_monitor,
            &[Running, Resuming, Stopping],
            forget,
        ),
        (
            Hold::Run,
            Some(Stance::Overruled),
            &[Running, Paused],
            forget,
        ),
        (Hold::Run, Some(Stance::Ending), &[Stopping, Running], None),
        (Hold::Pause, None, &[Starting, Running, Resuming], pause),
        (Hold::Pause, by_monitor, &[Running], pause),
        // It waits, or ends, as it is.
        (Hold::Pause, None, &[Pausing, Paused, Held, Stopping], None),
        (Hold::Pause, by_monitor, &[Pausing, Paused, Held], None),
        // A person's word.
        (
            Hold::Pause,
            Some(Stance::Overruled),
            &[Starting, Running, Resuming],
            None,
        ),
        (Hold::Pause, Some(Stance::Ending), &[Running], None),
        // An emergency asks nobody.
        (Hold::Abort, Some(Stance::Overruled), &[Running], end),
        (
            Hold::Abort,
            None,
            &[Starting, Running, Resuming, Pausing, Paused],
            end,
        ),
        (Hold::Abort, by_monitor, &[Pausing, Paused], end),
        (Hold::Abort, None, &[Held, Stopping], None),
        // Nothing is known that decides it: whatever is, stays.
        (Hold::Unknown, None, &[Running, Paused], None),
        (Hold::Unknown, by_monitor, &[Paused, Running], None),
    ] {
        for state in states {
            let run = Run {
                state: *state,
                hold: stance.map(hold),
                ..run.clone()
            };
            let at = format!("{wanted:?} {stance:?} {state}");
            assert_eq!(decide(&run, &wants(0, wanted)), decision, "{at}");
            assert_eq!(decide(&run, &wants(1, wanted)), None, "another: {at}");
        }
    }
}

#[test]
fn a_hot_gpu_saves_its_run_first_and_says_why_once() {
    let (_dir, mut store, run) = running();
    let mut heed_once = |hold| {
        let told = store.write(|tx| heed(tx, &[], &[wants(0, hold)]));
        told.unwrap().0
    };
    let saves = vec![protocol::Command::Checkpoint, protocol::Command::Pause];
    assert_eq!(heed_once(Hold::Pause), [(run, saves)]);
    assert_eq!(heed_once(Hold::Pause), []);
    let ends = vec![protocol::Command::Stop];
    assert_eq!(heed_once(Hold::Abort), [(run, ends)]);
    assert_eq!(heed_once(Hold::Abort), []);
    let events = store.view().events(0, None, 99).unwrap().events;
    let told: Vec<_> = events.iter().filter(|e| e.kind == "gpu_action").collect();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|e| e.payload.contains("94 °C")));
}

#[test]
fn what_a_person_says_of_a_run_that_the_monitor_paused_stays_said() {
    let (_dir, mut store, run) = running();
    for (command, after) in [
        (Command::Pause, None),
        (Command::Resume, Some(Stance::Overruled)),
        (Command::Stop, Some(Stance::Paused)),
    ] {
        let done = store.write(|tx| {
            tx.set_hold(run, Some(&hold(Stance::Paused)))?;
            overrule(tx, &tx.run(run)?, command)
        });
        assert_eq!(done.unwrap(), command != Command::Stop);
        let stance = store.view().run(run).unwrap().hold.map(|hold| hold.stance);
        assert_eq!(stance, after, "{command:?}");
    }
}

#[test]
fn only_an_emergency_is_why_a_run_ended() {
    let (_dir, store, run) = running();
    let mut run = store.view().run(run).unwrap();
    for (stance, code) in [
        (None, None),
        (Some(Stance::Paused), None),
        (Some(Stance::Overruled), None),
        (Some(Stance::Ending), Some("gpu-emergency")),
    ] {
        run.hold = stance.map(hold);
        let failure = emergency(&run);
        assert_eq!(failure.as_ref().map(|f| f.code.as_str()), code);
    }
}
