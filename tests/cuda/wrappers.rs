//! Each wrapper of PTX, and each of CUDA's own names that the emulator has a twin of, alone: what it
//! does is computed here, as the PTX ISA and the CUDA programming guide say it. The kernels are in
//! `tests/cuda_double/wrappers.cu`; the emulator runs them, or the GPU that `BACKPROPD_TEST_GPU`
//! names.

use super::cuda_double::gpu;
use backpropd::device::cuda::compile::{Source, arch, compile};
use cudarc::driver::{CudaContext, CudaStream, result, sys};
use cudarc::nvrtc::Ptx;
use half::{bf16, f16};
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::Arc;

const SOURCE: Source = Source {
    name: "wrappers.cu",
    text: include_str!("../cuda_double/wrappers.cu"),
};

/// Orders of threads.
const SCHEDULES: [i64; 3] = [0, 1, 77];

/// The kernels, on a GPU.
pub struct Wrappers {
    module: Arc<cudarc::driver::CudaModule>,
    stream: Arc<CudaStream>,
    warpgroups: bool,
}

impl Wrappers {
    fn new(schedule: i64) -> Option<Self> {
        let gpu = gpu()?;
        gpu.schedule(schedule);
        let context = CudaContext::new(gpu.ordinal).unwrap();
        let (major, minor) = context.compute_capability().unwrap();
        let target = arch(major, minor);
        let (code, _) = compile(&SOURCE, &target, &[]).unwrap();
        Some(Self {
            module: context.load_module(Ptx::from_binary(code)).unwrap(),
            stream: context.new_stream().unwrap(),
            warpgroups: target == "sm_90a",
        })
    }

    /// What a block of `threads` makes of `input`, in `len` words that are 0 before.
    pub fn run(&self, name: &str, threads: u32, input: &[u32], len: usize) -> Vec<u32> {
        let function = self.module.load_function(name).unwrap();
        let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let stream = self.stream.cu_stream();
        let shared = 48 << 10;
        function.set_attribute(most, shared).unwrap();
        let mut out = vec![0u32; len];
        // SAFETY: both buffers are as long as what is copied, and live until all is done.
        unsafe {
            let from = result::malloc_sync((4 * input.len()).max(4)).unwrap();
            let to = result::malloc_sync(4 * len).unwrap();
            result::memcpy_htod_async(from, input, stream).unwrap();
            result::memset_d8_async(to, 0, 4 * len, stream).unwrap();
            let mut arguments = [from, to];
            let mut places =
                [&raw mut arguments[0], &raw mut arguments[1]].map(|at| at.cast::<c_void>());
            result::launch_kernel(
                function.cu_function(),
                (1, 1, 1),
                (threads, 1, 1),
                shared.cast_unsigned(),
                stream,
                &mut places,
            )
            .unwrap();
            result::memcpy_dtoh_async(&mut out, to, stream).unwrap();
            self.stream.synchronize().unwrap();
            result::free_sync(from).unwrap();
            result::free_sync(to).unwrap();
        }
        out
    }
}

/// Runs a check on a GPU, or in each order of threads.
pub fn everywhere(check: fn(&Wrappers)) {
    SCHEDULES
        .into_iter()
        .filter_map(Wrappers::new)
        .for_each(|w| check(&w));
}

/// … where there are warpgroups.
pub fn on_sm_90a(check: fn(&Wrappers)) {
    let all = SCHEDULES.into_iter().filter_map(Wrappers::new);
    all.filter(|w| w.warpgroups).for_each(|w| check(&w));
}

/// Words without a pattern.
pub fn words(len: usize) -> Vec<u32> {
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(*state ^ *state >> 15)
    };
    std::iter::successors(Some(7), |state: &u32| next(&mut state.clone()))
        .skip(1)
        .take(len)
        .collect()
}

#[test]
fn shuffles_take_from_the_lane_that_is_named() {
    everywhere(|gpu| {
        let v = words(32);
        let got = gpu.run("wrap_shuffles", 32, &v, 6 * 32);
        for l in 0..32 {
            let up = |by: usize| if l < by { l } else { l - by };
            let down = if l + 7 > 31 { l } else { l + 7 };
            let expected = [
                v[(l * 7 + 3) % 32],
                v[l ^ 5],
                v[up(3)],
                v[down],
                v[l ^ 16],
                v[up(1)].wrapping_add(30),
            ];
            let got: Vec<u32> = (0..6).map(|kind| got[kind * 32 + l]).collect();
            assert_eq!(got, expected, "lane {l}");
        }
    });
}

