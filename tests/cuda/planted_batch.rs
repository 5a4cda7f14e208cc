//! Bugs in BatchTopK out of the product's epilogue, likewise.

use super::planted::Mutant;

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    (
        "of equal keys those after the bound are lost",
        "batch.cu",
        "bounds[b] = from_ordered(least - 1);",
        "bounds[b] = from_ordered(least);",
    ),
    (
        "what is equal to the bound leaves the lists",
        "batch.cu",
        "const bool stays = upper(key) >= least;",
        "const bool stays = upper(key) > least;",
    ),
    (
        "a value stays where another key comes to",
        "batch.cu",
        "values[kept + before(mask)] = value;",
        "",
    ),
    (
        "a list that was too short is not told",
        "batch.cu",
        "if (found > length) atomicMax(overflow, 1u);",
        "",
    ),
    (
        "digits of other keys are counted too",
        "batch.cu",
        "if (has_digits(key, state, shift)) atomicAdd",
        "atomicAdd",
    ),
    (
        "of equal keys a token's last ones win",
        "batch.cu",
        "list.keys[o] > key;",
        "list.keys[o] < key;",
    ),
    (
        "every token has all ties to give away",
        "batch.cu",
        "state[2] > ties[b] ? state[2] - ties[b] : 0;",
        "state[2];",
    ),
    (
        "edges stand as they were found",
        "batch.cu",
        "place += winners[o] < latent;",
        "place += o < i && winners[o] != NONE;",
    ),
    (
        "fewer winners than edges is not told",
        "batch.cu",
        "row_ptr[tokens] = total, atomicMax(overflow, 1u);",
        "row_ptr[tokens] = total;",
    ),
    (
        "edges that there are not are left as they are",
        "batch.cu",
        "latents[e] = 0, edges[e] = 0.0f;",
        "edges[e] = 0.0f;",
    ),
    (
        "keys that are not positive can win",
        "batch.cu",
        "return state[0] > ORDERED_ZERO ? state[0] : ORDERED_ZERO + 1;",
        "return state[0];",
    ),
];
