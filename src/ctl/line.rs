//! An event as a line.

use crate::domain::Printable;
use crate::protocol::api::Event;
use crate::protocol::{Ending, Fact, GpuEstimate};
use crate::report::{duration, thousands};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

/// `event` in one line, whatever it holds.
pub fn of(event: &Event) -> String {
    let at = Timestamp::from_millisecond(event.at).ok();
    let at = at.map(|at| at.to_zoned_datetime(TimeZone::system()));
    let at = at.map_or_else(|| "–".into(), |at| at.strftime("%F %T").to_string());
    let whose = event
        .run
        .map_or_else(String::new, |run| format!(" run {run}"));
    let kind = event.kind.replace('_', " ");
    let said = match event.fact() {
        Some(fact) => said(&fact),
        None => None,
    };
    let said = said.unwrap_or_else(|| fields(event));
    let colon = if said.is_empty() { "" } else { ": " };
    let line = format!("{at}{whose} {kind}{colon}{said}");
    Printable(&line).to_string()
}

/// What a worker's fact says beside its kind, where that needs words.
fn said(fact: &Fact) -> Option<String> {
    Some(match fact {
        Fact::RunStarted {
            step,
            steps,
            device,
            ..
        } => {
            let (step, steps) = (thousands(*step), thousands(*steps));
            format!("at step {step} of {steps} on {device}")
        }
        Fact::Step(step) => format!(
            "{} of {}, loss {:.4}, {} tokens/s",
            thousands(step.step),
            thousands(step.steps),
            step.loss,
            thousands(step.tokens_per_second.round() as u64)
        ),
        Fact::Validation(v) => {
            let site = |site: &crate::protocol::SiteValidation| {
                let recovered = site.ce_recovered;
                let recovered = recovered.map_or("–".into(), |r| format!("{:.1} %", r * 100.0));
                let (hook, ev, l0) = (&site.hook, site.explained_variance, site.l0);
                format!("{hook} CE recovered {recovered}, EV {ev:.3}, L0 {l0:.1}")
            };
            let sites: Vec<String> = v.sites.iter().map(site).collect();
            format!("step {}: {}", thousands(v.step), sites.join("; "))
        }
        Fact::CheckpointSaved { step, path, best } => {
            let best = if *best { ", the best so far" } else { "" };
            format!("step {}{best}, {}", thousands(*step), path.display())
        }
        Fact::Estimate {
            bytes,
            available,
            gpu,
            ..
        } => {
            let mib = |bytes: u64| thousands(bytes.div_ceil(1 << 20));
            let host = match available {
                Some(free) => format!("{} MiB needed, {} MiB free", mib(*bytes), mib(*free)),
                None => format!("{} MiB needed", mib(*bytes)),
            };
            let of_gpu = |gpu: &GpuEstimate| {
                let (bytes, free) = (mib(gpu.bytes), mib(gpu.available));
                format!("; of the GPU {bytes} MiB needed, {free} MiB free")
            };
            host + &gpu.as_ref().map(of_gpu).unwrap_or_default()
        }
        Fact::RunCompleted(ending) | Fact::Stopped(ending) | Fact::Aborted(ending) => end(ending),
        Fact::RunFailed { message, .. } => message.clone(),
        _ => return None,
    })
}

fn end(ending: &Ending) -> String {
    let steps = format!(
        "{} of {} steps",
        thousands(ending.step),
        thousands(ending.steps)
    );
    let loss = ending
        .loss
        .map_or(String::new(), |loss| format!(", loss {loss:.4}"));
    format!("{steps}{loss}, {} in this worker", duration(ending.seconds))
}

/// The message, where there is one, else every field that is a plain value.
fn fields(event: &Event) -> String {
    if let Some(message) = event.fields.get("message").and_then(Value::as_str) {
        return message.to_owned();
    }
    let plain = event.fields.iter().filter_map(|(key, value)| match value {
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        Value::String(text) => Some(format!("{key}={text}")),
        value => Some(format!("{key}={value}")),
    });
    plain.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RunId;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let evil = "a\nb\r\u{1b}[31m\u{202e}";
        for (kind, fields, ends) in [
            (
                "run_queued",
                json!({ "message": "queued as run 1" }),
                "run 1 run queued: queued as run 1",
            ),
            (evil, json!({ "message": evil }), "\\u{202e}"),
            ("odd", json!({ evil: evil, "n": 3 }), "n=3"),
            ("bare", json!({}), "run 1 bare"),
            (
                "run_failed",
                json!({ "step": 1, "code": "c", "message": "m\nn" }),
                "run failed: m\\nn",
            ),
        ] {
            let line = of(&Event::new(1, Some(RunId(1)), Some(1), 0, kind, fields));
            assert!(line.ends_with(ends), "{line}");
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'));
        }
    }
}
