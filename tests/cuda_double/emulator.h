// What kernels see instead of CUDA: `kernels/common.cuh` includes this with -DEMULATED.
//
// Strict on purpose: what hardware leaves undefined is an error here, or poison.
#pragma once
#include <math.h>
#include <string.h>

#include "machine.h"

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint16_t u16;
typedef unsigned long long u64;

#define DEVICE inline __attribute__((always_inline))
#define KERNEL(name, threads)                  \
  constexpr u32 threads_of_##name = (threads); \
  extern "C" void name
#define KERNEL_ALONE(name, threads) KERNEL(name, threads)
#define EXPORT(name)                                                                        \
  static const bool exported_##name = emulator::export_kernel(                              \
      #name, {&emulator::Invoke<&name>::call, threads_of_##name, emulator::sizes_of(&name)});
#define SHARED(T, name) T* name = reinterpret_cast<T*>(emulator::shared_memory())

#define threadIdx (emulator::self().index)
#define blockIdx (emulator::place().block)
#define blockDim (emulator::place().threads)
#define gridDim (emulator::place().blocks)

inline u32 __float_as_uint(float v) {
  u32 bits;
  memcpy(&bits, &v, 4);
  return bits;
}
inline float __uint_as_float(u32 bits) {
  float v;
  memcpy(&v, &bits, 4);
  return v;
}
inline int __popc(u32 v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }

// ---- barriers ------------------------------------------------------------------------------

inline void __syncthreads() { emulator::meet_block(); }
inline void __syncwarp(u32 mask = ~0u) {
  emulator::meet_warp(mask, emulator::Meeting::syncwarp, nullptr, [](void* const*, u32) {});
}

// ---- shuffles and votes --------------------------------------------------------------------

namespace emulator {
struct Shuffle {
  u64 in, out;
  u32 source;
};
inline void exchange(void* const* lanes, u32 mask) {
  for (u32 i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    auto* mine = static_cast<Shuffle*>(lanes[i]);
    const bool there = mask >> mine->source & 1;
    // A lane that does not take part gives nothing: poison.
    mine->out = there ? static_cast<Shuffle*>(lanes[mine->source])->in : ~0ull;
  }
}
template <class T> T shuffle(u32 mask, T value, u32 source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 8 bytes at most");
  Shuffle mine = {0, 0, source};
  memcpy(&mine.in, &value, sizeof value);
  meet_warp(mask, Meeting::shuffle, &mine, exchange);
  memcpy(&value, &mine.out, sizeof value);
  return value;
}
struct Vote {
  u32 in, out;
};
inline void count_votes(void* const* lanes, u32 mask) {
  u32 all = 0;
  for (u32 i = 0; i < 32; ++i)
    if (mask >> i & 1) all |= static_cast<Vote*>(lanes[i])->in << i;
  for (u32 i = 0; i < 32; ++i)
    if (mask >> i & 1) static_cast<Vote*>(lanes[i])->out = all;
}
inline void find_equals(void* const* lanes, u32 mask) {
  for (u32 i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    auto* mine = static_cast<Vote*>(lanes[i]);
    mine->out = 0;
    for (u32 o = 0; o < 32; ++o)
      if (mask >> o & 1) mine->out |= u32(static_cast<Vote*>(lanes[o])->in == mine->in) << o;
  }
}
}  // namespace emulator

template <class T> T __shfl_sync(u32 mask, T v, int lane) {
  return emulator::shuffle(mask, v, lane & 31);
}
template <class T> T __shfl_xor_sync(u32 mask, T v, int bits) {
  return emulator::shuffle(mask, v, (emulator::self().lane() ^ bits) & 31);
}
template <class T> T __shfl_up_sync(u32 mask, T v, u32 by) {
  const u32 lane = emulator::self().lane();
  return emulator::shuffle(mask, v, lane < by ? lane : lane - by);
}
template <class T> T __shfl_down_sync(u32 mask, T v, u32 by) {
  const u32 lane = emulator::self().lane();
  return emulator::shuffle(mask, v, lane + by > 31 ? lane : lane + by);
}
inline u32 __ballot_sync(u32 mask, int predicate) {
  emulator::Vote mine = {predicate != 0, 0};
  emulator::meet_warp(mask, emulator::Meeting::vote, &mine, emulator::count_votes);
  return mine.out;
}
inline u32 __match_any_sync(u32 mask, u32 value) {
  emulator::Vote mine = {value, 0};
  emulator::meet_warp(mask, emulator::Meeting::vote, &mine, emulator::find_equals);
  return mine.out;
}
inline bool __any_sync(u32 mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
template <class T> T __ldg(const T* at) { return *at; }

// ---- atomics: blocks may run on several threads of the host ---------------------------------

template <class T, class F> T emulated_update(T* at, F f) {
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(at, &old, f(old), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
  }
  return old;
}
// Of integers only: sums of floats must not depend on the order of blocks.
inline u32 atomicAdd(u32* at, u32 v) {
  return emulated_update(at, [v](u32 old) { return old + v; });
}
inline u32 atomicMin(u32* at, u32 v) {
  return emulated_update(at, [v](u32 old) { return old < v ? old : v; });
}
inline u32 atomicMax(u32* at, u32 v) {
  return emulated_update(at, [v](u32 old) { return old > v ? old : v; });
}
