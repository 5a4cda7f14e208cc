//! Keys that change what a decoder computes, in families that have them.
//!
//! A family lists the ones it understands. Any other is refused unless its value is one
//! that changes nothing, so that a model is never run as what it is not. Keys that are in
//! neither list are about training, tokens or storage.

use super::fields::Fields;
use crate::domain::Result;
use serde_json::Value;

/// Keys whose absence, `null`, `false`, `[]` or `{}` mean the plain decoder.
const OFF: &[&str] = &[
    // Weights in another form.
    "quantization_config",
    "compression_config",
    // Another architecture around or inside the decoder.
    "is_encoder_decoder",
    "add_cross_attention",
    "text_config",
    "vision_config",
    "audio_config",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "n_routed_experts",
    "moe_intermediate_size",
    "hidden_size_per_layer_input",
    "num_kv_shared_layers",
    "per_layer_config",
    "new_decoder_architecture",
    "parallel_attn",
    "multi_query",
    // Attention.
    "use_bidirectional_attention",
    "layer_types",
    "sliding_window",
    "sliding_window_pattern",
    "use_sliding_window",
    "attention_chunk_size",
    "attn_temperature_tuning",
    "attn_logit_softcapping",
    "query_pre_attn_scalar",
    "clip_qkv",
    "qk_layernorm",
    "use_qk_norm",
    "scale_attn_by_inverse_layer_idx",
    "attention_bias",
    // Positions.
    "alibi",
    "use_alibi",
    "no_rope_layers",
    "no_rope_layer_interval",
    "rope_interleaved",
    "use_mrope",
    "rope_scaling",
    "rope_parameters",
    "rope_local_base_freq",
    // Elsewhere.
    "mlp_bias",
    "use_bias",
    "final_logit_softcapping",
    "altup_num_inputs",
    "laurel_rank",
];

/// Keys of multipliers: absent or 1 means the plain decoder.
const ONE: &[&str] = &[
    "attention_multiplier",
    "residual_multiplier",
    "embedding_multiplier",
    "logits_scaling",
    "logit_scale",
    "scale_emb",
    "partial_rotary_factor",
    "rotary_pct",
];

/// Refuses the first key that asks for what `understood` does not cover.
pub(super) fn refuse(f: &Fields<'_>, understood: &[&str]) -> Result<()> {
    for key in OFF.iter().filter(|key| !understood.contains(key)) {
        if f.value(key).is_some_and(|value| !is_off(value)) {
            return Err(f.unsupported(key, "is not supported for this family of models"));
        }
    }
    for key in ONE.iter().filter(|key| !understood.contains(key)) {
        if f.value(key)
            .is_some_and(|value| value.as_f64() != Some(1.0))
        {
            return Err(f.unsupported(key, "is not supported for this family of models"));
        }
    }
    Ok(())
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(items) => items
            .iter()
            .all(|i| is_off(i) || i.as_str() == Some("full_attention")),
        Value::Object(map) => map.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_that_change_nothing_pass() {
        for value in [
            json!(null),
            json!(false),
            json!([]),
            json!({}),
            json!(["full_attention", "full_attention"]),
        ] {
            assert!(is_off(&value), "{value}");
        }
        for value in [json!(true), json!(8), json!("gptq"), json!({"bits": 4})] {
            assert!(!is_off(&value), "{value}");
        }
    }
}
