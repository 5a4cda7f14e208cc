use super::*;
use Phase::*;

fn plan(runs: u64, parallel: u64) -> Plan {
    Plan {
        runs,
        parallel,
        early_stopping: None,
        halving: None,
    }
}

fn seen(state: RunState, step: u64, value: f64) -> Seen {
    Seen {
        state,
        step,
        value: Some(value),
        asked_to_wait: false,
    }
}

fn completed(value: f64) -> Seen {
    seen(RunState::Completed, 10, value)
}

/// behaviour: multi-07
#[test]
fn one_after_another_the_next_begins_when_the_last_is_reported() {
    let plan = plan(2, 1);
    let mut session = Session::new(&plan);
    assert_eq!(session.advance(&plan, &[]), [Act::Submit(1, None)]);
    let mut runs = vec![seen(RunState::Running, 3, 0.0)];
    assert_eq!(session.advance(&plan, &runs), []);
    runs[0] = completed(0.5);
    assert_eq!(
        session.advance(&plan, &runs),
        [Act::Say(News::RunComplete(1)), Act::Submit(2, None)]
    );
    // As after a kill: the session was stored, and looks again.
    let text = serde_json::to_string(&session).unwrap();
    let mut session: Session = serde_json::from_str(&text).unwrap();
    runs.push(seen(RunState::Failed, 4, 0.0));
    assert_eq!(
        session.advance(&plan, &runs),
        [
            Act::Say(News::RunComplete(2)),
            Act::Say(News::Ended(Completed))
        ]
    );
    assert_eq!(session.advance(&plan, &runs), []);
}

#[test]
fn side_by_side_as_many_as_allowed_and_nothing_succeeded_is_a_failure() {
    let plan = plan(3, 2);
    let mut session = Session::new(&plan);
    let both = [Act::Submit(1, None), Act::Submit(2, None)];
    assert_eq!(session.advance(&plan, &[]), both);
    let mut runs = vec![seen(RunState::Running, 3, 0.0), completed(0.1)];
    runs[1].state = RunState::Failed;
    assert_eq!(
        session.advance(&plan, &runs),
        [Act::Say(News::RunComplete(2)), Act::Submit(3, None)]
    );
    runs.push(seen(RunState::Aborted, 0, 0.0));
    runs[0].state = RunState::Stopped;
    let acts = session.advance(&plan, &runs);
    assert_eq!(acts.last(), Some(&Act::Say(News::Ended(Failed))));
    assert_eq!(session.reason(), Some("no run succeeded"));
}

/// behaviour: multi-16, multi-17
#[test]
fn early_stopping_ends_a_sweep_after_its_last_run_is_reported() {
    let mut plan = plan(9, 1);
    plan.early_stopping = Some(EarlyStopping {
        metric: Measure::CeRecovered,
        mode: None,
        patience: 2,
        min_delta: 0.0,
    });
    let mut session = Session::new(&plan);
    let mut runs = Vec::new();
    // A failed run and one without a measure are passed over.
    let unknown = Seen {
        value: None,
        ..completed(0.0)
    };
    let failed = Seen {
        state: RunState::Failed,
        ..completed(0.9)
    };
    let ends = [completed(0.5), failed, completed(0.4), unknown];
    for (index, end) in (1..).zip(ends) {
        let acts = session.advance(&plan, &runs);
        assert_eq!(acts.last(), Some(&Act::Submit(index, None)), "{runs:?}");
        runs.push(end);
    }
    let acts = session.advance(&plan, &runs);
    assert_eq!(acts.last(), Some(&Act::Submit(5, None)));
    runs.push(completed(f64::NAN));
    assert_eq!(
        session.advance(&plan, &runs).last(),
        Some(&Act::Submit(6, None))
    );
    runs.push(completed(0.5));
    let best = Best { value: 0.5, at: 1 };
    assert_eq!(
        session.advance(&plan, &runs),
        [
            Act::Say(News::RunComplete(6)),
            Act::Say(News::EarlyStop { run_idx: 6, best }),
            Act::Say(News::Ended(Completed)),
        ]
    );
}

