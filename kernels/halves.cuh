// The formats of 16 bits in which factors and gathered rows are held. What is multiplied is summed
// in f32.
#pragma once
#include "common.cuh"
#include "tensor.cuh"

// The upper half of an f32: its range, and 8 bits of precision.
struct Bf16 {
  // The nearest.
  DEVICE static u16 of(float v) {
    const u32 bits = __float_as_uint(v);
    if (v != v) return (u16)(bits >> 16 | 0x40);
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  DEVICE static float wide(u16 half) { return __uint_as_float((u32)half << 16); }
  DEVICE static void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    multiply_bf16(d, a, b0, b1);
  }
#ifdef WARPGROUPS
  DEVICE static void multiply(float (&d)[128], const u16* a, const u16* b, u32 part, bool more) {
    multiply_warpgroup_bf16(d, a, b, part, more);
  }
#endif
};

// IEEE half precision: 11 bits, and from 2^-24 to 65504; what is larger becomes infinite.
struct F16 {
  DEVICE static u16 of(float v) { return to_f16(v); }
  DEVICE static float wide(u16 half) { return from_f16(half); }
  DEVICE static void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    multiply_f16(d, a, b0, b1);
  }
#ifdef WARPGROUPS
  DEVICE static void multiply(float (&d)[128], const u16* a, const u16* b, u32 part, bool more) {
    multiply_warpgroup_f16(d, a, b, part, more);
  }
#endif
};
