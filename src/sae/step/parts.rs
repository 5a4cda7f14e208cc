//! Steps that the variants share.

use super::{Part, Pass, Pending, Results};
use crate::device::Real;
use crate::device::sae::{
    Among, Base, Decode, Encode, OuterGrad, Pick, Prefix, Reconstruct, Reconstruction, Rows, Rule,
    SaeOps, Select, Target,
};
use crate::domain::Result;
use crate::sae::params::{Dims, Params};
use crate::sae::spec::{JumpRelu, Pool, TopK, Variant};
use crate::sae::work::{CodeSets, Scratch};

/// A reconstruction to be compared with a target.
pub(super) struct Fit<'a, D: SaeOps> {
    pub codes: &'a D::Codes,
    pub values: &'a D::Buf,
    pub base: Base<'a, D::Buf>,
    pub target: Target<'a, D::Buf>,
    pub prefixes: &'a [Prefix],
}

impl<D: SaeOps> Pass<'_, D> {
    /// Norms, bounds of the selection, and the codes of TopK variants, which are chosen
    /// over the whole batch.
    pub(super) fn prepare(
        &self,
        x: Rows<'_, D::Buf>,
        codes: &mut CodeSets<D>,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let Dims { d_out, d_sae, .. } = self.dims;
        // TopK that chooses by p alone has no use for norms, which are a reading of W_dec.
        if !matches!(&self.spec.variant, Variant::TopK(topk) if !topk.rescale) {
            let norms = to.work.norms.at_least(self.device, d_sae)?;
            self.device
                .row_norms(&self.params.w_dec, d_sae, d_out, norms)?;
        }
        let lower = to.work.lower.at_least(self.device, d_sae)?;
        match &self.spec.variant {
            Variant::TopK(topk) => return self.encode_topk(topk, x, codes, to),
            Variant::JumpRelu(jump) => self.lower_bounds(jump, lower)?,
            Variant::Standard { .. } | Variant::Gated { .. } => {
                let zeros = vec![D::Real::default(); d_sae];
                self.device.write(lower, 0, &zeros)?;
            }
        }
        Ok(())
    }

    /// JumpReLU needs every p inside the rectangle or above θ, and with the pre-activation
    /// loss every p of dead latents.
    fn lower_bounds(&self, jump: &JumpRelu, lower: &mut D::Buf) -> Result<()> {
        let d_sae = self.dims.d_sae;
        let mut bounds = vec![D::Real::default(); d_sae];
        if let Some(threshold) = &self.params.threshold {
            self.device.read(threshold, 0, &mut bounds)?;
        }
        // A little more than half: rounding must not lose an edge of the rectangle.
        let reach = jump.bandwidth * 0.5001;
        for bound in &mut bounds {
            *bound = D::Real::from_f64(bound.to_f64() - reach);
        }
        if jump.pre_act_coefficient > 0.0 {
            let mut dead = vec![0; self.dead.count];
            self.device.read_ints(self.dead.list, 0, &mut dead)?;
            for j in dead {
                bounds[j as usize] = D::Real::from_f64(f64::NEG_INFINITY);
            }
        }
        self.device.write(lower, 0, &bounds)
    }

    fn encode_topk(
        &self,
        topk: &TopK,
        x: Rows<'_, D::Buf>,
        codes: &mut CodeSets<D>,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let d_sae = self.dims.d_sae;
        let scale = topk.rescale.then(|| to.work.norms.get());
        let k = self.settings.k.unwrap_or(topk.k);
        let select = match topk.pool {
            Pool::Token => Select::TopK {
                k: (k.round() as usize).clamp(1, d_sae),
                scale,
                among: None,
            },
            Pool::Batch => Select::BatchTopK {
                total: (k * self.tokens as f64) as usize,
                scale,
            },
        };
        let main = Pick {
            select,
            codes: &mut codes.main,
        };
        if self.uses_aux(topk) {
            let among = Among {
                latents: self.dead.list,
                count: self.dead.count,
            };
            let select = Select::TopK {
                k: self.k_aux(topk).min(self.dead.count),
                scale,
                among: Some(among),
            };
            let aux = Pick {
                select,
                codes: &mut codes.aux,
            };
            self.encode_batch(x, &mut [main, aux], &mut to.losses)?;
        } else {
            self.encode_batch(x, &mut [main], &mut to.losses)?;
        }
        if topk.pool == Pool::Batch {
            let least = self.device.least_positive(&codes.main, scale)?;
            to.losses.add(least, |least, losses| {
                losses.least_key = Some(least[0]).filter(|least| *least > 0.0);
            });
        }
        Ok(())
    }

    fn encode_batch(
        &self,
        x: Rows<'_, D::Buf>,
        picks: &mut [Pick<'_, D>],
        losses: &mut Pending<D::Later>,
    ) -> Result<()> {
        if !self.guess {
            return self.device.encode(&self.product(x), picks);
        }
        if let Some(wrong) = self.device.try_encode(&self.product(x), picks)? {
            losses.add(wrong, |wrong, losses| losses.wrong = wrong[0] != 0.0);
        }
        Ok(())
    }

    pub(super) fn encode_above(
        &self,
        x: Rows<'_, D::Buf>,
        codes: &mut CodeSets<D>,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let pick = Pick {
            select: Select::Above {
                lower: to.work.lower.get(),
            },
            codes: &mut codes.main,
        };
        self.device.encode(&self.product(x), &mut [pick])
    }

    /// Values of the edges, and which latents fired.
    pub(super) fn activate(
        &self,
        codes: &D::Codes,
        rule: &Rule<'_, D::Buf>,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let values = to
            .work
            .values
            .at_least(self.device, self.device.edges(codes))?;
        let active = self.device.activate(codes, rule, values)?;
        to.losses
            .add(active, |active, losses| losses.active += active[0] as u64);
        self.device.count_fired(codes, values, to.fired)
    }

    /// The reconstruction that is the SAE's output: its loss, da, and the gradients of
    /// decoder, b_dec and skip connection.
    pub(super) fn reconstruct(
        &self,
        codes: &D::Codes,
        part: &Part<'_, D::Buf>,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let Dims { d_in, d_out, d_sae } = self.dims;
        let work = &mut *to.work;
        let rows = part.y.count * d_out;
        if let Some(w_skip) = &self.params.w_skip {
            let base = work.base.at_least(self.device, rows)?;
            self.device
                .linear(part.x, w_skip, &self.params.b_dec, d_in, d_out, base)?;
        }
        let prefixes = self.prefixes(2.0 / self.tokens as f64);
        let fit = Fit {
            codes,
            values: work.values.get(),
            base: self.base(&work.base),
            target: Target::Rows(part.y),
            prefixes: &prefixes,
        };
        let out = work.out.at_least(self.device, rows)?;
        let (grad, da) = (&mut work.grad, &mut work.da);
        let errors = self.fit(&fit, part.y.count, Some(out), grad, da)?;
        self.decoder_grads(&fit, part, work.grad.get(), part.more, to.grads)?;
        let tokens = self.tokens as f64;
        to.losses.add(errors, move |errors, losses| {
            for (error, Prefix { width, .. }) in errors.iter().zip(&prefixes) {
                let name = match *width == d_sae {
                    true => "mse_loss".to_owned(),
                    false => format!("inner_mse_loss_{width}"),
                };
                losses.add(&name, error / tokens);
            }
            losses.squared_error += errors.last().copied().unwrap_or_default();
        });
        Ok(())
    }

    /// Reconstructs `tokens` tokens; later Σ‖x̂ − y‖² of each prefix.
    pub(super) fn fit(
        &self,
        fit: &Fit<'_, D>,
        tokens: usize,
        out: Option<&mut D::Buf>,
        grad: &mut Scratch<D::Buf>,
        da: &mut Scratch<D::Buf>,
    ) -> Result<D::Later> {
        let d_out = self.dims.d_out;
        let work = Reconstruct {
            decode: Decode {
                codes: fit.codes,
                values: fit.values,
                w_dec: &self.params.w_dec,
                d_out,
                base: fit.base,
            },
            target: fit.target,
            prefixes: fit.prefixes,
        };
        let edges = self.device.edges(fit.codes);
        let to = Reconstruction {
            out,
            grad: grad.at_least(self.device, fit.prefixes.len() * tokens * d_out)?,
            dots: da.at_least(self.device, edges)?,
        };
        self.device.reconstruct(&work, to)
    }

    /// From G to the gradients of the decoder, and of b_dec and the skip connection where
    /// the reconstruction starts from them.
    pub(super) fn decoder_grads(
        &self,
        fit: &Fit<'_, D>,
        part: &Part<'_, D::Buf>,
        grad: &D::Buf,
        accumulate: bool,
        grads: &mut Params<D::Buf>,
    ) -> Result<()> {
        let Dims { d_in, d_out, .. } = self.dims;
        // The first block of G belongs to the first prefix, which is in every loss.
        let rows = Rows::of(grad, part.y.count);
        let outer = OuterGrad {
            codes: fit.codes,
            values: fit.values,
            rows,
            prefixes: fit.prefixes,
            center: None,
            d: d_out,
            scale: self.loss_scale,
            accumulate,
        };
        self.device.outer_grad(&outer, &mut grads.w_dec)?;
        if let Base::Zero = fit.base {
            return Ok(());
        }
        self.device
            .column_sums(rows, d_out, &mut grads.b_dec, accumulate)?;
        match &mut grads.w_skip {
            Some(w_skip) => self
                .device
                .linear_grad(rows, part.x, d_in, d_out, w_skip, accumulate),
            None => Ok(()),
        }
    }

    /// From dp to the gradient of the encoder, and to `sums` of it for each latent.
    pub(super) fn encoder_grads(
        &self,
        codes: &D::Codes,
        dp: &D::Buf,
        x: Rows<'_, D::Buf>,
        accumulate: bool,
        w_enc: &mut D::Buf,
        sums: &mut D::Buf,
    ) -> Result<()> {
        let outer = OuterGrad {
            codes,
            values: dp,
            rows: x,
            prefixes: &[],
            center: self.center(),
            d: self.dims.d_in,
            // Activations are no gradients.
            scale: 1.0,
            accumulate,
        };
        self.device.outer_grad(&outer, w_enc)?;
        self.device.latent_sums(codes, dp, sums, accumulate)
    }

    fn product<'b>(&'b self, x: Rows<'b, D::Buf>) -> Encode<'b, D::Buf> {
        Encode {
            x,
            center: self.center(),
            w_enc: &self.params.w_enc,
            b_enc: &self.params.b_enc,
            d_in: self.dims.d_in,
            d_sae: self.dims.d_sae,
            rounded: true,
        }
    }

    /// b_dec, where it is subtracted from x: not in transcoders.
    pub(super) fn center(&self) -> Option<&D::Buf> {
        self.spec.target.is_none().then_some(&self.params.b_dec)
    }

    /// What reconstructions start from; `rows` holds it where there is a skip connection.
    pub(super) fn base<'b>(&'b self, rows: &'b Scratch<D::Buf>) -> Base<'b, D::Buf> {
        match self.params.w_skip {
            Some(_) => Base::Rows(rows.get()),
            None => Base::Row(&self.params.b_dec),
        }
    }

    pub(super) fn prefixes(&self, scale: f64) -> Vec<Prefix> {
        let widths: &[usize] = match &self.spec.variant {
            Variant::TopK(topk) if !topk.widths.is_empty() => &topk.widths,
            _ => &[self.dims.d_sae],
        };
        let prefix = |&width: &usize| Prefix { width, scale };
        widths.iter().map(prefix).collect()
    }

    pub(super) fn uses_aux(&self, topk: &TopK) -> bool {
        topk.aux_coefficient > 0.0 && self.dead.count > 0
    }

    /// Latents that AuxK takes a token, as long as so many are dead.
    pub(super) fn k_aux(&self, topk: &TopK) -> usize {
        topk.k_aux.unwrap_or(self.dims.d_in / 2).max(1)
    }
}
