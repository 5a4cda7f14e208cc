//! `sweep.toml`: many runs from one run.toml, and what decides between them.

mod overrides;

use super::file::ConfigFile;
use super::run::RunConfig;
use crate::domain::early_stopping::EarlyStopping;
use crate::domain::measure::Measure;
use crate::domain::sweep::{Halving, Plan};
use crate::domain::{Code, Error, Result};
use overrides::{Overrides, flat};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Table;

/// Runs of a sweep at most. Beyond it somebody made a mistake, or wants several sweeps.
pub const MAX_RUNS: u64 = 1000;

/// °C from which the runs of a sweep wait that does not say.
const MAX_TEMPERATURE: f64 = 85.0;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SweepFile {
    name: Option<String>,
    /// The run.toml of every run, relative to this file. Whoever submits reads it.
    #[serde(rename = "run")]
    _run: PathBuf,
    #[serde(default)]
    output: PathBuf,
    #[serde(default)]
    priority: i64,
    max_temperature: Option<f64>,
    #[serde(default = "one")]
    parallel: u64,
    #[serde(default)]
    carry_over: bool,
    #[serde(default)]
    seed: u64,
    samples: Option<u64>,
    #[serde(default)]
    set: Table,
    #[serde(default)]
    runs: Vec<Table>,
    grid: Option<Table>,
    random: Option<Table>,
    early_stopping: Option<EarlyStopping>,
    halving: Option<Halving>,
}

fn one() -> u64 {
    1
}

/// A text with a name for errors, and the folder at which its relative paths start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// What it is called in errors.
    pub file: String,
    /// The text.
    pub text: String,
    /// An absolute folder.
    pub base: PathBuf,
}

/// A sweep, resolved and validated: what the daemon keeps of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepConfig {
    /// What it is called; its runs are called after it.
    pub name: String,
    /// The folder of its runs' folders; empty where the daemon is to choose.
    pub output: PathBuf,
    /// Of its runs.
    pub priority: i64,
    /// The temperature in °C from which its runs wait; it only ever lowers the host's.
    pub max_temperature: Option<f64>,
    /// Whether each run starts from the weights of the one before.
    pub carry_over: bool,
    /// What decides between the runs.
    pub plan: Plan,
    /// The run.toml of every run.
    pub run: Source,
    /// Replacements of the form `key=value` in every run.
    pub set: Vec<String>,
    /// For each run its own: keys and their values in TOML.
    pub overrides: Vec<BTreeMap<String, String>>,
}

impl SweepConfig {
    /// Reads `sweep` over `run`, with the replacements `set` from the command line, and
    /// validates every run that it describes.
    ///
    /// # Errors
    /// `config-invalid` naming file, line and key; `usage` for a replacement that cannot
    /// be read.
    pub fn parse(sweep: &Source, run: &Source, set: &[String]) -> Result<Self> {
        let file = ConfigFile::parse(&sweep.file, sweep.text.clone(), &[])?;
        let spec: SweepFile = file.decode()?;
        spec.validate(&file)?;
        let (kind, overrides) = spec.overrides(&file)?;
        let mut all = Vec::new();
        for (key, value) in flat(&spec.set) {
            refuse_key(&key).map_err(|why| file.invalid(&format!("set.{key}"), why))?;
            all.push(format!("{key}={value}"));
        }
        all.extend(set.iter().cloned());
        // What is wrong with every run is said of run.toml, or of [set].
        let base = RunConfig::parse(&run.file, &run.text, &run.base, &all);
        let base = base.map_err(|e| blame(e, "set", all.iter().map(String::as_str), &file))?;
        let mut config = Self {
            name: spec.name.unwrap_or_else(|| base.name.clone()),
            output: match spec.output.as_os_str().is_empty() {
                true => PathBuf::new(),
                false => sweep.base.join(&spec.output),
            },
            priority: spec.priority,
            // Many runs in a row heat a card for longer.
            max_temperature: spec.max_temperature.or(Some(MAX_TEMPERATURE)),
            carry_over: spec.carry_over,
            plan: Plan {
                runs: overrides.len() as u64,
                parallel: spec.parallel,
                early_stopping: spec.early_stopping,
                halving: spec.halving,
            },
            run: run.clone(),
            set: all,
            overrides,
        };
        if !super::run::is_name(&config.name) {
            let message = format!(
                "{:?} is no name: use letters, digits, `-`, `_`",
                config.name
            );
            return Err(file.invalid("name", message));
        }
        config.check_runs(kind, &file)?;
        config.plan.parallel = config.plan.parallel.min(config.plan.runs);
        Ok(config)
    }

