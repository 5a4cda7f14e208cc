//! `prometheus`: the newest numbers, as Prometheus reads them from `/metrics`.

use super::{EventHandler, Settings};
use crate::domain::gpu::GpuStatus;
use crate::domain::{Result, RunId};
use crate::protocol::api::Event;
use crate::protocol::handlers::HandlerView;
use crate::protocol::{Fact, Step};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Runs that have ended and are still shown: the newest.
const ENDED: usize = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {}

/// What handlers of kind `prometheus` have gathered. Clones share it; it outlives them.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Gathered>>);

#[derive(Default)]
struct Gathered {
    kinds: BTreeMap<String, u64>,
    runs: BTreeMap<RunId, RunNumbers>,
    gpus: BTreeMap<u32, GpuStatus>,
}

#[derive(Default)]
struct RunNumbers {
    step: Option<Step>,
    checkpoint: Option<u64>,
    ended: bool,
}

/// Gathers.
pub(super) struct Prometheus(Metrics);

pub(super) fn prepare(settings: &Settings) -> Result<impl Fn() -> Result<Prometheus> + use<>> {
    let Keys {} = settings.decode()?;
    let metrics = settings.host.metrics.clone();
    Ok(move || Ok(Prometheus(metrics.clone())))
}

impl EventHandler for Prometheus {
    fn handle(&mut self, event: &Event) -> Result<()> {
        // Parsed before anybody else has to wait.
        let fact = event.run.and_then(|_| event.fact());
        let of_gpu = event.kind.starts_with("gpu_").then(|| event.gpu_fact());
        let status = of_gpu.flatten().and_then(|fact| fact.status().cloned());
        let mut gathered = self.0.gathered();
        *gathered.kinds.entry(event.kind.clone()).or_default() += 1;
        if let Some(status) = status {
            gathered.gpus.insert(status.reading.index, status);
        }
        if let (Some(run), Some(fact)) = (event.run, fact) {
            gathered.hear(run, fact);
        }
        Ok(())
    }
}

impl Gathered {
    fn hear(&mut self, run: RunId, fact: Fact) {
        let numbers = self.runs.entry(run).or_default();
        match fact {
            Fact::RunStarted { .. } => numbers.ended = false,
            Fact::Step(step) => numbers.step = Some(step),
            Fact::CheckpointSaved { step, .. } => numbers.checkpoint = Some(step),
            Fact::RunCompleted(_)
            | Fact::EarlyStopped(_)
            | Fact::Stopped(_)
            | Fact::Aborted(_)
            | Fact::RunFailed { .. } => numbers.ended = true,
            _ => {}
        }
        let ended = self.runs.iter().filter(|(_, numbers)| numbers.ended);
        let ended: Vec<RunId> = ended.map(|(run, _)| *run).collect();
        for run in &ended[..ended.len().saturating_sub(ENDED)] {
            self.runs.remove(run);
        }
    }
}

impl Metrics {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything in Prometheus' text format, with what is known of the handlers.
    pub fn render(&self, handlers: &[HandlerView]) -> String {
        let mut text = Text::default();
        let gathered = self.gathered();
        let kinds = gathered.kinds.iter();
        text.family(
            "events_total",
            "counter",
            "Events by kind.",
            kinds.map(|(kind, n)| (vec![("kind", kind.as_str())], Some(*n as f64))),
        );
        gathered.runs(&mut text);
        gathered.gpus(&mut text);
        drop(gathered);
        for (name, help, get) in HANDLER_COUNTERS {
            let values = handlers.iter().map(|view| {
                let labels = vec![("handler", view.spec.name.as_str())];
                (labels, Some(get(view) as f64))
            });
            text.family(name, "counter", help, values);
        }
        text.0
    }
}

type OfHandler = fn(&HandlerView) -> u64;

