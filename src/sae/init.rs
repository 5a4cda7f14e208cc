//! Where an SAE starts from.

use super::params::{Dims, Name};
use super::spec::{BiasInit, Normalize, SaeSpec, Variant};
use crate::device::Real;
use crate::domain::random::Stream;

/// The first activations of a run, on the host, row-major; may be empty.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a, R> {
    /// Activations [n, d_in].
    pub x: &'a [R],
    /// What a transcoder reconstructs [n, d_out].
    pub target: Option<&'a [R]>,
}

impl<R> Sample<'_, R> {
    /// No activations: factors are 1, and b_dec is 0.
    pub const EMPTY: Self = Self {
        x: &[],
        target: None,
    };
}

/// Start value of a parameter. `target` are the first activations to be reconstructed, and
/// `scale` their factor in training.
pub fn start<R: Real>(
    spec: &SaeSpec,
    dims: Dims,
    seed: u64,
    name: Name,
    target: &[R],
    scale: f64,
) -> Vec<R> {
    let constant = |value: f64| vec![R::from_f64(value); dims.len(name)];
    match name {
        Name::WDec => directions(Stream::new(seed, "w_dec"), dims.d_out, dims, spec),
        // An encoder that is the decoder's transpose; a transcoder's input and output are
        // different spaces.
        Name::WEnc if spec.target.is_none() => {
            directions(Stream::new(seed, "w_dec"), dims.d_in, dims, spec)
        }
        Name::WEnc => directions(Stream::new(seed, "w_enc"), dims.d_in, dims, spec),
        Name::BDec => {
            let row = match spec.b_dec {
                BiasInit::Mean => mean(target, dims.d_out),
                BiasInit::GeometricMedian => geometric_median(target, dims.d_out),
                BiasInit::Zeros => vec![0.0; dims.d_out],
            };
            row.into_iter().map(|v| R::from_f64(v * scale)).collect()
        }
        Name::Threshold => constant(match &spec.variant {
            Variant::JumpRelu(jump) => jump.init_threshold,
            _ => 0.0,
        }),
        Name::BEnc | Name::RMag | Name::BMag | Name::WSkip => constant(0.0),
    }
}

/// Rows of length `decoder_norm`, uniform in the cube before that, as Kaiming's uniform
/// initialisation draws them.
fn directions<R: Real>(stream: Stream, d: usize, dims: Dims, spec: &SaeSpec) -> Vec<R> {
    let mut values = Vec::with_capacity(dims.d_sae * d);
    for j in 0..dims.d_sae as u64 {
        let row = (0..d as u64).map(|c| 2.0 * stream.uniform(j * d as u64 + c) - 1.0);
        let norm = row.clone().map(|v| v * v).sum::<f64>().sqrt();
        let scale = spec.decoder_norm / norm.max(f64::MIN_POSITIVE);
        values.extend(row.map(|v| R::from_f64(v * scale)));
    }
    values
}

/// The factor that `normalize` asks for, from rows of width `d`; 1 where there are none.
pub fn factor<R: Real>(normalize: Normalize, rows: &[R], d: usize) -> f64 {
    let count = (rows.len() / d) as f64;
    let squares = rows
        .chunks_exact(d)
        .map(|row| row.iter().map(|v| v.to_f64().powi(2)).sum::<f64>());
    let factor = match normalize {
        Normalize::None => 1.0,
        Normalize::MeanNorm => (d as f64).sqrt() * count / squares.map(f64::sqrt).sum::<f64>(),
        Normalize::MeanSquare => (count / squares.sum::<f64>()).sqrt(),
    };
    // No rows, only zeros, or something that the first step will report as not finite.
    if factor.is_finite() && factor > 0.0 {
        factor
    } else {
        1.0
    }
}

