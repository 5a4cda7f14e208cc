//! TopK in f32 out of products in bf16: its codes have the bits that the f32 product gives, whatever
//! rounding does.

use super::cuda_double::{Gpu, emulated, gpu};
use super::device_suite::fine;
use backpropd::device::Device;
use backpropd::device::cuda::Cuda;
use backpropd::device::sae::{Encode, Pick, Rows, SaeOps, Select};

/// An encoder, and rows for it.
struct Case {
    tokens: usize,
    d: usize,
    x: Vec<f32>,
    center: Option<Vec<f32>>,
    w: Vec<f32>,
    bias: Vec<f32>,
    scale: Option<Vec<f32>>,
}

fn floats(len: usize, seed: u32) -> Vec<f32> {
    fine(len, seed).iter().map(|v| *v as f32).collect()
}

impl Case {
    fn random(tokens: usize, d: usize, latents: usize) -> Self {
        Self {
            tokens,
            d,
            x: floats(tokens * d, 1),
            center: None,
            w: floats(latents * d, 2),
            bias: vec![0.0; latents],
            scale: None,
        }
    }

    fn centred(mut self) -> Self {
        self.center = Some(floats(self.d, 3));
        self.bias = floats(self.bias.len(), 4);
        self
    }

    /// Rows of the encoder of very different lengths, and keys with a factor.
    fn skewed(mut self) -> Self {
        let lengths = floats(self.bias.len(), 5);
        for (row, length) in self.w.chunks_mut(self.d).zip(&lengths) {
            row.iter_mut().for_each(|w| *w *= (4.0 * length).exp());
        }
        let scale = lengths.iter().map(|length| (-4.0 * length).exp());
        self.scale = Some(scale.collect());
        self
    }

    /// What the k best are, as bits, and how often each of these kernels ran.
    fn codes(&self, device: &Cuda, k: usize, alone: bool) -> (Codes, [u64; 2]) {
        let up = |values: &Vec<f32>| device.upload(values).unwrap();
        let [x, w_enc, b_enc] = [&self.x, &self.w, &self.bias].map(up);
        let [center, scale] = [&self.center, &self.scale].map(|values| values.as_ref().map(up));
        let product = Encode {
            x: Rows::of(&x, self.tokens),
            center: center.as_ref(),
            w_enc: &w_enc,
            b_enc: &b_enc,
            d_in: self.d,
            d_sae: self.bias.len(),
            rounded: true,
        };
        // Two selections share pre-activations that are written.
        let mut codes = [device.new_codes(), device.new_codes()];
        let mut picks: Vec<_> = codes
            .iter_mut()
            .take(if alone { 1 } else { 2 })
            .map(|codes| Pick {
                select: Select::TopK {
                    k,
                    scale: scale.as_ref(),
                    among: None,
                },
                codes,
            })
            .collect();
        device.start_profile();
        device.encode(&product, &mut picks).unwrap();
        let profile = device.take_profile().unwrap();
        let launches = ["filter_exact", "product_nt"].map(|name| {
            let mut named = profile.work.iter().filter(|work| work.name == name);
            named.next().map_or(0, |work| work.launches)
        });
        let host = device.download_codes(&codes[0]).unwrap();
        let bits = |p: &f32| if p.is_nan() { u32::MAX } else { p.to_bits() };
        let pres = host.pre.iter().map(bits).collect();
        ((host.row_ptr, host.latent, pres), launches)
    }
}

/// Where rows begin, latents, and bits of pre-activations.
type Codes = (Vec<u32>, Vec<u32>, Vec<u32>);

/// Bounds out of few latents, so that there are others; with and without warpgroups.
fn devices() -> Vec<Cuda> {
    let device = |schedule| {
        let gpu = gpu()?;
        gpu.schedule(schedule);
        Some(gpu.open().with_first(64))
    };
    [device(0), device(77).map(Cuda::without_wgmma)]
        .into_iter()
        .flatten()
        .collect()
}

/// The filter gives the bits of the product, by itself (`enough`) or because it is told to look at
/// all again.
fn does_not_show(what: &str, case: &Case, k: usize, enough: bool) {
    for device in devices() {
        let (expected, [filtered, _]) = case.codes(&device, k, false);
        assert_eq!(filtered, 0);
        let (got, [filtered, written]) = case.codes(&device, k, true);
        assert_eq!((filtered, written == 0), (1, enough), "{what}, k {k}");
        assert_eq!(got.0, expected.0, "{what}, k {k}");
        let mut rows = got.1.chunks(k).zip(expected.1.chunks(k));
        let other = rows.position(|(got, expected)| got != expected);
        assert_eq!(other, None, "{what}, k {k}: latents of a token");
        assert!(got.2 == expected.2, "{what}, k {k}: pre-activations");
    }
}

#[test]
fn the_filter_does_not_show() {
    // Shapes that fill no tile, rows that move by one column and by four.
    let case = Case::random(130, 37, 1000).centred();
    does_not_show("rows of 37", &case, 9, true);
    let case = Case::random(30, 300, 1111).centred().skewed();
    does_not_show("skewed", &case, 5, true);
    let case = Case::random(20, 1100, 600).skewed();
    does_not_show("rows of 1100", &case, 1, true);
    does_not_show("many of a token", &Case::random(3, 64, 2500), 32, true);
}