const HANDLER_COUNTERS: [(&str, &str, OfHandler); 5] = [
    (
        "handler_delivered_total",
        "Events that a handler handled.",
        |view| view.counters.delivered,
    ),
    (
        "handler_dropped_total",
        "Lossy events that gave way to newer ones.",
        |view| view.counters.dropped,
    ),
    (
        "handler_lagged_total",
        "Events that were read again from the database.",
        |view| view.counters.lagged,
    ),
    (
        "handler_failed_total",
        "Attempts of a handler that failed.",
        |view| view.counters.failed,
    ),
    (
        "handler_restarted_total",
        "Restarts of a handler.",
        |view| view.counters.restarted,
    ),
];

type OfStep = fn(&Step) -> f64;

const OF_STEP: [(&str, &str, OfStep); 6] = [
    ("run_step", "Steps done.", |step| step.step as f64),
    ("run_steps", "Steps in all.", |step| step.steps as f64),
    ("run_tokens", "Tokens trained on.", |step| {
        step.tokens as f64
    }),
    ("run_loss", "Loss of the last step.", |step| step.loss),
    (
        "run_learning_rate",
        "Learning rate of the last step.",
        |step| step.lr,
    ),
    (
        "run_tokens_per_second",
        "Tokens a second, lately.",
        |step| step.tokens_per_second,
    ),
];

type OfSite = fn(&crate::protocol::SiteStep) -> f64;

const OF_SITE: [(&str, &str, OfSite); 5] = [
    ("site_loss", "Loss of one autoencoder.", |site| site.loss),
    ("site_l0", "Active latents a token.", |site| site.l0),
    ("site_fvu", "Fraction of variance unexplained.", |site| {
        site.fvu
    }),
    ("site_dead_ratio", "Share of dead latents.", |site| {
        site.dead
    }),
    ("site_gradient_norm", "Norm of the gradient.", |site| {
        site.grad_norm
    }),
];

type OfGpu = fn(&GpuStatus) -> Option<f64>;

const OF_GPU: [(&str, &str, OfGpu); 6] = [
    ("gpu_temperature_celsius", "Temperature.", |gpu| {
        gpu.reading.temperature_c
    }),
    ("gpu_memory_bytes", "Memory in all.", |gpu| {
        gpu.reading.memory_total.map(|n| n as f64)
    }),
    ("gpu_memory_used_bytes", "Memory in use.", |gpu| {
        gpu.reading.memory_used.map(|n| n as f64)
    }),
    ("gpu_power_watts", "Power drawn.", |gpu| {
        gpu.reading.power_draw_w
    }),
    ("gpu_power_limit_watts", "Power that may be drawn.", |gpu| {
        gpu.reading.power_limit_w
    }),
    (
        "gpu_utilisation_ratio",
        "Share of the time in which a kernel ran.",
        |gpu| {
            gpu.reading
                .utilisation_percent
                .map(|percent| percent / 100.0)
        },
    ),
];

impl Gathered {
    fn runs(&self, text: &mut Text) {
        let ids: Vec<(String, &RunNumbers)> = self
            .runs
            .iter()
            .map(|(run, numbers)| (run.to_string(), numbers))
            .collect();
        let running = ids.iter().map(|(id, numbers)| {
            let value = f64::from(u8::from(!numbers.ended));
            (vec![("run", id.as_str())], Some(value))
        });
        text.family(
            "run_active",
            "gauge",
            "Whether the run has not ended.",
            running,
        );
        for (name, help, get) in OF_STEP {
            let values = ids
                .iter()
                .map(|(id, numbers)| (vec![("run", id.as_str())], numbers.step.as_ref().map(get)));
            text.family(name, "gauge", help, values);
        }
        let saved = ids.iter().map(|(id, numbers)| {
            (
                vec![("run", id.as_str())],
                numbers.checkpoint.map(|step| step as f64),
            )
        });
        text.family(
            "run_checkpoint_step",
            "gauge",
            "Step of the newest checkpoint.",
            saved,
        );
        for (name, help, get) in OF_SITE {
            let values = ids.iter().flat_map(|(id, numbers)| {
                let sites = numbers.step.iter().flat_map(|step| &step.sites);
                sites.map(move |site| {
                    let labels = vec![("run", id.as_str()), ("hook", site.hook.as_str())];
                    (labels, Some(get(site)))
                })
            });
            text.family(name, "gauge", help, values);
        }
    }

