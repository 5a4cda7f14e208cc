//! The end of a run that did all its steps: measures, exports, summary, report.

use super::context::Context;
use super::export;
use super::metrics;
use super::train::Run;
use crate::device::lm::LmOps;
use crate::device::sae::SaeOps;
use crate::domain::Result;
use crate::protocol::{Ending, Stage, Validation};
use crate::report::{self, Page};
use crate::system::files;
use serde::Serialize;
use std::collections::BTreeMap;

/// `summary.json`: what scripts want to know of a finished run.
#[derive(Serialize)]
struct Summary<'a> {
    version: u32,
    name: &'a str,
    #[serde(flatten)]
    ending: &'a Ending,
    device: String,
    /// Bytes by part, as estimated before the run; the sum stands against `peak_memory`.
    estimated_memory: u64,
    estimated_memory_parts: &'a BTreeMap<String, u64>,
    validation: Option<&'a Validation>,
    /// Folders by format, and why a format was left out.
    exports: BTreeMap<String, String>,
}

/// Measures, saves, exports and reports.
///
/// # Errors
/// Those of the parts; what was written before stays.
pub fn finish<D: SaeOps<Real = f32> + LmOps>(
    run: &mut Run<'_, D>,
    context: &mut Context<'_>,
) -> Result<()> {
    run.measure(context)?;
    run.save(context)?;
    context.progress(Stage::Exporting, 0, Some(2))?;
    let exports = export::write(run, context)?;
    context.progress(Stage::Exporting, 1, Some(2))?;
    let ending = run.ending(context);
    let folder = &run.folder;
    let config = &run.job.config;
    let (curves, validations) = metrics::read_back(&folder.path, run.steps)?;
    let page = report::render(&Page {
        name: &config.name,
        state: "completed",
        ending: &ending,
        curves: &curves,
        validations: &validations,
        config: &folder.toml,
    });
    files::write_atomic(&folder.path.join("report.html"), page.as_bytes())?;
    let estimate = &run.estimate;
    let summary = Summary {
        version: 1,
        name: &config.name,
        ending: &ending,
        device: run.device.describe(),
        estimated_memory: estimate.bytes(),
        estimated_memory_parts: &estimate.parts,
        validation: run.validation.as_ref(),
        exports,
    };
    metrics::write_json(&folder.path, "summary.json", &summary)?;
    context.progress(Stage::Exporting, 2, Some(2))
}
