//! The encoder's product on tensor cores, out of factors that are rounded to bf16.

use super::Cuda;
use super::encode::Product;
use super::launch::{Shape, count};
use super::memory::{In, Memory};
use super::stream::Lists;
use crate::domain::Result;

/// A tile of the product, and what a block needs of shared memory.
struct Tile {
    m: usize,
    n: usize,
    shared: usize,
}

/// mma.sync: three stages of two panels of 128 rows of 40.
const PORTABLE: Tile = Tile {
    m: 128,
    n: 128,
    shared: 3 * 2 * 128 * 40 * 2,
};
/// wgmma: four stages of 384 rows of 64, and what is needed to begin at a multiple of 1024.
const HOPPER: Tile = Tile {
    m: 128,
    n: 256,
    shared: 4 * 384 * 64 * 2 + 1024,
};

impl Tile {
    fn shape(&self, m: usize, n: usize) -> Shape {
        Shape {
            blocks: [n.div_ceil(self.n), m.div_ceil(self.m)],
            threads: 256,
            shared: self.shared,
        }
    }
}

/// x − center and the encoder in bf16, with rows of a multiple of 8.
pub struct Rounded {
    x: Memory<u16>,
    w: Memory<u16>,
    tokens: usize,
    k: usize,
}

impl Rounded {
    pub fn new(cuda: &Cuda, product: &Product<'_>) -> Result<Self> {
        let (x, d, d_sae) = (product.x, product.d_in, product.d_sae);
        let k = d.next_multiple_of(8);
        let center = product.center.map(|center| center.input(0, d));
        let rows = x.buf.input(x.first * d, x.count * d);
        Ok(Self {
            x: cuda.round_to_bf16(rows, center, x.count, d, k)?,
            w: cuda.round_to_bf16(product.w_enc.input(0, d_sae * d), None, d_sae, d, k)?,
            tokens: x.count,
            k,
        })
    }

    fn factors(&self, row: usize, d_sae: usize) -> [In<'_, u16>; 2] {
        let k = self.k;
        [
            self.x.input(0, self.tokens * k),
            self.w.input(row * k, (d_sae - row) * k),
        ]
    }

    /// p [tokens, columns] = pre-activations of `width` latents from `row`, or of those of `pick`.
    pub fn product(
        &self,
        cuda: &Cuda,
        product: &Product<'_>,
        [row, width]: [usize; 2],
        pick: Option<In<'_, u32>>,
        p: &mut Memory<f32>,
        columns: usize,
    ) -> Result<()> {
        let [a, b] = self.factors(row, product.d_sae);
        let bias = Some(product.b_enc.input(row, product.d_sae - row));
        let c = p.output(self.tokens * columns);
        let [m, n, k, columns] = [self.tokens, width, self.k, columns].map(count);
        let (gpu, kernels) = (&cuda.gpu, &cuda.kernels);
        if cuda.wgmma {
            let shape = HOPPER.shape(self.tokens, width);
            kernels.product_hopper(gpu, shape, a, b, pick, bias, c, m, n, k, columns)
        } else {
            let shape = PORTABLE.shape(self.tokens, width);
            kernels.product_bf16(gpu, shape, a, b, pick, bias, c, m, n, k, columns)
        }
    }

    /// Appends what passes `bounds` to `lists`, of `width` latents from `first`.
    pub fn append(
        &self,
        cuda: &Cuda,
        product: &Product<'_>,
        scale: Option<&Memory<f32>>,
        bounds: &Memory<f32>,
        [first, width]: [usize; 2],
        lists: &mut Lists,
    ) -> Result<()> {
        let rest = product.d_sae - first;
        let [a, b] = self.factors(first, product.d_sae);
        let bias = product.b_enc.input(first, rest);
        let scale = scale.map(|scale| scale.input(first, rest));
        let bounds = bounds.input(0, self.tokens);
        let counts = lists.counts.output(self.tokens);
        let (places, length) = (self.tokens * lists.length, count(lists.length));
        let (keys, pres) = (lists.keys.output(places), lists.pres.output(places));
        let [m, n, k, at] = [self.tokens, width, self.k, first].map(count);
        let (gpu, kernels) = (&cuda.gpu, &cuda.kernels);
        if cuda.wgmma {
            let shape = HOPPER.shape(self.tokens, width);
            kernels.append_hopper(
                gpu, shape, a, b, bias, scale, bounds, counts, keys, pres, m, n, k, at, length,
            )
        } else {
            let shape = PORTABLE.shape(self.tokens, width);
            kernels.append_bf16(
                gpu, shape, a, b, bias, scale, bounds, counts, keys, pres, m, n, k, at, length,
            )
        }
    }
}

impl Cuda {
    /// The rows less `center` as bf16, with 0 behind them up to `padded`.
    fn round_to_bf16(
        &self,
        rows: In<'_, f32>,
        center: Option<In<'_, f32>>,
        n: usize,
        d: usize,
        padded: usize,
    ) -> Result<Memory<u16>> {
        let len = n * padded;
        let mut out = Memory::new(&self.gpu, len)?;
        let (shape, to) = (Shape::warps(n), out.output(len));
        let [n, d, padded] = [n, d, padded].map(count);
        self.kernels
            .round_to_bf16(&self.gpu, shape, rows, center, to, n, d, padded)?;
        Ok(out)
    }
}
