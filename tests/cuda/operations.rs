//! Every operation and every selection, whatever the order in which threads and blocks run.

use super::cuda_double::gpu;
use super::device_suite::operations::{agree_with_the_reference, bits, dense, everything};
use super::device_suite::selections;
use super::device_suite::{Choice, Shape};
use backpropd::device::cuda::Cuda;

/// Orders of threads and blocks: ascending, descending, shuffled.
const SCHEDULES: [i64; 4] = [0, 1, 2, 77];

/// A device that runs in this order, and holds so few pre-activations at a time that shapes of
/// tests need several stretches.
fn scheduled(schedule: i64) -> Option<Cuda> {
    let gpu = gpu()?;
    gpu.set("schedule", schedule);
    Some(gpu.open().with_stretch(1 << 14))
}

#[test]
fn every_operation_agrees_with_the_f64_reference() {
    let devices: Vec<Cuda> = SCHEDULES.into_iter().filter_map(scheduled).collect();
    agree_with_the_reference(&devices);
}

#[test]
fn selections_agree_with_a_sort_on_keys_that_are_often_equal() {
    let few: Vec<Cuda> = [1, 77].into_iter().filter_map(scheduled).collect();
    selections::agree_with_a_sort(&few);
    let one: Vec<Cuda> = gpu().map(|gpu| gpu.open()).into_iter().collect();
    selections::agree_with_a_sort(&one);
}

#[test]
fn nan_is_the_last_choice_of_topk_and_none_of_the_others() {
    scheduled(0)
        .iter()
        .for_each(selections::nan_is_the_last_choice);
}

#[test]
fn a_later_latent_of_an_earlier_token_wins_a_tie_of_the_whole_batch() {
    scheduled(1)
        .iter()
        .for_each(selections::the_earlier_token_wins_a_tie);
}

#[test]
fn bits_do_not_depend_on_the_order_of_blocks() {
    let shape = Shape {
        tokens: 130,
        d: 37,
        latents: 301,
    };
    for choice in [Choice::TopK(5, None), Choice::Above, Choice::Batch(400)] {
        let run = |device: Cuda| bits(everything(&device, shape, &choice, 100));
        let results: Vec<_> = SCHEDULES
            .into_iter()
            .filter_map(scheduled)
            .map(run)
            .collect();
        assert!(
            results.windows(2).all(|pair| pair[0] == pair[1]),
            "{choice:?}"
        );
    }
    let run = |device: Cuda| bits(dense(&device, 4000, 65));
    let results: Vec<_> = SCHEDULES
        .into_iter()
        .filter_map(scheduled)
        .map(run)
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}
