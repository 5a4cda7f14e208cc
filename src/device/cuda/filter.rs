//! TopK in f32, for the most part on tensor cores.
//!
//! Factors rounded to bf16 give each pre-activation up to an error that is known for each token and
//! latent. So few latents can be among the k best that these are computed anew, with the bits that
//! the f32 product has: which way a selection is made does not show.

use super::Cuda;
use super::codes::Codes;
use super::encode::Product;
use super::halves::Half;
use super::later::Later;
use super::launch::{Shape, count};
use super::memory::{Memory, Out};
use super::stream::{Best, Lists, first, is_for};
use super::tensor::{Rounded, appending};
use crate::domain::Result;

/// Bytes of shared memory of `filter_exact`: two stages of 32 rows of 36 values, and 32 values of x,
/// for each of eight warps.
const EXACT_SHARED: usize = 8 * 2 * (32 * 36 + 32) * 4;

/// How far the product of each two rows may be off, as two numbers a row; see `reach_of`.
struct Margins {
    /// [tokens, 2].
    x: Memory<f32>,
    /// [d_sae, 2].
    w: Memory<f32>,
}

/// The k best of every token, and later whether they are not: 0, unless more could be among them
/// than there was room for. `None` where this way is not open.
pub fn topk(
    cuda: &Cuda,
    product: &Product<'_>,
    k: usize,
    scale: Option<&Memory<f32>>,
) -> Result<Option<(Codes, Later)>> {
    if !is_for(cuda, product, k) {
        return Ok(None);
    }
    let (tokens, d_sae, first) = (product.x.count, product.d_sae, first(cuda));
    let rounded = Rounded::new(cuda, product, Half::Bf16)?;
    let margins = Margins::new(cuda, product, &rounded)?;
    let mut best = Best::room(cuda, tokens, k)?;
    margins.bounds(cuda, product, &rounded, scale, &mut best, first)?;
    // As many latents as were seen give about twice k that are not far below the bound, or k for
    // each d that is four times as large.
    let mut lists = Lists::new(cuda, tokens, (16 * k).max(256))?;
    let overflow = cuda.later_bits(0, f64::from)?;
    let (mut seen, mut width) = (0, 2 * first);
    while seen < d_sae {
        width = width.min(d_sae - seen);
        let bounds = &best.bounds;
        margins.append(
            cuda,
            product,
            &rounded,
            scale,
            bounds,
            [seen, width],
            &mut lists,
        )?;
        fold(
            cuda,
            &mut lists,
            &mut best,
            overflow.memory().half(overflow.at),
        )?;
        seen += width;
        width = seen;
    }
    exact(cuda, product, scale, &mut lists, &mut best)?;
    Ok(Some((best.codes(cuda, d_sae)?, overflow)))
}

impl Margins {
    fn new(cuda: &Cuda, product: &Product<'_>, rounded: &Rounded) -> Result<Self> {
        let (x, d, d_sae) = (product.x, product.d_in, product.d_sae);
        let center = product.center.map(|center| center.input(0, d));
        let rows = x.buf.input(x.first * d, x.count * d);
        let w = product.w_enc.input(0, d_sae * d);
        let of = |rows, center, near, n, gamma| -> Result<Memory<f32>> {
            let mut out = Memory::new(&cuda.gpu, 2 * n)?;
            let (shape, to) = (Shape::warps(n), out.output(2 * n));
            let [n, d, padded] = [n, d, rounded.k].map(count);
            let panels = u32::from(cuda.wgmma);
            cuda.kernels.margins(
                &cuda.gpu, shape, rows, center, near, to, n, d, padded, panels, gamma,
            )?;
            Ok(out)
        };
        Ok(Self {
            x: of(rows, center, rounded.a(), x.count, gamma(d))?,
            w: of(w, None, rounded.b(0), d_sae, 0.0)?,
        })
    }

    /// Bounds out of the first latents.
    fn bounds(
        &self,
        cuda: &Cuda,
        product: &Product<'_>,
        rounded: &Rounded,
        scale: Option<&Memory<f32>>,
        best: &mut Best,
        first: usize,
    ) -> Result<()> {
        let tokens = best.tokens;
        let mut p = Memory::new(&cuda.gpu, tokens * first)?;
        rounded.product(cuda, product, [0, first], None, &mut p, first)?;
        cuda.kernels.filter_bounds(
            &cuda.gpu,
            Shape::warps(tokens),
            p.input(0, tokens * first),
            scale.map(|scale| scale.input(0, first)),
            self.x.input(0, 2 * tokens),
            self.w.input(0, 2 * first),
            best.bounds.output(tokens),
            count(tokens),
            count(first),
            count(best.k),
        )
    }

