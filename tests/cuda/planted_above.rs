//! Bugs in what is above the bounds of latents, likewise.

use super::planted::Mutant;

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    (
        "what equals a latent's bound is above it",
        "product.cuh",
        "!(sum + b > s)",
        "!(sum + b >= s)",
    ),
    (
        "NaN is above every bound",
        "product.cuh",
        "!(sum + b > s)",
        "sum + b <= s",
    ),
    (
        "edges stand as they were found",
        "stream.cu",
        "place += mine[o] < mine[i];",
        "place += o < i;",
    ),
    (
        "a value is another edge's",
        "stream.cu",
        "edges[place] = pres[from + i];",
        "edges[place] = pres[from + place - to];",
    ),
];
