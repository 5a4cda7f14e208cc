//! `tensorboard`: event files that TensorBoard opens, a folder for each run and each GPU.

mod record;

use super::{EventHandler, Settings};
use crate::domain::gpu::GpuStatus;
use crate::domain::{Error, Result};
use crate::protocol::api::Event;
use crate::protocol::{Fact, SiteStep, SiteValidation};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Files that are open at once; more begin new ones.
const OPEN: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    folder: PathBuf,
}

/// A log folder.
pub(super) struct TensorBoard {
    folder: PathBuf,
    open: BTreeMap<String, Log>,
}

/// An open event file.
struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

pub(super) fn prepare(settings: &Settings) -> Result<impl Fn() -> Result<TensorBoard> + use<>> {
    let keys: Keys = settings.decode()?;
    if keys.folder.as_os_str().is_empty() {
        return Err(settings.invalid("folder", "is empty"));
    }
    let folder = settings.path(&keys.folder);
    Ok(move || {
        Ok(TensorBoard {
            folder: folder.clone(),
            open: BTreeMap::new(),
        })
    })
}

/// The values of an event, with the step that they belong to.
struct Scalars {
    folder: String,
    step: u64,
    values: Vec<(String, f64)>,
}

impl TensorBoard {
    fn write(&mut self, scalars: &Scalars, event: &Event) -> Result<()> {
        let Scalars {
            folder,
            step,
            values,
        } = scalars;
        let seconds = event.at as f64 / 1000.0;
        if !self.open.contains_key(folder) {
            while self.open.len() >= OPEN {
                self.open.pop_first();
            }
            let log = Log::create(&self.folder.join(folder), event, seconds)?;
            self.open.insert(folder.clone(), log);
        }
        match self.open.get_mut(folder) {
            Some(log) => log.append(&record::scalars(seconds, *step, values)),
            None => Ok(()),
        }
    }
}

impl Log {
    /// A new file: TensorBoard reads all those of a folder, by their names, one after the
    /// other.
    fn create(folder: &Path, event: &Event, seconds: f64) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::write(folder, &e))?;
        let name = |n: u32| {
            let (seconds, id) = (event.at / 1000, event.id);
            folder.join(format!(
                "events.out.tfevents.{seconds:010}.backpropd.{id}.{n}"
            ))
        };
        let mut options = OpenOptions::new();
        options.append(true).create_new(true);
        let mut n = 0;
        loop {
            let path = name(n);
            match options.open(&path) {
                Ok(file) => {
                    let mut log = Self {
                        path,
                        file,
                        length: 0,
                    };
                    log.append(&record::version(seconds))?;
                    return Ok(log);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => n += 1,
                Err(e) => return Err(Error::write(path, &e)),
            }
        }
    }

    fn append(&mut self, record: &[u8]) -> Result<()> {
        if let Err(e) = self.file.write_all(record) {
            // Half a record would hide all that follow it.
            let _ = self.file.set_len(self.length);
            return Err(Error::write(&self.path, &e));
        }
        self.length += record.len() as u64;
        Ok(())
    }
}

impl EventHandler for TensorBoard {
    fn handle(&mut self, event: &Event) -> Result<()> {
        let scalars = match (event.run, event.kind.as_str()) {
            (Some(run), _) => of_run(event, format!("run-{run}")),
            (None, "gpu_status") => of_gpu(event),
            (None, _) => None,
        };
        let written = scalars.map_or(Ok(()), |scalars| self.write(&scalars, event));
        if let (
            Some(run),
            "run_completed" | "early_stopped" | "stopped" | "aborted" | "run_failed",
        ) = (event.run, event.kind.as_str())
        {
            self.open.remove(&format!("run-{run}"));
        }
        written
    }
}

fn of_run(event: &Event, folder: String) -> Option<Scalars> {
    let (step, values) = match event.fact()? {
        Fact::Step(step) => {
            let mut values = vec![
                ("loss".to_owned(), step.loss),
                ("lr".to_owned(), step.lr),
                ("tokens_per_second".to_owned(), step.tokens_per_second),
            ];
            values.extend(step.sites.iter().flat_map(of_site));
            (step.step, values)
        }
        Fact::Validation(validation) => {
            let values = validation.sites.iter().flat_map(of_validation);
            (validation.step, values.collect())
        }
        _ => return None,
    };
    Scalars::of(folder, step, values)
}

