//! Parts of a description that families share.

use super::fields::Fields;
use crate::device::lm::Activation;
use crate::domain::Result;
use crate::lm::spec::BlockSpec;
use serde_json::Value;

/// The heads of a family whose config may leave some of it out.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    /// Without it: as many as query heads.
    pub kv_heads: Option<usize>,
    /// Without it: the width divided by the query heads.
    pub head_dim: Option<usize>,
}

pub(super) struct HeadShape {
    pub d_model: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Heads {
    pub const FROM_WIDTH: Self = Self {
        kv_heads: None,
        head_dim: None,
    };

    pub fn read(self, f: &Fields<'_>) -> Result<HeadShape> {
        let d_model = f.need_size(&["hidden_size"])?;
        let heads = f.need_size(&["num_attention_heads"])?;
        let kv_heads = match f.size("num_key_value_heads")? {
            Some(n) => n,
            // A null means one for each query head; silence means the family's default.
            None if f.mentions("num_key_value_heads") => heads,
            None => self.kv_heads.unwrap_or(heads),
        };
        if heads % kv_heads != 0 {
            return Err(f.invalid(
                "num_key_value_heads",
                format_args!("{heads} query heads cannot share {kv_heads} evenly"),
            ));
        }
        let head_dim = match f.size("head_dim")?.or(self.head_dim) {
            Some(head_dim) => head_dim,
            None => even_share(f, "num_attention_heads", d_model, heads)?,
        };
        Ok(HeadShape {
            d_model,
            heads,
            kv_heads,
            head_dim,
        })
    }
}

/// Number of blocks.
pub(super) fn layers(f: &Fields<'_>, keys: &[&str]) -> Result<usize> {
    const MOST: usize = 4096;
    let layers = f.need_size(keys)?;
    if layers > MOST {
        return Err(f.invalid(keys[0], format_args!("{layers} is more than {MOST}")));
    }
    Ok(layers)
}

/// `width / heads`, where that is whole.
pub(super) fn even_share(f: &Fields<'_>, key: &str, width: usize, heads: usize) -> Result<usize> {
    if !width.is_multiple_of(heads) {
        return Err(f.invalid(
            key,
            format_args!("{heads} heads do not divide the width {width}"),
        ));
    }
    Ok(width / heads)
}

/// Refuses a size that the family does not have, unless it says what follows anyway.
pub(super) fn agrees(f: &Fields<'_>, key: &str, expected: usize) -> Result<()> {
    match f.size(key)? {
        Some(n) if n != expected => Err(f.unsupported(
            key,
            format_args!("is not supported: it follows from the other sizes to be {expected}"),
        )),
        _ => Ok(()),
    }
}

/// Refuses a second name of a setting whose value is not the one that `holds`.
pub(super) fn restates(f: &Fields<'_>, key: &str, holds: impl Fn(f64) -> bool) -> Result<()> {
    match f.positive(key)? {
        Some(value) if !holds(value) => {
            Err(f.unsupported(key, "differs from what this family's own keys say"))
        }
        _ => Ok(()),
    }
}

pub(super) fn activation(f: &Fields<'_>, key: &str, default: Activation) -> Result<Activation> {
    match f.text(key)? {
        None => Ok(default),
        Some("gelu" | "gelu_python") => Ok(Activation::Gelu),
        Some(
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate",
        ) => Ok(Activation::GeluTanh),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("relu") => Ok(Activation::Relu),
        Some(_) => Err(f.unsupported(
            key,
            "is not supported: gelu, gelu_new, gelu_pytorch_tanh, silu and relu are",
        )),
    }
}

/// The usual scale of attention scores.
pub(super) fn head_scale(head_dim: usize) -> f64 {
    (head_dim as f64).powf(-0.5)
}

/// Gemma's scale of attention scores.
pub(super) fn query_scale(f: &Fields<'_>) -> Result<f64> {
    let scalar = f.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    Ok(scalar.powf(-0.5))
}

/// A soft-cap: null switches it off, silence means the family's default.
pub(super) fn softcap(f: &Fields<'_>, key: &str, default: Option<f64>) -> Result<Option<f64>> {
    match f.positive(key)? {
        Some(cap) => Ok(Some(cap)),
        None if f.mentions(key) => Ok(None),
        None => Ok(default),
    }
}

/// `sliding_window`: null switches it off, silence means the family's default.
pub(super) fn window(f: &Fields<'_>, default: usize) -> Result<Option<usize>> {
    match f.size("sliding_window")? {
        Some(window) => Ok(Some(window)),
        None if f.mentions("sliding_window") => Ok(None),
        None => Ok(Some(default)),
    }
}

/// The windows that `layer_types` lists, where it is there.
pub(super) fn layer_windows(
    f: &Fields<'_>,
    layers: usize,
    window: Option<usize>,
) -> Result<Option<Vec<Option<usize>>>> {
    const KEY: &str = "layer_types";
    let Some(list) = f.list(KEY)? else {
        return Ok(None);
    };
    if list.len() != layers {
        return Err(f.invalid(
            KEY,
            format_args!("has {} entries for {layers} layers", list.len()),
        ));
    }
    let windows = list.iter().map(|kind| match kind {
        Value::String(kind) if kind == "full_attention" => Ok(None),
        Value::String(kind) if kind == "sliding_attention" => match window {
            Some(window) => Ok(Some(window)),
            None => Err(f.invalid(KEY, "asks for sliding_attention, but no window is set")),
        },
        _ => Err(f.unsupported(
            KEY,
            "holds something other than full_attention and sliding_attention",
        )),
    });
    windows.collect::<Result<_>>().map(Some)
}

/// Gemma 2 and 3: every `every`-th layer is full, the others slide, unless `layer_types`
/// says otherwise.
pub(super) fn pattern(f: &Fields<'_>, layers: usize, every: usize) -> Result<Vec<Option<usize>>> {
    let window = window(f, 4096)?;
    if let Some(listed) = layer_windows(f, layers, window)? {
        return Ok(listed);
    }
    let Some(window) = window else {
        return Err(f.invalid("sliding_window", "is null, but layers of this family slide"));
    };
    Ok((0..layers)
        .map(|layer| (!(layer + 1).is_multiple_of(every)).then_some(window))
        .collect())
}

/// One block for each window, all with the first rotary embedding.
pub(super) fn blocks(scale: f64, windows: &[Option<usize>]) -> Vec<BlockSpec> {
    windows
        .iter()
        .map(|&window| BlockSpec {
            scale,
            window,
            rope: Some(0),
        })
        .collect()
}
