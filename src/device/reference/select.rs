//! From a row of pre-activations to edges.

use super::{Codes, Reference};
use crate::device::Real;
use crate::device::sae::{Encode, HostCodes, Pick, Select};
use std::cmp::Ordering;

/// Fills the codes of every pick, one token of pre-activations at a time.
pub fn encode<R: Real>(product: &Encode<'_, Vec<R>>, picks: &mut [Pick<'_, Reference<R>>]) {
    for pick in &mut *picks {
        pick.codes.d_sae = product.d_sae;
        pick.codes.host = HostCodes {
            row_ptr: vec![0],
            ..HostCodes::default()
        };
    }
    for b in 0..product.x.count {
        let row = pre_activations(product, b);
        for pick in &mut *picks {
            pick_row(&pick.select, &row, pick.codes);
        }
    }
    for pick in picks {
        if let Select::BatchTopK { total, scale } = pick.select {
            let kept = strongest(pick.codes, total, scale);
            pick.codes.host = kept;
        }
    }
}

fn pre_activations<R: Real>(product: &Encode<'_, Vec<R>>, b: usize) -> Vec<R> {
    let d = product.d_in;
    let x = &product.x.buf[(product.x.first + b) * d..][..d];
    let latent = |j: usize| {
        let w = &product.w_enc[j * d..][..d];
        let centred = |c: usize| x[c].to_f64() - product.center.map_or(0.0, |m| m[c].to_f64());
        let sum: f64 = (0..d).map(|c| centred(c) * w[c].to_f64()).sum();
        R::from_f64(sum + product.b_enc[j].to_f64())
    };
    (0..product.d_sae).map(latent).collect()
}

fn key<R: Real>(p: R, j: usize, scale: Option<&Vec<R>>) -> f64 {
    p.to_f64() * scale.map_or(1.0, |s| s[j].to_f64())
}

/// Largest first; NaN after all numbers.
fn descending(a: f64, b: f64) -> Ordering {
    b.partial_cmp(&a)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn pick_row<R: Real>(select: &Select<'_, Vec<R>, Vec<u32>>, row: &[R], codes: &mut Codes<R>) {
    let kept: Vec<usize> = match select {
        Select::TopK { k, scale, among } => {
            let mut order: Vec<usize> = match among {
                Some(among) => among.latents[..among.count]
                    .iter()
                    .map(|&j| j as usize)
                    .collect(),
                None => (0..row.len()).collect(),
            };
            // Stable: of equal keys the lower latent stays first.
            order.sort_by(|&i, &j| descending(key(row[i], i, *scale), key(row[j], j, *scale)));
            order.truncate(*k);
            order.sort_unstable();
            order
        }
        Select::BatchTopK { scale, .. } => (0..row.len())
            .filter(|&j| key(row[j], j, *scale) > 0.0)
            .collect(),
        Select::Above { lower } => (0..row.len()).filter(|&j| row[j] > lower[j]).collect(),
    };
    let host = &mut codes.host;
    for j in kept {
        host.latent.push(j as u32);
        host.pre.push(row[j]);
    }
    host.row_ptr.push(host.latent.len() as u32);
}

/// The `total` edges with the largest keys.
fn strongest<R: Real>(codes: &Codes<R>, total: usize, scale: Option<&Vec<R>>) -> HostCodes<R> {
    let host = &codes.host;
    let key_of = |e: usize| key(host.pre[e], host.latent[e] as usize, scale);
    let mut order: Vec<usize> = (0..host.latent.len()).collect();
    order.sort_by(|&e, &f| descending(key_of(e), key_of(f)));
    let mut keep = vec![false; order.len()];
    for &e in order.iter().take(total) {
        keep[e] = true;
    }
    let mut kept = HostCodes {
        row_ptr: vec![0],
        ..HostCodes::default()
    };
    for row in host.row_ptr.windows(2) {
        for e in (row[0] as usize..row[1] as usize).filter(|&e| keep[e]) {
            kept.latent.push(host.latent[e]);
            kept.pre.push(host.pre[e]);
        }
        kept.row_ptr.push(kept.latent.len() as u32);
    }
    kept
}
