//! Bugs in the decoding of weights, likewise.

use super::planted::Mutant;

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    (
        "the scale of the group before",
        "coded.cuh",
        "c < k ? scale(r, c) : 0.0f",
        "c < k ? scale(r, c < 8 ? c : c - 8) : 0.0f",
    ),
    (
        "scales of rows that have only whole groups",
        "coded.cuh",
        "(k + group - 1) / group",
        "k / group",
    ),
    (
        "rows of four bits go on in the byte of the row before",
        "coded.cuh",
        "r * ((k + 1) / 2) + c / 2",
        "(r * k + c) / 2",
    ),
    (
        "the upper half first",
        "coded.cuh",
        "c & 1 ? two >> 4 : two & 15",
        "c & 1 ? two & 15 : two >> 4",
    ),
    (
        "the upper half first, eight at a time",
        "coded.cuh",
        "eight >> 4 * q & 15",
        "eight >> 4 * (q ^ 1) & 15",
    ),
    (
        "bytes without a sign",
        "coded.cuh",
        "(float)(signed char)(eight >> 8 * q)",
        "(float)(u8)(eight >> 8 * q)",
    ),
    (
        "a table's bytes without a sign",
        "coded.cuh",
        "(float)(signed char)codes[r * k + c]",
        "(float)codes[r * k + c]",
    ),
    (
        "a table in f16 is read as bf16",
        "coded.cuh",
        "if (kind == CODES_F16) return F16::wide",
        "if (kind == CODES_F16) return Bf16::wide",
    ),
    (
        "a row ends before its last pieces",
        "weights.cu",
        "c < padded; c += 256",
        "c < padded && c < 128; c += 256",
    ),
    (
        "the last numbers of f16 are forgotten",
        "weights.cu",
        "for (u64 j = i; j < n; ++j)",
        "for (u64 j = i; j + 1 < n; ++j)",
    ),
    (
        "four numbers of f16 in the other order",
        "weights.cu",
        "four >> 16 * q",
        "four >> 16 * (3 - q)",
    ),
];
