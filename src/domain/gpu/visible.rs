//! Which GPUs this process may use, by the rules of `CUDA_VISIBLE_DEVICES`.

use super::GpuName;

/// What the entries of a value of `CUDA_VISIBLE_DEVICES` name, in its order. The first entry that
/// names nothing, or more than one thing, ends the list, and what is named twice voids it.
///
/// Indices are those of the driver: CUDA counts as it does only under
/// `CUDA_DEVICE_ORDER=PCI_BUS_ID`. Uuids mean the same everywhere.
pub(super) fn in_order<T: PartialEq>(
    value: &str,
    mut name: impl FnMut(&str) -> Option<T>,
) -> Vec<T> {
    let mut visible = Vec::new();
    for entry in value.split(',').map(str::trim) {
        let Some(one) = name(entry) else {
            break;
        };
        if visible.contains(&one) {
            return Vec::new();
        }
        visible.push(one);
    }
    visible
}

/// The GPU that an entry names: by its index, or the beginning of its uuid.
pub(super) fn named<'g>(entry: &str, gpus: &'g [GpuName]) -> Option<&'g GpuName> {
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
            ("", vec![]),
            ("2,0", vec![2, 0]),
            (" 1 , 2", vec![1, 2]),
            ("1,-1,2", vec![1]),
            ("0,7,1", vec![0]),
            ("0,0", vec![]),
            ("GPU-b3,GPU-aa", vec![2, 0]),
            ("GPU-a", vec![]),
            ("GPU-b,2", vec![]),
            ("all", vec![]),
            ("MIG-GPU-b3/1/0", vec![]),
        ] {
            let found: Vec<u32> = in_order(value, |entry| named(entry, &gpus).map(|gpu| gpu.index));
            assert_eq!(found, expected, "{value:?}");
        }
    }
}
