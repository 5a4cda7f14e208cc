//! Matrix products with a packed right-hand side: `out = a · wᵀ`.

use super::pool::Pool;

/// A weight matrix [n, k] (rows are outputs), packed once for [`gemm`].
pub struct PackedWeight {
    n: usize,
    k: usize,
    data: Vec<f32>,
}

impl PackedWeight {
    /// Packs `w` [n, k], row-major.
    pub fn new(w: &[f32], n: usize, k: usize) -> Self {
        assert_eq!(w.len(), n * k);
        Self {
            n,
            k,
            data: w.to_vec(),
        }
    }

    /// Outputs of the product.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Length of the inner products.
    pub fn k(&self) -> usize {
        self.k
    }
}

/// `out[m, n] = a[m, k] · wᵀ + bias`, or `out += …` where `accumulate`.
///
/// Every element's sum runs over k in one fixed order, whatever `m`, the number of
/// threads, or the place of the row in the batch.
pub fn gemm(
    pool: &Pool,
    a: &[f32],
    m: usize,
    w: &PackedWeight,
    bias: Option<&[f32]>,
    accumulate: bool,
    out: &mut [f32],
) {
    let (n, k) = (w.n, w.k);
    assert_eq!(a.len(), m * k);
    assert_eq!(out.len(), m * n);
    let _ = pool;
    for i in 0..m {
        for j in 0..n {
            let sum: f32 = (0..k).map(|l| a[i * k + l] * w.data[j * k + l]).sum();
            let value = sum + bias.map_or(0.0, |b| b[j]);
            let place = &mut out[i * n + j];
            *place = if accumulate { *place + value } else { value };
        }
    }
}
