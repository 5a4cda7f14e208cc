//! `ctl watch`: a run as `train` would show it, through restarts of its worker and of the
//! daemon.

use super::Session;
use crate::domain::run_state::RunState;
use crate::domain::{Code, Result, RunId};
use crate::protocol::api::{Event, RunView};
use crate::protocol::{Frame, VERSION};
use crate::report::screen::{Mode, Screen};
use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

/// Between two attempts to reach a daemon that went away.
const RETRY: Duration = Duration::from_millis(500);

/// Follows run `id` until it has ended. The exit status is 0 where it ended as it was meant
/// to, 1 where somebody stopped it, else that of its error.
pub fn watch(session: &Session, id: RunId, from_start: bool) -> Result<ExitCode> {
    let mut screen = Screen::new(match session.json {
        true => Mode::Json,
        false => Mode::Person,
    });
    let (mut last, mut away) = (from_start.then_some(0), false);
    let run = loop {
        let events = format!("/v1/runs/{id}/events");
        let heard = session.client.events(&events, last, &mut |event| {
            last = Some(event.id);
            show(session, &mut screen, &event);
            ControlFlow::Continue(())
        });
        let found = heard.and_then(|()| session.client.get::<RunView>(&format!("/v1/runs/{id}")));
        match found {
            Ok(run) if run.state.has_ended() => break run,
            Ok(_) => away = false,
            Err(error) if last.is_some() && error.code == Code::DaemonUnavailable => {
                if !std::mem::replace(&mut away, true) {
                    screen.line("the daemon went away; waiting for it");
                }
                std::thread::sleep(RETRY);
            }
            Err(error) => return Err(error),
        }
    };
    screen.clear();
    match run.state {
        RunState::Aborted if run.error.is_none() => {
            if !session.json {
                screen.line(&ended(&run, run.state));
            }
            Ok(ExitCode::FAILURE)
        }
        // Also what an emergency ended.
        RunState::Failed | RunState::Aborted => Err(run.error.map_or_else(
            || crate::domain::Error::new(Code::Internal, &run.name, "failed without a reason"),
            Into::into,
        )),
        state => {
            if !session.json {
                screen.line(&ended(&run, state));
            }
            Ok(ExitCode::from(u8::from(!state.has_succeeded())))
        }
    }
}

fn show(session: &Session, screen: &mut Screen, event: &Event) {
    if session.json {
        // A closed standard output must not end the watching of a run.
        let _ = writeln!(std::io::stdout().lock(), "{}", serde_json::json!(event));
        return;
    }
    match event.fact() {
        Some(fact) => screen.show(&Frame {
            v: VERSION,
            seq: event.seq.unwrap_or(0),
            run: String::new(),
            fact,
        }),
        None => {
            let said = event
                .fields
                .get("message")
                .and_then(|message| message.as_str());
            let kind = event.kind.replace('_', " ");
            screen.line(&match said {
                Some(said) => format!("{kind}: {said}"),
                None => kind,
            });
        }
    }
}

fn ended(run: &RunView, state: RunState) -> String {
    let name = &run.name;
    match &run.folder {
        Some(folder) => format!(
            "run {} ({name}) is {state}; see {}",
            run.id,
            folder.display()
        ),
        None => format!("run {} ({name}) is {state}", run.id),
    }
}
