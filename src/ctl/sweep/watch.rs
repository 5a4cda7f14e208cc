//! `ctl sweep watch`: a line for each run that is over, through restarts of the daemon.

use super::super::Session;
use super::render;
use crate::domain::sweep::Phase;
use crate::domain::{Code, Printable, Result, SweepId};
use crate::protocol::api::Event;
use crate::protocol::sweep::{RunResult, SweepFact, SweepView, seconds};
use crate::protocol::{Fact, Frame, VERSION};
use crate::report::screen::{Mode, Screen};
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

/// Between two attempts to reach a daemon that went away.
const RETRY: Duration = Duration::from_millis(500);

/// What was shown so far.
struct Shown {
    screen: Screen,
    json: bool,
    /// Whether the steps of one run at a time move a bar.
    bar: bool,
    runs: u64,
    complete: BTreeSet<u64>,
}

/// Follows sweep `id` until it has ended. The exit status is 0 where it completed, else 1.
pub fn watch(session: &Session, id: SweepId) -> Result<ExitCode> {
    let sweep: SweepView = session.client.get(&format!("/v1/sweeps/{id}"))?;
    let mut shown = Shown {
        screen: Screen::new(match session.json {
            true => Mode::Json,
            false => Mode::Person,
        }),
        json: session.json,
        bar: sweep.parallel == 1 && std::io::stderr().is_terminal(),
        runs: sweep.runs_planned,
        complete: BTreeSet::new(),
    };
    let (mut last, mut away) = (0, false);
    let sweep = loop {
        let events = format!("/v1/sweeps/{id}/events");
        let heard = session.client.events(&events, Some(last), &mut |event| {
            if !event.is_passing() {
                last = event.id;
            }
            shown.show(&event);
            ControlFlow::Continue(())
        });
        let path = format!("/v1/sweeps/{id}");
        match heard.and_then(|()| session.client.get::<SweepView>(&path)) {
            Ok(sweep) if sweep.state.has_ended() => break sweep,
            Ok(_) => away = false,
            Err(error) if error.code == Code::DaemonUnavailable => {
                if !std::mem::replace(&mut away, true) {
                    shown.screen.line("the daemon went away; waiting for it");
                }
                std::thread::sleep(RETRY);
            }
            Err(error) => return Err(error),
        }
    };
    shown.screen.clear();
    if !session.json {
        shown.catch_up(&sweep);
        shown.screen.line(&ended(&sweep));
    }
    Ok(ExitCode::from(u8::from(sweep.state != Phase::Completed)))
}

impl Shown {
    fn show(&mut self, event: &Event) {
        if self.json {
            // A closed standard output must not end the watching of a sweep.
            let _ = writeln!(std::io::stdout().lock(), "{}", serde_json::json!(event));
            return;
        }
        if let Some(of_sweep) = event.sweep_fact() {
            return self.say(of_sweep.fact);
        }
        match event.fact() {
            Some(fact @ Fact::Step(_)) if self.bar => self.screen.show(&Frame {
                v: VERSION,
                seq: event.seq.unwrap_or(0),
                run: String::new(),
                fact,
            }),
            Some(Fact::RunFailed { message, .. }) => self.screen.line(&format!("error: {message}")),
            _ => {}
        }
    }

    fn say(&mut self, fact: SweepFact) {
        let line = match fact {
            SweepFact::RunComplete(run) => return self.complete(&run),
            SweepFact::RungCompleted {
                step,
                kept,
                dropped,
            } => {
                let (kept, dropped) = (list(&kept), list(&dropped));
                format!("at step {step} runs {kept} go on and runs {dropped} end")
            }
            SweepFact::MultiRunEarlyStop {
                run_idx,
                metric,
                best,
                best_run_idx,
                patience,
            } => format!(
                "no run after run {run_idx}: {metric} was best in run {best_run_idx} ({best:.4}) \
                 and no better in {patience} runs since"
            ),
            SweepFact::MultiRunPaused {} => "the sweep waits".into(),
            SweepFact::MultiRunResumed {} => "the sweep goes on".into(),
            _ => return,
        };
        self.screen.line(&line);
    }

    fn complete(&mut self, run: &RunResult) {
        self.screen.clear();
        if self.complete.insert(run.run_idx) {
            self.screen.line(&render::complete(run, self.runs));
        }
    }

    /// The runs whose events are forgotten already.
    fn catch_up(&mut self, sweep: &SweepView) {
        for one in sweep.runs.iter().filter(|run| run.complete) {
            self.complete(&RunResult {
                run_idx: one.run_idx,
                run_id: one.run.id,
                name: one.run.name.clone(),
                state: one.run.state,
                step: one.run.step,
                steps: one.run.steps,
                seconds: seconds(one.run.started_at, one.run.ended_at),
                measures: one.measures.clone(),
                error: one.run.error.as_ref().map(|error| error.code.clone()),
            });
        }
    }
}

fn list(indices: &[u64]) -> String {
    let indices: Vec<String> = indices.iter().map(u64::to_string).collect();
    indices.join(", ")
}

fn ended(sweep: &SweepView) -> String {
    let mut line = format!("sweep {} ({}) is {}", sweep.id, sweep.name, sweep.state);
    if let Some(reason) = &sweep.reason {
        line += &format!(": {}", Printable(reason));
    }
    if let Some(best) = &sweep.best {
        let (index, metric, value) = (best.run_idx, best.metric, best.value);
        line += &format!("; best is run {index} with {metric} {value:.4}");
    }
    line + &format!("; see {}", sweep.folder.display())
}
