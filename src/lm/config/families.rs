//! One function a family: from its keys and defaults to the one description.
//!
//! Keys, defaults and their meaning are those of the Hugging Face `transformers`
//! configuration classes.

use super::fields::Fields;
use super::foreign::refuse;
use super::parts::*;
use super::rope::{self, RopeDefaults};
use crate::device::lm::{Activation, NormKind};
use crate::domain::Result;
use crate::lm::spec::{BlockSpec, LmSpec, NormSpec, Placement, QkNormKind, RopeScaling};

/// A family's `model_type` and how its config is read.
pub(super) type Family = (
    &'static str,
    fn(&Fields<'_>, &'static str) -> Result<LmSpec>,
);

/// Every family that is supported.
pub(super) const FAMILIES: &[Family] = &[
    ("gpt2", gpt2),
    ("gpt_neox", gpt_neox),
    ("llama", llama),
    ("mistral", mistral),
    ("qwen2", qwen2),
    ("qwen3", qwen3),
    ("gemma", gemma),
    ("gemma2", gemma2),
    ("gemma3_text", gemma3_text),
    ("phi3", phi3),
    ("olmo2", olmo2),
];

const WHOLE_HEAD: Option<&RopeDefaults> = Some(&RopeDefaults::WHOLE_HEAD);

fn gpt2(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(f, &["scale_attn_by_inverse_layer_idx"])?;
    let d_model = f.need_size(&["n_embd", "hidden_size"])?;
    let heads = f.need_size(&["n_head", "num_attention_heads"])?;
    let layers = layers(f, &["n_layer", "num_hidden_layers"])?;
    let head_dim = even_share(f, "n_head", d_model, heads)?;
    agrees(f, "head_dim", head_dim)?;
    let scaled = f.flag("scale_attn_weights")?.unwrap_or(true);
    let by_layer = f.flag("scale_attn_by_inverse_layer_idx")?.unwrap_or(false);
    let scale = |layer: usize| {
        let base = if scaled { head_scale(head_dim) } else { 1.0 };
        base / if by_layer { layer as f64 + 1.0 } else { 1.0 }
    };
    Ok(LmSpec {
        family,
        vocab: f.need_size(&["vocab_size"])?,
        d_model,
        heads,
        kv_heads: heads,
        head_dim,
        d_mlp: f.size("n_inner")?.unwrap_or(4 * d_model),
        max_positions: f.need_size(&["n_positions", "max_position_embeddings"])?,
        learned_positions: true,
        embed_scale: 1.0,
        norm: NormSpec {
            kind: NormKind::Layer,
            eps: f.positive("layer_norm_epsilon")?.unwrap_or(1e-5),
            plus_one: false,
        },
        placement: Placement::Before,
        parallel: false,
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        qk_norm: QkNormKind::Off,
        attn_softcap: None,
        final_softcap: None,
        activation: activation(f, "activation_function", Activation::GeluTanh)?,
        gated: false,
        ropes: Vec::new(),
        blocks: (0..layers)
            .map(|layer| BlockSpec {
                scale: scale(layer),
                window: None,
                rope: None,
            })
            .collect(),
        tied: f.flag("tie_word_embeddings")?.unwrap_or(true),
    })
}

fn gpt_neox(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(
        f,
        &[
            "rope_scaling",
            "rope_parameters",
            "attention_bias",
            "rotary_pct",
            "partial_rotary_factor",
        ],
    )?;
    let d_model = f.need_size(&["hidden_size"])?;
    let heads = f.need_size(&["num_attention_heads"])?;
    let layers = layers(f, &["num_hidden_layers"])?;
    let head_dim = even_share(f, "num_attention_heads", d_model, heads)?;
    agrees(f, "head_dim", head_dim)?;
    let max_positions = f.need_size(&["max_position_embeddings"])?;
    let defaults = RopeDefaults {
        theta_key: "rotary_emb_base",
        theta: 10_000.0,
        partial_key: Some("rotary_pct"),
        partial: 0.25,
    };
    let rope = rope::single(f, head_dim, max_positions, &defaults)?;
    // Some versions wrote these settings under a second name too, which others ignore.
    restates(f, "rope_theta", |theta| theta == rope.theta)?;
    let dim = |share: f64| (head_dim as f64 * share) as usize;
    restates(f, "partial_rotary_factor", |share| dim(share) == rope.dim)?;
    let bias = f.flag("attention_bias")?.unwrap_or(true);
    Ok(LmSpec {
        family,
        vocab: f.need_size(&["vocab_size"])?,
        d_model,
        heads,
        kv_heads: heads,
        head_dim,
        d_mlp: f.need_size(&["intermediate_size"])?,
        max_positions,
        learned_positions: false,
        embed_scale: 1.0,
        norm: NormSpec {
            kind: NormKind::Layer,
            eps: f.positive("layer_norm_eps")?.unwrap_or(1e-5),
            plus_one: false,
        },
        placement: Placement::Before,
        parallel: f.flag("use_parallel_residual")?.unwrap_or(true),
        qkv_bias: bias,
        out_bias: bias,
        mlp_bias: true,
        qk_norm: QkNormKind::Off,
        attn_softcap: None,
        final_softcap: None,
        activation: activation(f, "hidden_act", Activation::Gelu)?,
        gated: false,
        ropes: vec![rope],
        blocks: blocks(head_scale(head_dim), &vec![None; layers]),
        tied: f.flag("tie_word_embeddings")?.unwrap_or(false),
    })
}