#[test]
fn votes_are_of_the_lanes_that_take_part() {
    everywhere(|gpu| {
        let mut v: Vec<u32> = words(32).iter().map(|w| w >> 7 & 3).collect();
        v.extend([v[31], 4]);
        let got = gpu.run("wrap_votes", 32, &v, 4 * 32);
        let mask = |test: &dyn Fn(usize) -> bool, lanes: usize| -> u32 {
            (0..lanes).map(|i| u32::from(test(i)) << i).sum()
        };
        for l in 0..32 {
            let few = if l < 20 {
                mask(&|i| v[i] & 2 != 0, 20)
            } else {
                0
            };
            let expected = [
                mask(&|i| v[i] & 1 != 0, 32),
                mask(&|i| v[i] == v[l], 32),
                1,
                few,
            ];
            let got: Vec<u32> = (0..4).map(|kind| got[kind * 32 + l]).collect();
            assert_eq!(got, expected, "lane {l}");
        }
    });
}

#[test]
fn bits_are_counted_from_the_lowest() {
    everywhere(|gpu| {
        let mut v = words(32);
        (v[0], v[1], v[2]) = (0, 1, 1 << 31);
        let got = gpu.run("wrap_bits", 32, &v, 64);
        let first = |w: &u32| if *w == 0 { 0 } else { w.trailing_zeros() + 1 };
        let ones = v.iter().map(|w| w.count_ones());
        let expected: Vec<u32> = ones.chain(v.iter().map(first)).collect();
        assert_eq!(got, expected);
    });
}

#[test]
fn atomics_lose_nothing_and_compare_without_a_sign() {
    everywhere(|gpu| {
        let v = words(64);
        let got = gpu.run("wrap_atomics", 64, &v, 67);
        let mut expected = vec![64, *v.iter().min().unwrap(), *v.iter().max().unwrap()];
        assert!(expected[2] > i32::MAX as u32);
        expected.resize(67, 1);
        assert_eq!(got, expected);
    });
}

#[test]
fn barriers_show_what_was_written_before() {
    everywhere(|gpu| {
        let v = words(64);
        let got = gpu.run("wrap_barriers", 64, &v, 64);
        let expected: Vec<u32> = (0..64)
            .map(|t: usize| v[(t ^ 32) ^ 31].wrapping_add(1))
            .collect();
        assert_eq!(got, expected);
    });
}

/// Numbers at which rounding, overflow and underflow turn, and others.
fn floats() -> Vec<f32> {
    let mut v = vec![
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
    ];
    // Of f16: halfway, the largest, what becomes infinite, subnormals; of bf16: ties.
    for size in [
        65504.0, 65519.99, 65520.0, 1e6, 5.96e-8, 2.98e-8, 2.981e-8, 8.94e-8, 6.1e-5, 6.103e-5,
    ] {
        v.extend([size, -size]);
    }
    v.extend(
        [
            0x3f80_8000,
            0x3f81_8000,
            0x3f80_8001,
            0x3f80_7fff,
            0x7f7f_8000,
            0x7f7f_7fff,
            0x0000_8001,
            1,
        ]
        .map(f32::from_bits),
    );
    v.extend([
        0.5, 1.0, 10.25, -125.5, -126.0, -126.5, -149.0, 127.9, 128.0, 200.0,
    ]);
    let more = words(256 - v.len());
    v.extend(
        more.iter()
            .map(|w| f32::from_bits(w & 0x83ff_ffff | 0x3c00_0000)),
    );
    v
}

