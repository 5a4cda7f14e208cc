// Twins of `kernels/tensor.cuh`: asynchronous copies that land only at the wait, matrix loads and
// products with the layouts of the PTX ISA, and products of warpgroups that read their
// factors only at the wait.
#pragma once
#include "emulator.h"
#include "traffic.h"

inline void copy_async(void* to, const void* from, u32 bytes) {
  auto& me = emulator::self();
  if (!emulator::is_shared(to, 16)) emulator::fail("an asynchronous copy outside shared memory");
  if ((uintptr_t(to) | uintptr_t(from)) % 16) emulator::fail("an asynchronous copy off its alignment");
  if (bytes > 16) emulator::fail("an asynchronous copy of more than 16 bytes");
  traffic::copied(from, bytes);
  // Who reads before the wait reads NaN.
  memset(to, 0xff, 16);
  me.copies.push_back({to, from, bytes});
}
inline void copy_async_close() {
  auto& me = emulator::self();
  me.groups.push_back(me.copies.size());
}
template <int left> void copy_async_wait() {
  auto& me = emulator::self();
  while (me.groups.size() > size_t(left)) {
    const size_t end = me.groups.front();
    for (size_t i = 0; i < end; ++i) {
      const auto& copy = me.copies[i];
      memset(copy.to, 0, 16);
      memcpy(copy.to, copy.from, copy.bytes);
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + long(end));
    me.groups.erase(me.groups.begin());
    for (size_t& group : me.groups) group -= end;
  }
}

namespace emulator {
struct MatrixLoad {
  const u16* row;
  u32* out;
};
inline void gather_matrices(void* const* lanes, u32) {
  for (u32 m = 0; m < 4; ++m)
    for (u32 l = 0; l < 32; ++l) {
      const u16* row = static_cast<MatrixLoad*>(lanes[m * 8 + l / 4])->row;
      const u32 c = l % 4 * 2;
      static_cast<MatrixLoad*>(lanes[l])->out[m] = row[c] | u32(row[c + 1]) << 16;
    }
}
inline void gather_across(void* const* lanes, u32) {
  for (u32 m = 0; m < 4; ++m)
    for (u32 l = 0; l < 32; ++l) {
      const auto row = [&](u32 r) { return static_cast<MatrixLoad*>(lanes[m * 8 + r])->row; };
      const u32 r = l % 4 * 2, c = l / 4;
      static_cast<MatrixLoad*>(lanes[l])->out[m] = row(r)[c] | u32(row(r + 1)[c]) << 16;
    }
}
struct Product {
  float* d;
  const u32* a;
  u32 b[2];
};
// The number that 16 bits are.
typedef float (*Wide)(u16);
inline float wide_bf16(u16 half) { return __uint_as_float(u32(half) << 16); }
inline float wide_f16(u16 half) {
  const u32 exponent = half >> 10 & 31, digits = half & 1023;
  const float size = exponent == 31 ? (digits ? NAN : INFINITY)
                     : exponent    ? ldexpf(float(1024 + digits), int(exponent) - 25)
                                   : ldexpf(float(digits), -24);
  return half >> 15 ? -size : size;
}
template <Wide wide> void multiply_matrices(void* const* lanes, u32) {
  traffic::multiplied(16 * 8 * 16);
  float a[16][16], b[16][8];
  for (u32 l = 0; l < 32; ++l) {
    const auto* p = static_cast<Product*>(lanes[l]);
    const u32 g = l / 4, q = l % 4 * 2;
    for (u32 i = 0; i < 4; ++i)
      for (u32 h = 0; h < 2; ++h) a[g + i % 2 * 8][q + i / 2 * 8 + h] = wide(u16(p->a[i] >> 16 * h));
    for (u32 i = 0; i < 2; ++i)
      for (u32 h = 0; h < 2; ++h) b[q + i * 8 + h][g] = wide(u16(p->b[i] >> 16 * h));
  }
  for (u32 l = 0; l < 32; ++l) {
    float* d = static_cast<Product*>(lanes[l])->d;
    for (u32 i = 0; i < 4; ++i) {
      const u32 r = l / 4 + i / 2 * 8, c = l % 4 * 2 + i % 2;
      float sum = 0.0f;
      for (u32 k = 0; k < 16; ++k) sum += a[r][k] * b[k][c];
      d[i] += sum;
    }
  }
}
}  // namespace emulator

