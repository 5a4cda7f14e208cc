// What a product of tiles does with its sums: the parts that the kernels for mma.sync and for
// wgmma share.
#pragma once
#include "common.cuh"

// A tile's sums as a thread has them: ROWS rows and PAIRS pairs of columns, of which the first is
// `column` and the others follow 8 apart. row(i) says where a row is, sum(i, j, q) is that of
// column q of the pair. The tile begins at [i0, j0]; `whole` is set where it lies within [m, n].
template <u32 ROWS, u32 PAIRS, class RowAt, class SumAt> struct Tile {
  static constexpr u32 rows = ROWS, pairs = PAIRS;
  bool whole;
  u32 i0, j0, column;
  RowAt row;
  SumAt sum;
};
template <u32 ROWS, u32 PAIRS, class RowAt, class SumAt>
DEVICE Tile<ROWS, PAIRS, RowAt, SumAt> tile_of(bool whole, u32 i0, u32 j0, u32 column, RowAt row,
                                               SumAt sum) {
  return {whole, i0, j0, column, row, sum};
}

// c [m, columns] = sum + bias. Where `pick` is there, column l is of latent pick[l].
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
        const u32 l = tile.column + 8 * j + q;
        if (l >= n) continue;
        const float b = bias ? __ldg(bias + (pick ? __ldg(pick + l) : l)) : 0.0f;
#pragma unroll
        for (u32 i = 0; i < T::rows; ++i)
          if (tile.row(i) < m) c[(u64)tile.row(i) * columns + l] = tile.sum(i, j, q) + b;
      }
  }
};

// Appends every pre-activation whose key is above the bound of its token: to lists in any order,
// which whoever sorts them does not see. A list holds `capacity`; its count goes on beyond that.
// NaN, and everything where the bound is NaN, is appended.
//
// By LATENT it is the pre-activation that is above a bound, that of its latent, which stands in place
// of its scale; NaN is not, and nobody looks at keys. With MARGINS the sums stand for others that are
// not known, as far away as `reach_of` says. Then what could reach the bound is appended, with the
// least key that it could have, and the largest in place of the pre-activation.
//
// First all sums are looked at, without a branch. Then a lane knows how many of its own pass, and
// the lanes before it, so that each has its places in a store of STAGED a warp in shared memory;
// where that is full it is emptied, and the sums are gone through again. At last every lane asks
// for a place for another one of them. (Whoever asked where it was found kept its warp waiting, and
// so did a vote for each sum: either took longer than the product.)
constexpr u32 STAGED = 128, BATCH = 8;

// What a warp gathers: sums, and where in the tile they are, row << 16 | column.
struct Staged {
  float sum[STAGED];
  u32 at[STAGED];
};

// A row's numbers for `reach_of`: how far its rounded values are off, with what a product's rounding
// adds, and how long it is.
typedef Pack<2> Margin;
// How far the product of two rounded rows may be from that of the rows themselves, in two parts.
DEVICE Margin reach_of(Margin a, Margin b) { return {{a.v[0] * b.v[1], a.v[1] * b.v[0]}}; }
DEVICE float above(float sum, Margin reach) { return sum + reach.v[0] + reach.v[1]; }
DEVICE float below(float sum, Margin reach) { return sum - reach.v[0] - reach.v[1]; }

