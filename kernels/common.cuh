// What every kernel stands on: names of types, shared memory, sums, and the order of keys.
//
// One source for two worlds. NVRTC sees it without any CUDA header; a C++ compiler with
// -DEMULATED sees the same names out of the emulator (`tests/cuda_double`). So PTX stands behind
// thin wrappers only, each with a twin there, and all shared memory is the dynamic one, whose
// ends the emulator watches.
#pragma once
#ifdef EMULATED
#include "emulator.h"
#else
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
#define DEVICE __device__ __forceinline__
#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads) name
// … of which a multiprocessor has one block at a time.
#define KERNEL_ALONE(name, threads) \
  extern "C" __global__ void __launch_bounds__(threads, 1) name
#define EXPORT(name)
#define SHARED(T, name)                                                \
  extern __shared__ __align__(128) unsigned char dynamic_shared_[];    \
  T* name = reinterpret_cast<T*>(dynamic_shared_)
#endif

constexpr u32 ALL_LANES = 0xffffffffu;

DEVICE u32 lane_id() { return threadIdx.x & 31; }
DEVICE u32 warp_id() { return threadIdx.x >> 5; }
// Number of the warp in the whole grid: kernels that give a warp to a row.
DEVICE u32 global_warp() { return blockIdx.x * (blockDim.x >> 5) + warp_id(); }
DEVICE u32 lanes_below() { return (1u << lane_id()) - 1; }

// W neighbouring values that move as one; four want an address that is a multiple of 16.
template <u32 W> struct alignas(4 * W) Pack {
  float v[W];
};
template <u32 W> DEVICE Pack<W> load(const float* from) {
  return *reinterpret_cast<const Pack<W>*>(from);
}
template <u32 W> DEVICE void store(float* to, const Pack<W>& values) {
  *reinterpret_cast<Pack<W>*>(to) = values;
}

// A butterfly: every lane ends with the same bits.
template <class T> DEVICE T warp_sum(T v) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(ALL_LANES, v, o);
  return v;
}

// The sum over a block of whole warps, in every thread. `scratch` holds 32 values, and may be
// what an earlier sum used.
template <class T> DEVICE T block_sum(T v, T* scratch) {
  v = warp_sum(v);
  __syncthreads();
  if (lane_id() == 0) scratch[warp_id()] = v;
  __syncthreads();
  v = lane_id() < (blockDim.x >> 5) ? scratch[lane_id()] : T(0);
  return warp_sum(v);
}

// The sum of v over the threads before this one, and `all` over the block. `scratch` holds 32
// numbers, and may be what an earlier sum used.
DEVICE u32 block_prefix(u32 v, u32* scratch, u32& all) {
  u32 upto = v;
  for (u32 o = 1; o < 32; o <<= 1) {
    const u32 other = __shfl_up_sync(ALL_LANES, upto, o);
    if (lane_id() >= o) upto += other;
  }
  __syncthreads();
  if (lane_id() == 31) scratch[warp_id()] = upto;
  __syncthreads();
  u32 warps = 0;
  all = 0;
  for (u32 w = 0; w < blockDim.x >> 5; ++w) {
    warps += w < warp_id() ? scratch[w] : 0;
    all += scratch[w];
  }
  return warps + upto - v;
}

// A key as a number that orders as keys do: NaN lowest, -0 equal to 0.
DEVICE u32 ordered(float key) {
  if (key != key) return 0;
  const u32 bits = __float_as_uint(key + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
DEVICE float from_ordered(u32 o) {
  return __uint_as_float(o & 0x80000000u ? o & 0x7fffffffu : ~o);
}
constexpr u32 ORDERED_ZERO = 0x80000000u;

// A key with its latent: two are never equal, and of equal values the lower latent is the larger.
DEVICE u64 key_of(float value, u32 latent) { return (u64)ordered(value) << 32 | (u32)~latent; }
DEVICE u32 latent_of(u64 key) { return ~(u32)key; }

// The first of `count` ascending widths that is above `latent`.
DEVICE u32 group_of(const u32* widths, u32 count, u32 latent) {
  u32 m = 0;
  while (m + 1 < count && widths[m] <= latent) ++m;
  return m;
}

// Where column c of row r of a factor in bf16 is: in rows of `padded` values, or with `panels` in
// panels of 128 rows and 64 values, piece c of 8 values of row r at c ^ (r & 7), as wgmma reads them.
DEVICE u64 place_of(u32 r, u32 c, u32 padded, u32 panels) {
  if (!panels) return (u64)r * padded + c;
  const u64 panel = (u64)(r / 128) * (padded / 64) + c / 64;
  return panel * 8192 + r % 128 * 64 + ((c / 8 & 7) ^ (r & 7)) * 8 + c % 8;
}