inline void load_matrices(u32 (&out)[4], const void* row) {
  if (uintptr_t(row) % 16) emulator::fail("a matrix load off its alignment");
  if (!emulator::is_shared(row, 16)) emulator::fail("a matrix load outside shared memory");
  // Each lane looks at its own row once, so that a race detector sees who reads what.
  for (u32 i = 0; i < 8; ++i) (void)*(static_cast<const volatile u16*>(row) + i);
  emulator::MatrixLoad mine = {static_cast<const u16*>(row), out};
  emulator::meet_warp(~0u, emulator::Meeting::matrix, &mine, emulator::gather_matrices);
}
inline void load_matrices_across(u32 (&out)[4], const void* row) {
  if (uintptr_t(row) % 16) emulator::fail("a matrix load off its alignment");
  if (!emulator::is_shared(row, 16)) emulator::fail("a matrix load outside shared memory");
  for (u32 i = 0; i < 8; ++i) (void)*(static_cast<const volatile u16*>(row) + i);
  emulator::MatrixLoad mine = {static_cast<const u16*>(row), out};
  emulator::meet_warp(~0u, emulator::Meeting::matrix, &mine, emulator::gather_across);
}
inline u32 pair_of_bf16(float low, float high) {
  const auto near = [](float v) -> u32 {
    const u32 bits = __float_as_uint(v);
    return v != v ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  };
  return near(low) | near(high) << 16;
}
inline float power_of_two(float x) {
  const float y = exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;
}
inline u16 to_f16(float v) {
  const float size = fabsf(v);
  const u32 sign = signbit(v) ? 0x8000 : 0;
  if (v != v) return u16(0x7fff);
  if (size >= 65520.0f) return u16(sign | 0x7c00);
  // Eleven digits, fewer below 2^-14; the default rounding is to the nearest, ties to even.
  int exponent;
  frexpf(size, &exponent);
  const int last = size < 0x1p-14f ? -24 : exponent - 11;
  const u32 digits = u32(nearbyintf(ldexpf(size, -last)));
  // Digits that were rounded up to the next power carry into the exponent.
  return u16(sign + (u32(last + 24) << 10) + digits);
}
inline float from_f16(u16 half) { return emulator::wide_f16(half); }
inline void multiply_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  emulator::Product mine = {d, a, {b0, b1}};
  emulator::meet_warp(~0u, emulator::Meeting::matrix, &mine,
                      emulator::multiply_matrices<emulator::wide_bf16>);
}
inline void multiply_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  emulator::Product mine = {d, a, {b0, b1}};
  emulator::meet_warp(~0u, emulator::Meeting::matrix, &mine,
                      emulator::multiply_matrices<emulator::wide_f16>);
}

#define WARPGROUPS 1
inline u32 shared_offset(const void* p) {
  return u32(static_cast<const unsigned char*>(p) - emulator::shared_memory());
}
inline void show_to_tensor_cores() {}
template <int> void registers_down() {}
template <int> void registers_up() {}
inline void warpgroup_begin() {}
inline void warpgroup_close() {
  auto& me = emulator::self();
  me.product_groups.push_back(me.products.size());
}
namespace emulator {
inline void begin_product(float* d, const u16* a, const u16* b, u32 part, bool more, Wide wide) {
  if (shared_offset(a) % 1024 || shared_offset(b) % 1024) emulator::fail("a tile off its alignment");
  if (!emulator::is_shared(a, 64 * 128) || !emulator::is_shared(b, 256 * 128))
    emulator::fail("a tile outside shared memory");
  emulator::self().products.push_back({d, a, b, part, more, wide});
}
// Sixteen values of row r from the part's first, out of the order of 128-byte swizzling.
inline void swizzled_row(float (&out)[16], const u16* tile, u32 r, u32 part, Wide wide) {
  for (u32 k = 0; k < 16; ++k) {
    const u32 piece = (part * 2 + k / 8) ^ (r & 7);
    out[k] = wide(tile[r * 64 + piece * 8 + k % 8]);
  }
}
inline void multiply_now(const Thread::Product& p, u32 thread) {
  traffic::multiplied(64 * 256 * 16 / 128);
  float a[2][16], b[16];
  for (u32 h = 0; h < 2; ++h)
    swizzled_row(a[h], p.a, thread / 32 * 16 + thread % 32 / 4 + h * 8, p.part, p.wide);
  for (u32 j = 0; j < 32; ++j)
    for (u32 q = 0; q < 2; ++q) {
      swizzled_row(b, p.b, 8 * j + thread % 4 * 2 + q, p.part, p.wide);
      for (u32 h = 0; h < 2; ++h) {
        float sum = 0.0f;
        for (u32 k = 0; k < 16; ++k) sum += a[h][k] * b[k];
        float& to = p.sums[4 * j + 2 * h + q];
        to = p.more ? to + sum : sum;
      }
    }
}
}  // namespace emulator
inline void multiply_warpgroup_bf16(float (&d)[128], const u16* a, const u16* b, u32 part, bool more) {
  emulator::begin_product(d, a, b, part, more, emulator::wide_bf16);
}
inline void multiply_warpgroup_f16(float (&d)[128], const u16* a, const u16* b, u32 part, bool more) {
  emulator::begin_product(d, a, b, part, more, emulator::wide_f16);
}
template <int left> void warpgroup_wait() {
  auto& me = emulator::self();
  while (me.product_groups.size() > size_t(left)) {
    const size_t end = me.product_groups.front();
    for (size_t i = 0; i < end; ++i) emulator::multiply_now(me.products[i], me.number & 127);
    me.products.erase(me.products.begin(), me.products.begin() + long(end));
    me.product_groups.erase(me.product_groups.begin());
    for (size_t& group : me.product_groups) group -= end;
  }
}

// ---- barriers for transactions: see barrier.cpp ------------------------------------------------

void barrier_init(u64* barrier, u32 arrivals);
inline void barrier_show() {}
void barrier_arrive(u64* barrier);
void barrier_expect(u64* barrier, u32 bytes);
void barrier_wait(u64* barrier, u32 parity);
void copy_bulk(void* to, const void* from, u32 bytes, u64* barrier);
