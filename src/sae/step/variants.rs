//! What each variant does between encoding a micro-batch and its gradients.

use super::parts::Fit;
use super::{Part, Pass, Results};
use crate::device::sae::{Base, EdgeGrads, Penalty, PreAct, Prefix, Rule, SaeOps, Target};
use crate::domain::Result;
use crate::sae::spec::{JumpRelu, Sparsity, TopK};
use crate::sae::work::CodeSets;

/// The name of the loss of a second reconstruction: AuxK's, or of a gate alone.
const AUXILIARY: &str = "auxiliary_reconstruction_loss";

/// Why a parameter of the variant must be there.
const BUILT: &str = "Params::build makes the parameters of the variant";

impl<D: SaeOps> Pass<'_, D> {
    pub(super) fn standard(
        &self,
        coefficient: f64,
        part: &Part<'_, D::Buf>,
        codes: &D::Codes,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        self.activate(codes, &Rule::Relu, to)?;
        self.reconstruct(codes, part, to)?;
        let (device, work) = (self.device, &mut *to.work);
        let edges = device.edges(codes);
        let penalty = Penalty::L1 {
            weight: coefficient * self.settings.sparsity / self.tokens as f64,
            norms: work.norms.get(),
        };
        let mut grads = EdgeGrads {
            norm: Some(work.d_norm.at_least(device, edges)?),
            ..EdgeGrads::only(work.dp.at_least(device, edges)?)
        };
        let da = work.da.get();
        let l1 = device.activate_backward(codes, &Rule::Relu, &penalty, None, da, &mut grads)?;
        to.losses.add_part("l1_loss", l1);
        self.sum_norm_grads(codes, part, to)?;
        self.grads_from_dp(codes, part, part.more, to)
    }

    pub(super) fn topk(
        &self,
        topk: &TopK,
        part: &Part<'_, D::Buf>,
        codes: &mut CodeSets<D>,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let device = self.device;
        let (mut main, mut aux) = (&codes.main, &codes.aux);
        if part.x.count < self.tokens {
            let (at, count) = (part.at, part.x.count);
            device.slice_codes(main, at, count, &mut codes.main_part)?;
            main = &codes.main_part;
            if self.uses_aux(topk) {
                device.slice_codes(aux, at, count, &mut codes.aux_part)?;
                aux = &codes.aux_part;
            }
        }
        self.activate(main, &Rule::Relu, to)?;
        self.reconstruct(main, part, to)?;
        let dp = to.work.dp.at_least(device, device.edges(main))?;
        let (da, mut grads) = (to.work.da.get(), EdgeGrads::only(dp));
        device.activate_backward(main, &Rule::Relu, &Penalty::None, None, da, &mut grads)?;
        self.grads_from_dp(main, part, part.more, to)?;
        if self.uses_aux(topk) {
            self.auxk(topk, part, aux, to)?;
        } else if topk.aux_coefficient > 0.0 {
            to.losses.known.add(AUXILIARY, 0.0);
        }
        Ok(())
    }

    /// AuxK (Gao et al. 2024, appendix A.2), as SAELens has it: dead latents reconstruct
    /// what the others left, which itself gets no gradient. Their values are the
    /// pre-activations without ReLU, so dp = da.
    fn auxk(
        &self,
        topk: &TopK,
        part: &Part<'_, D::Buf>,
        codes: &D::Codes,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let work = &mut *to.work;
        let few = (self.dead.count as f64 / self.k_aux(topk) as f64).min(1.0);
        let factor = topk.aux_coefficient * few / self.tokens as f64;
        let prefixes = [Prefix {
            width: self.dims.d_sae,
            scale: 2.0 * factor,
        }];
        let fit = Fit {
            codes,
            values: self.device.pre(codes),
            base: Base::Zero,
            target: Target::Residual {
                of: part.y,
                out: work.out.get(),
            },
            prefixes: &prefixes,
        };
        let errors = self.fit(&fit, part.y.count, None, &mut work.grad, &mut work.dp)?;
        self.decoder_grads(&fit, part, work.grad.get(), true, to.grads)?;
        to.losses.add(errors, move |errors, losses| {
            losses.add(AUXILIARY, factor * errors[0]);
        });
        self.grads_from_dp(codes, part, true, to)
    }

    pub(super) fn jumprelu(
        &self,
        jump: &JumpRelu,
        part: &Part<'_, D::Buf>,
        codes: &D::Codes,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let rule = Rule::Jump {
            threshold: self.params.threshold.as_ref().expect(BUILT),
            bandwidth: jump.bandwidth,
            ste_to_input: jump.ste_to_input,
        };
        self.activate(codes, &rule, to)?;
        self.reconstruct(codes, part, to)?;
        let (device, work) = (self.device, &mut *to.work);
        let (edges, norms) = (device.edges(codes), work.norms.get());
        let weight = jump.l0_coefficient * self.settings.sparsity / self.tokens as f64;
        let penalty = match jump.penalty {
            Sparsity::Step => Penalty::Step { weight },
            Sparsity::Quadratic { target_l0: target } => Penalty::Quadratic { weight, target },
            Sparsity::Tanh { scale } => Penalty::Tanh {
                weight,
                scale,
                norms,
            },
        };
        let pre_act = (jump.pre_act_coefficient > 0.0).then(|| PreAct {
            weight: jump.pre_act_coefficient / self.tokens as f64,
            norms,
            dead: self.dead.flags,
        });
        let mut grads = EdgeGrads {
            norm: Some(work.d_norm.at_least(device, edges)?),
            threshold: Some(work.d_first.at_least(device, edges)?),
            ..EdgeGrads::only(work.dp.at_least(device, edges)?)
        };
        let (da, pre) = (work.da.get(), pre_act.as_ref());
        let sums = device.activate_backward(codes, &rule, &penalty, pre, da, &mut grads)?;
        let with_dead = pre_act.is_some();
        to.losses.add(sums, move |sums, losses| {
            losses.add("l0_loss", sums[0]);
            if with_dead {
                losses.add("pre_act_loss", sums[1]);
            }
        });
        let sums = to.grads.threshold.as_mut().expect(BUILT);
        device.latent_sums(codes, work.d_first.get(), sums, part.more)?;
        self.sum_norm_grads(codes, part, to)?;
        self.grads_from_dp(codes, part, part.more, to)
    }

    pub(super) fn gated(
        &self,
        coefficient: f64,
        part: &Part<'_, D::Buf>,
        codes: &D::Codes,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let magnitude = self.params.magnitude.as_ref().expect(BUILT);
        let rule = Rule::Magnitude {
            b_gate: &self.params.b_enc,
            r_mag: &magnitude.r_mag,
            b_mag: &magnitude.b_mag,
        };
        self.activate(codes, &rule, to)?;
        self.reconstruct(codes, part, to)?;

        // The gate alone must reconstruct as well: all its p are positive, so relu(p) = p.
        let (device, work) = (self.device, &mut *to.work);
        let prefixes = self.prefixes(2.0 / self.tokens as f64);
        let gate = Fit {
            codes,
            values: device.pre(codes),
            base: self.base(&work.base),
            target: Target::Rows(part.y),
            prefixes: &prefixes,
        };
        let errors = self.fit(&gate, part.y.count, None, &mut work.grad, &mut work.gate_da)?;
        self.decoder_grads(&gate, part, work.grad.get(), true, to.grads)?;
        let tokens = self.tokens as f64;
        to.losses.add(errors, move |errors, losses| {
            losses.add(AUXILIARY, errors[0] / tokens);
        });

        let edges = device.edges(codes);
        let penalty = Penalty::L1 {
            weight: coefficient * self.settings.sparsity / self.tokens as f64,
            norms: work.norms.get(),
        };
        let mut grads = EdgeGrads {
            norm: Some(work.d_norm.at_least(device, edges)?),
            ..EdgeGrads::only(work.dp.at_least(device, edges)?)
        };
        let da = work.gate_da.get();
        let l1 = device.activate_backward(codes, &Rule::Relu, &penalty, None, da, &mut grads)?;
        to.losses.add_part("l1_loss", l1);
        device.latent_sums(codes, work.dp.get(), &mut to.grads.b_enc, part.more)?;

        let mut grads = EdgeGrads {
            add_to_pre: true,
            r_mag: Some(work.d_first.at_least(device, edges)?),
            b_mag: Some(work.d_second.at_least(device, edges)?),
            ..EdgeGrads::only(work.dp.at_least(device, edges)?)
        };
        let da = work.da.get();
        device.activate_backward(codes, &rule, &Penalty::None, None, da, &mut grads)?;
        let out = to.grads.magnitude.as_mut().expect(BUILT);
        device.latent_sums(codes, work.d_first.get(), &mut out.r_mag, part.more)?;
        device.latent_sums(codes, work.d_second.get(), &mut out.b_mag, part.more)?;
        self.sum_norm_grads(codes, part, to)?;

        let work = &mut *to.work;
        let sums = work.dp_sums.at_least(device, self.dims.d_sae)?;
        let w_enc = &mut to.grads.w_enc;
        self.encoder_grads(codes, work.dp.get(), part.x, part.more, w_enc, sums)
    }

    fn grads_from_dp(
        &self,
        codes: &D::Codes,
        part: &Part<'_, D::Buf>,
        accumulate: bool,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let (dp, grads) = (to.work.dp.get(), &mut *to.grads);
        let (w_enc, b_enc) = (&mut grads.w_enc, &mut grads.b_enc);
        self.encoder_grads(codes, dp, part.x, accumulate, w_enc, b_enc)
    }

    fn sum_norm_grads(
        &self,
        codes: &D::Codes,
        part: &Part<'_, D::Buf>,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let sums = to.work.norm_sums.at_least(self.device, self.dims.d_sae)?;
        self.device
            .latent_sums(codes, to.work.d_norm.get(), sums, part.more)
    }
}
