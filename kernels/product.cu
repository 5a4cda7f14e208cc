// Dense products in f32: the encoder, linear layers and their gradients.
#include "common.cuh"

namespace {
constexpr u32 TILE = 64, DEPTH = 16, PAD = 4, CHAIN = 256;
constexpr u32 STRIDE = TILE + PAD;

// c[i, j] = sum over k of a(i, k) * b(j, k), for a tile of 64 x 64: 256 threads, 4 x 4 sums each.
// `across_k`: neighbours in memory are neighbours in k; else in i and j. The chain of a sum is
// cut every 256 values, which keeps its error that of short sums.
template <bool across_k, class A, class B, class Store>
DEVICE void tile_product(float* shared, u32 m, u32 n, u32 k, A a, B b, Store store) {
  float* sa = shared;
  float* sb = shared + DEPTH * STRIDE;
  const u32 tid = threadIdx.x, tx = tid & 15, ty = tid >> 4;
  const u32 i0 = blockIdx.y * TILE, j0 = blockIdx.x * TILE;
  float total[4][4] = {}, part[4][4] = {};
  for (u32 k0 = 0; k0 < k; k0 += DEPTH) {
    for (u32 q = 0; q < 4; ++q) {
      const u32 r = across_k ? tid >> 2 : (tid & 15) * 4 + q;
      const u32 kk = across_k ? (tid & 3) * 4 + q : tid >> 4;
      const bool deep = k0 + kk < k;
      sa[kk * STRIDE + r] = deep && i0 + r < m ? a(i0 + r, k0 + kk) : 0.0f;
      sb[kk * STRIDE + r] = deep && j0 + r < n ? b(j0 + r, k0 + kk) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (u32 kk = 0; kk < DEPTH; ++kk) {
      float x[4], y[4];
#pragma unroll
      for (u32 q = 0; q < 4; ++q) {
        x[q] = sa[kk * STRIDE + ty * 4 + q];
        y[q] = sb[kk * STRIDE + tx * 4 + q];
      }
#pragma unroll
      for (u32 p = 0; p < 4; ++p)
#pragma unroll
        for (u32 q = 0; q < 4; ++q) part[p][q] += x[p] * y[q];
    }
    __syncthreads();
    if ((k0 + DEPTH) % CHAIN == 0 || k0 + DEPTH >= k)
#pragma unroll
      for (u32 p = 0; p < 4; ++p)
#pragma unroll
        for (u32 q = 0; q < 4; ++q) total[p][q] += part[p][q], part[p][q] = 0.0f;
  }
#pragma unroll
  for (u32 p = 0; p < 4; ++p)
#pragma unroll
    for (u32 q = 0; q < 4; ++q) {
      const u32 i = i0 + ty * 4 + p, j = j0 + tx * 4 + q;
      if (i < m && j < n) store(i, j, total[p][q]);
    }
}
}  // namespace

// c [m, n] = (a - center) . b^T + bias, with a [m, k] and rows of b [., k]. Where `pick` is there,
// row j of b and of the bias is row pick[j]. `columns` is the length of a row of c.
KERNEL(product_nt, 256)
(const float* __restrict__ a, const float* __restrict__ center, const float* __restrict__ b,
 const u32* __restrict__ pick, const float* __restrict__ bias, float* __restrict__ c, u32 m, u32 n,
 u32 k, u32 columns) {
  SHARED(float, shared);
  tile_product<true>(
      shared, m, n, k,
      [&](u32 i, u32 d) { return a[(u64)i * k + d] - (center ? center[d] : 0.0f); },
      [&](u32 j, u32 d) { return b[(u64)(pick ? pick[j] : j) * k + d]; },
      [&](u32 i, u32 j, float sum) {
        c[(u64)i * columns + j] = sum + (bias ? bias[pick ? pick[j] : j] : 0.0f);
      });
}
EXPORT(product_nt)

// c [m, n] (+)= a^T . b, with a [k, m] and b [k, n].
KERNEL(product_tn, 256)
(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, u32 m, u32 n,
 u32 k, u32 accumulate) {
  SHARED(float, shared);
  tile_product<false>(
      shared, m, n, k, [&](u32 i, u32 r) { return a[(u64)r * m + i]; },
      [&](u32 j, u32 r) { return b[(u64)r * n + j]; },
      [&](u32 i, u32 j, float sum) {
        float* place = c + (u64)i * n + j;
        *place = accumulate ? *place + sum : sum;
      });
}
EXPORT(product_tn)
