//! Numbers that may be undefined: NaN in memory, null on the wire.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes NaN and infinities as null.
pub fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    value.is_finite().then_some(*value).serialize(to)
}

/// Reads null as NaN.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}