impl Scalars {
    /// What is not known or not finite has no place on a curve.
    fn of(folder: String, step: u64, mut values: Vec<(String, f64)>) -> Option<Self> {
        values.retain(|(_, value)| value.is_finite());
        (!values.is_empty()).then_some(Self {
            folder,
            step,
            values,
        })
    }
}

fn of_site(site: &SiteStep) -> Vec<(String, f64)> {
    let hook = &site.hook;
    let own = [
        ("loss", site.loss),
        ("l0", site.l0),
        ("explained_variance", site.explained_variance),
        ("fvu", site.fvu),
        ("dead", site.dead),
        ("grad_norm", site.grad_norm),
    ];
    let scale = site.loss_scale.map(|scale| ("loss_scale", scale));
    let own = own.into_iter().chain(scale);
    let own = own.map(|(name, value)| (format!("{hook}/{name}"), value));
    let parts = site.parts.iter();
    let parts = parts.map(|(name, value)| (format!("{hook}/parts/{name}"), *value));
    own.chain(parts).collect()
}

fn of_validation(site: &SiteValidation) -> Vec<(String, f64)> {
    let own = [
        ("ce_clean", Some(site.ce_clean)),
        ("ce_sae", Some(site.ce_sae)),
        ("ce_zero", Some(site.ce_zero)),
        ("ce_mean", Some(site.ce_mean)),
        ("ce_recovered", site.ce_recovered),
        ("ce_recovered_mean", site.ce_recovered_mean),
        ("explained_variance", Some(site.explained_variance)),
        ("cosine", Some(site.cosine)),
        ("l0", Some(site.l0)),
        ("dead", Some(site.dead as f64)),
    ];
    let tag = |(name, value): (&str, Option<f64>)| {
        Some((format!("{}/validation/{name}", site.hook), value?))
    };
    own.into_iter().filter_map(tag).collect()
}

fn of_gpu(event: &Event) -> Option<Scalars> {
    let fact = event.gpu_fact()?;
    let status: &GpuStatus = fact.status()?;
    let reading = &status.reading;
    let values = [
        ("temperature_c", reading.temperature_c),
        ("memory_percent", status.memory_percent),
        ("power_draw_w", reading.power_draw_w),
        ("power_percent", status.power_percent),
        ("utilisation_percent", reading.utilisation_percent),
    ];
    let values = values.into_iter();
    let values = values.filter_map(|(name, value)| Some((format!("gpu/{name}"), value?)));
    // There are no steps: seconds take their place.
    let step = u64::try_from(event.at / 1000).unwrap_or(0);
    Scalars::of(format!("gpu-{}", reading.index), step, values.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RunId;
    use serde_json::json;

    fn step(id: u64, step: u64) -> Event {
        let fields = json!({
            "step": step, "steps": 9, "epoch": 1, "tokens": 64, "loss": 0.5, "lr": 0.01,
            "tokens_per_second": 10.0,
            "sites": [{ "hook": "blocks.1.hook_resid_post", "loss": 0.5, "parts": { "mse_loss": 0.5 },
                "l0": 8.0, "explained_variance": null, "fvu": null, "dead": 0.0, "grad_norm": 1.0 }],
        });
        Event::new(
            id,
            Some(RunId(4)),
            Some(id),
            1_764_115_200_500,
            "step",
            fields,
        )
    }

    /// behaviour: ui-11
    #[test]
    fn each_run_and_each_start_has_a_file_of_whole_records() {
        let dir = tempfile::tempdir().unwrap();
        let new = || TensorBoard {
            folder: dir.path().to_owned(),
            open: BTreeMap::new(),
        };
        let mut board = new();
        for n in 1..=3 {
            board.handle(&step(n, n)).unwrap();
        }
        // The same event again, as after a failure.
        new().handle(&step(3, 3)).unwrap();
        let files = fs::read_dir(dir.path().join("run-4")).unwrap();
        let mut counts: Vec<usize> = files
            .map(|file| records(&fs::read(file.unwrap().path()).unwrap()).len())
            .collect();
        counts.sort_unstable();
        assert_eq!(counts, [2, 4], "a version, and a record a step");
        let event = Event::new(
            9,
            Some(RunId(4)),
            None,
            0,
            "aborted",
            json!({ "message": "" }),
        );
        board.handle(&event).unwrap();
        assert!(board.open.is_empty());
    }

    /// The data of all records.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let data = bytes[12..12 + length].to_vec();
            assert!(
                !String::from_utf8_lossy(&data).contains("fvu"),
                "unknown is not 0"
            );
            records.push(data);
            bytes = &bytes[16 + length..];
        }
        records
    }
}
