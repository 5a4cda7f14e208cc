//! Batches that come on a stream of their own.

use super::cuda_double::{emulated, gpu};
use backpropd::device::cuda::Cuda;
use backpropd::device::{Device, Slot};
use backpropd::domain::Result;

const LEN: usize = 300;

fn value(batch: usize, i: usize) -> f32 {
    (batch * LEN + i) as f32
}

fn send(slot: &mut <Cuda as Device>::Slot, batch: usize) -> Result<()> {
    for (i, to) in slot.host()?.iter_mut().enumerate() {
        *to = value(batch, i);
    }
    slot.send()
}

const BATCHES: usize = 7;

/// What work sees of so many batches. Each is sent before work on the one before it is given, and
/// the host waits for nothing but the memory that it fills.
fn seen(device: &Cuda) -> Result<Vec<f32>> {
    let mut slots = [device.slot(LEN)?, device.slot(LEN)?];
    let mut seen = device.zeros(BATCHES * LEN)?;
    send(&mut slots[0], 0)?;
    for batch in 0..BATCHES {
        if batch + 1 < BATCHES {
            send(&mut slots[(batch + 1) % 2], batch + 1)?;
        }
        let slot = &mut slots[batch % 2];
        device.copy(slot.arrived()?, 0, &mut seen, batch * LEN, LEN)?;
        slot.release()?;
    }
    device.download(&seen)
}

fn sent() -> Vec<f32> {
    (0..BATCHES * LEN).map(|i| i as f32).collect()
}

#[test]
fn batches_that_come_while_the_gpu_computes_are_whole_and_in_order() {
    let Some(gpu) = gpu() else {
        return;
    };
    assert_eq!(seen(&gpu.open()).unwrap(), sent());
}

#[test]
fn without_any_one_of_its_waits_a_batch_is_not_what_was_sent() {
    let mut harmless = 0;
    for n in 1.. {
        let Some(gpu) = emulated() else {
            return;
        };
        let device = gpu.open();
        gpu.set("ignore_wait_at", n);
        let right = seen(&device).is_ok_and(|seen| seen == sent());
        if gpu.get("ignore_wait_at") > 0 {
            assert!(right && n > 3 * BATCHES as i64, "{n} waits");
            break;
        }
        harmless += u32::from(right);
    }
    // The host's for memory that nobody has copied from yet.
    assert_eq!(harmless, 2);
}

#[test]
fn a_place_that_goes_while_a_batch_comes_takes_nothing_with_it() {
    let Some(gpu) = emulated() else {
        return;
    };
    let device = gpu.open();
    let mut slot = device.slot(LEN).unwrap();
    send(&mut slot, 0).unwrap();
    drop(slot);
    assert_eq!(gpu.get("sticky"), 0);
    assert_eq!(gpu.get("pinned"), 0);
    device.zeros(1).unwrap();
}

/// What the language model computed goes to memory that is pinned.
#[test]
fn reals_of_the_host_are_read_as_others_are() {
    let Some(gpu) = gpu() else {
        return;
    };
    let device = gpu.open();
    let values: Vec<f32> = (0..LEN).map(|i| value(1, i)).collect();
    let buf = device.upload(&values).unwrap();
    let mut host = device.host(LEN + 1).unwrap();
    assert!(host.iter().all(|v| *v == 0.0));
    device.read(&buf, 3, &mut host[..LEN - 3]).unwrap();
    assert_eq!(host[..LEN - 3], values[3..]);
    assert_eq!(host[LEN - 3..], [0.0; 4]);
}
