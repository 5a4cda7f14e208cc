use super::*;
use crate::lm::spec::{QkNormKind, RopeScaling};
use serde_json::{Value, json};

fn read(config: &Value) -> Result<LmSpec> {
    parse(Path::new("m/config.json"), config.to_string().as_bytes())
}

/// A small Llama, with `changes` on top; a null removes the key.
fn llama(changes: Value) -> Value {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 128, "vocab_size": 100, "rms_norm_eps": 1e-6,
    });
    apply(&mut config, changes);
    config
}

fn apply(config: &mut Value, changes: Value) {
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
}

fn family(name: &str, changes: Value) -> Value {
    let mut config = llama(json!({"model_type": name}));
    apply(&mut config, changes);
    config
}

#[test]
fn both_dialects_of_rotary_settings_mean_the_same() {
    let pairs = [
        (
            json!({"rope_theta": 500.0}),
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ),
        (
            json!({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}}),
            json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}),
        ),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}}),
        ),
    ];
    for (older, newer) in pairs {
        let older = read(&llama(older)).unwrap();
        assert_eq!(older, read(&llama(newer)).unwrap());
        assert_ne!(
            older.ropes,
            read(&llama(json!({"rope_theta": 7.0}))).unwrap().ropes
        );
    }
    let neox = |changes| read(&family("gpt_neox", changes)).unwrap();
    let older = neox(json!({"rotary_pct": 0.5, "rotary_emb_base": 500}));
    let newer = json!({"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 500.0}});
    assert_eq!(older, neox(newer));
    assert_eq!(older.ropes[0].dim, 4);
}

#[test]
fn gemma_3_has_a_rotary_embedding_for_each_kind_of_layer() {
    let newer = json!({
        "head_dim": 8, "sliding_window": 16,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0}
        }
    });
    let older = json!({
        "head_dim": 8, "sliding_window": 16, "sliding_window_pattern": 3, "rope_theta": 5000.0,
        "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}
    });
    let spec = read(&family("gemma3_text", newer)).unwrap();
    assert_eq!(spec, read(&family("gemma3_text", older)).unwrap());
    let ropes: Vec<_> = spec.blocks.iter().map(|b| b.rope.unwrap()).collect();
    assert_eq!(ropes, [0, 0, 1, 0]);
    assert_eq!(spec.ropes[0].scaling, RopeScaling::None);
    assert_eq!(spec.ropes[1].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(spec.qk_norm, QkNormKind::PerHead);
}

