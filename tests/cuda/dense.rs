//! Codes as a matrix: the same results as row by row, at shapes that fill no tile.

use super::cuda_double::{Gpu, emulated, gpu};
use super::device_suite::operations::{F32, agree_with_the_reference, bits, compare, everything};
use super::device_suite::{Choice, Shape};
use backpropd::device::cpu::Cpu;
use backpropd::device::cuda::Cuda;
use backpropd::device::reference::Reference;
use backpropd::device::sae::SaeOps;
use backpropd::domain::schedule::StepSettings;
use backpropd::domain::{Amp, Code, Result};
use backpropd::sae::spec::{JumpRelu, Pool, SaeSpec, Sparsity, TopK, Variant};
use backpropd::sae::{Batch, OptimSpec, Outcome, SaeTrainer, Sample};
use std::borrow::Cow;

const ALWAYS: f64 = 0.0;
const NEVER: f64 = f64::INFINITY;
/// Factors in bf16 lose 2⁻⁹ of themselves, and G is rounded again before da is made of it.
const BF16: f64 = 1.0 / 64.0;

/// A device for which all codes are a matrix, in stretches of no more tokens or latents than a tile
/// has.
fn matrix(schedule: i64) -> Option<Cuda> {
    let gpu = gpu()?;
    gpu.schedule(schedule);
    let device = gpu.open().with_stretch(1 << 10).with_dense_from(ALWAYS);
    Some(device.with_large_tiles_from(if schedule > 1 { 1 } else { 132 }))
}

/// Of `latents` every `of`-th but the first.
fn some(latents: u32, of: u32) -> Vec<u32> {
    (1..latents).filter(|j| j % of == 1).collect()
}

/// Choices among some latents: few of them and all of them, one latent, more than a tile has, more
/// tokens than a tile has, rows that move by one column and by four.
fn cases() -> Vec<(Shape, Choice)> {
    let case = |tokens, d, latents, k, among| {
        let shape = Shape { tokens, d, latents };
        (shape, Choice::TopK(k, Some(among)))
    };
    vec![
        case(45, 37, 101, 6, some(101, 3)),
        case(45, 37, 101, 34, some(101, 3)),
        case(7, 5, 9, 1, vec![8]),
        case(150, 12, 620, 40, some(620, 4)),
        case(300, 132, 40, 3, some(40, 2)),
        case(2, 1, 700, 11, some(700, 2)),
    ]
}

fn all_cases_agree(device: &Cuda, most: f64) {
    let oracle = Reference::<f64>::new();
    for (shape, choice) in cases() {
        let expected = everything(&oracle, shape, &choice, shape.latents / 3);
        let got = everything(device, shape, &choice, shape.latents / 3);
        compare(device, &format!("{shape:?}"), &got, &expected, most);
    }
}

#[test]
fn a_matrix_of_chosen_latents_agrees_with_the_reference() {
    for schedule in [0, 77] {
        matrix(schedule)
            .iter()
            .for_each(|device| all_cases_agree(device, F32));
    }
}

#[test]
fn a_matrix_of_all_latents_agrees_with_the_reference() {
    let devices: Vec<Cuda> = [77].into_iter().filter_map(matrix).collect();
    agree_with_the_reference(&devices);
}

#[test]
fn a_matrix_on_tensor_cores_agrees_with_the_reference() {
    let bf16 = |schedule| Some(matrix(schedule)?.with_amp(Amp::Bf16));
    bf16(77)
        .iter()
        .for_each(|device| all_cases_agree(device, BF16));
    let portable = bf16(2).map(Cuda::without_wgmma);
    portable
        .iter()
        .for_each(|device| all_cases_agree(device, BF16));
}

