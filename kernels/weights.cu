// Weights that are held in codes, decoded just before a product reads them.
#include "coded.cuh"

// out [whole, padded] = integers [rows, k] times their scales, the nearest bf16, in rows or in
// panels, with 0 behind the rows and below them. A warp is a row, a lane eight columns.
KERNEL(decode_to_bf16, 256)
(const u8* __restrict__ codes, const float* __restrict__ scales, u16* __restrict__ out, u32 rows,
 u32 k, u32 whole, u32 padded, u32 panels, u32 kind, u32 group) {
  const u32 r = global_warp();
  if (r >= whole) return;
  const Coded coded = {codes, scales, kind, group, k};
  for (u32 c = lane_id() * 8; c < padded; c += 256) {
    float v[8] = {};
    if (r < rows) coded.eight(r, c, v);
    u64 words[2] = {};
#pragma unroll
    for (u32 q = 0; q < 8; ++q) words[q / 4] |= (u64)Bf16::of(v[q]) << q % 4 * 16;
    u64* to = reinterpret_cast<u64*>(out + place_of(r, c, padded, panels));
    to[0] = words[0], to[1] = words[1];
  }
}
EXPORT(decode_to_bf16)

// out [n] = the same numbers, which f32 holds. A thread has four.
KERNEL(widen_f16, 256)
(const u16* __restrict__ codes, float* __restrict__ out, u64 n) {
  const u64 i = 4 * ((u64)blockIdx.x * 256 + threadIdx.x);
  if (i + 4 <= n) {
    const u64 four = *reinterpret_cast<const u64*>(codes + i);
    Pack<4> v;
#pragma unroll
    for (u32 q = 0; q < 4; ++q) v.v[q] = F16::wide((u16)(four >> 16 * q));
    store<4>(out + i, v);
  } else {
    for (u64 j = i; j < n; ++j) out[j] = F16::wide(codes[j]);
  }
}
EXPORT(widen_f16)
