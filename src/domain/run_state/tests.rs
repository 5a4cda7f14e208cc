use super::*;
use crate::domain::Code;

const COMMANDS: [Command; 6] = [
    Command::Pause,
    Command::Resume,
    Command::Stop,
    Command::EndEarly,
    Command::Abort,
    Command::Retry,
];

const REPORTS: [Report; 12] = [
    Report::Given,
    Report::Said,
    Report::Started,
    Report::Stepped,
    Report::Paused,
    Report::Resumed,
    Report::Completed,
    Report::EarlyStopped,
    Report::Stopped,
    Report::Aborted,
    Report::Failed,
    Report::Lost,
];

/// A row for each state, a column for each command in the order above. A cell is the next
/// state, `=` for nothing to do, or the reason of a refusal in capitals.
const TOLD: &str = "
queued        held    =         stopped  early_stopped aborted  =
held          =       queued    stopped  early_stopped aborted  RESUME
starting      pausing =         stopping ending_early  aborting =
running       pausing =         stopping ending_early  aborting =
pausing       =       resuming  stopping ending_early  aborting RESUME
paused        =       resuming  stopping ending_early  aborting RESUME
resuming      pausing =         stopping ending_early  aborting =
stopping      ENDING  ENDING    =        ENDING        aborting ENDING
ending_early  ENDING  ENDING    =        =             aborting ENDING
aborting      ENDING  ENDING    ENDING   ENDING        =        ENDING
completed     ENDED   ENDED     ENDED    ENDED         ENDED    ENDED
early_stopped ENDED   queued    =        =             ENDED    RESUME
stopped       ENDED   queued    =        early_stopped ENDED    RESUME
failed        ENDED   RETRY     ENDED    ENDED         ENDED    queued
aborted       ENDED   RETRY     ENDED    ENDED         =        queued
";

/// The same for reports.
const HEARD: &str = "
queued        starting NONE  NONE    NONE    NONE   NONE    NONE      NONE          NONE          NONE    failed NONE
held          RESUME   NONE  NONE    NONE    NONE   NONE    NONE      NONE          NONE          NONE    failed NONE
starting      =        =     running running paused running completed early_stopped stopped       aborted failed queued
running       HAS      =     =       =       paused =       completed early_stopped stopped       aborted failed queued
pausing       HAS      =     =       =       paused =       completed early_stopped stopped       aborted failed held
paused        HAS      =     =       =       =      running completed early_stopped stopped       aborted failed held
resuming      HAS      =     running running =      running completed early_stopped stopped       aborted failed queued
stopping      HAS      =     =       =       =      =       completed early_stopped stopped       aborted failed stopped
ending_early  HAS      =     =       =       =      =       completed early_stopped early_stopped aborted failed early_stopped
aborting      HAS      =     =       =       =      =       completed early_stopped aborted       aborted failed aborted
completed     ENDED    ENDED ENDED   ENDED   ENDED  ENDED   =         ENDED         ENDED         ENDED   ENDED  ENDED
early_stopped ENDED    ENDED ENDED   ENDED   ENDED  ENDED   ENDED     =             =             ENDED   ENDED  ENDED
stopped       ENDED    ENDED ENDED   ENDED   ENDED  ENDED   ENDED     ENDED         =             ENDED   ENDED  ENDED
failed        ENDED    ENDED ENDED   ENDED   ENDED  ENDED   ENDED     ENDED         ENDED         ENDED   =      ENDED
aborted       ENDED    ENDED ENDED   ENDED   ENDED  ENDED   ENDED     ENDED         ENDED         =       ENDED  ENDED
";

fn inputs() -> impl Iterator<Item = Input> {
    let commands = COMMANDS.into_iter().map(Input::from);
    commands.chain(REPORTS.into_iter().map(Input::from))
}

fn cell(state: RunState, text: &str) -> Answer {
    let why = match text {
        "=" => return Answer::AlreadySo,
        "ENDED" => Why::Ended,
        "ENDING" => Why::Ending,
        "RESUME" => Why::NeedsResume,
        "RETRY" => Why::NeedsRetry,
        "NONE" => Why::NoWorker,
        "HAS" => Why::HasWorker,
        next => return Answer::Applied(next.parse().unwrap()),
    };
    Answer::NotPossible(Refusal { state, why })
}

