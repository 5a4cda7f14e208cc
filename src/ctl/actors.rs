//! `ctl actors`.

use super::render::table;
use crate::protocol::service::ActorView;
use comfy_table::CellAlignment;
use std::fmt::Write;

/// The parts of the daemon as text.
pub fn render(actors: &[ActorView]) -> String {
    let mut rows = table(&["ACTOR", "STATE", "RESTARTS", "DONE", "MAIL", "STALLED"]);
    for actor in actors {
        let limit = actor.stall_limit_ms.map_or("–".into(), seconds);
        rows.add_row([
            actor.name.clone(),
            actor.state.replace('_', " "),
            actor.restarts.to_string(),
            actor.progress.to_string(),
            format!("{}/{}", actor.mailbox, actor.mailbox_bound),
            format!("{} of {limit}", seconds(actor.stalled_ms)),
        ]);
    }
    for column in [2, 3, 4, 5] {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("{}\n", rows.trim_fmt());
    for actor in actors {
        let name = &actor.name;
        if let Some(cause) = &actor.last_cause {
            let _ = writeln!(text, "{name} ended last: {cause}");
        }
        if actor.first_cause != actor.last_cause
            && let Some(cause) = &actor.first_cause
        {
            let _ = writeln!(text, "{name} began to fail: {cause}");
        }
        if actor.messages_lost > 0 {
            let _ = writeln!(
                text,
                "{name} took {} messages down with it",
                actor.messages_lost
            );
        }
        if actor.abandoned > 0 {
            let _ = writeln!(
                text,
                "{name} left {} threads behind that hang",
                actor.abandoned
            );
        }
    }
    text
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms / 1000)
}
