//! A stream of events that goes on through restarts of the daemon.

use super::Session;
use crate::domain::{Code, Result, RunId};
use crate::protocol::api::{Event, RunView};
use std::time::Duration;

/// Between two attempts to reach a daemon that went away.
const RETRY: Duration = Duration::from_millis(500);

/// Gives each event of the stream at `path` after number `last`, until `run` has ended where
/// one is named, and else for ever.
pub fn follow(
    session: &Session,
    path: &str,
    run: Option<RunId>,
    mut last: u64,
    mut each: impl FnMut(&Event),
) -> Result<()> {
    let mut away = false;
    loop {
        let heard = session.client.events(path, Some(last), &mut |event| {
            last = event.id;
            each(&event);
            std::ops::ControlFlow::Continue(())
        });
        let ended = heard.and_then(|()| match run {
            None => Ok(false),
            Some(run) => {
                let run: RunView = session.client.get(&format!("/v1/runs/{run}"))?;
                Ok(run.state.has_ended())
            }
        });
        match ended {
            Ok(true) => return Ok(()),
            Ok(false) => away = false,
            Err(error) if error.code == Code::DaemonUnavailable => {
                if !std::mem::replace(&mut away, true) {
                    eprintln!("the daemon went away; waiting for it");
                }
            }
            Err(error) => return Err(error),
        }
        std::thread::sleep(RETRY);
    }
}
