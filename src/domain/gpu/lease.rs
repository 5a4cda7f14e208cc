//! Which run computes where.

use super::visible::{in_order, named};
use super::{GpuName, GpuStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A GPU, or a part of one, that a run was given for as long as it has a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// The GPU, whose condition counts.
    #[serde(flatten)]
    pub gpu: GpuName,
    /// What CUDA is told: a uuid, or the index of a GPU that tells none.
    pub device: String,
}

/// What the monitor wants of one run, and whether that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stance {
    /// The monitor paused it, and resumes it when the GPU has recovered.
    Paused,
    /// A person resumed it before that: it is not paused again until the GPU has recovered.
    Overruled,
    /// An emergency ends it: it saves first.
    Ending,
}

/// Why a run waits or ends though nobody asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuHold {
    /// Whose recovery is waited for.
    #[serde(flatten)]
    pub gpu: GpuName,
    /// What was decided.
    pub stance: Stance,
    /// One line, with the value and its limit.
    pub reason: String,
}

impl GpuName {
    /// Whether both are one GPU. Indices are given anew at each boot, so they count only
    /// where a uuid is missing.
    pub fn is(&self, other: &GpuName) -> bool {
        match (&self.uuid, &other.uuid) {
            (Some(a), Some(b)) => a == b,
            _ => self.index == other.index,
        }
    }
}

/// What runs can be given of `gpus`, by `allowed` as `CUDA_VISIBLE_DEVICES` says it. A GPU
/// that is divided (MIG) gives its instances, each of which can also be named alone, by its uuid or
/// how that begins.
pub fn leasable(gpus: &[GpuStatus], allowed: Option<&str>) -> Vec<Lease> {
    let names: Vec<GpuName> = gpus.iter().map(|gpu| GpuName::from(&gpu.reading)).collect();
    let of = |gpu: &GpuStatus| -> Vec<Lease> {
        let name = GpuName::from(&gpu.reading);
        let devices = match gpu.reading.mig.as_deref() {
            Some(parts) => parts.iter().filter_map(|part| part.uuid.clone()).collect(),
            None => vec![name.uuid.clone().unwrap_or_else(|| name.index.to_string())],
        };
        let lease = |device| Lease {
            gpu: name.clone(),
            device,
        };
        devices.into_iter().map(lease).collect()
    };
    let all: Vec<Vec<Lease>> = gpus.iter().map(of).collect();
    let Some(value) = allowed else {
        return all.concat();
    };
    let instance = |entry: &str| {
        let mut found = all.iter().flatten();
        let begins = |lease: &&Lease| entry.starts_with("MIG-") && lease.device.starts_with(entry);
        let one = found.find(begins)?;
        found.find(begins).is_none().then(|| vec![one.clone()])
    };
    let whole = |entry: &str| {
        let gpu = named(entry, &names)?;
        all.iter()
            .find(|leases| leases.iter().any(|lease| lease.gpu == *gpu))
            .cloned()
    };
    in_order(value, |entry| instance(entry).or_else(|| whole(entry))).concat()
}

/// Places for further runs on `devices` of which `taken` are, `each` at once: those on the
/// least busy device first.
pub fn free_places(devices: &[Lease], taken: &[Lease], each: usize) -> Vec<Lease> {
    let busy = |device: &Lease| taken.iter().filter(|t| t.device == device.device).count();
    (0..each)
        .flat_map(|level| devices.iter().filter(move |device| busy(device) <= level))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{MigInstance, Reading};
    use super::*;

    fn gpu(index: u32, mig: Option<Vec<MigInstance>>) -> GpuStatus {
        GpuStatus {
            reading: Reading {
                index,
                uuid: (index != 2).then(|| format!("GPU-{index}")),
                mig,
                ..Reading::default()
            },
            ..GpuStatus::default()
        }
    }

    fn devices(leases: &[Lease]) -> Vec<&str> {
        leases.iter().map(|lease| lease.device.as_str()).collect()
    }

    #[test]
    fn gpus_are_leased_by_uuid_and_divided_ones_by_their_instances() {
        let instance = |uuid: Option<&str>| MigInstance {
            uuid: uuid.map(str::to_owned),
            ..MigInstance::default()
        };
        let parts = vec![instance(Some("MIG-a")), instance(None)];
        let gpus = [gpu(0, None), gpu(1, Some(parts)), gpu(2, None)];
        assert_eq!(devices(&leasable(&gpus, None)), ["GPU-0", "MIG-a", "2"]);
        assert_eq!(devices(&leasable(&gpus, Some("2,GPU-0"))), ["2", "GPU-0"]);
        assert_eq!(devices(&leasable(&gpus, Some(""))), [""; 0]);
        assert_eq!(devices(&leasable(&gpus, Some("2,MIG-a"))), ["2", "MIG-a"]);
        assert_eq!(leasable(&gpus, Some("MIG-a"))[0].gpu.index, 1);
        assert_eq!(devices(&leasable(&gpus, Some("0,MIG-b,2"))), ["GPU-0"]);
        assert_eq!(leasable(&gpus, None)[1].gpu.index, 1);
    }

    #[test]
    fn the_least_busy_device_is_next_and_none_takes_more_than_its_share() {
        let all = leasable(&[gpu(0, None), gpu(1, None)], None);
        let taken = [all[0].clone()];
        assert_eq!(devices(&free_places(&all, &taken, 1)), ["GPU-1"]);
        assert_eq!(
            devices(&free_places(&all, &taken, 2)),
            ["GPU-1", "GPU-0", "GPU-1"]
        );
        assert_eq!(free_places(&all, &all, 1), []);
        assert_eq!(
            free_places(&[], &all, 1),
            [],
            "one that is gone is no place"
        );
    }

    #[test]
    fn a_gpu_is_known_by_its_uuid_and_by_its_index_without_one() {
        let name = |index, uuid: Option<&str>| GpuName {
            index,
            uuid: uuid.map(str::to_owned),
        };
        assert!(name(0, Some("GPU-a")).is(&name(1, Some("GPU-a"))));
        assert!(!name(0, Some("GPU-a")).is(&name(0, Some("GPU-b"))));
        assert!(name(0, None).is(&name(0, Some("GPU-b"))));
    }
}