#[test]
fn bits_of_a_matrix_depend_neither_on_the_order_of_blocks_nor_on_stretches() {
    let shape = Shape {
        tokens: 300,
        d: 132,
        latents: 300,
    };
    let choice = Choice::TopK(5, Some(some(300, 2)));
    for amp in [Amp::Off, Amp::Bf16] {
        let runs = [(0, 1 << 10), (77, 1 << 10), (1, 1 << 25)].map(|(schedule, stretch)| {
            let device = matrix(schedule)?.with_amp(amp).with_stretch(stretch);
            Some(bits(everything(&device, shape, &choice, 100)))
        });
        assert!(runs.windows(2).all(|pair| pair[0] == pair[1]), "{amp}");
    }
}

const D: usize = 24;
const TOKENS: usize = 40;

/// AuxK takes `k_aux` of the dead latents.
fn with_auxk(k_aux: usize) -> Variant {
    let mut topk = TopK::new(5.0, Pool::Token);
    topk.aux_coefficient = 1.0;
    topk.k_aux = Some(k_aux);
    Variant::TopK(topk)
}

/// Variants of which half of the latents fire for a token, to begin with.
fn with_bounds() -> [Variant; 3] {
    let jump = JumpRelu::new(Sparsity::Step, 0.01);
    [
        Variant::Standard {
            l1_coefficient: 0.01,
        },
        Variant::JumpRelu(jump),
        Variant::Gated {
            l1_coefficient: 0.01,
        },
    ]
}

/// Every third latent is dead.
fn trainer<T: SaeOps>(device: &T, latents: usize, variant: &Variant) -> Result<SaeTrainer<T>> {
    let (spec, optim) = (SaeSpec::new(latents, variant.clone()), OptimSpec::default());
    let mut trainer = SaeTrainer::new(device, &spec, &optim, D, D, 3, Sample::EMPTY)?;
    let mut state = trainer.state(device)?;
    let counters = state.iter_mut().find(|t| t.name == "since_fired").unwrap();
    let dead = |j| if j % 3 == 1 { u32::MAX } else { 0 };
    let since: Vec<u32> = (0..latents).map(dead).collect();
    counters.bytes = Cow::Owned(bytemuck::cast_slice(&since).to_vec());
    trainer.load_state(device, &state)?;
    Ok(trainer)
}

/// Losses of steps, with their parts.
fn steps<T: SaeOps<Real = f32>>(
    device: &T,
    trainer: &mut SaeTrainer<T>,
    steps: usize,
    micro: usize,
) -> Result<Vec<f64>> {
    let mut losses = Vec::new();
    for step in 0..steps {
        let at = |i: usize| ((i * 7919 + step * 104_729) % 1013) as f32 / 1013.0 - 0.5;
        let x: Vec<f32> = (0..TOKENS * D).map(at).collect();
        let x = device.upload(&x)?;
        let batch = Batch {
            x: &x,
            target: None,
            tokens: TOKENS,
        };
        let settings = StepSettings {
            lr: 1e-3,
            sparsity: 1.0,
            k: None,
        };
        let Outcome::Done(report) = trainer.step(device, &batch, micro, &settings)? else {
            panic!("not finite");
        };
        losses.push(report.loss);
        losses.extend(report.parts.values());
    }
    Ok(losses)
}

/// Kernels that run in a step.
fn kernels(device: &Cuda, latents: usize, variant: &Variant) -> Vec<&'static str> {
    let mut trainer = trainer(device, latents, variant).unwrap();
    device.start_profile();
    steps(device, &mut trainer, 1, TOKENS).unwrap();
    let work = device.take_profile().unwrap().work;
    work.into_iter().map(|work| work.name).collect()
}

/// Of 130 dead latents as many as are a 16th of the pairs in f32, and a 64th in bf16.
#[test]
fn the_share_of_pairs_that_are_edges_decides() {
    let Some(gpu) = gpu() else {
        return;
    };
    for (amp, k_aux, dense) in [
        (Amp::Off, 8, false),
        (Amp::Off, 9, true),
        (Amp::Bf16, 2, false),
        (Amp::Bf16, 3, true),
    ] {
        let ran = kernels(&gpu.open().with_amp(amp), 390, &with_auxk(k_aux));
        assert_eq!(
            ran.contains(&"edges_to_rows"),
            dense,
            "{amp} {k_aux}: {ran:?}"
        );
        // What is not dead is sparse: 5 of 390.
        let gathers = |kernel: &&str| kernel.starts_with("outer_grad");
        assert!(ran.iter().any(gathers), "{ran:?}");
    }
}