    fn gpus(&self, text: &mut Text) {
        let gpus: Vec<(String, &GpuStatus)> = self
            .gpus
            .iter()
            .map(|(index, status)| (index.to_string(), status))
            .collect();
        for (name, help, get) in OF_GPU {
            let values = gpus.iter().map(|(index, status)| {
                // What an earlier look has seen is not how it is now.
                (
                    vec![("gpu", index.as_str())],
                    get(status).filter(|_| !status.stale),
                )
            });
            text.family(name, "gauge", help, values);
        }
    }
}

/// Prometheus' text format.
#[derive(Default)]
struct Text(String);

impl Text {
    /// One metric; what is not known has no line.
    fn family<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl Iterator<Item = (Vec<(&'static str, &'a str)>, Option<f64>)>,
    ) {
        let mut head = Some(format!(
            "# HELP backpropd_{name} {help}\n# TYPE backpropd_{name} {kind}\n"
        ));
        for (labels, value) in samples {
            let Some(value) = value.filter(|value| value.is_finite()) else {
                continue;
            };
            self.0 += &head.take().unwrap_or_default();
            let label = |(name, value): &(&str, &str)| format!("{name}=\"{}\"", escaped(value));
            let labels: Vec<String> = labels.iter().map(label).collect();
            let _ = writeln!(self.0, "backpropd_{name}{{{}}} {value}", labels.join(","));
        }
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// behaviour: ui-12
    #[test]
    fn the_newest_numbers_are_shown_and_what_is_unknown_is_not() {
        let metrics = Metrics::default();
        let mut handler = Prometheus(metrics.clone());
        let mut hear = |run: Option<i64>, kind: &str, fields| {
            let event = Event::new(1, run.map(RunId), None, 0, kind, fields);
            handler.handle(&event).unwrap();
        };
        for step in [1, 2] {
            hear(
                Some(4),
                "step",
                json!({
                    "step": step, "steps": 9, "epoch": 1, "tokens": 64, "loss": 0.5, "lr": 0.01,
                    "tokens_per_second": 10.0,
                    "sites": [{ "hook": "a\"b\\c\n", "loss": 0.25, "parts": {}, "l0": 8.0,
                        "explained_variance": null, "fvu": null, "dead": 0.0, "grad_norm": 1.0 }],
                }),
            );
        }
        hear(
            None,
            "gpu_status",
            json!({ "status": {
                "available": true, "stale": false, "index": 1, "name": null, "uuid": null,
                "temperature_c": 61.5, "shutdown_c": null, "memory_total": null, "memory_used": null,
                "memory_free": null, "power_draw_w": null, "power_limit_w": null,
                "utilisation_percent": null, "mig": null, "timestamp_ms": 1, "memory_percent": null,
                "power_percent": null, "condition": "ok", "reasons": [],
            }}),
        );
        let text = metrics.render(&[]);
        for line in [
            "backpropd_events_total{kind=\"step\"} 2",
            "backpropd_run_step{run=\"4\"} 2",
            "backpropd_run_active{run=\"4\"} 1",
            "backpropd_site_l0{run=\"4\",hook=\"a\\\"b\\\\c\\n\"} 8",
            "backpropd_gpu_temperature_celsius{gpu=\"1\"} 61.5",
            "# TYPE backpropd_run_step gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        assert!(
            !text.contains("fvu") && !text.contains("gpu_power"),
            "{text}"
        );
        for run in 5..=40 {
            hear(
                Some(run),
                "run_failed",
                json!({ "step": 1, "code": "x", "message": "x" }),
            );
        }
        let shown = metrics.render(&[]).matches("backpropd_run_active{").count();
        assert_eq!(
            shown,
            1 + ENDED,
            "the one that goes on, and the newest that ended"
        );
    }
}
