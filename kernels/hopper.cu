// The encoder's product for sm_90a: wgmma, fed by the copy engine. Elsewhere the kernels are
// empty, and nobody runs them.
#include "halves.cuh"
#include "product.cuh"

#ifdef WARPGROUPS
namespace {
// A tile of 128 x 256: two warpgroups of 64 x 256. A ring of stages of 64 values of k: a panel
// of 128 rows of a and two of b, as `round_to_panels` made them.
constexpr u32 M = 128, N = 256, DEPTH = 64, STAGES = 4, CONSUMERS = 256;
constexpr u32 PANEL = 128 * DEPTH, STAGE = 3 * PANEL;

struct Ring {
  u16* stages;
  u64 *full, *empty;
  Staged* staged;
};

// Shared: 4 stages of 49152 bytes, what warps gather, two barriers a stage, and 1024 to begin at
// a multiple of that.
DEVICE Ring ring_of(u16* shared) {
  Ring ring;
  ring.stages = shared + (1024 - shared_offset(shared) % 1024) % 1024 / 2;
  ring.staged = reinterpret_cast<Staged*>(ring.stages + STAGES * STAGE);
  ring.full = reinterpret_cast<u64*>(ring.staged + CONSUMERS / 32);
  ring.empty = ring.full + STAGES;
  return ring;
}

// a . b^T in format F, with a [m, .] and b [n, .] in panels, `depths` of them deep. As many blocks as there
// are multiprocessors take a tile after the other: two warpgroups multiply, and one thread of the
// third has the next panels copied wherever there is room, also while the sums of a tile are
// handed on. Tiles that follow each other share their panels of b.
template <class F, class Out>
DEVICE void multiply(const Ring& ring, const u16* a, const u16* b, const Out& out, u32 m, u32 n,
                     u32 depths) {
  if (threadIdx.x == 0) {
    for (u32 s = 0; s < STAGES; ++s) {
      barrier_init(ring.full + s, 1);
      barrier_init(ring.empty + s, CONSUMERS / 32);
    }
    barrier_show();
  }
  __syncthreads();
  const u32 down = (m + M - 1) / M, tiles = down * ((n + N - 1) / N);
  u32 turn = 0;
  if (threadIdx.x >= CONSUMERS) {
    registers_down<72>();
    if (threadIdx.x != CONSUMERS) return;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x)
      for (u32 d = 0; d < depths; ++d, ++turn) {
        const u32 s = turn % STAGES;
        barrier_wait(ring.empty + s, (turn / STAGES & 1) ^ 1);
        barrier_expect(ring.full + s, STAGE * 2);
        u16* to = ring.stages + s * STAGE;
        const u64 of_b = (u64)(tile / down) * 2 * depths + d;
        copy_bulk(to, a + ((u64)(tile % down) * depths + d) * PANEL, PANEL * 2, ring.full + s);
        copy_bulk(to + PANEL, b + of_b * PANEL, PANEL * 2, ring.full + s);
        copy_bulk(to + 2 * PANEL, b + (of_b + depths) * PANEL, PANEL * 2, ring.full + s);
      }
    return;
  }
  registers_up<216>();
  const u32 group = threadIdx.x >> 7, lane = lane_id();
  float sum[128];
  for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const u32 i0 = tile % down * M, j0 = tile / down * N;
    for (u32 d = 0; d < depths; ++d, ++turn) {
      const u32 s = turn % STAGES;
      barrier_wait(ring.full + s, turn / STAGES & 1);
      const u16* stage = ring.stages + s * STAGE;
      warpgroup_begin();
#pragma unroll
      for (u32 part = 0; part < DEPTH / 16; ++part)
        F::multiply(sum, stage + group * 64 * DEPTH, stage + PANEL, part, d + part > 0);
      warpgroup_close();
      warpgroup_wait<1>();
      // The products before these are done: their stage is free.
      if (d && lane == 0) barrier_arrive(ring.empty + (turn + STAGES - 1) % STAGES);
    }
    warpgroup_wait<0>();
    if (lane == 0) barrier_arrive(ring.empty + (turn + STAGES - 1) % STAGES);
    out.take(tile_of<2, 32>(i0 + M <= m && j0 + N <= n, i0, j0, j0 + (lane & 3) * 2,
                            [&](u32 i) { return i0 + warp_id() * 16 + (lane >> 2) + i * 8; },
                            [&](u32 i, u32 j, u32 q) { return sum[4 * j + 2 * i + q]; }),
             m, n);
  }
}
}  // namespace
#define ON_WARPGROUPS(...) __VA_ARGS__
#else
#define ON_WARPGROUPS(...)
#endif

// c [m, columns] = a . b^T + bias; `pick` is of the bias alone.
#define PRODUCT(F)                                                                       \
  (const u16* __restrict__ a, const u16* __restrict__ b, const u32* __restrict__ pick,   \
   const float* __restrict__ bias, float* __restrict__ c, u32 m, u32 n, u32 depths,      \
   u32 columns) {                                                                        \
    ON_WARPGROUPS(SHARED(u16, shared);                                                   \
                  multiply<F>(ring_of(shared), a, b, Store{bias, pick, c, columns}, m,   \
                              n, depths);)                                               \
  }
KERNEL_ALONE(product_hopper, 384)
PRODUCT(Bf16)
EXPORT(product_hopper)
KERNEL_ALONE(product_hopper_f16, 384)
PRODUCT(F16)
EXPORT(product_hopper_f16)

// As append_bf16.
#define APPEND(F, BY)                                                                         \
  (const u16* __restrict__ a, const u16* __restrict__ b, const float* __restrict__ bias,  \
   const float* __restrict__ scale, const float* __restrict__ bounds,                     \
   u32* __restrict__ counts, u64* __restrict__ keys, float* __restrict__ pres, u32 m,     \
   u32 n, u32 depths, u32 first, u32 capacity) {                                          \
    ON_WARPGROUPS(SHARED(u16, shared); const Ring ring = ring_of(shared);                 \
                  multiply<F>(ring, a, b,                                                 \
                              Append<BY>{bias, scale, bounds, counts, keys, pres,      \
                                            first, capacity, ring.staged, nullptr,        \
                                            nullptr},                                     \
                              m, n, depths);)                                             \
  }
KERNEL_ALONE(append_hopper, 384)
APPEND(Bf16, TOKEN)
EXPORT(append_hopper)
KERNEL_ALONE(above_hopper, 384)
APPEND(Bf16, LATENT)
EXPORT(above_hopper)
KERNEL_ALONE(append_hopper_f16, 384)
APPEND(F16, TOKEN)
EXPORT(append_hopper_f16)
KERNEL_ALONE(above_hopper_f16, 384)
APPEND(F16, LATENT)
EXPORT(above_hopper_f16)

// As filter_bf16.
KERNEL_ALONE(filter_hopper, 384)
(const u16* __restrict__ a, const u16* __restrict__ b, const float* __restrict__ bias,
 const float* __restrict__ scale, const float* __restrict__ bounds,
 const float* __restrict__ of_rows, const float* __restrict__ of_columns, u32* __restrict__ counts,
 u64* __restrict__ keys, float* __restrict__ uppers, u32 m, u32 n, u32 depths, u32 first,
 u32 capacity) {
#ifdef WARPGROUPS
  SHARED(u16, shared);
  const Ring ring = ring_of(shared);
  multiply<Bf16>(ring, a, b,
           Append<MARGINS>{bias, scale, bounds, counts, keys, uppers, first, capacity, ring.staged,
                        of_rows, of_columns},
           m, n, depths);
#endif
}
EXPORT(filter_hopper)
