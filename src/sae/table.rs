//! The `[sae]` table of `run.toml`: flat, whatever the variant.
//!
//! A table that sets a key of another variant is refused; what it leaves out takes the
//! default that stands in the constructors of [`super::spec`].

use super::spec::{BiasInit, JumpRelu, Normalize, Pool, SaeSpec, Sparsity, TopK, Variant};
use serde::{Deserialize, Serialize};

macro_rules! table {
    ($($(#[$doc:meta])* $key:ident: $type:ty,)*) => {
        /// The table as it is written.
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Table {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] $key: Option<$type>,)*
        }

        impl Table {
            /// A key that is still there.
            fn first(&self) -> Option<&'static str> {
                $(if self.$key.is_some() { return Some(stringify!($key)); })*
                None
            }
        }
    };
}

table! {
    /// `standard`, `topk`, `batch_topk`, `matryoshka_batch_topk`, `jumprelu`, `gated`.
    variant: Name,
    /// Number of latents.
    d_sae: usize,
    /// Hook point that a transcoder reconstructs; absent for the input's own.
    target: String,
    /// Skip connection of a transcoder; default false.
    skip: bool,
    /// Length of every decoder row at the start; default 0.1.
    decoder_norm: f64,
    /// `zeros`, `mean`, `geometric_median` (default).
    b_dec: BiasInit,
    /// `none` (default), `mean_norm`, `mean_square`.
    normalize: Normalize,
    /// Tokens without firing after which a latent is dead; default 10 million.
    dead_after: u64,
    /// Steps between resamplings of dead latents; default 0, never.
    resample_every: u64,
    /// standard, gated: coefficient of the L1 penalty; default 1.
    l1_coefficient: f64,
    /// TopK family: active latents a token.
    k: f64,
    /// TopK family: choose by p·‖w_dec‖; default true.
    rescale_acts_by_decoder_norm: bool,
    /// TopK family: coefficient of the AuxK loss; default 1.
    aux_coefficient: f64,
    /// TopK family: dead latents that AuxK takes a token; default d_in/2.
    k_aux: usize,
    /// matryoshka_batch_topk: prefixes, ascending, the last one d_sae.
    widths: Vec<usize>,
    /// jumprelu: `step` (default), `quadratic`, `tanh`.
    penalty: PenaltyName,
    /// jumprelu: coefficient of the penalty; default 1.
    l0_coefficient: f64,
    /// jumprelu with `quadratic`: L0 that is aimed at.
    target_l0: f64,
    /// jumprelu with `tanh`: slope of the tanh at 0; default 4.
    tanh_scale: f64,
    /// jumprelu: width of the straight-through estimate; default 0.05.
    bandwidth: f64,
    /// jumprelu: threshold at the start; default 0.01.
    init_threshold: f64,
    /// jumprelu: coefficient of the pre-activation loss; default 0.
    pre_act_coefficient: f64,
    /// jumprelu: let the estimate reach the pre-activations; default false.
    ste_to_input: bool,
}

/// Names of the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    Standard,
    Topk,
    BatchTopk,
    MatryoshkaBatchTopk,
    Jumprelu,
    Gated,
}

impl Name {
    fn as_str(self) -> &'static str {
        match self {
            Name::Standard => "standard",
            Name::Topk => "topk",
            Name::BatchTopk => "batch_topk",
            Name::MatryoshkaBatchTopk => "matryoshka_batch_topk",
            Name::Jumprelu => "jumprelu",
            Name::Gated => "gated",
        }
    }
}

/// Names of the JumpReLU penalties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PenaltyName {
    Step,
    Quadratic,
    Tanh,
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn need<T>(value: Option<T>, key: &str, whose: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("missing field `{key}`, which {whose} needs"))
}

impl TryFrom<Table> for SaeSpec {
    type Error = String;

    fn try_from(mut table: Table) -> Result<Self, String> {
        let name = need(table.variant.take(), "variant", "an SAE")?;
        let d_sae = need(table.d_sae.take(), "d_sae", "an SAE")?;
        let mut spec = SaeSpec::new(d_sae, table.take_variant(name)?);
        spec.target = table.target.take();
        set(&mut spec.skip, table.skip.take());
        set(&mut spec.decoder_norm, table.decoder_norm.take());
        set(&mut spec.b_dec, table.b_dec.take());
        set(&mut spec.normalize, table.normalize.take());
        set(&mut spec.dead_after, table.dead_after.take());
        set(&mut spec.resample_every, table.resample_every.take());
        match table.first() {
            // Worded like serde's own, from which the reader of the file takes the key.
            Some(key) => Err(format!(
                "unknown field `{key}`: not a setting of {}",
                name.as_str()
            )),
            None => Ok(spec),
        }
    }
}

