//! Bugs that the tests of codes as a matrix must see.

use super::planted::Mutant;

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    (
        "a latent has the column of the next one",
        "dense.cu",
        "if (list[middle] < latent)",
        "if (list[middle] <= latent)",
    ),
    (
        "zeros may come over values",
        "dense.cu",
        "row[c] = 0.0f;\n  __syncthreads();",
        "row[c] = 0.0f;",
    ),
    (
        "every stretch begins with the first token",
        "dense.cu",
        "const u32 b = token + blockIdx.x;",
        "const u32 b = blockIdx.x;",
    ),
    (
        "a column of the next stretch",
        "dense.cu",
        "c - column < columns)",
        "c - column <= columns)",
    ),
    (
        "gradients of edges out of another token's row",
        "dense.cu",
        "in + (u64)blockIdx.x * columns",
        "in + (u64)(gridDim.x - 1 - blockIdx.x) * columns",
    ),
    (
        "a tile is turned before it is whole",
        "dense.cu",
        "- middle : 0.0f;\n  }\n  __syncthreads();",
        "- middle : 0.0f;\n  }",
    ),
    (
        "the centre is not taken off what is turned",
        "dense.cu",
        "(u64)r * d + c] - middle",
        "(u64)r * d + c]",
    ),
    (
        "what lies outside of a tile is no zero",
        "dense.cu",
        "r < rows && c < d ? in",
        "c < d ? in",
    ),
    (
        "pairs of bf16 the wrong way round",
        "dense.cu",
        "tile[(at + 2 * q) * ROW + i], tile[(at + 2 * q + 1) * ROW + i]",
        "tile[(at + 2 * q + 1) * ROW + i], tile[(at + 2 * q) * ROW + i]",
    ),
    (
        "rows are put in place of those that were there",
        "dense.cu",
        "row.v[w] += old.v[w];",
        "row.v[w] += 0.0f * old.v[w];",
    ),
    (
        "every stretch is put where the first was",
        "dense.cu",
        "const u32 i = first + blockIdx.x;",
        "const u32 i = blockIdx.x;",
    ),
    (
        "an edge is counted for another latent",
        "dense.cu",
        "atomicAdd(found + latents[e], 1u)",
        "atomicAdd(found + latents[e / 2], 1u)",
    ),
    (
        "a count begins anew where it is full",
        "dense.cu",
        "counts[j] > ~found[j] ? ~0u : counts[j] + found[j]",
        "counts[j] + found[j]",
    ),
    (
        "what is compared has no base",
        "dense.cu",
        "(base ? base[b * base_stride + c] : 0.0f) + sums",
        "sums",
    ),
    (
        "a residual is compared with the whole",
        "dense.cu",
        "if (less) target -= less[row + c];",
        "",
    ),
    (
        "G is not scaled",
        "dense.cu",
        "sums[row + c] = scale * residual;",
        "sums[row + c] = residual;",
    ),
];