/// What Llama and its descendants have in common: RMS norms before attention and MLP,
/// grouped heads, a gated MLP, and one rotary embedding (without `rope` the caller's).
fn llama_like(
    f: &Fields<'_>,
    family: &'static str,
    heads: Heads,
    rope: Option<&RopeDefaults>,
) -> Result<LmSpec> {
    let shape = heads.read(f)?;
    let layers = layers(f, &["num_hidden_layers"])?;
    let max_positions = f.need_size(&["max_position_embeddings"])?;
    let rope = rope.map(|r| rope::single(f, shape.head_dim, max_positions, r));
    Ok(LmSpec {
        family,
        vocab: f.need_size(&["vocab_size"])?,
        d_model: shape.d_model,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        d_mlp: f.need_size(&["intermediate_size"])?,
        max_positions,
        learned_positions: false,
        embed_scale: 1.0,
        norm: NormSpec {
            kind: NormKind::Rms,
            eps: f.positive("rms_norm_eps")?.unwrap_or(1e-6),
            plus_one: false,
        },
        placement: Placement::Before,
        parallel: false,
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        qk_norm: QkNormKind::Off,
        attn_softcap: None,
        final_softcap: None,
        activation: activation(f, "hidden_act", Activation::Silu)?,
        gated: true,
        ropes: rope.transpose()?.into_iter().collect(),
        blocks: blocks(head_scale(shape.head_dim), &vec![None; layers]),
        tied: f.flag("tie_word_embeddings")?.unwrap_or(false),
    })
}

fn llama(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(
        f,
        &[
            "rope_scaling",
            "rope_parameters",
            "attention_bias",
            "mlp_bias",
        ],
    )?;
    let bias = f.flag("attention_bias")?.unwrap_or(false);
    Ok(LmSpec {
        qkv_bias: bias,
        out_bias: bias,
        mlp_bias: f.flag("mlp_bias")?.unwrap_or(false),
        ..llama_like(f, family, Heads::FROM_WIDTH, WHOLE_HEAD)?
    })
}

fn mistral(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(
        f,
        &[
            "rope_scaling",
            "rope_parameters",
            "sliding_window",
            "layer_types",
        ],
    )?;
    let heads = Heads {
        kv_heads: Some(8),
        ..Heads::FROM_WIDTH
    };
    let spec = llama_like(f, family, heads, WHOLE_HEAD)?;
    let window = window(f, 4096)?;
    let windows = vec![window; spec.layers()];
    // This family has one window for all layers; a list that says otherwise is of another.
    if layer_windows(f, spec.layers(), window)?.is_some_and(|listed| listed != windows) {
        return Err(f.unsupported(
            "layer_types",
            "differs from sliding_window, which holds for all layers of this family",
        ));
    }
    Ok(LmSpec {
        blocks: blocks(head_scale(spec.head_dim), &windows),
        ..spec
    })
}

/// Qwen 2 and 3: windows from `max_window_layers` on, where they are switched on.
fn qwen_windows(f: &Fields<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
    let window = match f.flag("use_sliding_window")? {
        Some(true) => window(f, 4096)?,
        _ => None,
    };
    let first = f.count("max_window_layers")?.unwrap_or(28);
    Ok(match layer_windows(f, layers, window)? {
        Some(listed) => listed,
        None => (0..layers)
            .map(|layer| window.filter(|_| layer >= first))
            .collect(),
    })
}

const QWEN: &[&str] = &[
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "attention_bias",
];

fn qwen2(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(f, QWEN)?;
    let heads = Heads {
        kv_heads: Some(32),
        ..Heads::FROM_WIDTH
    };
    let spec = llama_like(f, family, heads, WHOLE_HEAD)?;
    if f.flag("attention_bias")? == Some(false) {
        return Err(f.unsupported(
            "attention_bias",
            "contradicts this family, which has biases",
        ));
    }
    let windows = qwen_windows(f, spec.layers())?;
    Ok(LmSpec {
        qkv_bias: true,
        blocks: blocks(head_scale(spec.head_dim), &windows),
        ..spec
    })
}

fn qwen3(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(f, QWEN)?;
    let heads = Heads {
        kv_heads: Some(32),
        head_dim: Some(128),
    };
    let spec = llama_like(f, family, heads, WHOLE_HEAD)?;
    let windows = qwen_windows(f, spec.layers())?;
    let bias = f.flag("attention_bias")?.unwrap_or(false);
    Ok(LmSpec {
        qk_norm: QkNormKind::PerHead,
        qkv_bias: bias,
        out_bias: bias,
        blocks: blocks(head_scale(spec.head_dim), &windows),
        ..spec
    })
}