impl Table {
    fn take_variant(&mut self, name: Name) -> Result<Variant, String> {
        Ok(match name {
            Name::Standard => Variant::Standard {
                l1_coefficient: self.l1_coefficient.take().unwrap_or(1.0),
            },
            Name::Gated => Variant::Gated {
                l1_coefficient: self.l1_coefficient.take().unwrap_or(1.0),
            },
            Name::Topk | Name::BatchTopk | Name::MatryoshkaBatchTopk => {
                let pool = match name {
                    Name::Topk => Pool::Token,
                    _ => Pool::Batch,
                };
                let mut topk = TopK::new(need(self.k.take(), "k", name.as_str())?, pool);
                if name == Name::MatryoshkaBatchTopk {
                    topk.widths = need(self.widths.take(), "widths", name.as_str())?;
                }
                set(&mut topk.rescale, self.rescale_acts_by_decoder_norm.take());
                set(&mut topk.aux_coefficient, self.aux_coefficient.take());
                topk.k_aux = self.k_aux.take();
                Variant::TopK(topk)
            }
            Name::Jumprelu => {
                let penalty = match self.penalty.take().unwrap_or(PenaltyName::Step) {
                    PenaltyName::Step => Sparsity::Step,
                    PenaltyName::Quadratic => Sparsity::Quadratic {
                        target_l0: need(self.target_l0.take(), "target_l0", "quadratic")?,
                    },
                    PenaltyName::Tanh => Sparsity::Tanh {
                        scale: self.tanh_scale.take().unwrap_or(4.0),
                    },
                };
                let mut jump = JumpRelu::new(penalty, 1.0);
                set(&mut jump.l0_coefficient, self.l0_coefficient.take());
                set(&mut jump.bandwidth, self.bandwidth.take());
                set(&mut jump.init_threshold, self.init_threshold.take());
                set(
                    &mut jump.pre_act_coefficient,
                    self.pre_act_coefficient.take(),
                );
                set(&mut jump.ste_to_input, self.ste_to_input.take());
                Variant::JumpRelu(jump)
            }
        })
    }
}

