// The encoder's product for sm_90a: wgmma, fed by asynchronous copies of 16 bytes. Elsewhere the
// kernels are empty, and nobody runs them.
#include "product.cuh"
#include "tensor.cuh"

#ifdef WARPGROUPS
namespace {
// A tile of 128 x 256: two warpgroups of 64 x 256. A ring of stages of 64 values of k, each a
// panel of the rows of both factors in the order that the tensor cores read without conflicts.
constexpr u32 M = 128, N = 256, DEPTH = 64, STAGES = 4;
constexpr u32 STAGE = (M + N) * DEPTH;

// a . b^T, with a [m, k], and rows of b [., k], which `pick` names where it is there; k is a
// multiple of 8. Shared: 4 stages of 49152 bytes, and 1024 to begin at a multiple of that.
template <class Out>
DEVICE void multiply(u16* shared, const u16* a, const u16* b, const u32* pick, const Out& out,
                     u32 m, u32 n, u32 k) {
  u16* ring = shared + (1024 - shared_offset(shared) % 1024) % 1024 / 2;
  const u32 i0 = blockIdx.y * M, j0 = blockIdx.x * N;
  const u32 r0 = threadIdx.x >> 3, c = threadIdx.x & 7, group = threadIdx.x >> 7;
  float sum[128] = {};

  auto load = [&](u32 tile) {
    u16* to = ring + tile % STAGES * STAGE + r0 * DEPTH + ((c ^ (r0 & 7)) << 3);
    const u32 at = tile * DEPTH + c * 8;
    const bool deep = at < k;
#pragma unroll
    for (u32 q = 0; q < (M + N) / 32; ++q) {
      const bool left = q < M / 32;
      const u32 r = left ? i0 + r0 + q * 32 : j0 + r0 + q * 32 - M;
      const bool there = deep && r < (left ? m : n);
      const u32 row = there && !left && pick ? pick[r] : r;
      const u16* from = left ? a : b;
      copy_async(to + q * 32 * DEPTH, there ? from + (u64)row * k + at : from, there ? 16 : 0);
    }
  };

  const u32 tiles = (k + DEPTH - 1) / DEPTH;
  for (u32 t = 0; t < STAGES - 2; ++t) {
    if (t < tiles) load(t);
    copy_async_close();
  }
  for (u32 t = 0; t < tiles; ++t) {
    copy_async_wait<STAGES - 3>();
    show_to_tensor_cores();
    __syncthreads();
    const u16* stage = ring + t % STAGES * STAGE;
    warpgroup_begin();
#pragma unroll
    for (u32 part = 0; part < DEPTH / 16; ++part)
      multiply_warpgroup(sum, stage + group * 64 * DEPTH, stage + M * DEPTH, part);
    warpgroup_close();
    // Both warpgroups are done with the tile before the last: they waited for it before the barrier.
    if (t + STAGES - 2 < tiles) load(t + STAGES - 2);
    copy_async_close();
    warpgroup_wait<1>();
  }
  warpgroup_wait<0>();
  const u32 lane = lane_id();
  out.take(tile_of<2, 32>([&](u32 i) { return i0 + warp_id() * 16 + (lane >> 2) + i * 8; },
                          [&](u32 j) { return j0 + j * 8 + (lane & 3) * 2; },
                          [&](u32 i, u32 j, u32 q) { return sum[4 * j + 2 * i + q]; }),
           m, n);
}
}  // namespace
#endif

// As product_bf16.
KERNEL(product_hopper, 256)
(const u16* __restrict__ a, const u16* __restrict__ b, const u32* __restrict__ pick,
 const float* __restrict__ bias, float* __restrict__ c, u32 m, u32 n, u32 k, u32 columns) {
#ifdef WARPGROUPS
  SHARED(u16, shared);
  multiply(shared, a, b, pick, Store{bias, pick, c, columns}, m, n, k);
#endif
}
EXPORT(product_hopper)

// As append_bf16.
KERNEL(append_hopper, 256)
(const u16* __restrict__ a, const u16* __restrict__ b, const float* __restrict__ bias,
 const float* __restrict__ scale, const float* __restrict__ bounds, u32* __restrict__ counts,
 u64* __restrict__ keys, float* __restrict__ pres, u32 m, u32 n, u32 k, u32 first,
 u32 capacity) {
#ifdef WARPGROUPS
  SHARED(u16, shared);
  multiply(shared, a, b, nullptr,
           Append{bias, scale, bounds, counts, keys, pres, first, capacity}, m, n, k);
#endif
}
EXPORT(append_hopper)
