//! Rotary embeddings, in the older and the newer dialect of `config.json`.

use super::fields::Fields;
use crate::domain::Result;
use crate::lm::spec::{Rope, RopeScaling};

/// What a family assumes where its config is silent.
pub(super) struct RopeDefaults {
    /// Key of the base outside of `rope_parameters`.
    pub theta_key: &'static str,
    pub theta: f64,
    /// Key of the turning share of a head outside of `rope_parameters`, where the family
    /// has one.
    pub partial_key: Option<&'static str>,
    pub partial: f64,
}

impl RopeDefaults {
    pub const WHOLE_HEAD: Self = Self {
        theta_key: "rope_theta",
        theta: 10_000.0,
        partial_key: None,
        partial: 1.0,
    };
}

/// Keys that may stand in a rotary object. Any other changes the angles in a way that is
/// not computed here.
const KNOWN: &[&str] = &[
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
];

/// The rotary embedding of a family that has one for all layers.
pub(super) fn single(
    f: &Fields<'_>,
    head_dim: usize,
    max_positions: usize,
    defaults: &RopeDefaults,
) -> Result<Rope> {
    let object = match (f.object("rope_scaling")?, f.object("rope_parameters")?) {
        (Some(_), Some(_)) => {
            return Err(f.unsupported("rope_scaling", "stands beside rope_parameters: keep one"));
        }
        (older, newer) => older.or(newer),
    };
    read(f, object.as_ref(), head_dim, max_positions, defaults)
}

/// Gemma 3: (sliding layers, full layers).
pub(super) fn local_and_global(
    f: &Fields<'_>,
    head_dim: usize,
    max_positions: usize,
) -> Result<[Rope; 2]> {
    let local = RopeDefaults {
        theta_key: "rope_local_base_freq",
        ..RopeDefaults::WHOLE_HEAD
    };
    let global = RopeDefaults {
        theta: 1_000_000.0,
        ..RopeDefaults::WHOLE_HEAD
    };
    let newer = f.object("rope_parameters")?;
    let older = f.object("rope_scaling")?;
    if let Some(newer) = &newer {
        if older.is_some() {
            return Err(f.unsupported("rope_scaling", "stands beside rope_parameters: keep one"));
        }
        let expected = ["sliding_attention", "full_attention"];
        if let Some(key) = newer.keys().find(|key| !expected.contains(key)) {
            return Err(newer.unsupported(
                key,
                "is not sliding_attention or full_attention, which this family has",
            ));
        }
    }
    let part = |key| newer.as_ref().map_or(Ok(None), |n| n.object(key));
    let sliding = part("sliding_attention")?;
    let full = part("full_attention")?.or(older);
    Ok([
        read(f, sliding.as_ref(), head_dim, max_positions, &local)?,
        read(f, full.as_ref(), head_dim, max_positions, &global)?,
    ])
}

fn read(
    f: &Fields<'_>,
    object: Option<&Fields<'_>>,
    head_dim: usize,
    max_positions: usize,
    defaults: &RopeDefaults,
) -> Result<Rope> {
    let inner = |key: &str| object.map_or(Ok(None), |o| o.positive(key));
    let theta = match inner("rope_theta")? {
        Some(theta) => theta,
        None => f.positive(defaults.theta_key)?.unwrap_or(defaults.theta),
    };
    let dim = turning(f, object, head_dim, defaults)?;
    let scaling = object.map_or(Ok(RopeScaling::None), |o| scaling(o, max_positions))?;
    Ok(Rope {
        theta,
        dim,
        scaling,
    })
}

/// Leading elements of a head that turn.
fn turning(
    f: &Fields<'_>,
    object: Option<&Fields<'_>>,
    head_dim: usize,
    defaults: &RopeDefaults,
) -> Result<usize> {
    const INNER: &str = "partial_rotary_factor";
    let inside = object.map_or(Ok(None), |o| o.positive(INNER))?;
    let outside = match defaults.partial_key {
        Some(key) => f.positive(key)?,
        None => None,
    };
    let share = inside.or(outside).unwrap_or(defaults.partial);
    let (at, key) = match (object, defaults.partial_key) {
        (Some(object), _) if inside.is_some() => (object, INNER),
        (_, Some(key)) => (f, key),
        _ => (f, "head_dim"),
    };
    if defaults.partial_key.is_none() && share != 1.0 {
        return Err(at.unsupported(key, "turns a part of each head, which this family does not"));
    }
    let dim = (head_dim as f64 * share) as usize;
    if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
        return Err(at.unsupported(
            key,
            format_args!("turns {dim} of {head_dim} elements of a head: an even number is needed"),
        ));
    }
    Ok(dim)
}

fn scaling(object: &Fields<'_>, max_positions: usize) -> Result<RopeScaling> {
    if let Some(key) = object
        .keys()
        .find(|key| !KNOWN.contains(key) && object.value(key).is_some())
    {
        return Err(object.unsupported(key, "is a rotary setting that is not supported"));
    }
    let (key, kind) = match object.text("rope_type")? {
        Some(kind) => ("rope_type", kind),
        None => ("type", object.text("type")?.unwrap_or("default")),
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear {
            factor: object.need_positive("factor")?,
        }),
        "llama3" => {
            let low = object.need_positive("low_freq_factor")?;
            let high = object.need_positive("high_freq_factor")?;
            if high <= low {
                return Err(object.invalid("high_freq_factor", "is not above low_freq_factor"));
            }
            let original = object.positive("original_max_position_embeddings")?;
            Ok(RopeScaling::Llama3 {
                factor: object.need_positive("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original: original.unwrap_or(max_positions as f64),
            })
        }
        _ => Err(object.unsupported(key, "is not supported: default, linear and llama3 are")),
    }
}
