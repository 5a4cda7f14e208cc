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

// What is added to the sums of column l. Where `pick` is there, the column is of latent pick[l].
DEVICE float bias_of(const float* bias, const u32* pick, u32 l, u32 n) {
  return bias && l < n ? __ldg(bias + (pick ? __ldg(pick + l) : l)) : 0.0f;
}

// c [m, columns] = the sums.
struct Store {
  float* c;
  u32 columns;

  template <class T> DEVICE void take(const T& tile, u32 m, u32 n) const {
#pragma unroll
    for (u32 j = 0; j < T::pairs; ++j)
#pragma unroll
      for (u32 q = 0; q < 2; ++q) {
        const u32 l = tile.column(j) + q;
        if (l >= n) continue;
#pragma unroll
        for (u32 i = 0; i < T::rows; ++i) {
          const u32 r = tile.row(i);
          if (r < m) c[(u64)r * columns + l] = tile.sum(i, j, q);
        }
      }
  }
};

// Appends every pre-activation whose key is above the bound of its token: to lists in any order,
// which whoever sorts them does not see. A list holds `capacity`; its count goes on beyond that.
// NaN, and everything where the bound is NaN, is appended.
//
// Sums are looked at in batches without a branch, and most batches end there. What passes is
// gathered in shared memory, STAGED a warp; then every lane asks for a place for another one.
// (Whoever asked where it was found kept its warp waiting, and so did a vote for each sum: either
// took longer than the product.)
constexpr u32 STAGED = 128;

// What a warp gathers.
struct Staged {
  float value[STAGED];
  u32 row[STAGED], column[STAGED];
};

struct Append {
  const float* scale;
  const float* bounds;
  u32* counts;
  u64* keys;
  float* pres;
  u32 first, capacity;
  Staged* staged;

  template <class T> DEVICE void take(const T& tile, u32 m, u32 n) const {
    constexpr u32 BATCH = 8, STEP = BATCH / T::rows;
    Staged& mine = staged[warp_id()];
    u32 held = 0;
    float bound[T::rows];
#pragma unroll
    for (u32 i = 0; i < T::rows; ++i) bound[i] = tile.row(i) < m ? bounds[tile.row(i)] : 0.0f;
#pragma unroll
    for (u32 c0 = 0; c0 < 2 * T::pairs; c0 += STEP) {
      u32 passes = 0;
#pragma unroll
      for (u32 e = 0; e < BATCH; ++e) {
        const u32 c = c0 + e / T::rows, j = c / 2, q = c % 2, i = e % T::rows;
        const u32 l = tile.column(j) + q;
        const bool in = l < n && tile.row(i) < m;
        const float key = tile.sum(i, j, q) * (scale && l < n ? __ldg(scale + l) : 1.0f);
        passes |= (u32)(in && !(key <= bound[i])) << e;
      }
      if (!__any_sync(ALL_LANES, passes)) continue;
      u32 place[BATCH], end = held;
#pragma unroll
      for (u32 e = 0; e < BATCH; ++e) {
        const u32 mask = __ballot_sync(ALL_LANES, passes >> e & 1);
        place[e] = end + __popc(mask & lanes_below());
        end += __popc(mask);
      }
      if (end > STAGED) {
        // Never more than a batch, which may alone be more than there is room for.
        write(mine, held);
#pragma unroll
        for (u32 e = 0; e < BATCH; ++e) {
          const u32 c = c0 + e / T::rows, j = c / 2, q = c % 2, i = e % T::rows;
          if (passes >> e & 1) append(tile.row(i), tile.column(j) + q, tile.sum(i, j, q));
        }
        held = 0;
        continue;
      }
#pragma unroll
      for (u32 e = 0; e < BATCH; ++e) {
        const u32 c = c0 + e / T::rows, j = c / 2, q = c % 2, i = e % T::rows;
        if (passes >> e & 1) {
          mine.value[place[e]] = tile.sum(i, j, q);
          mine.row[place[e]] = tile.row(i);
          mine.column[place[e]] = tile.column(j) + q;
        }
      }
      held = end;
    }
    write(mine, held);
  }

  DEVICE void append(u32 r, u32 l, float value) const {
    const u32 place = atomicAdd(counts + r, 1u);
    if (place >= capacity) return;
    const u64 to = (u64)r * capacity + place;
    keys[to] = key_of(scale ? value * scale[l] : value, first + l);
    pres[to] = value;
  }

  DEVICE void write(const Staged& mine, u32 held) const {
    __syncwarp();
    for (u32 e = lane_id(); e < held; e += 32) append(mine.row[e], mine.column[e], mine.value[e]);
    __syncwarp();
  }
};