/// What the Gemma family changes: norms stored as distance from one, a scaled embedding,
/// GELU in the gate, a tied unembedding.
fn gemma_like(
    f: &Fields<'_>,
    family: &'static str,
    kv_heads: usize,
    rope: Option<&RopeDefaults>,
) -> Result<LmSpec> {
    let heads = Heads {
        kv_heads: Some(kv_heads),
        head_dim: Some(256),
    };
    let spec = llama_like(f, family, heads, rope)?;
    let bias = f.flag("attention_bias")?.unwrap_or(false);
    Ok(LmSpec {
        // transformers holds the factor as a 32-bit float.
        embed_scale: f64::from((spec.d_model as f64).sqrt() as f32),
        norm: NormSpec {
            plus_one: true,
            ..spec.norm
        },
        qkv_bias: bias,
        out_bias: bias,
        activation: activation(f, "hidden_activation", Activation::GeluTanh)?,
        tied: f.flag("tie_word_embeddings")?.unwrap_or(true),
        ..spec
    })
}

fn gemma(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(f, &["rope_scaling", "rope_parameters", "attention_bias"])?;
    let spec = gemma_like(f, family, 16, WHOLE_HEAD)?;
    // The first releases said `gelu` and meant its tanh form.
    let older = match f.text("hidden_act")? {
        Some("gelu") => Activation::GeluTanh,
        _ => activation(f, "hidden_act", Activation::GeluTanh)?,
    };
    if older != spec.activation {
        return Err(f.unsupported("hidden_act", "differs from hidden_activation: keep one"));
    }
    Ok(spec)
}

fn gemma2(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(
        f,
        &[
            "rope_scaling",
            "rope_parameters",
            "attention_bias",
            "sliding_window",
            "layer_types",
            "query_pre_attn_scalar",
            "attn_logit_softcapping",
            "final_logit_softcapping",
        ],
    )?;
    let spec = gemma_like(f, family, 4, WHOLE_HEAD)?;
    let windows = pattern(f, spec.layers(), 2)?;
    Ok(LmSpec {
        placement: Placement::Around,
        attn_softcap: softcap(f, "attn_logit_softcapping", Some(50.0))?,
        final_softcap: softcap(f, "final_logit_softcapping", Some(30.0))?,
        blocks: blocks(query_scale(f)?, &windows),
        ..spec
    })
}

fn gemma3_text(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(
        f,
        &[
            "rope_scaling",
            "rope_parameters",
            "rope_local_base_freq",
            "attention_bias",
            "sliding_window",
            "sliding_window_pattern",
            "layer_types",
            "query_pre_attn_scalar",
            "final_logit_softcapping",
        ],
    )?;
    let spec = gemma_like(f, family, 4, None)?;
    let every = f.size("sliding_window_pattern")?.unwrap_or(6);
    let windows = pattern(f, spec.layers(), every)?;
    let ropes = rope::local_and_global(f, spec.head_dim, spec.max_positions)?;
    let mut blocks = blocks(query_scale(f)?, &windows);
    for block in &mut blocks {
        block.rope = Some(if block.window.is_some() { 0 } else { 1 });
    }
    Ok(LmSpec {
        placement: Placement::Around,
        qk_norm: QkNormKind::PerHead,
        final_softcap: softcap(f, "final_logit_softcapping", None)?,
        ropes: ropes.to_vec(),
        blocks,
        ..spec
    })
}

fn phi3(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(
        f,
        &[
            "rope_scaling",
            "rope_parameters",
            "sliding_window",
            "partial_rotary_factor",
        ],
    )?;
    let rope = RopeDefaults {
        partial_key: Some("partial_rotary_factor"),
        ..RopeDefaults::WHOLE_HEAD
    };
    let spec = llama_like(f, family, Heads::FROM_WIDTH, Some(&rope))?;
    if spec.ropes[0].scaling != RopeScaling::None {
        let key = if f.value("rope_scaling").is_some() {
            "rope_scaling"
        } else {
            "rope_parameters"
        };
        return Err(f.unsupported(
            key,
            "stretches frequencies in a way that this family does not have",
        ));
    }
    let window = f.size("sliding_window")?;
    Ok(LmSpec {
        norm: NormSpec {
            eps: f.positive("rms_norm_eps")?.unwrap_or(1e-5),
            ..spec.norm
        },
        blocks: blocks(head_scale(spec.head_dim), &vec![window; spec.layers()]),
        ..spec
    })
}

fn olmo2(f: &Fields<'_>, family: &'static str) -> Result<LmSpec> {
    refuse(f, &["rope_scaling", "rope_parameters", "attention_bias"])?;
    let spec = llama_like(f, family, Heads::FROM_WIDTH, WHOLE_HEAD)?;
    let bias = f.flag("attention_bias")?.unwrap_or(false);
    Ok(LmSpec {
        norm: NormSpec {
            eps: f.positive("rms_norm_eps")?.unwrap_or(1e-5),
            ..spec.norm
        },
        placement: Placement::After,
        qk_norm: QkNormKind::FullWidth,
        qkv_bias: bias,
        out_bias: bias,
        ..spec
    })
}