    /// Appends what could reach `bounds` to `lists`, of `width` latents from `first`.
    fn append(
        &self,
        cuda: &Cuda,
        product: &Product<'_>,
        rounded: &Rounded,
        scale: Option<&Memory<f32>>,
        bounds: &Memory<f32>,
        [first, width]: [usize; 2],
        lists: &mut Lists,
    ) -> Result<()> {
        let (tokens, rest) = (product.x.count, product.d_sae - first);
        let [a, b] = [rounded.a(), rounded.b(first)];
        let bias = product.b_enc.input(first, rest);
        let scale = scale.map(|scale| scale.input(first, rest));
        let bounds = bounds.input(0, tokens);
        let of_rows = self.x.input(0, 2 * tokens);
        let of_columns = self.w.input(2 * first, 2 * rest);
        let counts = lists.counts.output(tokens);
        let (places, length) = (tokens * lists.length, count(lists.length));
        let (keys, uppers) = (lists.keys.output(places), lists.pres.output(places));
        let [m, n, at] = [tokens, width, first].map(count);
        let (gpu, kernels) = (&cuda.gpu, &cuda.kernels);
        if cuda.wgmma {
            let (shape, k) = (cuda.hopper(tokens, width), count(rounded.depths()));
            kernels.filter_hopper(
                gpu, shape, a, b, bias, scale, bounds, of_rows, of_columns, counts, keys, uppers,
                m, n, k, at, length,
            )
        } else {
            let (shape, k) = (appending(tokens, width), count(rounded.k));
            kernels.filter_bf16(
                gpu, shape, a, b, bias, scale, bounds, of_rows, of_columns, counts, keys, uppers,
                m, n, k, at, length,
            )
        }
    }
}

/// Most of what the sums of a product of `d` add to its error, for factors of length 1.
///
/// Chains of f32 are cut every 256 values, and each addition is off by 2⁻²⁴ at most. Tensor cores
/// add 4 to 16 products at a time to what they have, aligned with the largest of them, and cut off what
/// is below its 24th bit (V100) or 26th (A100; M. Fasi, N. Higham, M. Mikaitis, S. Pranesh, Numerical
/// behavior of NVIDIA tensor cores, 2021), and so for the sum: less than half of 2⁻²³ for each value
/// with two more bits. Eight more additions are those of bias and margins.
fn gamma(d: usize) -> f64 {
    let d = d as f64;
    let (tensor_cores, chains) = (d + 64.0, 256.0 + d / 256.0 + 8.0);
    tensor_cores * f64::from(2.0f32.powi(-23)) + chains * f64::from(2.0f32.powi(-24))
}

/// Bounds out of what was appended, which goes from the lists where it does not reach them.
fn fold(cuda: &Cuda, lists: &mut Lists, best: &mut Best, overflow: Out<'_, u32>) -> Result<()> {
    let (tokens, places) = (best.tokens, best.tokens * lists.length);
    cuda.kernels.filter_fold(
        &cuda.gpu,
        Shape::warps(tokens),
        lists.counts.output(tokens),
        lists.keys.output(places),
        lists.pres.output(places),
        best.bounds.output(tokens),
        overflow,
        count(tokens),
        count(lists.length),
        count(best.k),
    )
}

/// The best of what is on the lists.
fn exact(
    cuda: &Cuda,
    product: &Product<'_>,
    scale: Option<&Memory<f32>>,
    lists: &mut Lists,
    best: &mut Best,
) -> Result<()> {
    let (x, d, d_sae) = (product.x, product.d_in, product.d_sae);
    let (tokens, k, places) = (best.tokens, best.k, best.tokens * lists.length);
    cuda.kernels.filter_exact(
        &cuda.gpu,
        Shape::warps(tokens).shared(EXACT_SHARED),
        x.buf.input(x.first * d, x.count * d),
        product.center.map(|center| center.input(0, d)),
        product.w_enc.input(0, d_sae * d),
        product.b_enc.input(0, d_sae),
        scale.map(|scale| scale.input(0, d_sae)),
        lists.counts.input(0, tokens),
        lists.keys.output(places),
        lists.pres.output(places),
        best.keys.output(tokens * k),
        best.pres.output(tokens * k),
        count(tokens),
        count(d),
        count(lists.length),
        count(k),
    )
}