#[test]
fn a_matrix_trains_as_row_by_row() {
    let Some(gpu) = gpu() else {
        return;
    };
    // Some of the dead, and fewer than are asked for.
    let auxk = [9, 500].map(with_auxk);
    for variant in auxk.into_iter().chain(with_bounds()) {
        let run = |device: &Cuda, micro| {
            let mut trainer = trainer(device, 96, &variant).unwrap();
            steps(device, &mut trainer, 2, micro).unwrap()
        };
        let cpu = Cpu::new(1);
        let mut on_cpu = trainer(&cpu, 96, &variant).unwrap();
        let expected = steps(&cpu, &mut on_cpu, 2, TOKENS).unwrap();
        let exact = 1e-4;
        for (amp, most, micro) in [
            (Amp::Off, exact, TOKENS),
            (Amp::Off, exact, 16),
            (Amp::Bf16, BF16, 16),
            (Amp::Fp16, BF16, 16),
        ] {
            let open = |from| gpu.open().with_amp(amp).with_dense_from(from);
            let got = run(&open(ALWAYS), micro);
            for (got, expected) in got.iter().zip(&expected) {
                let close = (got - expected).abs() <= most * expected;
                assert!(
                    close,
                    "{variant:?} {amp} {micro}: {got}, expected {expected}"
                );
            }
            let rows = run(&open(NEVER), micro);
            assert_ne!(got, rows, "{variant:?} {amp}: nothing was a matrix");
        }
    }
}

/// … without a sort, and without a row for each edge.
#[test]
fn variants_with_bounds_are_a_matrix_while_half_of_the_latents_fire() {
    let Some(gpu) = gpu() else {
        return;
    };
    for variant in with_bounds() {
        let ran = kernels(&gpu.open(), 96, &variant);
        for kernel in ["edges_to_rows", "rows_to_edges", "count_edges", "put_rows"] {
            assert!(ran.contains(&kernel), "{variant:?}: {ran:?}");
        }
        for kernel in ["radix_scatter", "reconstruct_tiles", "outer_grad"] {
            assert!(!ran.contains(&kernel), "{variant:?}: {ran:?}");
        }
    }
}

#[test]
fn memory_that_runs_out_for_a_matrix_is_a_value_wherever_it_does() {
    let open = |gpu: &Gpu, amp| gpu.open().with_amp(amp).with_dense_from(ALWAYS);
    let [standard, ..] = with_bounds();
    for (amp, variant) in [
        (Amp::Off, with_auxk(9)),
        (Amp::Bf16, with_auxk(9)),
        (Amp::Off, standard),
    ] {
        let Some(gpu) = emulated() else {
            return;
        };
        let device = open(&gpu, amp);
        let step = |trainer: &mut SaeTrainer<Cuda>| steps(&device, trainer, 1, TOKENS);
        let expected = step(&mut trainer(&device, 96, &variant).unwrap()).unwrap();
        let mut failures = 0;
        for n in 1.. {
            let mut trainer = trainer(&device, 96, &variant).unwrap();
            gpu.set("fail_alloc_at", n);
            let run = step(&mut trainer);
            let left = gpu.get("fail_alloc_at");
            gpu.set("fail_alloc_at", 0);
            if left > 0 {
                assert_eq!(run.unwrap(), expected);
                break;
            }
            assert_eq!(run.unwrap_err().code, Code::OutOfMemory, "allocation {n}");
            // What failed can be made again.
            if n % 8 == 0 {
                assert_eq!(step(&mut trainer).unwrap(), expected);
            }
            failures += 1;
        }
        assert!(failures > 40, "{failures}");
        assert_eq!(gpu.get("sticky"), 0);
    }
}