/// Rounding of one factor moves products as far as it can, which is by what margins say: those of
/// the best latents down, or those of others up. Between best and others are three tenths of that.
#[test]
fn what_rounding_hides_is_found() {
    for (of_x, down) in [(true, true), (true, false), (false, true), (false, false)] {
        let case = hidden(of_x, down);
        does_not_show(&format!("{of_x} {down}"), &case, BEST, true);
    }
}

const BEST: usize = 7;

fn hidden(of_x: bool, down: bool) -> Case {
    const D: usize = 66;
    const LATENTS: usize = 900;
    let bf16 = |v: f32| half::bf16::from_f32(v).to_f32();
    let mut case = Case::random(20, D, LATENTS);
    let far = 0.99 / 256.0;
    // Which bf16 has as 1, or as the number behind it.
    let odd = if down {
        1.0 + far
    } else {
        1.0 + 1.0 / 128.0 - far
    };
    // The first two columns are of latents that rounding does not move, the others of those it does.
    let (of_plain, of_moved) = if of_x { (32.0, odd) } else { (1.0, 1.0) };
    let x = |i: usize| if i % D < 2 { of_plain } else { of_moved };
    case.x = (0..case.x.len()).map(x).collect();
    let moved = |c: usize| match c {
        0 | 1 => 0.0,
        _ if of_x => 1.0,
        _ => odd,
    };
    let apart = 0.3 * far * if down { -1.0 } else { 1.0 };
    let whole = 64.0 * (odd + apart) / of_plain;
    let plain = |c: usize| match c {
        0 => bf16(whole),
        1 => bf16(whole - bf16(whole)),
        _ => 0.0,
    };
    let row = |j: usize, c: usize| match j {
        // The best come last.
        _ if j >= LATENTS - BEST => [plain(c), moved(c)][usize::from(down)],
        _ if j.is_multiple_of(10) => [moved(c), plain(c)][usize::from(down)],
        _ => 0.0,
    };
    case.w = (0..LATENTS * D).map(|i| row(i / D, i % D)).collect();
    case
}

/// The same values in other orders: sums differ by their rounding alone, and by that they are
/// ordered.
#[test]
fn what_the_order_of_sums_hides_is_found() {
    const D: usize = 300;
    const LATENTS: usize = 900;
    let mut case = Case::random(20, D, LATENTS);
    case.x.fill(1.0);
    // Values that bf16 has, and f32 not all sums of.
    let value =
        |(c, v): (usize, &f32)| half::bf16::from_f32(v.abs()).to_f32() / (1 << (c % 20)) as f32;
    let values: Vec<f32> = floats(D, 7).iter().enumerate().map(value).collect();
    let part = |j: usize, c: usize| match j % 20 {
        0 => values[(c + j / 20 * 7) % D],
        _ => 0.0,
    };
    case.w = (0..LATENTS * D).map(|i| part(i / D, i % D)).collect();
    if let Some(device) = devices().pop() {
        let (_, _, mut sums) = case.codes(&device, 40, false).0;
        sums.dedup();
        assert!(sums.len() > 1, "sums do not differ");
    }
    does_not_show("orders", &case, 3, true);
}

/// More could be among the best than there is room for.
#[test]
fn where_too_many_could_be_the_best_all_are_looked_at() {
    let mut case = Case::random(50, 40, 1000);
    // Of a few of the tokens.
    case.x[40 * 13..40 * 15].fill(0.0);
    does_not_show("ties", &case, 4, false);
    case.w = (0..1000 * 40)
        .map(|i| 1.0 + (i / 40) as f32 / 1e5)
        .collect();
    case.x.fill(1.0);
    does_not_show("nearly equal", &case, 4, false);
}

#[test]
fn what_is_no_number_or_hardly_one_is_chosen_as_the_product_has_it() {
    // In rows of the encoder, which all tokens see.
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38, -3e38] {
        let mut case = Case::random(30, 24, 700);
        (case.w[3], case.w[24 * 500 + 3]) = (value, value);
        does_not_show("in the encoder", &case, 5, true);
    }
    // In a token: all of its keys are such.
    for value in [f32::NAN, f32::INFINITY, 1e38] {
        let mut case = Case::random(30, 24, 1000);
        case.x[24 * 7 + 1] = value;
        does_not_show("in a token", &case, 5, false);
    }
    // Sums of numbers that f32 hardly has, alone and beside a bias.
    let mut case = Case::random(30, 24, 1000);
    case.x.iter_mut().for_each(|v| *v *= 1e-25);
    case.w.iter_mut().for_each(|v| *v *= 1e-19);
    does_not_show("tiny", &case, 5, false);
    case.bias = floats(1000, 9);
    does_not_show("tiny beside a bias", &case, 5, true);
}

#[test]
fn without_memory_for_the_filter_the_product_is_written() {
    let Some(gpu) = emulated() else {
        return;
    };
    let case = Case::random(100, 24, 1000);
    let device = open(&gpu);
    let (expected, launches) = case.codes(&device, 5, true);
    assert_eq!(launches, [1, 0]);
    // The lists alone have 200 KiB of keys.
    gpu.set("fail_alloc_above", 150 << 10);
    let (got, [filtered, written]) = case.codes(&device, 5, true);
    gpu.set("fail_alloc_above", -1);
    assert!(filtered == 0 && written > 0);
    assert!(got == expected);
}

fn open(gpu: &Gpu) -> Cuda {
    gpu.open().with_first(64).with_stretch(1 << 14)
}