#[test]
fn windows_follow_each_familys_rule() {
    let windows = |config: Value| -> Vec<Option<usize>> {
        let spec = read(&config).unwrap();
        spec.blocks.iter().map(|b| b.window).collect()
    };
    assert_eq!(windows(family("mistral", json!({}))), [Some(4096); 4]);
    assert_eq!(
        windows(family("mistral", json!({"sliding_window": null}))),
        [None; 4]
    );
    assert_eq!(
        windows(family("phi3", json!({"sliding_window": 7}))),
        [Some(7); 4]
    );
    let gemma2 = json!({"sliding_window": 7, "head_dim": 8});
    assert_eq!(
        windows(family("gemma2", gemma2)),
        [Some(7), None, Some(7), None]
    );
    let off = json!({"sliding_window": 7, "use_sliding_window": false});
    assert_eq!(windows(family("qwen2", off)), [None; 4]);
    let on = json!({"sliding_window": 7, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(windows(family("qwen2", on)), [None, None, None, Some(7)]);
}

#[test]
fn llama_3_frequencies_have_three_regions() {
    let spec = read(&llama(json!({
        "hidden_size": 64, "rope_theta": 500.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    })))
    .unwrap();
    let plain = read(&llama(json!({"hidden_size": 64, "rope_theta": 500.0}))).unwrap();
    let scaled = spec.ropes[0].inverse_frequencies();
    let plain = plain.ropes[0].inverse_frequencies();
    assert_eq!(scaled[0], plain[0]);
    assert!(scaled[2] < plain[2] && scaled[2] > plain[2] / 4.0);
    assert_eq!(scaled[7], plain[7] / 4.0);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let cases = [
        (
            llama(json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})),
            "rope_scaling.rope_type: \"yarn\"",
        ),
        (
            llama(json!({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}})),
            "rope_parameters.rope_type: \"dynamic\"",
        ),
        (
            llama(json!({"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1]}})),
            "rope_parameters.mrope_section",
        ),
        (
            llama(json!({"rope_parameters": {"partial_rotary_factor": 0.5}})),
            "rope_parameters.partial_rotary_factor",
        ),
        (
            llama(
                json!({"rope_parameters": {"rope_theta": 1.0}, "rope_scaling": {"type": "linear", "factor": 2.0}}),
            ),
            "rope_scaling",
        ),
        (
            llama(json!({"hidden_act": "quick_gelu"})),
            "hidden_act: \"quick_gelu\"",
        ),
        (
            llama(json!({"quantization_config": {"bits": 4}})),
            "quantization_config",
        ),
        (llama(json!({"sliding_window": 16})), "sliding_window: 16"),
        (
            llama(
                json!({"layer_types": ["full_attention", "full_attention", "full_attention", "chunked_attention"]}),
            ),
            "layer_types",
        ),
        (
            llama(json!({"attention_multiplier": 0.5})),
            "attention_multiplier: 0.5",
        ),
        (
            llama(json!({"num_local_experts": 8})),
            "num_local_experts: 8",
        ),
        (llama(json!({"rope_interleaved": true})), "rope_interleaved"),
        (llama(json!({"hidden_size": 20})), "head_dim"),
        (family("mixtral", json!({})), "model_type: \"mixtral\""),
        (
            family("gemma3", json!({"text_config": {}})),
            "model_type: \"gemma3\"",
        ),
        (family("qwen2", json!({"mlp_bias": true})), "mlp_bias"),
        (
            family(
                "mistral",
                json!({"sliding_window": 8, "layer_types": vec!["full_attention"; 4]}),
            ),
            "layer_types",
        ),
        (
            family("gemma2", json!({"use_bidirectional_attention": true})),
            "use_bidirectional_attention",
        ),
        (
            family("gemma3_text", json!({"attn_logit_softcapping": 50.0})),
            "attn_logit_softcapping",
        ),
        (
            family(
                "gemma3_text",
                json!({"rope_parameters": {"rope_theta": 1e6}}),
            ),
            "rope_parameters.rope_theta",
        ),
        (family("gemma", json!({"hidden_act": "silu"})), "hidden_act"),
        (
            family(
                "phi3",
                json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
            ),
            "rope_scaling",
        ),
        (
            family(
                "phi3",
                json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            ),
            "rope_scaling",
        ),
        (
            family("phi3", json!({"partial_rotary_factor": 0.4})),
            "partial_rotary_factor: 0.4",
        ),
        (
            family(
                "gpt_neox",
                json!({"rotary_emb_base": 10.0, "rope_theta": 20.0}),
            ),
            "rope_theta",
        ),
        (
            family("gpt_neox", json!({"rope_theta": 20.0})),
            "rope_theta: 20.0",
        ),
        (
            family(
                "gpt_neox",
                json!({"rotary_pct": 0.5, "partial_rotary_factor": 1.0}),
            ),
            "partial_rotary_factor: 1.0",
        ),
        (family("gpt_neox", json!({"head_dim": 16})), "head_dim: 16"),
        (
            family(
                "gpt2",
                json!({"n_positions": 8, "add_cross_attention": true}),
            ),
            "add_cross_attention",
        ),
        (family("olmo2", json!({"clip_qkv": 8.0})), "clip_qkv"),
    ];
    for (config, expected) in cases {
        let error = read(&config).expect_err(expected);
        assert_eq!(error.code, Code::ModelUnsupported, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("m/config.json: {expected}")),
            "{text} lacks {expected}"
        );
    }
}

#[test]
fn what_is_malformed_names_its_key() {
    let cases = [
        (
            llama(json!({"hidden_size": null})),
            "hidden_size: is missing",
        ),
        (
            llama(json!({"hidden_size": "32"})),
            "hidden_size: \"32\" is not",
        ),
        (llama(json!({"hidden_size": 0})), "hidden_size: 0 is not"),
        (
            llama(json!({"num_hidden_layers": 100000})),
            "num_hidden_layers: 100000 is more",
        ),
        (
            llama(json!({"num_hidden_layers": 1u64 << 60})),
            "num_hidden_layers",
        ),
        (
            llama(json!({"num_attention_heads": 5, "num_key_value_heads": 5})),
            "num_attention_heads: 5 heads",
        ),
        (
            llama(json!({"num_key_value_heads": 3})),
            "num_key_value_heads: 4 query heads",
        ),
        (llama(json!({"rms_norm_eps": -1.0})), "rms_norm_eps: -1.0"),
        (
            llama(json!({"tie_word_embeddings": 1})),
            "tie_word_embeddings: 1 is not",
        ),
        (
            llama(json!({"rope_scaling": "linear"})),
            "rope_scaling: \"linear\" is not an object",
        ),
        (
            llama(json!({"rope_scaling": {"type": "linear"}})),
            "rope_scaling.factor: is missing",
        ),
        (llama(json!({"model_type": null})), "model_type: is missing"),
        (
            family(
                "qwen3",
                json!({"use_sliding_window": true, "layer_types": ["full_attention"]}),
            ),
            "layer_types: has 1 entries",
        ),
        (
            family(
                "qwen3",
                json!({"layer_types": vec!["sliding_attention"; 4]}),
            ),
            "layer_types: asks for sliding",
        ),
    ];
    for (config, expected) in cases {
        let error = read(&config).expect_err(expected);
        assert_eq!(error.code, Code::ModelConfigInvalid, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("m/config.json: {expected}")),
            "{text} lacks {expected}"
        );
    }
    for text in ["", "[]", "{", "nonsense"] {
        let error = parse(Path::new("m/config.json"), text.as_bytes()).unwrap_err();
        assert_eq!(error.code, Code::ModelConfigInvalid);
        assert!(!error.to_string().contains('\n'));
    }
}

#[test]
fn keys_that_change_nothing_are_ignored() {
    let plain = read(&llama(json!({}))).unwrap();
    let noisy = llama(json!({
        "torch_dtype": "bfloat16", "dtype": "float16", "use_cache": true, "pad_token_id": null,
        "transformers_version": "5.0", "quantization_config": null, "sliding_window": null,
        "architectures": ["LlamaForCausalLM"], "rope_interleaved": false, "pretraining_tp": 1,
        "layer_types": vec!["full_attention"; 4], "attention_dropout": 0.1, "is_llama_config": true,
        "rope_scaling": null,
    }));
    assert_eq!(plain, read(&noisy).unwrap());
}
