//! The line that `systemctl status` shows.

use super::Manager;
use crate::actors::store::{StoreRef, read};
use crate::domain::run_state::RunState;
use std::time::Duration;

/// How often the counts are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Tells the service manager how many runs train and wait, whenever that changes.
pub async fn tell(store: StoreRef) {
    let mut before = String::new();
    loop {
        let line = match read(&store, |view| view.census()).await {
            Ok(census) => line(&census),
            Err(error) => error.to_string(),
        };
        if line != before {
            Manager.status(&line);
            before = line;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn line(census: &[(RunState, u64)]) -> String {
    let count = |is: &dyn Fn(RunState) -> bool| -> u64 {
        let counted = census.iter().filter(|(state, _)| is(*state));
        counted.map(|(_, count)| count).sum()
    };
    format!(
        "{} with a worker, {} queued, {} held, {} failed",
        count(&RunState::has_worker),
        count(&|state| state == RunState::Queued),
        count(&|state| state == RunState::Held),
        count(&|state| state == RunState::Failed),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts_what_there_is() {
        let census = [
            (RunState::Running, 1),
            (RunState::Paused, 1),
            (RunState::Queued, 7),
            (RunState::Completed, 100),
        ];
        assert_eq!(line(&census), "2 with a worker, 7 queued, 0 held, 0 failed");
    }
}
