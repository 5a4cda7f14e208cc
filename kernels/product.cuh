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
// What passes is gathered in shared memory first, STAGED a warp; then every lane asks for a place
// for another one. (Whoever asked where it was found kept its warp waiting, one after the other:
// that took longer than the product.)
constexpr u32 STAGED = 128;

// What a warp gathers.
struct Staged {
  float value[STAGED];
  u32 row[STAGED], column[STAGED];
};

struct Append {
  const float* bias;
  const float* scale;
  const float* bounds;
  u32* counts;
  u64* keys;
  float* pres;
  u32 first, capacity;
  Staged* staged;

  template <class T> DEVICE void take(const T& tile, u32 m, u32 n) const {
    Staged& mine = staged[warp_id()];
    u32 held = 0, rows[T::rows];
    float bound[T::rows];
    bool there[T::rows];
#pragma unroll
    for (u32 i = 0; i < T::rows; ++i) {
      rows[i] = tile.row(i);
      there[i] = rows[i] < m;
      bound[i] = there[i] ? bounds[rows[i]] : 0.0f;
    }
#pragma unroll
    for (u32 j = 0; j < T::pairs; ++j)
#pragma unroll
      for (u32 q = 0; q < 2; ++q) {
        const u32 l = tile.column(j) + q;
        const bool in = l < n;
        const float b = in ? bias[l] : 0.0f, s = in && scale ? scale[l] : 1.0f;
#pragma unroll
        for (u32 i = 0; i < T::rows; ++i) {
          const float value = tile.sum(i, j, q) + b;
          const bool passes = in && there[i] && !(value * s <= bound[i]);
          const u32 mask = __ballot_sync(ALL_LANES, passes);
          if (!mask) continue;
          const u32 more = __popc(mask);
          if (held + more > STAGED) write(mine, held), held = 0;
          if (passes) {
            const u32 at = held + __popc(mask & lanes_below());
            mine.value[at] = value, mine.row[at] = rows[i], mine.column[at] = l;
          }
          held += more;
        }
      }
    write(mine, held);
  }

  DEVICE void write(const Staged& mine, u32 held) const {
    __syncwarp();
    for (u32 e = lane_id(); e < held; e += 32) {
      const u32 r = mine.row[e], l = mine.column[e];
      const u32 place = atomicAdd(counts + r, 1u);
      if (place >= capacity) continue;
      const u64 to = (u64)r * capacity + place;
      keys[to] = key_of(scale ? mine.value[e] * scale[l] : mine.value[e], first + l);
      pres[to] = mine.value[e];
    }
    __syncwarp();
  }
};
