//! Which GPUs this process may use, by the rules of `CUDA_VISIBLE_DEVICES`.

use super::GpuName;

/// The GPUs that a value of `CUDA_VISIBLE_DEVICES` leaves, in its order; all of them
/// without one. An entry is an index or the beginning of a uuid; the first entry that names
/// nothing, or more than one GPU, ends the list, and a GPU that is named twice voids it.
///
/// Indices are those of the driver: CUDA counts as it does only under
/// `CUDA_DEVICE_ORDER=PCI_BUS_ID`. Uuids mean the same everywhere.
pub fn visible_gpus(value: Option<&str>, gpus: &[GpuName]) -> Vec<GpuName> {
    let Some(value) = value else {
        return gpus.to_vec();
    };
    let mut visible: Vec<GpuName> = Vec::new();
    for entry in value.split(',').map(str::trim) {
        let Some(gpu) = named(entry, gpus) else {
            break;
        };
        if visible.contains(gpu) {
            return Vec::new();
        }
        visible.push(gpu.clone());
    }
    visible
}

fn named<'g>(entry: &str, gpus: &'g [GpuName]) -> Option<&'g GpuName> {
    if let Ok(index) = entry.parse::<u32>() {
        return gpus.iter().find(|gpu| gpu.index == index);
    }
    let begins = |gpu: &&GpuName| {
        let uuid = gpu.uuid.as_deref();
        entry.starts_with("GPU-") && uuid.is_some_and(|uuid| uuid.starts_with(entry))
    };
    let mut found = gpus.iter().filter(begins);
    found.next().filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_cuda() {
        let gpus: Vec<GpuName> = ["GPU-aa1", "GPU-ab2", "GPU-b3"]
            .into_iter()
            .zip(0..)
            .map(|(uuid, index)| GpuName {
                index,
                uuid: Some(uuid.to_owned()),
            })
            .collect();
        for (value, expected) in [
            (None, vec![0, 1, 2]),
            (Some(""), vec![]),
            (Some("2,0"), vec![2, 0]),
            (Some(" 1 , 2"), vec![1, 2]),
            (Some("1,-1,2"), vec![1]),
            (Some("0,7,1"), vec![0]),
            (Some("0,0"), vec![]),
            (Some("GPU-b3,GPU-aa"), vec![2, 0]),
            (Some("GPU-a"), vec![]),
            (Some("GPU-b,2"), vec![]),
            (Some("all"), vec![]),
            (Some("MIG-GPU-b3/1/0"), vec![]),
        ] {
            let found: Vec<u32> = visible_gpus(value, &gpus).iter().map(|g| g.index).collect();
            assert_eq!(found, expected, "{value:?}");
        }
    }
}