#[test]
fn at_a_rung_the_best_go_on_and_the_others_are_reported() {
    let mut plan = plan(4, 2);
    plan.halving = Some(Halving {
        metric: Measure::CeSae,
        mode: None,
        rungs: vec![5],
        keep: 0.5,
    });
    let mut session = Session::new(&plan);
    let at_rung = |value| seen(RunState::Stopped, 5, value);
    let two = |a, b| [Act::Submit(a, Some(5)), Act::Submit(b, Some(5))];
    assert_eq!(session.advance(&plan, &[]), two(1, 2));
    let mut runs = vec![at_rung(3.0), at_rung(1.0)];
    assert_eq!(session.advance(&plan, &runs), two(3, 4));
    runs.extend([at_rung(f64::NAN), at_rung(1.0)]);
    let rung = News::RungComplete {
        step: 5,
        kept: vec![2, 4],
        dropped: vec![1, 3],
    };
    let drop = |index| Act::Tell(index, run_state::Command::EndEarly);
    assert_eq!(
        session.advance(&plan, &runs),
        [Act::Say(rung), drop(1), drop(3)]
    );
    for index in [0, 2] {
        runs[index].state = RunState::EarlyStopped;
    }
    assert_eq!(
        session.advance(&plan, &runs),
        [
            Act::Say(News::RunComplete(1)),
            Act::Say(News::RunComplete(3)),
            Act::Extend(2, None),
            Act::Extend(4, None),
        ]
    );
    runs[1] = completed(0.5);
    runs[3] = completed(0.6);
    let acts = session.advance(&plan, &runs);
    assert_eq!(acts.last(), Some(&Act::Say(News::Ended(Completed))));
}

#[test]
fn the_share_that_goes_on_from_a_rung_is_rounded_up_and_never_none() {
    for (runs, keep, kept) in [
        (3, 0.5, 2),
        (5, 0.2, 1),
        (5, 0.21, 2),
        (4, 0.99, 4),
        (2, 0.01, 1),
    ] {
        let halving = Halving {
            metric: Measure::CeRecovered,
            mode: None,
            rungs: vec![10],
            keep,
        };
        let plan = Plan {
            halving: Some(halving),
            ..plan(runs, runs)
        };
        let all = vec![seen(RunState::Stopped, 10, 0.5); runs as usize];
        let acts = Session::new(&plan).advance(&plan, &all);
        let Some(Act::Say(News::RungComplete { kept: found, .. })) = acts.first() else {
            panic!("{acts:?}");
        };
        // Among equals the earlier ones.
        assert_eq!(*found, (1..=kept).collect::<Vec<_>>(), "{keep} of {runs}");
    }
}

/// A session in `phase` with one run under way.
fn in_phase(phase: Phase) -> (Session, Plan, Vec<Seen>) {
    let plan = plan(2, 1);
    let mut session = Session::new(&plan);
    session.phase = phase;
    (session, plan, vec![seen(RunState::Running, 1, 0.0)])
}

/// behaviour: multi-15
#[test]
fn every_command_has_an_answer_in_every_phase() {
    use Command::*;
    // Rows: phases; columns: pause, resume, stop, abort. `-`: so already; `!`: refused.
    let table = [
        (Running, ["paused", "-", "stopping", "aborting"]),
        (Paused, ["-", "running", "stopping", "aborting"]),
        (Stopping, ["!", "!", "-", "aborting"]),
        (Aborting, ["!", "!", "!", "-"]),
        (Completed, ["!", "!", "!", "!"]),
        (Failed, ["!", "!", "!", "!"]),
        (Stopped, ["!", "running", "-", "aborting"]),
        (Aborted, ["!", "!", "!", "-"]),
    ];
    assert_eq!(table.len(), Phase::ALL.len());
    for (phase, row) in table {
        for (command, expected) in [Pause, Resume, Stop, Abort].into_iter().zip(row) {
            let (mut session, plan, runs) = in_phase(phase);
            let answer = session.told(command, "why", &plan, &runs);
            let got = match &answer {
                Answer::Applied(_) => session.phase.as_str(),
                Answer::AlreadySo => "-",
                Answer::NotPossible(at) => {
                    assert_eq!(*at, phase);
                    "!"
                }
            };
            assert_eq!(got, expected, "{command:?} in {phase}");
            if let Answer::Applied(_) = answer {
                let again = session.told(command, "why", &plan, &runs);
                assert_eq!(again, Answer::AlreadySo, "{command:?} twice in {phase}");
            }
        }
    }
}

