// How fast the multiprocessors multiply: sums in registers and nothing else, for `bench`.
#include "common.cuh"
#include "tensor.cuh"

namespace {
// Two bf16 of 1 <= |v| < 2 with random signs and digits: what switches no wire draws no power,
// and lets clocks rise beyond what real numbers see.
DEVICE u32 some_bf16(u32 seed) {
  seed = (seed ^ seed >> 16) * 0x45d9f3bu;
  seed = (seed ^ seed >> 16) * 0x45d9f3bu;
  return ((seed ^ seed >> 16) & 0x807f807fu) | 0x3f803f80u;
}
}  // namespace

// out [threads] = sums of 8 chains of products of 16 x 8 x 16 a warp, `rounds` long.
KERNEL(peak_bf16, 256)(float* __restrict__ out, u32 rounds) {
  const u32 i = blockIdx.x * 256 + threadIdx.x;
  u32 a[4], b[8][2];
#pragma unroll
  for (u32 j = 0; j < 4; ++j) a[j] = some_bf16(i * 20 + j);
#pragma unroll
  for (u32 j = 0; j < 16; ++j) b[j >> 1][j & 1] = some_bf16(i * 20 + 4 + j);
  float sum[8][4] = {};
#pragma unroll 4
  for (u32 r = 0; r < rounds; ++r)
#pragma unroll
    for (u32 c = 0; c < 8; ++c) multiply_bf16(sum[c], a, b[c][0], b[c][1]);
  float all = 0.0f;
#pragma unroll
  for (u32 c = 0; c < 8; ++c) all += sum[c][0] + sum[c][1] + sum[c][2] + sum[c][3];
  out[i] = all;
}
EXPORT(peak_bf16)

// out [threads] = sums of a product of 128 x 256 x 64 a block with itself, `rounds` long: both
// factors stay in shared memory, of which two warpgroups read 64 rows of the left one each. On
// sm_90a; elsewhere it is empty. Shared: 49152 bytes, and 1024 to begin at a multiple of that.
KERNEL(peak_hopper, 256)(float* __restrict__ out, u32 rounds) {
#ifdef WARPGROUPS
  SHARED(u16, shared);
  u16* tiles = shared + (1024 - shared_offset(shared) % 1024) % 1024 / 2;
  for (u32 i = threadIdx.x; i < (128 + 256) * 64; i += 256)
    tiles[i] = (u16)some_bf16(blockIdx.x * 65536 + i);
  show_to_tensor_cores();
  __syncthreads();
  float sum[128] = {};
  for (u32 r = 0; r < rounds; ++r) {
    warpgroup_begin();
#pragma unroll
    for (u32 part = 0; part < 4; ++part)
      multiply_warpgroup_bf16(sum, tiles + (threadIdx.x >> 7) * 64 * 64, tiles + 128 * 64, part, true);
    warpgroup_close();
    warpgroup_wait<1>();
  }
  warpgroup_wait<0>();
  float all = 0.0f;
#pragma unroll
  for (u32 i = 0; i < 128; ++i) all += sum[i];
  out[blockIdx.x * 256 + threadIdx.x] = all;
#endif
}
EXPORT(peak_hopper)

// out [threads] = sums of 16 chains of multiply-adds a thread, `rounds` long.
KERNEL(peak_f32, 256)(float* __restrict__ out, u32 rounds) {
  const u32 i = blockIdx.x * 256 + threadIdx.x;
  const float a = __uint_as_float(0x3f000000u | (i * 2654435761u) >> 9);
  const float b = a - 0.75f;
  float sum[16];
#pragma unroll
  for (u32 c = 0; c < 16; ++c) sum[c] = b * (float)c;
#pragma unroll 8
  for (u32 r = 0; r < rounds; ++r)
#pragma unroll
    for (u32 c = 0; c < 16; ++c) sum[c] = fmaf(sum[c], a, b);
  float all = 0.0f;
#pragma unroll
  for (u32 c = 0; c < 16; ++c) all += sum[c];
  out[i] = all;
}
EXPORT(peak_f32)
