//! `metrics.jsonl` and `validation.jsonl`: a line for each step and hook point.
//!
//! A resumed run first cuts off what came after its checkpoint, so that each (step, hook
//! point) stands there once and the numbers equal those of a run never interrupted.

use crate::domain::{Code, Error, Result};
use crate::protocol::{SiteStep, Step, Validation};
use crate::report::Curves;
use crate::system::files;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricLine {
    /// 1 … steps.
    pub step: u64,
    /// 1 for the first pass over the text.
    pub epoch: u64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// The learning rate.
    pub lr: f64,
    /// Wall-clock rate; the one number that differs between equal runs.
    pub tokens_per_second: f64,
    /// The measures of one SAE.
    #[serde(flatten)]
    pub site: SiteStep,
}

/// The two logs of a run.
pub struct Metrics {
    steps: Log,
    validations: Log,
}

struct Log {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Metrics {
    /// Opens the logs in `folder`; lines past `step` are cut off.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        Ok(Self {
            steps: Log::open(folder.join("metrics.jsonl"), step)?,
            validations: Log::open(folder.join("validation.jsonl"), step)?,
        })
    }

    /// Adds one step.
    pub fn step(&mut self, step: &Step) -> Result<()> {
        for site in &step.sites {
            self.steps.line(&MetricLine {
                step: step.step,
                epoch: step.epoch,
                tokens: step.tokens,
                lr: step.lr,
                tokens_per_second: step.tokens_per_second,
                site: site.clone(),
            })?;
        }
        Ok(())
    }

    /// Adds one validation.
    pub fn validation(&mut self, validation: &Validation) -> Result<()> {
        self.validations.line(validation)
    }

    /// Makes everything durable; a checkpoint may only be saved after this.
    pub fn sync(&mut self) -> Result<()> {
        self.steps.sync()?;
        self.validations.sync()
    }
}

impl Log {
    fn open(path: PathBuf, step: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::write(&path, &e))?;
        let keep = kept_bytes(&file, step).map_err(|e| Error::read(&path, &e))?;
        let mut log = Self {
            path,
            file: BufWriter::new(file),
        };
        log.write(|file| {
            file.get_ref().set_len(keep)?;
            file.seek(std::io::SeekFrom::Start(keep)).map(|_| ())
        })?;
        Ok(log)
    }

    fn write(
        &mut self,
        act: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
    ) -> Result<()> {
        act(&mut self.file).map_err(|e| Error::write(&self.path, &e))
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(value)
            .map_err(|e| Error::new(Code::Internal, self.path.display(), e))?;
        text.push('\n');
        self.write(|file| file.write_all(text.as_bytes()))
    }

    fn sync(&mut self) -> Result<()> {
        self.write(|file| {
            file.flush()?;
            file.get_ref().sync_data()
        })
    }
}

/// Length of the leading lines that are whole and not past `step`.
fn kept_bytes(file: &File, step: u64) -> std::io::Result<u64> {
    #[derive(Deserialize)]
    struct At {
        step: u64,
    }
    let mut reader = BufReader::new(file);
    let (mut keep, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        let whole = line.ends_with(b"\n");
        match serde_json::from_slice::<At>(&line) {
            Ok(at) if whole && at.step <= step => keep += read as u64,
            _ => return Ok(keep),
        }
    }
}

/// The curves and the validations that the logs in `folder` hold, for the report.
pub fn read_back(folder: &Path, steps: u64) -> Result<(Curves, Vec<Validation>)> {
    let mut curves = Curves::new(steps);
    each_line(&folder.join("metrics.jsonl"), |line: MetricLine| {
        curves.add(&Step {
            step: line.step,
            steps,
            epoch: line.epoch,
            tokens: line.tokens,
            loss: line.site.loss,
            lr: line.lr,
            tokens_per_second: line.tokens_per_second,
            sites: vec![line.site],
        });
    })?;
    let mut validations = Vec::new();
    each_line(&folder.join("validation.jsonl"), |line| {
        validations.push(line)
    })?;
    Ok((curves, validations))
}

/// The newest line of `validation.jsonl` in `folder`.
pub fn last_validation(folder: &Path) -> Result<Option<Validation>> {
    let mut last = None;
    each_line(&folder.join("validation.jsonl"), |line| last = Some(line))?;
    Ok(last)
}

fn each_line<T: DeserializeOwned>(path: &Path, mut take: impl FnMut(T)) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::read(path, &e))?;
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|e| Error::read(path, &e))?;
        let value = serde_json::from_str(&line).map_err(|e| {
            let about = format!("{}:{}", path.display(), index + 1);
            Error::new(
                Code::IoRead,
                about,
                format_args!("is not a metrics line: {e}"),
            )
        })?;
        take(value);
    }
    Ok(())
}

/// Writes `value` as `name` in `folder`, readable and durable.
pub fn write_json(folder: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let path = folder.join(name);
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::new(Code::Internal, path.display(), e))?;
    text.push('\n');
    files::write_atomic(&path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn step(step: u64) -> Step {
        let site = |hook: &str| SiteStep {
            hook: hook.into(),
            loss: 0.1 + step as f64,
            parts: BTreeMap::new(),
            l0: 4.0,
            explained_variance: 0.5,
            fvu: 0.5,
            dead: 0.0,
            grad_norm: 1.0,
            loss_scale: None,
        };
        Step {
            step,
            steps: 9,
            epoch: 1,
            tokens: step * 8,
            loss: 1.0,
            lr: 1e-3,
            tokens_per_second: 1.0,
            sites: vec![site("a"), site("b")],
        }
    }

    /// behaviour: train-03
    #[test]
    fn lines_past_the_checkpoint_and_torn_ones_are_cut_off_on_resume() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(dir.path(), 0).unwrap();
        for n in 1..=5 {
            metrics.step(&step(n)).unwrap();
        }
        metrics.sync().unwrap();
        drop(metrics);
        let whole = std::fs::read_to_string(&path).unwrap();
        assert_eq!(whole.lines().count(), 10, "two hook points a step");
        std::fs::write(&path, format!("{whole}{{\"step\":")).unwrap();

        let mut metrics = Metrics::open(dir.path(), 3).unwrap();
        for n in 4..=5 {
            metrics.step(&step(n)).unwrap();
        }
        metrics.sync().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        let (curves, validations) = read_back(dir.path(), 9).unwrap();
        assert_eq!(curves.get("b", "l0").len(), 5);
        assert!(validations.is_empty());
    }
}
