//! Runs as the store knows them, as clients see them.

use crate::actors::sweep::{Sweep, measures};
use crate::protocol::api::{Problem, RunView};
use crate::protocol::asset::AssetView;
use crate::protocol::sweep::{SweepRunView, SweepView};
use crate::store;
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// A run for a client.
pub fn run(run: store::Run) -> RunView {
    let progress = run.progress;
    RunView {
        id: run.id,
        eta_seconds: eta(&run),
        name: run.name,
        state: run.state,
        priority: run.priority,
        sweep: run.sweep.map(|(sweep, _)| sweep),
        run_idx: run.sweep.map(|(_, index)| index),
        folder: run.folder.map(PathBuf::from),
        step: progress.step,
        steps: progress.steps,
        loss: progress.loss,
        l0: progress.l0,
        tokens_per_second: progress
            .tokens_per_second
            .filter(|_| run.state.has_worker()),
        workers: run.life,
        pid: run.worker.map(|worker| worker.pid),
        gpu: run.lease,
        hold: run.hold,
        max_temperature: run.max_temperature,
        error: run.failure.map(problem),
        queued_at: run.queued_at,
        started_at: run.started_at,
        ended_at: run.ended_at,
    }
}

/// Why a run failed. What is stored is the whole line, with the code in front.
fn problem(failure: store::Failure) -> Problem {
    let store::Failure { code, message } = failure;
    let rest = message.strip_prefix(&code);
    let rest = rest.and_then(|rest| rest.strip_prefix(": "));
    Problem {
        detail: rest.unwrap_or(&message).to_owned(),
        code,
        ..Problem::default()
    }
}

/// A sweep for a client, with its runs.
pub fn sweep(sweep: Sweep) -> SweepView {
    let (metric, mode) = sweep.plan().metric();
    let view_of = |(run_idx, one): (u64, &store::Run)| SweepRunView {
        run_idx,
        overrides: sweep.overrides(run_idx),
        complete: sweep.is_complete(run_idx),
        measures: measures(one),
        run: run(one.clone()),
    };
    SweepView {
        id: sweep.id,
        name: sweep.config.name.clone(),
        state: sweep.phase(),
        reason: sweep.reason().map(str::to_owned),
        runs_planned: sweep.plan().runs,
        runs_begun: sweep.begun,
        parallel: sweep.plan().parallel,
        metric,
        mode,
        folder: sweep.config.output.clone(),
        best: sweep.best(),
        created_at: sweep.created_at,
        updated_at: sweep.updated_at,
        runs: (1..).zip(&sweep.runs).map(view_of).collect(),
    }
}

/// Seconds that are left at the pace of the last steps.
fn eta(run: &store::Run) -> Option<f64> {
    let progress = &run.progress;
    if !run.state.has_worker() || progress.step == 0 {
        return None;
    }
    let tokens_a_step = progress.tokens? as f64 / progress.step as f64;
    let left = progress.steps?.saturating_sub(progress.step) as f64;
    let rate = progress.tokens_per_second.filter(|rate| *rate > 0.0)?;
    Some(left * tokens_a_step / rate)
}

/// A model or dataset for a client. What an earlier release wrote and this one cannot read is
/// as if it were not known.
pub fn asset<F: DeserializeOwned + Default>(asset: store::Asset) -> AssetView<F> {
    AssetView {
        name: asset.name,
        path: asset.path.into(),
        state: asset.state,
        created_at: asset.created_at,
        updated_at: asset.updated_at,
        record: serde_json::from_value(asset.description).unwrap_or_default(),
    }
}