/// Mean row.
pub fn mean<R: Real>(rows: &[R], d: usize) -> Vec<f64> {
    let count = (rows.len() / d).max(1) as f64;
    let mut mean = vec![0.0; d];
    for row in rows.chunks_exact(d) {
        for (sum, v) in mean.iter_mut().zip(row) {
            *sum += v.to_f64() / count;
        }
    }
    mean
}

/// The point with the least sum of distances to the rows, by Weiszfeld's iteration.
pub fn geometric_median<R: Real>(rows: &[R], d: usize) -> Vec<f64> {
    const ITERATIONS: usize = 50;
    let mut centre = mean(rows, d);
    for _ in 0..ITERATIONS {
        let (mut next, mut weights) = (vec![0.0; d], 0.0);
        for row in rows.chunks_exact(d) {
            let squares = row
                .iter()
                .zip(&centre)
                .map(|(v, c)| (v.to_f64() - c).powi(2));
            let weight = 1.0 / squares.sum::<f64>().sqrt().max(1e-12);
            weights += weight;
            for (sum, v) in next.iter_mut().zip(row) {
                *sum += weight * v.to_f64();
            }
        }
        if weights == 0.0 {
            break;
        }
        let (mut moved, mut length) = (0.0, 0.0);
        for (c, sum) in centre.iter_mut().zip(&next) {
            let new = sum / weights;
            moved += (new - *c).powi(2);
            length += new * new;
            *c = new;
        }
        if moved <= 1e-12 * length {
            break;
        }
    }
    centre
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::spec::{Pool, TopK};

    #[test]
    fn the_median_ignores_an_outlier_that_moves_the_mean() {
        let mut rows = Vec::new();
        for i in 0..20 {
            rows.extend([1.0 + 0.01 * f64::from(i), -2.0]);
        }
        rows.extend([1e6, 1e6]);
        let median = geometric_median(&rows, 2);
        assert!((median[0] - 1.1).abs() < 0.1, "{median:?}");
        assert!((median[1] + 2.0).abs() < 0.1, "{median:?}");
        assert!(mean(&rows, 2)[0] > 1e4);
    }

    #[test]
    fn factors_reach_what_they_are_named_after() {
        let rows: Vec<f32> = (0..300u16).map(|i| f32::from(i % 7) - 2.0).collect();
        let norms = |scale: f64| -> Vec<f64> {
            let norm = |row: &[f32]| {
                let squares = row.iter().map(|v| (f64::from(*v) * scale).powi(2));
                squares.sum::<f64>().sqrt()
            };
            rows.chunks_exact(3).map(norm).collect()
        };
        let by_norm = norms(factor(Normalize::MeanNorm, &rows, 3));
        assert!((by_norm.iter().sum::<f64>() / 100.0 - 3f64.sqrt()).abs() < 1e-9);
        let by_square = norms(factor(Normalize::MeanSquare, &rows, 3));
        assert!((by_square.iter().map(|n| n * n).sum::<f64>() / 100.0 - 1.0).abs() < 1e-9);
        assert_eq!(factor::<f32>(Normalize::MeanNorm, &[], 3), 1.0);
        assert_eq!(factor(Normalize::MeanNorm, &[0.0f32; 3], 3), 1.0);
    }

    #[test]
    fn encoder_is_the_tied_decoder_with_rows_of_the_asked_length() {
        let mut spec = SaeSpec::new(6, Variant::TopK(TopK::new(2.0, Pool::Token)));
        spec.decoder_norm = 0.25;
        let dims = Dims {
            d_in: 5,
            d_out: 5,
            d_sae: 6,
        };
        let w = |name, seed| start::<f64>(&spec, dims, seed, name, &[], 1.0);
        assert_eq!(w(Name::WEnc, 1), w(Name::WDec, 1));
        assert_ne!(w(Name::WDec, 1), w(Name::WDec, 2));
        for row in w(Name::WDec, 1).chunks_exact(5) {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            assert!((norm - 0.25).abs() < 1e-12);
        }
    }
}