fn check(table: &str, inputs: &[Input]) {
    let rows: Vec<&str> = table.trim().lines().collect();
    assert_eq!(rows.len(), RunState::ALL.len());
    for (row, &state) in rows.iter().zip(RunState::ALL) {
        let mut cells = row.split_whitespace();
        assert_eq!(cells.next(), Some(state.as_str()));
        let cells: Vec<_> = cells.collect();
        assert_eq!(cells.len(), inputs.len(), "{state}");
        for (&input, text) in inputs.iter().zip(cells) {
            assert_eq!(state.on(input), cell(state, text), "{state} on {input:?}");
        }
    }
}

#[test]
fn every_command_in_every_state() {
    check(TOLD, &COMMANDS.map(Input::from));
}

/// behaviour: train-01
#[test]
fn every_report_in_every_state() {
    check(HEARD, &REPORTS.map(Input::from));
}

#[test]
fn a_command_said_twice_changes_nothing_the_second_time() {
    for &state in RunState::ALL {
        for command in COMMANDS {
            if let Answer::Applied(next) = state.on(command) {
                assert_eq!(next.on(command), Answer::AlreadySo, "{state} {command:?}");
            }
        }
    }
}

/// A step that arrives late never brings a run back: behaviour: train-01
#[test]
fn a_step_makes_a_run_running_only_where_it_is_on_its_way_there() {
    for &state in RunState::ALL {
        let on_its_way = matches!(state, RunState::Starting | RunState::Resuming);
        let moved = matches!(state.on(Report::Stepped), Answer::Applied(_));
        assert_eq!(moved, on_its_way, "{state}");
    }
}

#[test]
fn what_has_ended_moves_by_a_command_alone() {
    for &state in RunState::ALL.iter().filter(|s| s.has_ended()) {
        for report in REPORTS {
            assert!(!matches!(state.on(report), Answer::Applied(_)), "{state}");
        }
    }
}

#[test]
fn a_worker_is_there_exactly_from_given_to_the_end() {
    for &state in RunState::ALL {
        for input in inputs() {
            let Answer::Applied(next) = state.on(input) else {
                continue;
            };
            if next.has_worker() && !state.has_worker() {
                assert_eq!(input, Report::Given.into(), "{state} to {next}");
            }
            if state.has_worker() && !next.has_worker() {
                assert!(matches!(input, Input::Report(_)), "{state} to {next}");
            }
        }
    }
}

#[test]
fn every_state_is_reached_and_every_live_one_can_end() {
    let reach = |from: RunState| {
        let mut found = vec![from];
        let mut at = 0;
        while at < found.len() {
            for input in inputs() {
                if let Answer::Applied(next) = found[at].on(input)
                    && !found.contains(&next)
                {
                    found.push(next);
                }
            }
            at += 1;
        }
        found
    };
    assert_eq!(reach(RunState::Queued).len(), RunState::ALL.len());
    for &state in RunState::ALL {
        assert!(reach(state).iter().any(|s| s.has_ended()), "{state}");
    }
}

#[test]
fn an_unanswered_command_is_one_that_led_there() {
    for &state in RunState::ALL {
        let led_there = state.unanswered().is_some_and(|command| {
            let from = |s: &RunState| s.on(command) == Answer::Applied(state);
            RunState::ALL.iter().any(from) && state.on(command) == Answer::AlreadySo
        });
        let by_command = |s: &RunState| {
            let hit = |c: Command| s.on(c) == Answer::Applied(state);
            COMMANDS.into_iter().any(hit)
        };
        // With a worker, only a command can make a state that still needs an answer.
        let told = state.has_worker() && RunState::ALL.iter().any(by_command);
        assert_eq!(led_there, told, "{state}");
    }
}

#[test]
fn names_are_the_ones_on_the_wire_and_read_back() {
    for &state in RunState::ALL {
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(json, format!("\"{state}\""));
        assert_eq!(state.as_str().parse(), Ok(state));
    }
    assert!("runnning".parse::<RunState>().is_err());
}

#[test]
fn a_refusal_says_what_would_work() {
    let Answer::NotPossible(refusal) = RunState::Failed.on(Command::Resume) else {
        panic!("refused");
    };
    let error = refusal.error("run 7");
    assert_eq!(error.code, Code::NotPossible);
    assert_eq!(
        error.to_string(),
        "not-possible: run 7: the run is failed (`retry` runs it from its newest checkpoint)"
    );
}
