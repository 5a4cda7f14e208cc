// A small kernel for each wrapper of `kernels/tensor.cuh`, and for each of CUDA's own names that
// `emulator.h` has a twin of. Only tests run them: `tests/cuda/wrappers.rs` knows what comes out, and
// the emulator and a real GPU must both say that. Numbers go in and out as words.
#include "common.cuh"
#include "tensor.cuh"

// A shuffle of each kind, of words, then of floats and of 64 bits. out [6, 32].
KERNEL(wrap_shuffles, 32)(const u32* __restrict__ in, u32* __restrict__ out) {
  const u32 l = lane_id(), v = in[l];
  out[l] = __shfl_sync(ALL_LANES, v, (l * 7 + 3) & 31);
  out[32 + l] = __shfl_xor_sync(ALL_LANES, v, 5);
  out[64 + l] = __shfl_up_sync(ALL_LANES, v, 3u);
  out[96 + l] = __shfl_down_sync(ALL_LANES, v, 7u);
  out[128 + l] = __float_as_uint(__shfl_xor_sync(ALL_LANES, __uint_as_float(v), 16));
  const u64 wide = (u64)v << 32 | l;
  out[160 + l] = (u32)(__shfl_up_sync(ALL_LANES, wide, 1u) >> 32) + (u32)__shfl_sync(ALL_LANES, wide, 30);
}
EXPORT(wrap_shuffles)

// Votes of all lanes, and of 20. out [4, 32].
KERNEL(wrap_votes, 32)(const u32* __restrict__ in, u32* __restrict__ out) {
  const u32 l = lane_id(), v = __ldg(in + l);
  out[l] = __ballot_sync(ALL_LANES, v & 1);
  out[32 + l] = __match_any_sync(ALL_LANES, v);
  out[64 + l] = __any_sync(ALL_LANES, v == in[32]) | __any_sync(ALL_LANES, v == in[33]) << 1;
  out[96 + l] = l < 20 ? __ballot_sync(0xfffffu, v & 2) : 0;
}
EXPORT(wrap_votes)

// Bits of [32] words. out [2, 32].
KERNEL(wrap_bits, 32)(const u32* __restrict__ in, u32* __restrict__ out) {
  const u32 l = lane_id();
  out[l] = __popc(in[l]);
  out[32 + l] = __ffs((int)in[l]);
}
EXPORT(wrap_bits)

// What each of 64 threads adds and compares, and how often each old sum was seen. out [67], cleared.
KERNEL(wrap_atomics, 64)(const u32* __restrict__ in, u32* __restrict__ out) {
  if (threadIdx.x == 0) out[1] = ~0u;
  __syncthreads();
  const u32 old = atomicAdd(out, 1u);
  atomicMin(out + 1, in[threadIdx.x]);
  atomicMax(out + 2, in[threadIdx.x]);
  atomicAdd(out + 3 + old, 1u);
}
EXPORT(wrap_atomics)

// Two warps hand [64] words on: within a warp, then across. out [64].
KERNEL(wrap_barriers, 64)(const u32* __restrict__ in, u32* __restrict__ out) {
  SHARED(u32, words);
  u32* mine = words + warp_id() * 32;
  mine[lane_id()] = in[threadIdx.x];
  __syncwarp();
  const u32 other = mine[31 - lane_id()];
  __syncwarp();
  mine[lane_id()] = other + 1;
  __syncthreads();
  out[threadIdx.x] = words[threadIdx.x ^ 32];
}
EXPORT(wrap_barriers)

// The nearest f16 and bf16 of [256] floats, two at a time, and 2^v. out [3, 256].
KERNEL(wrap_numbers, 256)(const u32* __restrict__ in, u32* __restrict__ out) {
  const u32 t = threadIdx.x;
  const float v = __uint_as_float(in[t]), other = __uint_as_float(in[t ^ 1]);
  out[t] = to_f16(v);
  out[256 + t] = pair_of_bf16(v, other);
  out[512 + t] = __float_as_uint(power_of_two(v));
}
EXPORT(wrap_numbers)

// All numbers of 16 bits as f32. out [65536].
KERNEL(wrap_from_f16, 256)(const u32*, u32* __restrict__ out) {
  for (u32 i = threadIdx.x; i < 65536; i += 256) out[i] = __float_as_uint(from_f16((u16)i));
}
EXPORT(wrap_from_f16)

// Copies of 16 bytes a lane, of which in[128 + l] bytes are there and the rest 0: the first group is
// waited for alone, then the second. in [160], out [2, 32, 4].
KERNEL(wrap_copies, 32)(const u32* __restrict__ in, u32* __restrict__ out) {
  SHARED(u32, words);
  const u32 l = lane_id();
  copy_async(words + 4 * l, in + 4 * l, in[128 + l]);
  copy_async_close();
  copy_async(words + 128 + 4 * l, in + 4 * (31 - l), 16);
  copy_async_close();
  copy_async_wait<1>();
  for (u32 i = 0; i < 4; ++i) out[4 * l + i] = words[4 * l + i];
  copy_async_wait<0>();
  __syncwarp();
  for (u32 i = 0; i < 4; ++i) out[128 + 4 * l + i] = words[128 + 4 * (l ^ 1) + i];
}
EXPORT(wrap_copies)

