// Weights of a language model in codes, row by row as `src/device/coded.rs` makes them.
#pragma once
#include "common.cuh"
#include "halves.cuh"

enum CodeKind : u32 { CODES_BF16, CODES_F16, CODES_INT8, CODES_INT4 };

// A matrix of k columns. Integers have a scale for each `group` columns of a row; two of four bits
// are a byte, less 8, the lower half first, and rows begin at bytes.
struct Coded {
  const u8* codes;
  const float* scales;
  u32 kind, group, k;

  DEVICE float scale(u64 r, u32 c) const { return scales[r * ((k + group - 1) / group) + c / group]; }
  DEVICE u64 place4(u64 r, u32 c) const { return r * ((k + 1) / 2) + c / 2; }

  // Column c of row r.
  DEVICE float at(u64 r, u32 c) const {
    const u16* halves = reinterpret_cast<const u16*>(codes);
    if (kind == CODES_BF16) return Bf16::wide(halves[r * k + c]);
    if (kind == CODES_F16) return F16::wide(halves[r * k + c]);
    if (kind == CODES_INT8) return (float)(signed char)codes[r * k + c] * scale(r, c);
    const u32 two = codes[place4(r, c)];
    return (float)((int)(c & 1 ? two >> 4 : two & 15) - 8) * scale(r, c);
  }

  // The integers from column c on, a multiple of 8, which lie in one group; 0 behind the row.
  DEVICE void eight(u64 r, u32 c, float (&v)[8]) const {
    if (k % 8) {
#pragma unroll
      for (u32 q = 0; q < 8; ++q) v[q] = c + q < k ? at(r, c + q) : 0.0f;
      return;
    }
    const float by = c < k ? scale(r, c) : 0.0f;
    if (kind == CODES_INT8) {
      const u64 eight = c < k ? *reinterpret_cast<const u64*>(codes + r * k + c) : 0;
#pragma unroll
      for (u32 q = 0; q < 8; ++q) v[q] = (float)(signed char)(eight >> 8 * q) * by;
    } else {
      const u32 eight = c < k ? *reinterpret_cast<const u32*>(codes + place4(r, c)) : 0x88888888u;
#pragma unroll
      for (u32 q = 0; q < 8; ++q) v[q] = (float)((int)(eight >> 4 * q & 15) - 8) * by;
    }
  }
};
