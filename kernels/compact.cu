// Selections of unknown length: what is above a bound, and the best of a whole batch. A stretch
// of latents is compacted to edges behind those of earlier stretches; a warp is a token, so that
// edges keep their order without any atomic.
#include "rank.cuh"

namespace {
// Whether pre-activation `p` of `latent` becomes an edge: above its own bound, or, where `least`
// is there, positive and not below the least key that can still win.
DEVICE bool passes(float p, u32 latent, const float* lower, const float* scale, const u32* least) {
  if (lower) return p > lower[latent];
  const u32 key = ordered(scale ? p * scale[latent] : p);
  return key > ORDERED_ZERO && key >= *least;
}
DEVICE u32 edge_key(float p, u32 latent, const float* scale) {
  return ordered(scale ? p * scale[latent] : p);
}
}  // namespace

// lengths[b] = edges of token b so far, and those of the stretch.
KERNEL(compact_count, 256)
(const float* __restrict__ p, const float* __restrict__ lower, const float* __restrict__ scale,
 const u32* __restrict__ least, const u32* __restrict__ row_ptr, u32* __restrict__ lengths,
 u32 tokens, u32 columns, u32 count, u32 first) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  const float* row = p + (u64)b * columns;
  u32 found = 0;
  for (u32 at = lane_id(); at < count; at += 32) found += passes(row[at], first + at, lower, scale, least);
  found = warp_sum(found);
  if (lane_id() == 0) lengths[b] = row_ptr[b + 1] - row_ptr[b] + found;
}
EXPORT(compact_count)

// The edges so far and behind them those of the stretch, to where `to_ptr` says.
KERNEL(compact_append, 256)
(const float* __restrict__ p, const float* __restrict__ lower, const float* __restrict__ scale,
 const u32* __restrict__ least, const u32* __restrict__ row_ptr, const u32* __restrict__ latents,
 const float* __restrict__ edges, const u32* __restrict__ to_ptr, u32* __restrict__ to_latents,
 float* __restrict__ to_edges, u32 tokens, u32 columns, u32 count, u32 first) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  const u32 from = row_ptr[b], old = row_ptr[b + 1] - from;
  u32 to = to_ptr[b];
  for (u32 i = lane_id(); i < old; i += 32) {
    to_latents[to + i] = latents[from + i];
    to_edges[to + i] = edges[from + i];
  }
  to += old;
  const float* row = p + (u64)b * columns;
  for (u32 base = 0; base < count; base += 32) {
    const u32 at = base + lane_id();
    const bool keep = at < count && passes(row[at], first + at, lower, scale, least);
    const u32 mask = __ballot_sync(ALL_LANES, keep);
    if (keep) {
      const u32 place = to + __popc(mask & lanes_below());
      to_latents[place] = first + at;
      to_edges[place] = row[at];
    }
    to += __popc(mask);
  }
}
EXPORT(compact_append)

// The search for the least key that wins goes digit by digit, from the highest on, with which a new
// search begins. state: the digits so far, the mask of their bits, and how many edges that have them
// are still to be taken.
KERNEL(rank_histogram, 256)
(const u32* __restrict__ latents, const float* __restrict__ edges, const float* __restrict__ scale,
 const u32* __restrict__ state, u32* __restrict__ histogram, u32 n, u32 shift) {
  SHARED(u32, bins);
  bins[threadIdx.x] = 0;
  __syncthreads();
  for (u32 e = blockIdx.x * 256 + threadIdx.x; e < n; e += gridDim.x * 256) {
    const u32 key = edge_key(edges[e], latents[e], scale);
    if (has_digits(key, state, shift)) atomicAdd(&bins[key >> shift & 255], 1u);
  }
  __syncthreads();
  if (bins[threadIdx.x]) atomicAdd(&histogram[threadIdx.x], bins[threadIdx.x]);
}
EXPORT(rank_histogram)

// One thread: the digit in which the last of `total` edges to be taken lies. Clears the histogram.
KERNEL(rank_digit, 32)
(u32* __restrict__ state, u32* __restrict__ histogram, u32 total, u32 shift) {
  if (threadIdx.x) return;
  const bool begins = shift == HIGHEST;
  u32 left = begins ? total : state[2], digit = 255;
  while (digit && histogram[digit] < left) left -= histogram[digit--];
  state[0] = (begins ? 0 : state[0]) | digit << shift;
  state[1] = (begins ? 0 : state[1]) | 255u << shift;
  state[2] = left;
  for (u32 i = 0; i < 256; ++i) histogram[i] = 0;
}
EXPORT(rank_digit)

// Edges of each token with a key above state[0], and with that key.
KERNEL(rank_count, 256)
(const u32* __restrict__ row_ptr, const u32* __restrict__ latents, const float* __restrict__ edges,
 const float* __restrict__ scale, const u32* __restrict__ state, u32* __restrict__ above,
 u32* __restrict__ equal, u32 tokens) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  u32 more = 0, same = 0;
  for (u32 e = row_ptr[b] + lane_id(); e < row_ptr[b + 1]; e += 32) {
    const u32 key = edge_key(edges[e], latents[e], scale);
    more += key > state[0];
    same += key == state[0];
  }
  more = warp_sum(more), same = warp_sum(same);
  if (lane_id() == 0) above[b] = more, equal[b] = same;
}
EXPORT(rank_count)

// above[b] += the edges of token b that win a tie; ties[b] counts those of earlier tokens.
KERNEL(rank_ties, 256)
(const u32* __restrict__ state, const u32* __restrict__ ties, u32* __restrict__ above, u32 tokens) {
  const u32 b = blockIdx.x * 256 + threadIdx.x;
  if (b >= tokens) return;
  const u32 left = state[2] > ties[b] ? state[2] - ties[b] : 0, here = ties[b + 1] - ties[b];
  above[b] += left < here ? left : here;
}
EXPORT(rank_ties)

// The edges that win, in their order.
KERNEL(rank_keep, 256)
(const u32* __restrict__ row_ptr, const u32* __restrict__ latents, const float* __restrict__ edges,
 const float* __restrict__ scale, const u32* __restrict__ state, const u32* __restrict__ ties,
 const u32* __restrict__ to_ptr, u32* __restrict__ to_latents, float* __restrict__ to_edges,
 u32 tokens) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  u32 to = to_ptr[b], tied = ties[b];
  for (u32 base = row_ptr[b]; base < row_ptr[b + 1]; base += 32) {
    const u32 e = base + lane_id();
    const bool there = e < row_ptr[b + 1];
    const u32 key = there ? edge_key(edges[e], latents[e], scale) : 0;
    const bool same = there && key == state[0];
    const u32 equals = __ballot_sync(ALL_LANES, same);
    const bool keep =
        there && (key > state[0] || (same && tied + __popc(equals & lanes_below()) < state[2]));
    const u32 mask = __ballot_sync(ALL_LANES, keep);
    if (keep) {
      const u32 place = to + __popc(mask & lanes_below());
      to_latents[place] = latents[e];
      to_edges[place] = edges[e];
    }
    to += __popc(mask);
    tied += __popc(equals);
  }
}
EXPORT(rank_keep)
