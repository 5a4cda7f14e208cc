//! Bugs in the filter of TopK that its tests must see.

use super::planted::Mutant;

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    (
        "what rounding takes of x is forgotten above",
        "product.cuh",
        "return sum + reach.v[0] + reach.v[1]",
        "return sum + reach.v[1]",
    ),
    (
        "what rounding takes of the encoder is forgotten above",
        "product.cuh",
        "return sum + reach.v[0] + reach.v[1]",
        "return sum + reach.v[0]",
    ),
    (
        "what rounding takes of x is forgotten below",
        "product.cuh",
        "return sum - reach.v[0] - reach.v[1]",
        "return sum - reach.v[1]",
    ),
    (
        "what rounding takes of the encoder is forgotten below",
        "product.cuh",
        "return sum - reach.v[0] - reach.v[1]",
        "return sum - reach.v[0]",
    ),
    (
        "additions have no error",
        "filter.cu",
        "sqrt(off) + gamma * length",
        "sqrt(off) + 0.0 * gamma",
    ),
    (
        "what underflows has no error",
        "filter.cu",
        "fmaxf(reach, LEAST) : all, fits ? fmaxf(size, LEAST) : all",
        "reach : all, fits ? size : all",
    ),
    (
        "what overflows is within reach",
        "filter.cu",
        "const bool fits = size < LONGEST;",
        "const bool fits = true;",
    ),
    (
        "the first bound is too high",
        "filter.cu",
        "const float lower = below(sum,",
        "const float lower = above(sum,",
    ),
    (
        "later bounds are too high",
        "product.cuh",
        "key_of((below(mine",
        "key_of((above(mine",
    ),
    (
        "a bound is never raised",
        "filter.cu",
        "bounds[b] = bound;",
        "bounds[b] = bounds[b];",
    ),
    (
        "only the least keys stay on a list",
        "filter.cu",
        "!(most < bound);",
        "key >> 32 >= t;",
    ),
    (
        "a list keeps what left it",
        "filter.cu",
        "    counts[b] = left;\n",
        "",
    ),
    (
        "a list of candidates that was too short is not told",
        "filter.cu",
        "if (found > length) atomicMax",
        "if (!overflow) atomicMax",
    ),
    (
        "candidates are not centred",
        "filter.cu",
        "(center ? center[l] : 0.0f) : 0.0f",
        "(center ? 0.0f : 0.0f) : 0.0f",
    ),
    (
        "candidates are added up in one chain",
        "filter.cu",
        "(c0 + COLUMNS) % CHAIN == 0 || !more",
        "!more",
    ),
    (
        "candidates are read before they are there",
        "filter.cu",
        "copy_async_wait<1>();",
        "copy_async_wait<2>();",
    ),
    (
        "a candidate's columns are overwritten while others read",
        "filter.cu",
        "part = 0.0f;\n    __syncwarp();",
        "part = 0.0f;",
    ),
    (
        "candidates beyond the surest are forgotten",
        "filter.cu",
        "round ? !first && !(value[i] < bound) : first",
        "round ? false && !(value[i] < bound) : first",
    ),
    (
        "a bound of one lane's candidates",
        "filter.cu",
        "bound = from_ordered(warp_min(least));\n  }",
        "bound = from_ordered(least);\n  }",
    ),
];
