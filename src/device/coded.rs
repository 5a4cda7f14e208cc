//! Weight matrices in fewer than 32 bits a weight.
//!
//! A row is coded by itself, in groups of its inputs. Backends decode rows, or parts of
//! them, where they are used.

use crate::domain::{Code, Error, Precision, Result};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Parts of rows begin at multiples of this, so that they cut no group and no byte.
const SPAN: usize = 64;

/// A matrix [n, k] in codes.
pub struct Coded {
    n: usize,
    k: usize,
    /// See [`Precision::group`].
    group: usize,
    codes: Codes,
}

enum Codes {
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    /// The codes and, for each row, the scales of its groups.
    Int8(Vec<i8>, Vec<f32>),
    /// Two codes a byte, less 8, the lower half first; rows begin at bytes.
    Int4(Vec<u8>, Vec<f32>),
}

/// What a matrix is held in, for devices that decode by themselves.
pub enum Bits<'a> {
    /// [n, k].
    Bf16(&'a [u16]),
    /// [n, k].
    F16(&'a [u16]),
    /// Two's complement [n, k], and the scales of each row's groups.
    Int8(&'a [u8], &'a [f32]),
    /// Two codes a byte, less 8, the lower half first, rows of ⌈k/2⌉ bytes; and the scales.
    Int4(&'a [u8], &'a [f32]),
}

/// Room for `len` values, or `out-of-memory`.
fn room<T>(len: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(len).map_err(|_| {
        let message = format!("{} bytes are not to be had", len * size_of::<T>());
        Error::new(Code::OutOfMemory, "weights of the language model", message)
    })?;
    Ok(room)
}

impl Coded {
    /// Codes `w` [n, k], row-major. None for [`Precision::F32`], which needs no codes.
    ///
    /// Where every value is finite, a decoded value differs from its own by at most 2⁻⁸
    /// (bf16) or 2⁻¹¹ (f16, from 2⁻¹⁴ on) of it, or by half a step of its group: the group's
    /// absolute maximum / 254 (int8) or / 14 (int4).
    ///
    /// # Errors
    /// `out-of-memory`; `model-unsupported` for a value beyond f16.
    pub fn new(w: &[f32], k: usize, precision: Precision) -> Result<Option<Self>> {
        let n = w.len().checked_div(k).unwrap_or(0);
        assert_eq!(w.len(), n * k);
        let group = precision.group().unwrap_or(k.max(1));
        let codes = match precision {
            Precision::F32 => return Ok(None),
            Precision::Bf16 => {
                let mut codes = room(w.len())?;
                codes.extend(w.iter().map(|v| bf16::from_f32(*v)));
                Codes::Bf16(codes)
            }
            Precision::F16 => {
                let mut codes = room(w.len())?;
                codes.extend(w.iter().map(|v| f16::from_f32(*v)));
                if let Some(at) = codes.iter().position(|v: &f16| !v.is_finite()) {
                    let message = format!("the weight {} does not fit f16", w[at]);
                    return Err(
                        Error::new(Code::ModelUnsupported, "model.precision", message)
                            .hint("choose bf16"),
                    );
                }
                Codes::F16(codes)
            }
            Precision::Int8 | Precision::Int4 => Self::integers(w, k, group, precision)?,
        };
        Ok(Some(Self { n, k, group, codes }))
    }

    fn integers(w: &[f32], k: usize, group: usize, precision: Precision) -> Result<Codes> {
        let n = w.len() / k.max(1);
        let mut scales = room(n * k.div_ceil(group))?;
        let most = if precision == Precision::Int8 {
            127.0
        } else {
            7.0
        };
        // A scale below the smallest normal number has no inverse: its group is zero.
        let step = |group: &[f32]| {
            let largest = group.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            let scale = largest / most;
            if scale.is_normal() { scale } else { 0.0 }
        };
        let code = |v: f32, scale: f32| match scale {
            0.0 => 0,
            scale => (v / scale).round_ties_even().clamp(-most, most) as i8,
        };
        let rows = w.chunks_exact(k.max(1));
        if precision == Precision::Int8 {
            let mut codes = room(w.len())?;
            for group in rows.flat_map(|row| row.chunks(group)) {
                let scale = step(group);
                scales.push(scale);
                codes.extend(group.iter().map(|v| code(*v, scale)));
            }
            return Ok(Codes::Int8(codes, scales));
        }
        let mut codes = room(n * k.div_ceil(2))?;
        for group in rows.flat_map(|row| row.chunks(group)) {
            let scale = step(group);
            scales.push(scale);
            let half = |v: f32| (code(v, scale) + 8) as u8;
            // Groups are even: only the last one of a row can end within a byte.
            let pairs = group.chunks(2);
            codes.extend(pairs.map(|pair| half(pair[0]) | half(*pair.get(1).unwrap_or(&0.0)) << 4));
        }
        Ok(Codes::Int4(codes, scales))
    }

    /// Rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        match &self.codes {
            Codes::Bf16(codes) => size_of_val(&codes[..]),
            Codes::F16(codes) => size_of_val(&codes[..]),
            Codes::Int8(codes, scales) => codes.len() + size_of_val(&scales[..]),
            Codes::Int4(codes, scales) => codes.len() + size_of_val(&scales[..]),
        }
    }

    /// The bits of all weights [n, k], as they lie.
    pub fn bits(&self) -> Bits<'_> {
        match &self.codes {
            Codes::Bf16(codes) => Bits::Bf16(codes.reinterpret_cast()),
            Codes::F16(codes) => Bits::F16(codes.reinterpret_cast()),
            Codes::Int8(codes, scales) => Bits::Int8(bytemuck::cast_slice(codes), scales),
            Codes::Int4(codes, scales) => Bits::Int4(codes, scales),
        }
    }

    /// Columns of a row that share a scale; a whole row where there are none.
    pub fn group(&self) -> usize {
        self.group
    }

    /// `out` = the columns from `start` on of `row`, as many as `out` has. `start` is a
    /// multiple of 64.
    pub fn decode(&self, row: usize, start: usize, out: &mut [f32]) {
        debug_assert!(row < self.n && start.is_multiple_of(SPAN) && start + out.len() <= self.k);
        let (at, group) = (row * self.k + start, self.group);
        let scale = row * self.k.div_ceil(group) + start / group;
        match &self.codes {
            Codes::Bf16(codes) => codes[at..][..out.len()].convert_to_f32_slice(out),
            Codes::F16(codes) => codes[at..][..out.len()].convert_to_f32_slice(out),
            Codes::Int8(codes, scales) => {
                let codes = codes[at..][..out.len()].chunks(group);
                for ((out, codes), scale) in out.chunks_mut(group).zip(codes).zip(&scales[scale..])
                {
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out = f32::from(*code) * scale;
                    }
                }
            }
            Codes::Int4(codes, scales) => {
                let codes = codes[row * self.k.div_ceil(2) + start / 2..].chunks(group / 2);
                for ((out, codes), scale) in out.chunks_mut(group).zip(codes).zip(&scales[scale..])
                {
                    for (pair, code) in out.chunks_mut(2).zip(codes) {
                        pair[0] = f32::from((code & 15) as i8 - 8) * scale;
                        if let [_, high] = pair {
                            *high = f32::from((code >> 4) as i8 - 8) * scale;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reproducible values of many magnitudes.
    fn values(len: usize) -> Vec<f32> {
        let random = crate::domain::random::Stream::new(5, "weights");
        let value = |i| {
            let (unit, wide) = (random.uniform(2 * i), random.uniform(2 * i + 1));
            ((unit - 0.5) * 10.0_f64.powf(wide * 4.0 - 3.0)) as f32
        };
        (0..len as u64).map(value).collect()
    }

    fn decoded(coded: &Coded) -> Vec<f32> {
        let mut out = vec![f32::NAN; coded.n() * coded.k()];
        for (row, out) in out.chunks_mut(coded.k()).enumerate() {
            coded.decode(row, 0, out);
        }
        out
    }

    /// behaviour: engine-16
    #[test]
    fn what_is_decoded_differs_by_no_more_than_each_format_says() {
        for k in [1, 31, 64, 200] {
            let w = values(7 * k);
            for precision in &Precision::ALL[1..] {
                let coded = Coded::new(&w, k, *precision).unwrap().unwrap();
                let found = decoded(&coded);
                let group = precision.group().unwrap_or(k);
                let rows = w.chunks(k).zip(found.chunks(k));
                let groups = rows.flat_map(|(w, f)| w.chunks(group).zip(f.chunks(group)));
                let mut differ = false;
                for (w, found) in groups {
                    let largest = w.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
                    for (w, found) in w.iter().zip(found) {
                        let bound = match precision {
                            Precision::F32 => 0.0,
                            Precision::Bf16 => w.abs() / 256.0,
                            Precision::F16 => w.abs() / 2048.0 + 2.0_f32.powi(-25),
                            Precision::Int8 => largest / 254.0 * (1.0 + 1e-5),
                            Precision::Int4 => largest / 14.0 * (1.0 + 1e-5),
                        };
                        assert!(
                            (w - found).abs() <= bound,
                            "{precision}: {w} became {found}"
                        );
                        differ |= w != found;
                    }
                }
                // It is really held in fewer bits; a group of one is its own scale.
                assert!(differ || k == 1, "{precision}, k {k}");
                let most = precision.bytes((7 * k.next_multiple_of(64)) as u128);
                assert!(coded.bytes() as u128 <= most, "{precision}, k {k}");
            }
        }
    }

    #[test]
    fn what_was_decoded_is_coded_without_a_loss() {
        for precision in &Precision::ALL[1..] {
            let once = decoded(&Coded::new(&values(640), 160, *precision).unwrap().unwrap());
            let again = decoded(&Coded::new(&once, 160, *precision).unwrap().unwrap());
            for (once, again) in once.iter().zip(&again) {
                assert!(
                    (once - again).abs() <= once.abs() * 1e-6,
                    "{precision}: {once} {again}"
                );
            }
        }
    }

    #[test]
    fn a_part_of_a_row_is_that_part() {
        let w = values(3 * 200);
        for precision in &Precision::ALL[1..] {
            let coded = Coded::new(&w, 200, *precision).unwrap().unwrap();
            let whole = decoded(&coded);
            for (start, len) in [(0, 200), (64, 1), (64, 70), (128, 72), (192, 8), (128, 0)] {
                let mut part = vec![f32::NAN; len];
                coded.decode(2, start, &mut part);
                assert_eq!(part, whole[400 + start..][..len], "{precision}");
            }
        }
    }

    #[test]
    fn zeros_and_the_smallest_numbers_stay_finite_and_small() {
        let w = [0.0, f32::MIN_POSITIVE, -1e-40, 0.0];
        for precision in &Precision::ALL[1..] {
            let coded = Coded::new(&w, 4, *precision).unwrap().unwrap();
            for (w, found) in w.iter().zip(decoded(&coded)) {
                assert!(
                    (w - found).abs() <= f32::MIN_POSITIVE,
                    "{precision}: {found}"
                );
            }
        }
    }

    #[test]
    fn a_weight_beyond_f16_is_refused_and_not_made_infinite() {
        let error = Coded::new(&[1.0, -70_000.0], 2, Precision::F16)
            .err()
            .unwrap();
        assert_eq!(error.code, Code::ModelUnsupported);
        assert!(error.to_string().contains("-70000"), "{error}");
        assert!(Coded::new(&[1.0, -70_000.0], 2, Precision::Bf16).is_ok());
    }
}