/// behaviour: multi-14
#[test]
fn an_abort_reports_the_run_under_way_and_keeps_the_reason() {
    let (mut session, plan, mut runs) = in_phase(Running);
    let told = session.told(Command::Abort, "too hot", &plan, &runs);
    let abort = Act::Tell(1, run_state::Command::Abort);
    assert_eq!(told, Answer::Applied(vec![abort]));
    assert_eq!(session.advance(&plan, &runs), []);
    runs[0] = seen(RunState::Aborted, 4, 0.0);
    assert_eq!(
        session.advance(&plan, &runs),
        [
            Act::Say(News::RunComplete(1)),
            Act::Say(News::Ended(Aborted))
        ]
    );
    assert_eq!(session.reason(), Some("too hot"));
}

#[test]
fn a_stopped_sweep_goes_on_with_the_run_that_it_stopped() {
    let (mut session, plan, mut runs) = in_phase(Running);
    let _ = session.told(Command::Stop, "a break", &plan, &runs);
    runs[0].state = RunState::Stopped;
    assert_eq!(
        session.advance(&plan, &runs),
        [Act::Say(News::Ended(Stopped))]
    );
    let told = session.told(Command::Resume, "", &plan, &runs);
    let resume = Act::Tell(1, run_state::Command::Resume);
    assert_eq!(told, Answer::Applied(vec![Act::Say(News::Resumed), resume]));
    runs[0] = completed(0.5);
    assert_eq!(
        session.advance(&plan, &runs),
        [Act::Say(News::RunComplete(1)), Act::Submit(2, None)]
    );
    // Somebody else stopped this one: it is over.
    runs.push(seen(RunState::Stopped, 2, 0.0));
    let acts = session.advance(&plan, &runs);
    assert_eq!(acts.last(), Some(&Act::Say(News::Ended(Completed))));
}

#[test]
fn a_pause_does_not_wake_what_somebody_else_paused() {
    let (mut session, mut plan, mut runs) = in_phase(Running);
    plan.parallel = 2;
    runs.push(Seen {
        asked_to_wait: true,
        ..seen(RunState::Paused, 2, 0.0)
    });
    let _ = session.told(Command::Pause, "", &plan, &runs);
    let Answer::Applied(acts) = session.told(Command::Resume, "", &plan, &runs) else {
        panic!("it is paused");
    };
    let resume = Act::Tell(1, run_state::Command::Resume);
    assert_eq!(acts, [Act::Say(News::Resumed), resume]);
}

#[test]
fn impossible_rungs_name_their_key() {
    let halving = |rungs: &[u64], keep| Halving {
        metric: Measure::CeRecovered,
        mode: None,
        rungs: rungs.to_vec(),
        keep,
    };
    let about = |halving: Halving| halving.validate().unwrap_err().about;
    assert!(halving(&[1, 2], 0.5).validate().is_ok());
    for rungs in [&[][..], &[0, 1], &[3, 3], &[4, 3]] {
        assert_eq!(about(halving(rungs, 0.5)), "rungs");
    }
    for keep in [0.0, 1.0, -1.0, f64::NAN] {
        assert_eq!(about(halving(&[1], keep)), "keep");
    }
}
