//! `ctl logs`: the events as lines.

use super::follow::follow;
use super::{Session, line, put};
use crate::domain::Result;
use crate::protocol::api::Event;
use clap::Args;
use jiff::{Span, Timestamp, ZonedDateTime, civil};
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Kinds that would bury all others; --all shows them too.
const FREQUENT: &str = "step,progress,gpu_status";

/// What happened: events as lines, oldest first
#[derive(Args)]
#[command(
    after_help = "Steps are left out: `ctl metrics` shows what they measured, `ctl watch` \
                        follows them."
)]
pub struct LogsArgs {
    /// Only those of this run: its number, or its name where it is unique
    run: Option<String>,
    /// Go on with what happens
    #[arg(short, long)]
    follow: bool,
    /// Only those since then: 90s, 15m, 2h, 3d, or a time such as "2026-01-31 14:00"
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<i64>,
    /// Only the last ones; 0 for all
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    lines: usize,
    /// Steps and progress too
    #[arg(long)]
    all: bool,
}

/// Prints them.
pub fn logs(session: &Session, args: &LogsArgs) -> Result<()> {
    let run = match &args.run {
        Some(run) => Some(session.find(run)?.id),
        None => None,
    };
    let base = run.map_or("/v1/events".into(), |run| format!("/v1/runs/{run}/events"));
    let filter = match args.all {
        true => String::new(),
        false => format!("&except={FREQUENT}"),
    };
    let since = args
        .since
        .map_or(String::new(), |since| format!("&from_time={since}"));
    let (mut newest, mut lines) = (0, VecDeque::new());
    let path = format!("{base}?since=0&follow=false{filter}{since}");
    session.client.events(&path, None, &mut |event| {
        newest = event.id;
        lines.push_back(line(session, &event));
        if args.lines > 0 && lines.len() > args.lines {
            lines.pop_front();
        }
        ControlFlow::Continue(())
    })?;
    put(&lines.into_iter().collect::<String>());
    if args.follow {
        let path = format!("{base}?follow=true{filter}");
        follow(session, &path, run, newest, |event| {
            put(&line(session, event))
        })?;
    }
    Ok(())
}

fn line(session: &Session, event: &Event) -> String {
    match session.json {
        true => format!("{}\n", serde_json::json!(event)),
        false => line::of(event) + "\n",
    }
}

/// Milliseconds since 1970 of a time, or of so long ago.
fn since(text: &str) -> Result<i64, String> {
    since_at(text, &ZonedDateTime::now())
}

fn since_at(text: &str, now: &ZonedDateTime) -> Result<i64, String> {
    let text = text.trim();
    let ago = || -> Option<Timestamp> {
        let span: Span = text.parse().ok()?;
        now.checked_sub(span).ok().map(|then| then.timestamp())
    };
    let local = || -> Option<Timestamp> {
        let then: civil::DateTime = match text.parse() {
            Ok(then) => then,
            // A time alone is of today.
            Err(_) => now.date().to_datetime(text.parse().ok()?),
        };
        Some(
            then.to_zoned_datetime(now.time_zone().clone())
                .ok()?
                .timestamp(),
        )
    };
    let exact = || text.parse::<Timestamp>().ok();
    let then = exact().or_else(local).or_else(ago);
    then.map(Timestamp::as_millisecond).ok_or_else(|| {
        format!("{text:?} is neither so long ago (90s, 15m, 2h, 3d) nor a time (2026-01-31 14:00)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_as_people_write_them() {
        let now: ZonedDateTime = "2026-01-31T14:00:00[UTC]".parse().unwrap();
        let hour = 3_600_000;
        let base = now.timestamp().as_millisecond();
        for (text, expected) in [
            ("2h", base - 2 * hour),
            ("90s", base - 90_000),
            ("3d", base - 72 * hour),
            ("1h 30m", base - hour - hour / 2),
            ("2026-01-31 12:00", base - 2 * hour),
            ("2026-01-31T12:00:00Z", base - 2 * hour),
            ("2026-01-31", base - 14 * hour),
            ("12:30", base - hour - hour / 2),
        ] {
            assert_eq!(since_at(text, &now), Ok(expected), "{text}");
        }
        for text in ["", "yesterday-ish", "h", "2026-13-01"] {
            assert!(
                since_at(text, &now).unwrap_err().contains("neither"),
                "{text}"
            );
        }
    }
}