enum By { TOKEN, LATENT, MARGINS };
template <By BY> struct Append {
  const float* bias;
  const float* scale;
  const float* bounds;
  u32* counts;
  u64* keys;
  float* pres;
  u32 first, capacity;
  Staged* staged;
  // [m, 2] and [n, 2], where there are such.
  const float *of_rows, *of_columns;

  template <class T> DEVICE void take(const T& tile, u32 m, u32 n) const {
    u32 passes[T::rows * T::pairs / 16] = {};
    if (tile.whole) look<true>(tile, m, n, passes);
    else look<false>(tile, m, n, passes);
    u32 rank = 0;
#pragma unroll
    for (u32 w = 0; w < T::rows * T::pairs / 16; ++w) rank += __popc(passes[w]);
    const u32 mine = rank;
    for (u32 o = 1; o < 32; o <<= 1) {
      const u32 other = __shfl_up_sync(ALL_LANES, rank, o);
      if (lane_id() >= o) rank += other;
    }
    const u32 all = __shfl_sync(ALL_LANES, rank, 31);
    rank -= mine;
    for (u32 base = 0; base < all; base += STAGED) {
      gather(tile, passes, rank - base);
      write(tile.i0, tile.j0, all - base < STAGED ? all - base : STAGED);
    }
  }

  // Bit c * rows + i of `passes`: whether the sum of row i passes, in the thread's column c.
  template <bool WHOLE, class T>
  DEVICE void look(const T& tile, u32 m, u32 n, u32* passes) const {
    const float *at = bias + tile.column, *by = scale ? scale + tile.column : nullptr;
    float bound[T::rows] = {};
    Margin of_row[T::rows] = {}, of_column = {};
#pragma unroll
    for (u32 i = 0; i < T::rows; ++i) {
      if (!WHOLE && tile.row(i) >= m) continue;
      if (BY != LATENT) bound[i] = bounds[tile.row(i)];
      if (BY == MARGINS) of_row[i] = load<2>(of_rows + 2 * tile.row(i));
    }
#pragma unroll
    for (u32 c = 0; c < 2 * T::pairs; ++c) {
      const u32 j = c / 2, q = c % 2;
      const bool in = WHOLE || tile.column + 8 * j + q < n;
      const float b = in ? __ldg(at + 8 * j + q) : 0.0f;
      float s = 1.0f;
      // Volatile ones are not all read at once, for which there would be too few registers.
      if (in && by)
        s = BY == LATENT ? *(const volatile float*)(by + 8 * j + q) : __ldg(by + 8 * j + q);
      if (BY == MARGINS && in) of_column = load<2>(of_columns + 2 * (tile.column + 8 * j + q));
#pragma unroll
      for (u32 i = 0; i < T::rows; ++i) {
        const bool there = in && (WHOLE || tile.row(i) < m);
        const float sum = tile.sum(i, j, q);
        const bool short_of_it =
            BY == MARGINS  ? (above(sum, reach_of(of_row[i], of_column)) + b) * s < bound[i]
            : BY == LATENT ? !(sum + b > s)
                           : (sum + b) * s <= bound[i];
        if (there && !short_of_it)
          passes[(c * T::rows + i) / 32] |= 1u << (c * T::rows + i) % 32;
      }
    }
  }

  // Puts the sums that pass to places from `rank` on, as far as there are such.
  template <class T> DEVICE void gather(const T& tile, const u32* passes, u32 rank) const {
    Staged& mine = staged[warp_id()];
#pragma unroll
    for (u32 e0 = 0; e0 < 2 * T::pairs * T::rows; e0 += BATCH) {
      const u32 batch = passes[e0 / 32] >> e0 % 32 & ((1u << BATCH) - 1);
      if (!__any_sync(ALL_LANES, batch)) continue;
#pragma unroll
      for (u32 e = 0; e < BATCH; ++e) {
        const u32 c = (e0 + e) / T::rows, i = (e0 + e) % T::rows;
        if (batch >> e & 1) {
          if (rank < STAGED) {
            mine.sum[rank] = tile.sum(i, c / 2, c % 2);
            mine.at[rank] = (tile.row(i) - tile.i0) << 16 | (tile.column + 8 * (c / 2) + c % 2 - tile.j0);
          }
          ++rank;
        }
      }
    }
  }

  DEVICE void write(u32 i0, u32 j0, u32 held) const {
    const Staged& mine = staged[warp_id()];
    __syncwarp();
    for (u32 e = lane_id(); e < held; e += 32) {
      const u32 r = i0 + (mine.at[e] >> 16), l = j0 + (mine.at[e] & 0xffff);
      const u32 place = atomicAdd(counts + r, 1u);
      if (place >= capacity) continue;
      const u64 to = (u64)r * capacity + place;
      const float s = scale ? scale[l] : 1.0f;
      if (BY == MARGINS) {
        const Margin reach = reach_of(load<2>(of_rows + 2 * r), load<2>(of_columns + 2 * l));
        keys[to] = key_of((below(mine.sum[e], reach) + bias[l]) * s, first + l);
        pres[to] = (above(mine.sum[e], reach) + bias[l]) * s;
      } else {
        const float value = mine.sum[e] + bias[l];
        keys[to] = key_of(value * s, first + l);
        pres[to] = value;
      }
    }
    __syncwarp();
  }
};