    /// The run `index`, 1, 2, 3, …, without an output.
    ///
    /// # Errors
    /// `config-invalid`.
    pub fn run(&self, index: u64) -> Result<RunConfig> {
        let own = usize::try_from(index)
            .ok()
            .and_then(|i| self.overrides.get(i - 1));
        let own = own.ok_or_else(|| {
            let message = format!("run {index} is not one of {}", self.overrides.len());
            Error::new(Code::Internal, &self.name, message)
        })?;
        let own_set = own.iter().map(|(key, value)| format!("{key}={value}"));
        let set: Vec<String> = self.set.iter().cloned().chain(own_set).collect();
        let Source { file, text, base } = &self.run;
        let mut run = RunConfig::parse(file, text, base, &set)?;
        if !own.contains_key("name") {
            let width = self.overrides.len().to_string().len();
            run.name = format!("{}-{index:0width$}", self.name);
        }
        run.output = PathBuf::new();
        Ok(run)
    }

    /// The folder of the run `index`.
    pub fn folder(&self, index: u64) -> PathBuf {
        let width = self.overrides.len().to_string().len();
        self.output.join(format!("run-{index:0width$}"))
    }

    fn check_runs(&self, kind: &str, file: &ConfigFile) -> Result<()> {
        let mut first: Option<RunConfig> = None;
        for (index, own) in (1..).zip(&self.overrides) {
            let run = self.run(index);
            let run = run.map_err(|e| blame(e, kind, own.keys().map(String::as_str), file))?;
            let bad = |key: &str, message: String| {
                let run = describe(index, own);
                Err(file.invalid(key, format_args!("{message} ({run})")))
            };
            self.check_measures(&run).or_else(|(key, m)| bad(key, m))?;
            if let Some(halving) = &self.plan.halving {
                let last = halving.rungs.last().copied().unwrap_or(0);
                let steps = run.training.total_steps(0);
                if run.training.epochs.is_none() && last >= steps {
                    let message = format!("{last} is not below the {steps} steps of the run");
                    return bad("halving.rungs", message);
                }
                if run.training.stop_at.is_some() {
                    let message = "training.stop_at is set, which [halving] sets itself";
                    return bad("halving", message.into());
                }
            }
            if self.carry_over {
                let first = first.get_or_insert_with(|| run.clone());
                if let Some(key) = shape_differs(first, &run) {
                    let message = format!("needs equal shapes, but {key} differs from run 1");
                    return bad("carry_over", message);
                }
                if run.training.init_from.is_some() && index > 1 {
                    let message = "training.init_from is set, which carry_over sets itself";
                    return bad("carry_over", message.into());
                }
            }
        }
        Ok(())
    }

    /// That what decides between runs is measured at their ends.
    fn check_measures(&self, run: &RunConfig) -> Result<(), (&'static str, String)> {
        let key = match (&self.plan.early_stopping, &self.plan.halving) {
            (Some(_), _) => "early_stopping.metric",
            (_, Some(_)) => "halving.metric",
            _ => return Ok(()),
        };
        let (metric, _) = self.plan.metric();
        if metric != Measure::Loss && run.data.holdout == 0.0 {
            let message = format!("{metric} is measured on held-out text, but data.holdout is 0");
            return Err((key, message));
        }
        Ok(())
    }
}

impl SweepFile {
    fn validate(&self, file: &ConfigFile) -> Result<()> {
        if let Some(limit) = self.max_temperature.filter(|t| !(1.0..=150.0).contains(t)) {
            let message = format!("{limit} °C is not within 1 and 150");
            return Err(file.invalid("max_temperature", message));
        }
        if self.parallel == 0 {
            return Err(file.invalid("parallel", "0 runs at once train nothing"));
        }
        if self.carry_over && self.parallel > 1 {
            let message = "carries weights from run to run, so they go one after another: \
                           set parallel = 1";
            return Err(file.invalid("carry_over", message));
        }
        if self.carry_over && self.halving.is_some() {
            let message = "and [halving] exclude each other: with it no run comes after another";
            return Err(file.invalid("carry_over", message));
        }
        if self.halving.is_some() && self.early_stopping.is_some() {
            let message = "and [early_stopping] both choose between runs: leave one out";
            return Err(file.invalid("halving", message));
        }
        let within =
            |table: &str, e: Error| file.invalid(&format!("{table}.{}", e.about), e.message);
        if let Some(rule) = &self.early_stopping {
            rule.validate().map_err(|e| within("early_stopping", e))?;
        }
        if let Some(halving) = &self.halving {
            halving.validate().map_err(|e| within("halving", e))?;
        }
        Ok(())
    }

