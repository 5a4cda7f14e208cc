// What a product of tiles does with its sums: the parts that the kernels for mma.sync and for
// wgmma share.
#pragma once
#include "common.cuh"

// What belongs to a latent.
struct Column {
  float bias, scale;
};

// A tile's sums as a thread has them: ROWS rows and PAIRS pairs of columns. row(i) and column(j)
// say where they are, sum(i, j, q) is that of column q of the pair.
template <u32 ROWS, u32 PAIRS, class RowAt, class ColumnAt, class SumAt> struct Tile {
  static constexpr u32 rows = ROWS, pairs = PAIRS;
  RowAt row;
  ColumnAt column;
  SumAt sum;
};
template <u32 ROWS, u32 PAIRS, class RowAt, class ColumnAt, class SumAt>
DEVICE Tile<ROWS, PAIRS, RowAt, ColumnAt, SumAt> tile_of(RowAt row, ColumnAt column, SumAt sum) {
  return {row, column, sum};
}

// c [m, columns] = sum + bias. Where `pick` is there, column l has the bias of latent pick[l].
struct Store {
  const float* bias;
  const u32* pick;
  float* c;
  u32 columns;

  template <class T> DEVICE void take(const T& tile, u32 m, u32 n) const {
#pragma unroll
    for (u32 j = 0; j < T::pairs; ++j)
#pragma unroll
      for (u32 q = 0; q < 2; ++q) {
        const u32 l = tile.column(j) + q;
        if (l >= n) continue;
        const float b = bias ? bias[pick ? pick[l] : l] : 0.0f;
#pragma unroll
        for (u32 i = 0; i < T::rows; ++i) {
          const u32 r = tile.row(i);
          if (r < m) c[(u64)r * columns + l] = tile.sum(i, j, q) + b;
        }
      }
  }
};

// Appends every pre-activation whose key is above the bound of its token: to lists in any order,
// which whoever sorts them does not see. A list holds `capacity`; its count goes on beyond that.
// NaN, and everything where the bound is NaN, is appended.
//
// First it is seen what passes, without a branch; then the four lanes that share a row ask for
// their places together, all rows at once; then it is written. (One place after the other took
// longer than the product.)
struct Append {
  const float* bias;
  const float* scale;
  const float* bounds;
  u32* counts;
  u64* keys;
  float* pres;
  u32 first, capacity;

  template <class T> DEVICE void take(const T& tile, u32 m, u32 n) const {
    u32 passed[T::rows][(T::pairs + 15) / 16] = {};
    float bound[T::rows];
#pragma unroll
    for (u32 i = 0; i < T::rows; ++i) bound[i] = tile.row(i) < m ? bounds[tile.row(i)] : 0.0f;
#pragma unroll
    for (u32 j = 0; j < T::pairs; ++j)
#pragma unroll
      for (u32 q = 0; q < 2; ++q) {
        const u32 l = tile.column(j) + q, at = l < n ? l : 0;
        const float b = bias[at], s = scale ? scale[at] : 1.0f;
#pragma unroll
        for (u32 i = 0; i < T::rows; ++i) {
          const bool below = (tile.sum(i, j, q) + b) * s <= bound[i];
          passed[i][j / 16] |= (u32)(!below && l < n) << (j % 16 * 2 + q);
        }
      }
    u32 place[T::rows], taken[T::rows];
#pragma unroll
    for (u32 i = 0; i < T::rows; ++i) {
      u32 mine = 0;
#pragma unroll
      for (u32 w = 0; w < (T::pairs + 15) / 16; ++w) mine += __popc(passed[i][w]);
      if (tile.row(i) >= m) mine = 0;
      const u32 a = __shfl_up_sync(ALL_LANES, mine, 1), quad = lane_id() & 3;
      u32 upto = mine + (quad >= 1 ? a : 0);
      const u32 c = __shfl_up_sync(ALL_LANES, upto, 2);
      upto += quad >= 2 ? c : 0;
      place[i] = upto - mine;
      taken[i] = quad == 3 && upto ? atomicAdd(counts + tile.row(i), upto) : 0;
      if (!mine) place[i] = capacity;
    }
#pragma unroll
    for (u32 i = 0; i < T::rows; ++i) {
      const u32 from = __shfl_sync(ALL_LANES, taken[i], (int)(lane_id() | 3));
      if (place[i] < capacity) place[i] += from;
    }
#pragma unroll
    for (u32 j = 0; j < T::pairs; ++j)
#pragma unroll
      for (u32 q = 0; q < 2; ++q)
#pragma unroll
        for (u32 i = 0; i < T::rows; ++i)
          if (place[i] < capacity && passed[i][j / 16] >> (j % 16 * 2 + q) & 1) {
            const u32 l = tile.column(j) + q;
            const float value = tile.sum(i, j, q) + bias[l];
            const u64 to = (u64)tile.row(i) * capacity + place[i]++;
            keys[to] = key_of(scale ? value * scale[l] : value, first + l);
            pres[to] = value;
          }
  }
};
