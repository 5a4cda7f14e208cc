//! The exports of a finished run.

use super::context::Context;
use super::train::Run;
use crate::device::lm::LmOps;
use crate::device::sae::SaeOps;
use crate::domain::Result;
use std::collections::BTreeMap;

/// Writes every format.
pub fn write<D: SaeOps<Real = f32> + LmOps>(
    _run: &Run<'_, D>,
    _context: &mut Context<'_>,
) -> Result<BTreeMap<String, String>> {
    Ok(BTreeMap::new())
}
