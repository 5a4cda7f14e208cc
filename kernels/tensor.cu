// The encoder's product on tensor cores: factors in bf16 or f16, f32 sums.
#include "common.cuh"
#include "halves.cuh"
#include "product.cuh"

namespace {
// A tile of 128 x 128; eight warps of 64 x 32 each. A ring of stages of 32 values of k; rows are
// 8 values longer, so that the eight rows of a matrix lie in different banks.
constexpr u32 SIDE = 128, DEPTH = 32, STAGES = 3, ROW = DEPTH + 8, PANEL = SIDE * ROW;

// a . b^T in format F, with a [m, k], and rows of b [., k], which `pick` names where it is there; k is a
// multiple of 8. Shared: 3 stages of 2 panels, 61440 bytes.
template <class F, class Out>
DEVICE void multiply(u16* shared, const u16* a, const u16* b, const u32* pick, const Out& out,
                     u32 m, u32 n, u32 k) {
  const u32 tid = threadIdx.x, lane = lane_id();
  const u32 i0 = blockIdx.y * SIDE, j0 = blockIdx.x * SIDE;
  const u32 wi = (warp_id() >> 2) * 64, wj = (warp_id() & 3) * 32;
  float sum[4][4][4] = {};

  auto load = [&](u32 tile) {
    u16* sa = shared + tile % STAGES * 2 * PANEL;
    u16* sb = sa + PANEL;
#pragma unroll
    for (u32 q = 0; q < 2; ++q) {
      const u32 chunk = tid + q * 256, r = chunk >> 2, at = (chunk & 3) * 8;
      const bool deep = tile * DEPTH + at < k;
      const bool in_a = deep && i0 + r < m, in_b = deep && j0 + r < n;
      const u32 j = in_b ? (pick ? pick[j0 + r] : j0 + r) : 0;
      copy_async(sa + r * ROW + at, in_a ? a + (u64)(i0 + r) * k + tile * DEPTH + at : a, in_a ? 16 : 0);
      copy_async(sb + r * ROW + at, in_b ? b + (u64)j * k + tile * DEPTH + at : b, in_b ? 16 : 0);
    }
  };

  const u32 tiles = (k + DEPTH - 1) / DEPTH;
  for (u32 t = 0; t < STAGES - 1; ++t) {
    if (t < tiles) load(t);
    copy_async_close();
  }
  for (u32 t = 0; t < tiles; ++t) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    if (t + STAGES - 1 < tiles) load(t + STAGES - 1);
    copy_async_close();
    const u16* sa = shared + t % STAGES * 2 * PANEL;
    const u16* sb = sa + PANEL;
#pragma unroll
    for (u32 d = 0; d < DEPTH; d += 16) {
      u32 fa[4][4], fb[2][4];
#pragma unroll
      for (u32 i = 0; i < 4; ++i)
        load_matrices(fa[i], sa + (wi + i * 16 + (lane & 15)) * ROW + d + (lane >> 4) * 8);
#pragma unroll
      for (u32 j = 0; j < 2; ++j)
        load_matrices(fb[j], sb + (wj + j * 16 + (lane >> 4) * 8 + (lane & 7)) * ROW + d + (lane >> 3 & 1) * 8);
#pragma unroll
      for (u32 i = 0; i < 4; ++i)
#pragma unroll
        for (u32 j = 0; j < 4; ++j)
          F::multiply(sum[i][j], fa[i], fb[j >> 1][(j & 1) * 2], fb[j >> 1][(j & 1) * 2 + 1]);
    }
  }
  out.take(tile_of<8, 4>(
               i0 + SIDE <= m && j0 + SIDE <= n, i0, j0, j0 + wj + (lane & 3) * 2,
               [&](u32 i) { return i0 + wi + (i >> 1) * 16 + (lane >> 2) + (i & 1) * 8; },
               [&](u32 i, u32 j, u32 q) { return sum[i >> 1][j][(i & 1) * 2 + q]; }),
           m, n);
}

// The rounding of a row of d numbers to `padded`, with 0 behind them.
template <class F>
DEVICE void round_row(const float* row, const float* center, u16* to, u32 d, u32 padded,
                      float factor) {
  const u32 fours = d % 4 || padded % 4 ? 0 : d / 4;
#pragma unroll 2
  for (u32 i = lane_id(); i < fours; i += 32) {
    Pack<4> v = load<4>(row + 4 * i);
    u64 four = 0;
#pragma unroll
    for (u32 q = 0; q < 4; ++q) {
      if (center) v.v[q] -= center[4 * i + q];
      four |= (u64)F::of(factor * v.v[q]) << 16 * q;
    }
    *reinterpret_cast<u64*>(to + 4 * i) = four;
  }
  for (u32 c = 4 * fours + lane_id(); c < padded; c += 32)
    to[c] = c < d ? F::of(factor * (row[c] - (center ? center[c] : 0.0f))) : (u16)0;
}

// … to row r of panels; zeros where there is no row.
template <class F>
DEVICE void round_panels(const float* row, const float* center, u16* out, u32 r, u32 d) {
  const u32 panels = (d + 63) / 64;
  for (u32 piece = lane_id(); piece < panels * 8; piece += 32) {
    const u32 c = piece * 8;
    Pack<4> two[2] = {};
    if (row && d % 4 == 0) {
      if (c < d) two[0] = load<4>(row + c);
      if (c + 4 < d) two[1] = load<4>(row + c + 4);
    } else if (row) {
#pragma unroll
      for (u32 q = 0; q < 8; ++q)
        if (c + q < d) two[q / 4].v[q % 4] = row[c + q];
    }
    u64 words[2] = {};
#pragma unroll
    for (u32 q = 0; q < 8; ++q) {
      const bool centred = row && center && c + q < d;
      const float v = two[q / 4].v[q % 4] - (centred ? center[c + q] : 0.0f);
      words[q / 4] |= (u64)F::of(v) << q % 4 * 16;
    }
    u64* to = reinterpret_cast<u64*>(out + place_of(r, c, panels * 64, 1));
    to[0] = words[0], to[1] = words[1];
  }
}
}  // namespace