#[test]
fn numbers_are_rounded_to_the_nearest_even_one() {
    everywhere(|gpu| {
        let v = floats();
        let bits: Vec<u32> = v.iter().map(|v| v.to_bits()).collect();
        let got = gpu.run("wrap_numbers", 256, &bits, 3 * 256);
        for (t, x) in v.iter().enumerate() {
            // NaN has one form: all ones but the sign.
            let (half, brain) = match x.is_nan() {
                true => (0x7fff, 0x7fff),
                false => (f16::from_f32(*x).to_bits(), bf16::from_f32(*x).to_bits()),
            };
            assert_eq!(got[t], u32::from(half), "f16 of {x:e}");
            assert_eq!(got[256 + t] & 0xffff, u32::from(brain), "bf16 of {x:e}");
            assert_eq!(
                got[256 + t] >> 16,
                got[256 + (t ^ 1)] & 0xffff,
                "the upper half"
            );
        }
    });
}

#[test]
fn powers_of_two_are_good_to_22_bits_and_have_no_subnormals() {
    everywhere(|gpu| {
        let v = floats();
        let bits: Vec<u32> = v.iter().map(|v| v.to_bits()).collect();
        let got = gpu.run("wrap_numbers", 256, &bits, 3 * 256);
        for (x, got) in v.iter().zip(&got[512..]) {
            let (got, expected) = (f64::from(f32::from_bits(*got)), f64::from(*x).exp2());
            let least = 2f64.powi(-126);
            if x.is_nan() {
                assert!(got.is_nan());
            } else if expected >= 2f64.powi(128) {
                assert_eq!(got, f64::INFINITY, "2^{x}");
            } else if expected < least {
                assert_eq!(got, 0.0, "2^{x}");
            } else {
                assert!(
                    (got / expected - 1.0).abs() < 2f64.powi(-22),
                    "2^{x}: {got}"
                );
            }
        }
    });
}

#[test]
fn all_numbers_of_f16_are_widened() {
    everywhere(|gpu| {
        let got = gpu.run("wrap_from_f16", 256, &[], 65536);
        for (half, got) in (0..=u16::MAX).zip(got) {
            let expected = f16::from_bits(half).to_f32();
            let got = f32::from_bits(got);
            let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
            assert!(same, "{half:04x}: {got}, expected {expected}");
        }
    });
}

/// Names of the functions that a C++ file defines or declares outside of namespaces and macros.
fn functions(text: &'static str) -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    let (mut inside, mut rest) = (false, text.lines());
    for line in &mut rest {
        if line.starts_with("namespace ") {
            inside = true;
        } else if line.starts_with("}  // namespace") {
            inside = false;
        }
        let begins = ["inline ", "template <", "void ", "DEVICE "];
        if inside || !begins.iter().any(|word| line.starts_with(word)) {
            continue;
        }
        let Some((before, _)) = line.split_once('(') else {
            continue;
        };
        names.insert(before.rsplit([' ', '*']).next().unwrap());
    }
    names
}

/// … and those of macros that make wrappers: `MULTIPLY(multiply_f16, "f16")`.
fn made_by_macros(text: &'static str) -> BTreeSet<&'static str> {
    let lines = text.lines().filter(|line| line.starts_with("MULTIPLY"));
    let name = |line: &'static str| {
        line.split_once('(')?
            .1
            .split_once(',')
            .map(|(name, _)| name)
    };
    lines.filter_map(name).collect()
}

#[test]
fn every_wrapper_has_a_twin_and_a_kernel_of_its_own() {
    let tensor = include_str!("../../kernels/tensor.cuh");
    let mut twins = functions(include_str!("../cuda_double/emulator.h"));
    twins.extend(functions(include_str!("../cuda_double/tensor.h")));
    twins.remove("emulated_update");
    let mut wrappers = functions(tensor);
    wrappers.extend(made_by_macros(tensor));
    // Parts of others.
    for part in ["shared_address", "swizzled_tile"] {
        assert!(wrappers.remove(part));
    }
    assert!(
        wrappers.len() > 20 && twins.len() > 40,
        "{wrappers:?} {twins:?}"
    );
    let alone: Vec<_> = wrappers.difference(&twins).collect();
    assert!(alone.is_empty(), "without a twin: {alone:?}");
    let used = |name: &str| {
        let ends = ["(", "<", ")"].map(|end| format!("{name}{end}"));
        ends.iter().any(|call| SOURCE.text.contains(call.as_str()))
    };
    let unused: Vec<_> = twins.iter().filter(|name| !used(name)).collect();
    assert!(
        unused.is_empty(),
        "without a kernel in wrappers.cu: {unused:?}"
    );
}
