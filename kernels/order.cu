// Prefix sums, and edges by latent: a stable radix sort, so that a latent's edges stay in the
// order of their tokens and every sum over them has one order.
#include "common.cuh"

// out[i] = sum of in[..i], and out[n] = sum of all. One block. Shared: 33 numbers.
KERNEL(scan, 1024)
(const u32* __restrict__ in, u32* __restrict__ out, u32 n) {
  SHARED(u32, sums);
  u32 before = 0;
  for (u32 base = 0; base < n; base += blockDim.x) {
    const u32 i = base + threadIdx.x, mine = i < n ? in[i] : 0;
    u32 upto = mine;
    for (u32 o = 1; o < 32; o <<= 1) {
      const u32 other = __shfl_up_sync(ALL_LANES, upto, o);
      if (lane_id() >= o) upto += other;
    }
    if (lane_id() == 31) sums[warp_id()] = upto;
    __syncthreads();
    u32 warps = 0, all = 0;
    for (u32 w = 0; w < blockDim.x >> 5; ++w) {
      warps += w < warp_id() ? sums[w] : 0;
      all += sums[w];
    }
    if (i < n) out[i] = before + warps + upto - mine;
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) out[n] = before;
}
EXPORT(scan)

// The token of each edge, and the edge's own number. A warp is a token.
KERNEL(edge_tokens, 256)
(const u32* __restrict__ row_ptr, u32* __restrict__ token, u32* __restrict__ number, u32 tokens) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  for (u32 e = row_ptr[b] + lane_id(); e < row_ptr[b + 1]; e += 32) token[e] = b, number[e] = e;
}
EXPORT(edge_tokens)

// A tile is `items` times 256 keys. counts[digit * tiles + tile] = keys of the tile with that digit.
KERNEL(radix_count, 256)
(const u32* __restrict__ keys, u32* __restrict__ counts, u32 n, u32 items, u32 shift) {
  SHARED(u32, bins);
  bins[threadIdx.x] = 0;
  __syncthreads();
  const u32 from = blockIdx.x * items * 256;
  for (u32 it = 0; it < items; ++it) {
    const u32 i = from + it * 256 + threadIdx.x;
    if (i < n) atomicAdd(&bins[keys[i] >> shift & 255], 1u);
  }
  __syncthreads();
  counts[threadIdx.x * gridDim.x + blockIdx.x] = bins[threadIdx.x];
}
EXPORT(radix_count)

// Keys and values to the places that the scanned counts give, in their order. Shared: 512 numbers.
KERNEL(radix_scatter, 256)
(const u32* __restrict__ keys, const u32* __restrict__ values, const u32* __restrict__ places,
 u32* __restrict__ to_keys, u32* __restrict__ to_values, u32 n, u32 items, u32 shift) {
  SHARED(u32, next);
  u32* digits = next + 256;
  next[threadIdx.x] = places[threadIdx.x * gridDim.x + blockIdx.x];
  const u32 from = blockIdx.x * items * 256;
  for (u32 it = 0; it < items; ++it) {
    const u32 i = from + it * 256 + threadIdx.x;
    const u32 key = i < n ? keys[i] : 0;
    const u32 digit = i < n ? key >> shift & 255 : 256;
    digits[threadIdx.x] = digit;
    __syncthreads();
    u32 rank = 0, mine = 0;
    for (u32 t = 0; t < 256; ++t) {
      rank += t < threadIdx.x && digits[t] == digit;
      mine += digits[t] == threadIdx.x;
    }
    if (i < n) {
      to_keys[next[digit] + rank] = key;
      to_values[next[digit] + rank] = values[i];
    }
    __syncthreads();
    next[threadIdx.x] += mine;
    __syncthreads();
  }
}
EXPORT(radix_scatter)

// starts[j] = first place of latent j among n sorted latents; starts[latents] = n.
KERNEL(segment_starts, 256)
(const u32* __restrict__ sorted, u32* __restrict__ starts, u32 n, u32 latents) {
  const u32 e = blockIdx.x * 256 + threadIdx.x;
  if (e > n) return;
  const u32 after = e ? sorted[e - 1] + 1 : 0, upto = e < n ? sorted[e] : latents;
  for (u32 j = after; j <= upto; ++j) starts[j] = e;
}
EXPORT(segment_starts)

// row_ptr of the tokens first .. first + count.
KERNEL(slice_rows, 256)
(const u32* __restrict__ row_ptr, u32* __restrict__ out, u32 first, u32 count) {
  const u32 b = blockIdx.x * 256 + threadIdx.x;
  if (b <= count) out[b] = row_ptr[first + b] - row_ptr[first];
}
EXPORT(slice_rows)