// out [rows, padded] = factor * (in [rows, d] - center), the nearest bf16 or f16, and 0 behind it.
// A warp is a row.
KERNEL(round_to_rows, 256)
(const float* __restrict__ in, const float* __restrict__ center, u16* __restrict__ out, u32 rows,
 u32 d, u32 padded, float factor, u32 f16) {
  const u32 r = global_warp();
  if (r >= rows) return;
  const float* row = in + (u64)r * d;
  u16* to = out + (u64)r * padded;
  if (f16) round_row<F16>(row, center, to, d, padded, factor);
  else round_row<Bf16>(row, center, to, d, padded, factor);
}
EXPORT(round_to_rows)

// The same for wgmma, without a factor: in panels of 128 rows and 64 values, those of a panel's rows
// one after the other, as `swizzled_tile` has them. Row r is row pick[r] where `pick` is there; up
// to `padded` rows there are zeros. A warp is a row.
KERNEL(round_to_panels, 256)
(const float* __restrict__ in, const float* __restrict__ center, const u32* __restrict__ pick,
 u16* __restrict__ out, u32 rows, u32 d, u32 padded, u32 f16) {
  const u32 r = global_warp();
  if (r >= padded) return;
  const float* row = r < rows ? in + (u64)(pick ? pick[r] : r) * d : nullptr;
  if (f16) round_panels<F16>(row, center, out, r, d);
  else round_panels<Bf16>(row, center, out, r, d);
}
EXPORT(round_to_panels)

// largest = the bits of the largest |in [rows, d] - center| in f16; those of NaN are above all. A
// warp is a row. A maximum has no order.
KERNEL(largest_f16, 256)
(const float* __restrict__ in, const float* __restrict__ center, u32* __restrict__ largest,
 u32 rows, u32 d) {
  const u32 r = global_warp();
  if (r >= rows) return;
  u32 most = 0;
#pragma unroll 4
  for (u32 c = lane_id(); c < d; c += 32) {
    const u32 bits = to_f16(in[(u64)r * d + c] - (center ? center[c] : 0.0f)) & 0x7fff;
    most = bits > most ? bits : most;
  }
  for (int o = 16; o; o >>= 1) {
    const u32 other = __shfl_xor_sync(ALL_LANES, most, o);
    most = other > most ? other : most;
  }
  if (lane_id() == 0 && most > 0) atomicMax(largest, most);
}
EXPORT(largest_f16)

// c [m, columns] = a . b^T + bias.
#define PRODUCT(F)                                                                       \
  (const u16* __restrict__ a, const u16* __restrict__ b, const u32* __restrict__ pick,   \
   const float* __restrict__ bias, float* __restrict__ c, u32 m, u32 n, u32 k,           \
   u32 columns) {                                                                        \
    SHARED(u16, shared);                                                                 \
    multiply<F>(shared, a, b, pick, Store{bias, pick, c, columns}, m, n, k);             \
  }
KERNEL(product_bf16, 256)
PRODUCT(Bf16)
EXPORT(product_bf16)
KERNEL(product_f16, 256)
PRODUCT(F16)
EXPORT(product_f16)

// Lists of what passes the bounds, of latents from `first`; b, bias and scale begin with it.
// Shared: 8192 bytes more.
#define APPEND(F, BY)                                                                         \
  (const u16* __restrict__ a, const u16* __restrict__ b, const float* __restrict__ bias,  \
   const float* __restrict__ scale, const float* __restrict__ bounds,                     \
   u32* __restrict__ counts, u64* __restrict__ keys, float* __restrict__ pres, u32 m,     \
   u32 n, u32 k, u32 first, u32 capacity) {                                               \
    SHARED(u16, shared);                                                                  \
    multiply<F>(shared, a, b, nullptr,                                                    \
                Append<BY>{bias, scale, bounds, counts, keys, pres, first, capacity,   \
                              reinterpret_cast<Staged*>(shared + STAGES * 2 * PANEL),     \
                              nullptr, nullptr},                                          \
                m, n, k);                                                                 \
  }
KERNEL(append_bf16, 256)
APPEND(Bf16, TOKEN)
EXPORT(append_bf16)
KERNEL(above_bf16, 256)
APPEND(Bf16, LATENT)
EXPORT(above_bf16)
KERNEL(append_f16, 256)
APPEND(F16, TOKEN)
EXPORT(append_f16)
KERNEL(above_f16, 256)
APPEND(F16, LATENT)
EXPORT(above_f16)

// Lists of what could reach the bounds, out of rows with these margins.
KERNEL(filter_bf16, 256)
(const u16* __restrict__ a, const u16* __restrict__ b, const float* __restrict__ bias,
 const float* __restrict__ scale, const float* __restrict__ bounds,
 const float* __restrict__ of_rows, const float* __restrict__ of_columns, u32* __restrict__ counts,
 u64* __restrict__ keys, float* __restrict__ uppers, u32 m, u32 n, u32 k, u32 first,
 u32 capacity) {
  SHARED(u16, shared);
  multiply<Bf16>(shared, a, b, nullptr,
           Append<MARGINS>{bias, scale, bounds, counts, keys, uppers, first, capacity,
                        reinterpret_cast<Staged*>(shared + STAGES * 2 * PANEL), of_rows,
                        of_columns},
           m, n, k);
}
EXPORT(filter_bf16)
