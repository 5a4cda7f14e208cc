//! Bugs in what copies rows, likewise.

use super::planted::Mutant;

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    (
        "rows are copied in the order in which they lie",
        "gather.cu",
        "(u64)pick[i] * d",
        "(u64)i * d",
    ),
    (
        "the last columns of a row stay where they were",
        "gather.cu",
        "c < d; c += 32 * W) store",
        "c + 32 * W < d; c += 32 * W) store",
    ),
    (
        "rows that are not a multiple of four wide are copied by four",
        "gather.cu",
        "if (d % 4) copy_row<1>(row, to + (u64)i * d, d);",
        "if (false) copy_row<1>(row, to + (u64)i * d, d);",
    ),
    (
        "only NaN is not finite",
        "gather.cu",
        "return (__float_as_uint(v) & 0x7f800000u) != 0x7f800000u;",
        "return v == v;",
    ),
    (
        "a lane looks at one column",
        "gather.cu",
        "    for (u32 w = 0; w < W; ++w) finite &=",
        "    for (u32 w = 0; w < 1; ++w) finite &=",
    ),
    (
        "the last bad row is named",
        "gather.cu",
        "atomicMin(least, i);",
        "*least = i;",
    ),
];
