//! The end of a run that did all its steps, or as many as were worth it: measures, exports,
//! summary, report.

use super::context::Context;
use super::export;
use super::metrics;
use super::train::{End, Run};
use crate::device::lm::LmOps;
use crate::device::sae::SaeOps;
use crate::domain::{Precision, Result};
use crate::protocol::{EarlyStop, Ending, Fact, GpuEstimate, Stage};
use crate::report::{self, Page};
use crate::system::files;
use serde::Serialize;
use std::collections::BTreeMap;

/// `summary.json`: what scripts want to know of a finished run.
#[derive(Serialize)]
struct Summary<'a> {
    version: u32,
    name: &'a str,
    /// `completed` or `early_stopped`.
    state: &'static str,
    #[serde(flatten)]
    ending: &'a Ending,
    device: String,
    /// How the language model's weights were held, and what that did to them.
    model_precision: Precision,
    model_scheme: &'static str,
    /// Bytes by part, as estimated before the run; the sum stands against `peak_memory`.
    estimated_memory: u64,
    estimated_memory_parts: &'a BTreeMap<String, u64>,
    /// The same of the GPU's memory; `bytes` stands against `peak_gpu_memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_gpu_memory: Option<&'a GpuEstimate>,
    /// Folders by format, and why a format was left out.
    exports: BTreeMap<String, String>,
}

/// Measures, saves, exports and reports. Returns the last fact of the run.
///
/// # Errors
/// Those of the parts; what was written before stays.
pub fn finish<D: SaeOps<Real = f32> + LmOps>(
    run: &mut Run<'_, D>,
    end: End,
    context: &mut Context<'_>,
) -> Result<Fact> {
    run.measure(context)?;
    run.save(context)?;
    context.progress(Stage::Exporting, 0, Some(2))?;
    let exports = export::write(run, context)?;
    context.progress(Stage::Exporting, 1, Some(2))?;
    let ending = run.ending(context);
    let (state, last) = match early(run, end, &ending) {
        None => ("completed", Fact::RunCompleted(ending.clone())),
        Some(stop) => ("early_stopped", Fact::EarlyStopped(stop)),
    };
    let folder = &run.folder;
    let config = &run.job.config;
    let (curves, validations) = metrics::read_back(&folder.path, run.steps)?;
    let page = report::render(&Page {
        name: &config.name,
        state: &state.replace('_', " "),
        ending: &ending,
        curves: &curves,
        validations: &validations,
        config: &folder.toml,
    });
    files::write_atomic(&folder.path.join("report.html"), page.as_bytes())?;
    let estimate = &run.estimate;
    let precision = run.pipeline.precision()?;
    let summary = Summary {
        version: 1,
        name: &config.name,
        state,
        ending: &ending,
        device: run.device.describe(),
        model_precision: precision,
        model_scheme: precision.scheme(),
        estimated_memory: estimate.bytes(),
        estimated_memory_parts: &estimate.parts,
        estimated_gpu_memory: estimate.gpu.as_ref(),
        exports,
    };
    metrics::write_json(&folder.path, "summary.json", &summary)?;
    context.progress(Stage::Exporting, 2, Some(2))?;
    Ok(last)
}

/// What early stopping has to say where it ended the run.
fn early<D: SaeOps<Real = f32> + LmOps>(
    run: &Run<'_, D>,
    end: End,
    ending: &Ending,
) -> Option<EarlyStop> {
    let rule = run.job.config.early_stopping.as_ref();
    let rule = rule.filter(|_| end == End::Early)?;
    let best = run.state.early?.best()?;
    Some(EarlyStop {
        ending: ending.clone(),
        metric: rule.metric,
        best: best.value,
        best_step: best.at,
        patience: rule.patience,
    })
}
