// Dense products in f32: the encoder, linear layers and their gradients.
#include "common.cuh"

namespace {
constexpr u32 DEPTH = 16, CHAIN = 256;

// c[i, j] = sum over k of a(i, k) * b(j, k), for a tile of 64 x 64, or of 128 x 128 with two HALVES:
// 256 threads, 4 x 4 sums of each quarter. a and b give four values, which are neighbours in k
// (`across_k`) or in i and j, and 0 beyond the ends. While a stretch of 16 values of k is multiplied
// the next is under way. The chain of a sum is cut every 256 values, which keeps its error that of
// short sums; `exact` of filter.cu makes the same sums. store takes four sums of a row.
// Shared: two stretches of both factors, 4 * 16 * (side + 4) numbers.
template <u32 HALVES, bool across_k, class A, class B, class Store>
DEVICE void tile_product(float* shared, u32 k, A a, B b, Store store) {
  constexpr u32 SIDE = 64 * HALVES, STRIDE = SIDE + 4, PANEL = DEPTH * STRIDE;
  // A warp is 8 threads wide and 4 high: so it loads fewest different values.
  const u32 tid = threadIdx.x, tx = (tid & 7) | (tid >> 2 & 8), ty = (tid >> 3 & 3) | (tid >> 4 & 12);
  const u32 i0 = blockIdx.y * SIDE, j0 = blockIdx.x * SIDE;
  float total[4 * HALVES][4 * HALVES] = {}, part[4 * HALVES][4 * HALVES] = {};
  Pack<4> next[2][HALVES];

  auto row_of = [&](u32 h) { return across_k ? (tid >> 2) + 64 * h : tid % (SIDE / 4) * 4; };
  auto depth_of = [&](u32 h) { return across_k ? (tid & 3) * 4 : tid / (SIDE / 4) + DEPTH / HALVES * h; };
  auto fetch = [&](u32 k0) {
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      next[0][h] = a(i0 + row_of(h), k0 + depth_of(h));
      next[1][h] = b(j0 + row_of(h), k0 + depth_of(h));
    }
  };
  auto put = [&](float* panels) {
#pragma unroll
    for (u32 f = 0; f < 2; ++f)
#pragma unroll
      for (u32 h = 0; h < HALVES; ++h) {
        float* to = panels + f * PANEL + depth_of(h) * STRIDE + row_of(h);
        if (!across_k) ::store<4>(to, next[f][h]);
        else
#pragma unroll
          for (u32 q = 0; q < 4; ++q) to[q * STRIDE] = next[f][h].v[q];
      }
  };

  fetch(0);
  put(shared);
  for (u32 k0 = 0, turn = 0; k0 < k; k0 += DEPTH, turn ^= 1) {
    __syncthreads();
    const bool more = k0 + DEPTH < k;
    if (more) fetch(k0 + DEPTH);
    const float *sa = shared + turn * 2 * PANEL, *sb = sa + PANEL;
#pragma unroll(HALVES == 1 ? 8 : 16)
    for (u32 kk = 0; kk < DEPTH; ++kk) {
      Pack<4> x[HALVES], y[HALVES];
#pragma unroll
      for (u32 h = 0; h < HALVES; ++h) {
        x[h] = load<4>(sa + kk * STRIDE + 64 * h + ty * 4);
        y[h] = load<4>(sb + kk * STRIDE + 64 * h + tx * 4);
      }
#pragma unroll
      for (u32 p = 0; p < 4 * HALVES; ++p)
#pragma unroll
        for (u32 q = 0; q < 4 * HALVES; ++q)
          part[p][q] = fmaf(x[p / 4].v[p % 4], y[q / 4].v[q % 4], part[p][q]);
    }
    if (more) put(shared + (turn ^ 1) * 2 * PANEL);
    if ((k0 + DEPTH) % CHAIN == 0 || !more)
#pragma unroll
      for (u32 p = 0; p < 4 * HALVES; ++p)
#pragma unroll
        for (u32 q = 0; q < 4 * HALVES; ++q) total[p][q] += part[p][q], part[p][q] = 0.0f;
  }
#pragma unroll
  for (u32 p = 0; p < 4 * HALVES; ++p)
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      const Pack<4> four = {total[p][4 * h], total[p][4 * h + 1], total[p][4 * h + 2], total[p][4 * h + 3]};
      store(i0 + p / 4 * 64 + ty * 4 + p % 4, j0 + 64 * h + tx * 4, four);
    }
}

