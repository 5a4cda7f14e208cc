//! Signs of life that only a daemon gives whose parts get on: a timer alone would hide
//! one that hangs.

use crate::supervise::{ChildRef, ChildSnapshot, ChildState, GetChildren, Supervisor};
use std::time::Duration;

/// For a part without a limit of its own.
const STALLED: Duration = Duration::from_secs(120);
/// How long a part that the daemon cannot do without may be away, as for a restart.
const AWAY: Duration = Duration::from_secs(30);

/// Calls `alive` every `every` for as long as all parts of `tree` get on, and those called
/// `core` are there.
pub async fn watch(
    tree: ChildRef<Supervisor>,
    core: &[&str],
    every: Duration,
    mut alive: impl FnMut(),
) {
    let mut well = true;
    let mut tick = tokio::time::interval(every);
    loop {
        tick.tick().await;
        let seen = match tokio::time::timeout(every, tree.send(GetChildren)).await {
            Ok(Ok(children)) => verdict(&children, core),
            Ok(Err(e)) => Err(format!("the supervisor is down: {e}")),
            Err(_) => Err("the supervisor is silent".to_owned()),
        };
        match seen {
            Ok(()) => {
                if !std::mem::replace(&mut well, true) {
                    tracing::info!("all parts get on again");
                }
                alive();
            }
            Err(why) => {
                if std::mem::replace(&mut well, false) {
                    tracing::error!("no sign of life to the service manager: {why}");
                }
            }
        }
    }
}

/// Whether all `children` get on, and those called `core` are there.
///
/// # Errors
/// Who does not, in words.
pub fn verdict(children: &[ChildSnapshot], core: &[&str]) -> Result<(), String> {
    for name in core {
        let child = children.iter().find(|child| child.name == *name);
        let Some(child) = child else {
            return Err(format!("{name} is missing"));
        };
        let away = match child.state {
            ChildState::Running => continue,
            ChildState::Quarantined => true,
            _ => Duration::from_millis(child.stands_ms) >= AWAY,
        };
        if away {
            return Err(format!("{name} is not at work"));
        }
    }
    // Parts that are quarantined and not of the core are told by `ctl status`; to restart
    // the daemon for them would hurt those that are well.
    let limit = |child: &ChildSnapshot| child.stall_limit_ms.map_or(STALLED, Duration::from_millis);
    let stalled = |child: &&ChildSnapshot| {
        child.state == ChildState::Running
            && Duration::from_millis(child.stalled_ms) >= limit(child)
    };
    match children.iter().find(stalled) {
        None => Ok(()),
        Some(child) => Err(format!(
            "{} has had work and done none for {} s",
            child.name,
            child.stalled_ms / 1000
        )),
    }
}
