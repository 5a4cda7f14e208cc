//! Bugs in numbers of 16 bits, likewise.

use super::planted::Mutant;

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    (
        "bf16 by cutting",
        "halves.cuh",
        "(bits + 0x7fff + (bits >> 16 & 1)) >> 16",
        "bits >> 16",
    ),
    (
        "f16 is multiplied as bf16",
        "halves.cuh",
        "    multiply_f16(d, a, b0, b1);",
        "    multiply_bf16(d, a, b0, b1);",
    ),
    (
        "warpgroups multiply f16 as bf16",
        "halves.cuh",
        "multiply_warpgroup_f16(d, a, b, part, more);",
        "multiply_warpgroup_bf16(d, a, b, part, more);",
    ),
    (
        "rows are rounded to the other format",
        "tensor.cu",
        "if (f16) round_row<F16>",
        "if (!f16) round_row<F16>",
    ),
    (
        "rows are rounded before they are scaled",
        "tensor.cu",
        "F::of(factor * v.v[q])",
        "F::of(v.v[q])",
    ),
    (
        "the last columns are rounded before they are scaled",
        "tensor.cu",
        "F::of(factor * (row[c]",
        "F::of((row[c]",
    ),
    (
        "Adam writes the shadow of the row below",
        "elements.cu",
        "rounded + place_of(r, c, padded, panels)) = four",
        "rounded + place_of(r ? r - 1 : 0, c, padded, panels)) = four",
    ),
    (
        "Adam writes shadows in the other format",
        "elements.cu",
        "if (f16) adam.row<F16>",
        "if (!f16) adam.row<F16>",
    ),
    (
        "Adam rounds no last columns",
        "elements.cu",
        "rounded[place_of(r, c, padded, panels)] = F::of(step<1>(first + c).v[0]);",
        "step<1>(first + c);",
    ),
    (
        "the loss scale stays in the sums",
        "latents.cu",
        "sum.v[w] *= s.factor;",
        "sum.v[w] *= 1.0f;",
    ),
    (
        "the loss scale is taken off what was there",
        "latents.cu",
        "sum.v[w] = old.v[w] + sum.v[w];\n    }\n    store<W>(s.out + c, sum);",
        "sum.v[w] = old.v[w] * s.factor + sum.v[w];\n    }\n    store<W>(s.out + c, sum);",
    ),
    (
        "the largest number is one without its center",
        "tensor.cu",
        "to_f16(in[(u64)r * d + c] - (center ? center[c] : 0.0f))",
        "to_f16(in[(u64)r * d + c])",
    ),
    (
        "the largest number has a sign",
        "tensor.cu",
        "& 0x7fff;",
        "& 0xffff;",
    ),
];
