// The k-th largest key of a token that a warp has: found bit by bit, counting how many keys reach a
// number. That takes about as many steps as it takes bits to tell the keys apart, and no barrier.
#pragma once
#include "common.cuh"

// Keys that a lane holds, of which a warp has 32 times as many.
constexpr u32 HELD = 32;

// A key's highest digit of 8 bits, and whether it has the digits that a search by digits has found:
// none, where that is what it looks for now.
constexpr u32 HIGHEST = 24;
DEVICE bool has_digits(u32 key, const u32* state, u32 shift) {
  return shift == HIGHEST || (key & state[1]) == state[0];
}

DEVICE u32 mark(bool mine) { return __ballot_sync(ALL_LANES, mine); }
DEVICE u32 before(u32 mask) { return __popc(mask & lanes_below()); }
template <class T> DEVICE T warp_min(T v) {
  for (int o = 16; o; o >>= 1) {
    const T other = __shfl_xor_sync(ALL_LANES, v, o);
    v = other < v ? other : v;
  }
  return v;
}

// The largest t that at least k keys reach; count(t) is how many of the lane's do. `all` is set
// where exactly k do; else the k-th key is t, and others are equal to it.
template <class T, class Count> DEVICE T kth(u32 k, Count count, bool& all) {
  T t = 0;
  all = false;
  for (int bit = 8 * sizeof(T) - 1; bit >= 0 && !all; --bit) {
    const T with = t | (T)1 << bit;
    const u32 reach = warp_sum(count(with));
    if (reach >= k) t = with;
    all = reach == k;
  }
  return t;
}

// As kth, of the upper halves of a list of keys: what at least k of them reach.
DEVICE u32 kth_upper(const u64* list, u32 held, u32 k) {
  bool all;
  return kth<u32>(
      k,
      [&](u32 with) {
        u32 n = 0;
        for (u32 i = lane_id(); i < held; i += 32) n += (u32)(list[i] >> 32) >= with;
        return n;
      },
      all);
}
