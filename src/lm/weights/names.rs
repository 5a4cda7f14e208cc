//! What each family calls its tensors.

use crate::lm::spec::{LmSpec, Placement};

/// Where queries, keys and values are stored.
pub(super) enum Qkv {
    /// Three matrices.
    Separate([&'static str; 3]),
    /// One matrix: all queries, all keys, all values.
    Stacked(&'static str),
    /// One matrix: each head's query, key and value together (GPT-NeoX).
    ByHead(&'static str),
}

/// Where the MLP's inner matrices are stored.
pub(super) enum Up {
    /// One matrix. With a gate it holds the gate's rows first (Phi-3).
    One(&'static str),
    /// Gate and up, two matrices.
    GateAndUp([&'static str; 2]),
}

/// Names of a family's tensors: those of a block relative to the block, the others
/// relative to `roots`.
pub(super) struct Names {
    /// Prefixes that may stand before every name but `head`, the usual one first.
    pub roots: [&'static str; 2],
    pub embed: &'static str,
    pub positions: &'static str,
    pub final_norm: &'static str,
    pub head: &'static str,
    /// `{blocks}.{L}.` begins the names of block L.
    pub blocks: &'static str,
    pub attn_norm: Option<&'static str>,
    pub attn_post_norm: Option<&'static str>,
    pub mlp_norm: Option<&'static str>,
    pub mlp_post_norm: Option<&'static str>,
    pub qkv: Qkv,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub out: &'static str,
    pub up: Up,
    pub down: &'static str,
    /// Whether matrices are stored [inputs, outputs] (GPT-2).
    pub transposed: bool,
    /// Tensors of a block that are stored but computed here: masks and frequencies.
    pub ignored: &'static [&'static str],
}

const GPT2: Names = Names {
    roots: ["transformer.", ""],
    embed: "wte",
    positions: "wpe",
    final_norm: "ln_f",
    head: "lm_head",
    blocks: "h",
    attn_norm: Some("ln_1"),
    attn_post_norm: None,
    mlp_norm: Some("ln_2"),
    mlp_post_norm: None,
    qkv: Qkv::Stacked("attn.c_attn"),
    q_norm: "",
    k_norm: "",
    out: "attn.c_proj",
    up: Up::One("mlp.c_fc"),
    down: "mlp.c_proj",
    transposed: true,
    ignored: &["attn.bias", "attn.masked_bias"],
};

const GPT_NEOX: Names = Names {
    roots: ["gpt_neox.", ""],
    embed: "embed_in",
    positions: "",
    final_norm: "final_layer_norm",
    head: "embed_out",
    blocks: "layers",
    attn_norm: Some("input_layernorm"),
    attn_post_norm: None,
    mlp_norm: Some("post_attention_layernorm"),
    mlp_post_norm: None,
    qkv: Qkv::ByHead("attention.query_key_value"),
    q_norm: "",
    k_norm: "",
    out: "attention.dense",
    up: Up::One("mlp.dense_h_to_4h"),
    down: "mlp.dense_4h_to_h",
    transposed: false,
    ignored: &[
        "attention.bias",
        "attention.masked_bias",
        "attention.rotary_emb.inv_freq",
    ],
};

const LLAMA: Names = Names {
    roots: ["model.", ""],
    embed: "embed_tokens",
    positions: "",
    final_norm: "norm",
    head: "lm_head",
    blocks: "layers",
    attn_norm: Some("input_layernorm"),
    attn_post_norm: None,
    mlp_norm: Some("post_attention_layernorm"),
    mlp_post_norm: None,
    qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    out: "self_attn.o_proj",
    up: Up::GateAndUp(["mlp.gate_proj", "mlp.up_proj"]),
    down: "mlp.down_proj",
    transposed: false,
    ignored: &["self_attn.rotary_emb.inv_freq"],
};

/// The names of the model's family.
pub(super) fn of(spec: &LmSpec) -> Names {
    match (spec.family, spec.placement) {
        ("gpt2", _) => GPT2,
        ("gpt_neox", _) => GPT_NEOX,
        ("phi3", _) => Names {
            qkv: Qkv::Stacked("self_attn.qkv_proj"),
            up: Up::One("mlp.gate_up_proj"),
            ..LLAMA
        },
        (_, Placement::Before) => LLAMA,
        (_, Placement::Around) => Names {
            attn_post_norm: Some("post_attention_layernorm"),
            mlp_norm: Some("pre_feedforward_layernorm"),
            mlp_post_norm: Some("post_feedforward_layernorm"),
            ..LLAMA
        },
        (_, Placement::After) => Names {
            attn_norm: None,
            attn_post_norm: Some("post_attention_layernorm"),
            mlp_norm: None,
            mlp_post_norm: Some("post_feedforward_layernorm"),
            ..LLAMA
        },
    }
}