// Four matrices out of rows of 16 bytes that lie anywhere: row r at in[128 + r]. in [160], out [2, 32, 4].
KERNEL(wrap_matrices, 32)(const u32* __restrict__ in, u32* __restrict__ out) {
  SHARED(u32, words);
  const u32 l = lane_id(), at = in[128 + l];
  for (u32 i = 0; i < 4; ++i) words[4 * at + i] = in[4 * l + i];
  __syncwarp();
  u32 straight[4], across[4];
  load_matrices(straight, words + 4 * at);
  load_matrices_across(across, words + 4 * at);
  for (u32 i = 0; i < 4; ++i) out[4 * l + i] = straight[i], out[128 + 4 * l + i] = across[i];
}
EXPORT(wrap_matrices)

// d + a . b of registers as lanes have them: in [32, 10] are four of a, two of b, four of d. out
// [32, 4].
#define MMA(multiply)                                                             \
  (const u32* __restrict__ in, u32* __restrict__ out) {                           \
    const u32* mine = in + 10 * lane_id();                                        \
    const u32 a[4] = {mine[0], mine[1], mine[2], mine[3]};                        \
    float d[4];                                                                   \
    for (u32 i = 0; i < 4; ++i) d[i] = __uint_as_float(mine[6 + i]);              \
    multiply(d, a, mine[4], mine[5]);                                             \
    for (u32 i = 0; i < 4; ++i) out[4 * lane_id() + i] = __float_as_uint(d[i]);   \
  }
KERNEL(wrap_mma_bf16, 32)
MMA(multiply_bf16)
EXPORT(wrap_mma_bf16)
KERNEL(wrap_mma_f16, 32)
MMA(multiply_f16)
EXPORT(wrap_mma_f16)

// ---- sm_90a; elsewhere these are empty -----------------------------------------------------------

// a . b^T of tiles as they lie in shared memory, 64 and 256 rows of 32 words, begun in two groups;
// and the same with twice the last 16 values. in [10240], out [128, 128], then [128].
#ifdef WARPGROUPS
#define WGMMA_BODY(multiply)                                                              \
  SHARED(u32, all);                                                                       \
  u32* words = all + (1024 - shared_offset(all) % 1024) % 1024 / 4;                       \
  for (u32 i = threadIdx.x; i < 320 * 32; i += 128) words[i] = in[i];                     \
  show_to_tensor_cores();                                                                 \
  __syncthreads();                                                                        \
  const u16 *a = reinterpret_cast<u16*>(words), *b = a + 64 * 64;                         \
  float sum[128];                                                                         \
  warpgroup_begin();                                                                      \
  multiply(sum, a, b, 0, false);                                                          \
  multiply(sum, a, b, 1, true);                                                           \
  warpgroup_close();                                                                      \
  multiply(sum, a, b, 2, true);                                                           \
  multiply(sum, a, b, 3, true);                                                           \
  warpgroup_close();                                                                      \
  warpgroup_wait<1>();                                                                    \
  warpgroup_wait<0>();                                                                    \
  for (u32 i = 0; i < 128; ++i) out[threadIdx.x * 128 + i] = __float_as_uint(sum[i]);     \
  warpgroup_begin();                                                                      \
  multiply(sum, a, b, 3, true);                                                           \
  warpgroup_close();                                                                      \
  warpgroup_wait<0>();                                                                    \
  out[128 * 128 + threadIdx.x] = __float_as_uint(sum[77]);
#else
#define WGMMA_BODY(multiply)
#endif
#define WGMMA(multiply) \
  (const u32* __restrict__ in, u32* __restrict__ out) { WGMMA_BODY(multiply) }
KERNEL(wrap_wgmma_bf16, 128)
WGMMA(multiply_warpgroup_bf16)
EXPORT(wrap_wgmma_bf16)
KERNEL(wrap_wgmma_f16, 128)
WGMMA(multiply_warpgroup_f16)
EXPORT(wrap_wgmma_f16)

// Two warpgroups take registers of the third, and keep 180 numbers each; in [180, 384], out [384].
KERNEL_ALONE(wrap_registers, 384)(const u32* __restrict__ in, u32* __restrict__ out) {
#ifdef WARPGROUPS
  const u32 t = threadIdx.x;
  if (t >= 256) {
    registers_down<72>();
    out[t] = in[t] + 1;
    return;
  }
  registers_up<216>();
  u32 kept[180], sum = 0;
#pragma unroll
  for (u32 i = 0; i < 180; ++i) kept[i] = in[i * 384 + t];
#pragma unroll
  for (u32 i = 0; i < 180; ++i) sum = sum * 31 + (kept[179 - i] ^ kept[i]);
  out[t] = sum;
#endif
}
EXPORT(wrap_registers)

// A ring of one stage: in each of five turns one warp has 48 and 16 bytes copied, and two others
// hand them on. in [5, 16], out [2, 5, 16].
KERNEL(wrap_transactions, 96)(const u32* __restrict__ in, u32* __restrict__ out) {
#ifdef WARPGROUPS
  SHARED(u32, stage);
  u64 *full = reinterpret_cast<u64*>(stage + 16), *empty = full + 1;
  if (threadIdx.x == 0) {
    barrier_init(full, 1);
    barrier_init(empty, 2);
    barrier_show();
  }
  __syncthreads();
  for (u32 turn = 0; turn < 5; ++turn) {
    if (warp_id() == 2) {
      if (lane_id()) continue;
      barrier_wait(empty, (turn & 1) ^ 1);
      barrier_expect(full, 64);
      copy_bulk(stage, in + turn * 16, 48, full);
      copy_bulk(stage + 12, in + turn * 16 + 12, 16, full);
    } else {
      barrier_wait(full, turn & 1);
      if (lane_id() < 16) out[(warp_id() * 5 + turn) * 16 + lane_id()] = stage[lane_id()];
      __syncwarp();
      if (lane_id() == 0) barrier_arrive(empty);
    }
  }
#endif
}
EXPORT(wrap_transactions)