// Four neighbours of a row of `length`, from element `at` on, and 0 beyond its end.
DEVICE Pack<4> four_of(const float* row, u32 at, u32 length) {
  if (length % 4 == 0 && at < length) return load<4>(row + at);
  Pack<4> four = {};
#pragma unroll
  for (u32 q = 0; q < 4; ++q)
    if (at + q < length) four.v[q] = row[at + q];
  return four;
}

template <u32 HALVES>
DEVICE void product(const float* a, const float* center, const float* b, const u32* pick,
                    const float* bias, float* c, u32 m, u32 n, u32 k, u32 columns) {
  SHARED(float, shared);
  const bool aligned = columns % 4 == 0 && ((u64)c & 15) == 0;
  tile_product<HALVES, true>(
      shared, k,
      [&](u32 i, u32 d) {
        Pack<4> four = {};
        if (i >= m) return four;
        four = four_of(a + (u64)i * k, d, k);
        if (center)
#pragma unroll
          for (u32 q = 0; q < 4; ++q)
            if (d + q < k) four.v[q] -= center[d + q];
        return four;
      },
      [&](u32 j, u32 d) {
        return j < n ? four_of(b + (u64)(pick ? pick[j] : j) * k, d, k) : Pack<4>{};
      },
      [&](u32 i, u32 j, Pack<4> four) {
        if (i >= m) return;
        float* to = c + (u64)i * columns + j;
#pragma unroll
        for (u32 q = 0; q < 4; ++q)
          if (bias && j + q < n) four.v[q] += bias[pick ? pick[j + q] : j + q];
        if (aligned && j + 4 <= n) return ::store<4>(to, four);
#pragma unroll
        for (u32 q = 0; q < 4; ++q)
          if (j + q < n) to[q] = four.v[q];
      });
}
}  // namespace

// c [m, n] = (a - center) . b^T + bias, with a [m, k] and rows of b [., k]. Where `pick` is there,
// row j of b and of the bias is row pick[j]. `columns` is the length of a row of c.
KERNEL(product_nt, 256)
(const float* __restrict__ a, const float* __restrict__ center, const float* __restrict__ b,
 const u32* __restrict__ pick, const float* __restrict__ bias, float* __restrict__ c, u32 m, u32 n,
 u32 k, u32 columns) {
  product<1>(a, center, b, pick, bias, c, m, n, k, columns);
}
EXPORT(product_nt)

// The same in tiles of 128 x 128, for products that have enough of them.
KERNEL(product_wide, 256)
(const float* __restrict__ a, const float* __restrict__ center, const float* __restrict__ b,
 const u32* __restrict__ pick, const float* __restrict__ bias, float* __restrict__ c, u32 m, u32 n,
 u32 k, u32 columns) {
  product<2>(a, center, b, pick, bias, c, m, n, k, columns);
}
EXPORT(product_wide)

// c [m, n] (+)= a^T . b, with a [k, m] and b [k, n].
KERNEL(product_tn, 256)
(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, u32 m, u32 n,
 u32 k, u32 accumulate) {
  SHARED(float, shared);
  tile_product<1, false>(
      shared, k,
      [&](u32 i, u32 r) { return r < k ? four_of(a + (u64)r * m, i, m) : Pack<4>{}; },
      [&](u32 j, u32 r) { return r < k ? four_of(b + (u64)r * n, j, n) : Pack<4>{}; },
      [&](u32 i, u32 j, Pack<4> four) {
        if (i >= m) return;
        float* to = c + (u64)i * n + j;
#pragma unroll
        for (u32 q = 0; q < 4; ++q)
          if (j + q < n) to[q] = accumulate ? to[q] + four.v[q] : four.v[q];
      });
}
EXPORT(product_tn)