    /// The table that describes the runs, and what it says of each.
    fn overrides(&self, file: &ConfigFile) -> Result<(&'static str, Overrides)> {
        let given: Vec<&'static str> = [
            ("runs", !self.runs.is_empty()),
            ("grid", self.grid.is_some()),
            ("random", self.random.is_some()),
        ]
        .into_iter()
        .filter_map(|(kind, given)| given.then_some(kind))
        .collect();
        let kind = match given[..] {
            [kind] => kind,
            [] => {
                let message = "says not which runs: give [[runs]], [grid] or [random]";
                return Err(file.invalid("runs", message));
            }
            [a, b, ..] => {
                return Err(file.invalid(b, format_args!("stands beside {a}: give only one")));
            }
        };
        if kind != "random" && self.samples.is_some() {
            return Err(file.invalid("samples", "needs [random]"));
        }
        let found = match (kind, &self.grid, &self.random) {
            ("grid", Some(grid), _) => overrides::grid(grid, MAX_RUNS),
            ("random", _, Some(random)) => {
                let samples = self.samples.ok_or_else(|| {
                    file.invalid("samples", "is missing: how many runs [random] is to draw")
                })?;
                overrides::random(random, samples, self.seed, MAX_RUNS)
            }
            _ => overrides::list(&self.runs, MAX_RUNS),
        };
        let found = found.map_err(|(key, message)| match key.as_str() {
            "samples" => file.invalid("samples", message),
            "" => file.invalid(kind, message),
            key => file.invalid(&format!("{kind}.{key}"), message),
        })?;
        let bad = found.iter().flat_map(BTreeMap::keys);
        for key in bad {
            refuse_key(key).map_err(|why| file.invalid(&format!("{kind}.{key}"), why))?;
        }
        Ok((kind, found))
    }
}

/// Keys that a sweep decides itself.
fn refuse_key(key: &str) -> Result<(), &'static str> {
    match key {
        "output" => Err("each run gets a folder of its own: set `output` of the sweep"),
        _ => Ok(()),
    }
}

/// Says of an error about a run which key of the sweep brought it, where one did.
fn blame<'a>(
    error: Error,
    table: &str,
    keys: impl Iterator<Item = &'a str>,
    file: &ConfigFile,
) -> Error {
    let about = error
        .about
        .rsplit(": ")
        .next()
        .unwrap_or_default()
        .to_owned();
    let key_of = |item: &'a str| item.split('=').next().unwrap_or(item);
    let mut keys = keys.map(key_of);
    let within = |key: &str| about == key || about.starts_with(&format!("{key}."));
    match keys.find(|key| error.code == Code::ConfigInvalid && within(key)) {
        Some(key) => file
            .invalid(&format!("{table}.{key}"), &error.message)
            .hint(&error.hint),
        None => error,
    }
}

/// `run 3: sae.k = 8, seed = 1`
fn describe(index: u64, own: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = own.iter().map(|(k, v)| format!("{k} = {v}")).collect();
    format!("run {index}: {}", pairs.join(", "))
}

/// The first key whose values give autoencoders of different shapes.
fn shape_differs(a: &RunConfig, b: &RunConfig) -> Option<&'static str> {
    let variant = |run: &RunConfig| std::mem::discriminant(&run.sae.variant);
    [
        ("model.path", a.model.path == b.model.path),
        ("model.hooks", a.model.hooks == b.model.hooks),
        ("sae.d_sae", a.sae.d_sae == b.sae.d_sae),
        ("sae.variant", variant(a) == variant(b)),
        ("sae.target", a.sae.target == b.sae.target),
        ("sae.skip", a.sae.skip == b.sae.skip),
    ]
    .into_iter()
    .find_map(|(key, same)| (!same).then_some(key))
}

#[cfg(test)]
mod tests;
