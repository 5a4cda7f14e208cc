// Prefix sums, and edges by latent: a stable radix sort, so that a latent's edges stay in the
// order of their tokens and every sum over them has one order.
#include "common.cuh"

// out[i] = sum of in[..i], and out[n] = sum of all. One block. Shared: 32 numbers.
KERNEL(scan, 1024)
(const u32* __restrict__ in, u32* __restrict__ out, u32 n) {
  SHARED(u32, scratch);
  u32 before = 0;
  for (u32 base = 0; base < n; base += blockDim.x) {
    const u32 i = base + threadIdx.x;
    u32 all;
    const u32 upto = block_prefix(i < n ? in[i] : 0, scratch, all);
    if (i < n) out[i] = before + upto;
    before += all;
  }
  if (threadIdx.x == 0) out[n] = before;
}
EXPORT(scan)

// The token of each edge. A warp is a token.
KERNEL(edge_tokens, 256)
(const u32* __restrict__ row_ptr, u32* __restrict__ token, u32 tokens) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  for (u32 e = row_ptr[b] + lane_id(); e < row_ptr[b + 1]; e += 32) token[e] = b;
}
EXPORT(edge_tokens)

namespace {
// Keys that a thread holds at a time, and a block.
constexpr u32 EACH = 16, ROUND = 256 * EACH;
constexpr u32 MOST_DIGITS = 256;

// Where a lane's keys of a round begin; they lie 32 apart, so that a warp has a stretch.
DEVICE u32 first_key(u32 rounds, u32 round) {
  return (blockIdx.x * rounds + round) * ROUND + warp_id() * (32 * EACH) + lane_id();
}
}  // namespace

// A block takes `rounds` rounds of keys. counts[block, digit] = its keys with that digit. Digits
// are a power of two, 256 at most.
KERNEL(radix_count, 256)
(const u32* __restrict__ keys, u32* __restrict__ counts, u32 n, u32 rounds, u32 shift,
 u32 digits) {
  SHARED(u32, bins);
  bins[threadIdx.x] = 0;
  __syncthreads();
  for (u32 r = 0; r < rounds; ++r) {
    const u32 first = first_key(rounds, r);
    u32 key[EACH];
#pragma unroll
    for (u32 s = 0; s < EACH; ++s) key[s] = first + s * 32 < n ? keys[first + s * 32] : 0;
#pragma unroll
    for (u32 s = 0; s < EACH; ++s)
      if (first + s * 32 < n) atomicAdd(&bins[key[s] >> shift & (digits - 1)], 1u);
  }
  __syncthreads();
  if (threadIdx.x < digits) counts[blockIdx.x * digits + threadIdx.x] = bins[threadIdx.x];
}
EXPORT(radix_count)

// Keys and their values (their own numbers, where there are no values) by digit, and those of a
// digit in the order in which they were. A thread is a digit and adds up the counts of all blocks:
// there are few, and a prefix sum would be a launch of its own. Shared: 32 numbers, then [8, 256].
KERNEL(radix_scatter, 256)
(const u32* __restrict__ keys, const u32* __restrict__ values, const u32* __restrict__ counts,
 u32* __restrict__ to_keys, u32* __restrict__ to_values, u32 n, u32 rounds, u32 shift,
 u32 digits) {
  SHARED(u32, scratch);
  u32* places = scratch + 32;
  u32* own = places + warp_id() * MOST_DIGITS;
  u32 before = 0, all = 0, total;
  if (threadIdx.x < digits) {
#pragma unroll 8
    for (u32 t = 0; t < gridDim.x; ++t) {
      const u32 count = counts[t * digits + threadIdx.x];
      before += t < blockIdx.x ? count : 0;
      all += count;
    }
  }
  u32 next = before + block_prefix(all, scratch, total);
  for (u32 r = 0; r < rounds; ++r) {
    const u32 first = first_key(rounds, r);
    u32 key[EACH], rank[EACH];
#pragma unroll
    for (u32 s = 0; s < EACH; ++s) key[s] = first + s * 32 < n ? keys[first + s * 32] : 0;
    for (u32 w = 0; w < 8; ++w) places[w * MOST_DIGITS + threadIdx.x] = 0;
    __syncthreads();
    // Ranks within the warp: how many keys of the digit came before.
#pragma unroll
    for (u32 s = 0; s < EACH; ++s) {
      const bool there = first + s * 32 < n;
      const u32 digit = key[s] >> shift & (digits - 1);
      const u32 peers = __match_any_sync(ALL_LANES, there ? digit : MOST_DIGITS);
      const u32 earlier = peers & lanes_below();
      rank[s] = own[digit] + __popc(earlier);
      __syncwarp();
      if (there && !earlier) own[digit] += __popc(peers);
      __syncwarp();
    }
    __syncthreads();
    // From how many keys a warp has of a digit to where they go.
    for (u32 w = 0; w < 8; ++w) {
      u32& place = places[w * MOST_DIGITS + threadIdx.x];
      const u32 count = place;
      place = next;
      next += count;
    }
    __syncthreads();
#pragma unroll
    for (u32 s = 0; s < EACH; ++s) {
      const u32 i = first + s * 32;
      if (i >= n) continue;
      const u32 to = own[key[s] >> shift & (digits - 1)] + rank[s];
      to_keys[to] = key[s];
      to_values[to] = values ? values[i] : i;
    }
    __syncthreads();
  }
}
EXPORT(radix_scatter)

// starts[j] = first place of latent j among n sorted latents; starts[latents] = n. Each looks for
// its own, so that many latents without edges take no longer than others.
KERNEL(segment_starts, 256)
(const u32* __restrict__ sorted, u32* __restrict__ starts, u32 n, u32 latents) {
  const u32 j = blockIdx.x * 256 + threadIdx.x;
  if (j > latents) return;
  u32 low = 0, high = n;
  while (low < high) {
    const u32 middle = low + (high - low) / 2;
    if (sorted[middle] < j) low = middle + 1;
    else high = middle;
  }
  starts[j] = low;
}
EXPORT(segment_starts)

// row_ptr of the tokens first .. first + count.
KERNEL(slice_rows, 256)
(const u32* __restrict__ row_ptr, u32* __restrict__ out, u32 first, u32 count) {
  const u32 b = blockIdx.x * 256 + threadIdx.x;
  if (b <= count) out[b] = row_ptr[first + b] - row_ptr[first];
}
EXPORT(slice_rows)