impl From<SaeSpec> for Table {
    fn from(spec: SaeSpec) -> Self {
        let mut table = Table {
            d_sae: Some(spec.d_sae),
            target: spec.target,
            skip: Some(spec.skip),
            decoder_norm: Some(spec.decoder_norm),
            b_dec: Some(spec.b_dec),
            normalize: Some(spec.normalize),
            dead_after: Some(spec.dead_after),
            resample_every: Some(spec.resample_every),
            ..Table::default()
        };
        match spec.variant {
            Variant::Standard { l1_coefficient } => {
                table.variant = Some(Name::Standard);
                table.l1_coefficient = Some(l1_coefficient);
            }
            Variant::Gated { l1_coefficient } => {
                table.variant = Some(Name::Gated);
                table.l1_coefficient = Some(l1_coefficient);
            }
            Variant::TopK(topk) => {
                table.variant = Some(match (topk.pool, topk.widths.is_empty()) {
                    (Pool::Token, _) => Name::Topk,
                    (Pool::Batch, true) => Name::BatchTopk,
                    (Pool::Batch, false) => Name::MatryoshkaBatchTopk,
                });
                table.k = Some(topk.k);
                table.widths = Some(topk.widths).filter(|w| !w.is_empty());
                table.rescale_acts_by_decoder_norm = Some(topk.rescale);
                table.aux_coefficient = Some(topk.aux_coefficient);
                table.k_aux = topk.k_aux;
            }
            Variant::JumpRelu(jump) => {
                table.variant = Some(Name::Jumprelu);
                table.penalty = Some(match jump.penalty {
                    Sparsity::Step => PenaltyName::Step,
                    Sparsity::Quadratic { target_l0 } => {
                        table.target_l0 = Some(target_l0);
                        PenaltyName::Quadratic
                    }
                    Sparsity::Tanh { scale } => {
                        table.tanh_scale = Some(scale);
                        PenaltyName::Tanh
                    }
                });
                table.l0_coefficient = Some(jump.l0_coefficient);
                table.bandwidth = Some(jump.bandwidth);
                table.init_threshold = Some(jump.init_threshold);
                table.pre_act_coefficient = Some(jump.pre_act_coefficient);
                table.ste_to_input = Some(jump.ste_to_input);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SaeSpec, String> {
        toml::from_str::<SaeSpec>(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_short_table_takes_the_defaults_and_a_resolved_one_reads_back() {
        for text in [
            "variant = 'standard'\nd_sae = 64",
            "variant = 'topk'\nd_sae = 64\nk = 8",
            "variant = 'batch_topk'\nd_sae = 64\nk = 8.5\nk_aux = 4",
            "variant = 'matryoshka_batch_topk'\nd_sae = 64\nk = 8\nwidths = [16, 64]",
            "variant = 'jumprelu'\nd_sae = 64",
            "variant = 'jumprelu'\nd_sae = 64\npenalty = 'quadratic'\ntarget_l0 = 20",
            "variant = 'jumprelu'\nd_sae = 64\npenalty = 'tanh'\nste_to_input = true",
            "variant = 'gated'\nd_sae = 64\ntarget = 'blocks.1.hook_mlp_out'\nskip = true",
        ] {
            let spec = parse(text).unwrap();
            spec.validate().unwrap();
            let resolved = toml::to_string(&spec).unwrap();
            assert_eq!(parse(&resolved).unwrap(), spec, "{resolved}");
        }
        let spec = parse("variant = 'topk'\nd_sae = 64\nk = 8").unwrap();
        let Variant::TopK(topk) = &spec.variant else {
            panic!("{spec:?}");
        };
        assert_eq!(
            (topk.k, topk.rescale, topk.aux_coefficient),
            (8.0, true, 1.0)
        );
    }

    #[test]
    fn keys_of_other_variants_and_unknown_ones_are_refused_by_name() {
        for (text, key) in [
            ("variant = 'standard'\nd_sae = 64\nk = 8", "`k`"),
            ("variant = 'topk'\nd_sae = 64", "`k`"),
            ("variant = 'topk'\nk = 8", "`d_sae`"),
            ("d_sae = 64", "`variant`"),
            ("variant = 'topk'\nd_sae = 64\nk = 8\nkk = 9", "`kk`"),
            (
                "variant = 'batch_topk'\nd_sae = 64\nk = 8\nwidths = [64]",
                "`widths`",
            ),
            (
                "variant = 'jumprelu'\nd_sae = 64\npenalty = 'quadratic'",
                "`target_l0`",
            ),
            ("variant = 'toopk'\nd_sae = 64", "`toopk`"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(key), "{text}: {message}");
        }
    }

    #[test]
    fn impossible_values_name_their_key() {
        for (text, key) in [
            ("variant = 'topk'\nd_sae = 16\nk = 32", "k"),
            ("variant = 'topk'\nd_sae = 16\nk = 0", "k"),
            ("variant = 'topk'\nd_sae = 16\nk = 2.5", "k"),
            ("variant = 'batch_topk'\nd_sae = 16\nk = nan", "k"),
            ("variant = 'topk'\nd_sae = 0\nk = 2", "d_sae"),
            ("variant = 'topk'\nd_sae = 16\nk = 2\nk_aux = 0", "k_aux"),
            ("variant = 'gated'\nd_sae = 16\nskip = true", "skip"),
            (
                "variant = 'standard'\nd_sae = 16\nl1_coefficient = -1",
                "l1_coefficient",
            ),
            (
                "variant = 'matryoshka_batch_topk'\nd_sae = 16\nk = 2\nwidths = [8, 4, 16]",
                "widths",
            ),
            (
                "variant = 'matryoshka_batch_topk'\nd_sae = 16\nk = 2\nwidths = [4, 8]",
                "widths",
            ),
            (
                "variant = 'jumprelu'\nd_sae = 16\nbandwidth = 0",
                "bandwidth",
            ),
        ] {
            let error = parse(text).unwrap().validate().unwrap_err();
            assert_eq!(error.about, key, "{text}: {error}");
        }
    }
}
