// What a product of tiles does with its sums: the parts that the kernels for mma.sync and for
// wgmma share.
#pragma once
#include "common.cuh"

// What belongs to a latent.
struct Column {
  float bias, scale;
};

// c [m, columns] = sum + bias. Where `pick` is there, column l has the bias of latent pick[l].
struct Store {
  const float* bias;
  const u32* pick;
  float* c;
  u32 columns;

  DEVICE float row(u32) const { return 0.0f; }
  DEVICE Column column(u32 l) const {
    return {bias ? bias[pick ? pick[l] : l] : 0.0f, 1.0f};
  }
  DEVICE void put(u32 r, float, u32 l, Column column, float sum) const {
    c[(u64)r * columns + l] = sum + column.bias;
  }
};

// Appends every pre-activation whose key is above the bound of its token: to lists in any order,
// which whoever sorts them does not see. A list holds `capacity`; its count goes on beyond that.
// NaN, and everything where the bound is NaN, is appended.
struct Append {
  const float* bias;
  const float* scale;
  const float* bounds;
  u32* counts;
  u64* keys;
  float* pres;
  u32 first, capacity;

  DEVICE float row(u32 r) const { return bounds[r]; }
  DEVICE Column column(u32 l) const { return {bias[l], scale ? scale[l] : 1.0f}; }
  DEVICE void put(u32 r, float bound, u32 l, Column column, float sum) const {
    const float value = sum + column.bias, key = value * column.scale;
    if (key <= bound) return;
    const u32 place = atomicAdd(counts + r, 1u);
    if (place >= capacity) return;
    keys[(u64)r * capacity + place] = key_of(key, first + l);
    pres[(u64)r * capacity + place] = value;
  }
};

// Hands the sums of a thread on: `rows` rows, and columns in pairs. of(i, j) is the first of the
// sums in row i of pair j; out of [m, n] nothing is handed on.
template <u32 ROWS, u32 PAIRS, class Out, class RowAt, class ColumnAt, class SumAt>
DEVICE void hand_out(const Out& out, u32 m, u32 n, RowAt row_at, ColumnAt column_at, SumAt sum_at) {
  u32 rows[ROWS];
  float kept[ROWS];
#pragma unroll
  for (u32 i = 0; i < ROWS; ++i) {
    rows[i] = row_at(i);
    kept[i] = rows[i] < m ? out.row(rows[i]) : 0.0f;
  }
#pragma unroll
  for (u32 j = 0; j < PAIRS; ++j)
#pragma unroll
    for (u32 q = 0; q < 2; ++q) {
      const u32 l = column_at(j) + q;
      if (l >= n) continue;
      const Column column = out.column(l);
#pragma unroll
      for (u32 i = 0; i < ROWS; ++i)
        if (rows[i] < m) out.put(rows[i], kept[i], l, column, sum_at(i, j, q));
    }
}
