//! Decoder rows of length 1 against what training computes, variant by variant, in f64.

use super::samples::{self, Noise, close};
use backpropd::checkpoint::export::{Architecture, ExportedSae, Task};
use backpropd::domain::Code;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Activations times decoder norms, and output, of an SAE as training sees it: selection
/// looks at the norms.
fn trained(sae: &ExportedSae, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let b_dec = wide(&sae.b_dec);
    let x = wide(x);
    let center = |i: usize| if sae.subtracts_b_dec() { b_dec[i] } else { 0.0 };
    let xc: Vec<f64> = x.iter().enumerate().map(|(i, x)| x - center(i)).collect();
    let rows: Vec<Vec<f64>> = sae.w_dec.chunks(sae.d_out).map(wide).collect();
    let norms: Vec<f64> = rows.iter().map(|r| dot(r, r).sqrt()).collect();
    let q: Vec<f64> = sae
        .w_enc
        .chunks(sae.d_in)
        .map(|w| dot(&wide(w), &xc))
        .collect();
    let p: Vec<f64> = match sae.b_enc.len() {
        0 => q.clone(),
        _ => q
            .iter()
            .zip(&sae.b_enc)
            .map(|(q, b)| q + f64::from(*b))
            .collect(),
    };
    let weight = |j: usize, rescale| if rescale { norms[j] } else { 1.0 };
    let a: Vec<f64> = (0..sae.d_sae)
        .map(|j| match &sae.architecture {
            Architecture::Standard => p[j].max(0.0),
            Architecture::TopK { k, rescale } => {
                let score = |j: usize| p[j] * weight(j, *rescale);
                let above = (0..sae.d_sae).filter(|i| score(*i) > score(j)).count();
                if above < *k { p[j].max(0.0) } else { 0.0 }
            }
            Architecture::BatchTopK {
                threshold, rescale, ..
            } => match p[j].max(0.0) * weight(j, *rescale) > f64::from(*threshold) {
                true => p[j],
                false => 0.0,
            },
            Architecture::JumpRelu { threshold } => match p[j] > f64::from(threshold[j]) {
                true => p[j],
                false => 0.0,
            },
            Architecture::Gated {
                b_gate,
                b_mag,
                r_mag,
            } => match q[j] + f64::from(b_gate[j]) > 0.0 {
                true => (q[j] * f64::from(r_mag[j]).exp() + f64::from(b_mag[j])).max(0.0),
                false => 0.0,
            },
        })
        .collect();
    let mut y = b_dec.clone();
    for (a, row) in a.iter().zip(&rows) {
        y.iter_mut().zip(row).for_each(|(y, w)| *y += a * w);
    }
    if let Task::Transcoder { w_skip: Some(w) } = &sae.task {
        for (y, row) in y.iter_mut().zip(w.chunks(sae.d_in)) {
            *y += dot(&wide(row), &x);
        }
    }
    let stays = matches!(
        sae.architecture,
        Architecture::TopK { rescale: false, .. } | Architecture::BatchTopK { rescale: false, .. }
    );
    let unit = |j: usize| if stays { 1.0 } else { norms[j] };
    (
        a.iter()
            .enumerate()
            .map(|(j, a)| (a * unit(j)) as f32)
            .collect(),
        y.iter().map(|y| *y as f32).collect(),
    )
}

#[test]
fn unit_rows_change_no_output_and_no_selection() {
    let mut noise = Noise(17);
    for sae in samples::all() {
        let mut folded = sae.clone();
        folded.unit_rows().unwrap();
        let what = format!("{:?} {:?}", sae.architecture, sae.task);
        let mut active = 0;
        for _ in 0..40 {
            let x = noise.array(sae.d_in, 1.0);
            let (a, y) = samples::apply(&folded, &x);
            let (want_a, want_y) = trained(&sae, &x);
            close(&a, &want_a, 2e-6, &what);
            close(&y, &want_y, 2e-6, &what);
            active += a.iter().filter(|a| **a > 0.0).count();
        }
        assert!(active > 20, "{what} is silent");
    }
}

#[test]
fn rows_of_the_decoder_have_norm_one_where_selection_allows_it() {
    for mut sae in samples::all() {
        let before = sae.w_dec.clone();
        sae.unit_rows().unwrap();
        match sae.architecture {
            Architecture::TopK { rescale: false, .. }
            | Architecture::BatchTopK { rescale: false, .. } => assert_eq!(sae.w_dec, before),
            _ => {
                for row in sae.w_dec.chunks(sae.d_out) {
                    let row = wide(row);
                    assert!((dot(&row, &row).sqrt() - 1.0).abs() < 1e-6);
                }
                // Twice is once, to the bit.
                let once = sae.clone();
                sae.unit_rows().unwrap();
                assert_eq!(sae, once);
            }
        }
    }
}

#[test]
fn what_does_not_fit_or_is_no_number_is_refused_by_name() {
    let sound = samples::all().remove(0);
    type Harm = fn(&mut ExportedSae);
    let cases: [(Code, &str, Harm); 4] = [
        (Code::Internal, "b_dec", |sae| sae.b_dec.push(0.0)),
        (Code::Internal, "k", |sae| {
            let rescale = true;
            sae.architecture = Architecture::TopK { k: 20, rescale };
        }),
        (Code::Internal, "widths", |sae| {
            sae.architecture = Architecture::BatchTopK {
                k: 2.0,
                threshold: 0.0,
                rescale: true,
                widths: vec![4, 4, 19],
            };
        }),
        (Code::NonFinite, "W_enc", |sae| sae.w_enc[3] = f32::NAN),
    ];
    for (code, about, harm) in cases {
        let mut sae = sound.clone();
        harm(&mut sae);
        let error = sae.unit_rows().unwrap_err();
        assert_eq!((error.code, error.about.as_str()), (code, about), "{error}");
    }
}
