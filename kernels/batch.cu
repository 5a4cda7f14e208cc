// BatchTopK for lists that came out of a product's epilogue. The bound is one for all tokens; a
// warp is a token, and no list is sorted. state: see rank_digit.
#include "rank.cuh"

namespace {
struct List {
  const u64* keys;
  u32 held;
};
// What there was room for of token b.
DEVICE List list_of(const u64* keys, const u32* counts, u32 b, u32 length) {
  return {keys + (u64)b * length, counts[b] < length ? counts[b] : length};
}
DEVICE u32 upper(u64 key) { return (u32)(key >> 32); }
// The least key that can win: those that are not positive cannot.
DEVICE u32 least_of(const u32* state) { return state[0] > ORDERED_ZERO ? state[0] : ORDERED_ZERO + 1; }
}  // namespace

// As rank_histogram. Warps take token after token.
KERNEL(batch_histogram, 256)
(const u32* __restrict__ counts, const u64* __restrict__ keys, const u32* __restrict__ state,
 u32* __restrict__ histogram, u32 tokens, u32 length, u32 shift) {
  SHARED(u32, bins);
  bins[threadIdx.x] = 0;
  __syncthreads();
  for (u32 b = global_warp(); b < tokens; b += gridDim.x * 8) {
    const List list = list_of(keys, counts, b, length);
    for (u32 i = lane_id(); i < list.held; i += 32) {
      const u32 key = upper(list.keys[i]);
      if (has_digits(key, state, shift)) atomicAdd(&bins[key >> shift & 255], 1u);
    }
  }
  __syncthreads();
  if (bins[threadIdx.x]) atomicAdd(&histogram[threadIdx.x], bins[threadIdx.x]);
}
EXPORT(batch_histogram)

// What cannot win leaves the lists, and the bound of all tokens is just below what can. Where a list
// of `length` was too short, `overflow` is set: what is missing cannot be found again.
KERNEL(batch_prune, 256)
(u32* __restrict__ counts, u64* __restrict__ keys, float* __restrict__ pres,
 float* __restrict__ bounds, const u32* __restrict__ state, u32* __restrict__ overflow, u32 tokens,
 u32 length) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  const u32 least = least_of(state), found = counts[b];
  const u32 held = found < length ? found : length;
  u64* list = keys + (u64)b * length;
  float* values = pres + (u64)b * length;
  u32 kept = 0;
  for (u32 base = 0; base < held; base += 32) {
    const u32 i = base + lane_id();
    const u64 key = i < held ? list[i] : 0;
    const float value = i < held ? values[i] : 0.0f;
    const bool stays = upper(key) >= least;
    const u32 mask = mark(stays);
    // All have read theirs when one writes, and no place is still to be read: a vote alone orders no
    // memory.
    __syncwarp();
    if (stays) {
      list[kept + before(mask)] = key;
      values[kept + before(mask)] = value;
    }
    kept += __popc(mask);
  }
  __syncwarp();
  if (lane_id() == 0) {
    bounds[b] = from_ordered(least - 1);
    counts[b] = kept;
    if (found > length) atomicMax(overflow, 1u);
  }
}
EXPORT(batch_prune)

// As rank_count: of each list what is above the least key that wins, and what is equal to it.
KERNEL(batch_count, 256)
(const u32* __restrict__ counts, const u64* __restrict__ keys, const u32* __restrict__ state,
 u32* __restrict__ above, u32* __restrict__ equal, u32 tokens, u32 length) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  const u32 least = least_of(state);
  const List list = list_of(keys, counts, b, length);
  u32 more = 0, same = 0;
  for (u32 i = lane_id(); i < list.held; i += 32) {
    more += upper(list.keys[i]) > least;
    same += upper(list.keys[i]) == least;
  }
  more = warp_sum(more), same = warp_sum(same);
  if (lane_id() == 0) above[b] = more, equal[b] = same;
}
EXPORT(batch_count)

// The winners as edges, those of a token by ascending latent; of equal keys the first ones. An
// edge's place is how many winners have latents below its own. `total` are to be written: where there
// are fewer, `overflow` is set, and the last token gets the rest, so that all edges are some. Shared:
// `length` numbers a warp.
KERNEL(batch_emit, 256)
(const u32* __restrict__ counts, const u64* __restrict__ keys, const float* __restrict__ pres,
 const u32* __restrict__ state, const u32* __restrict__ ties, u32* __restrict__ row_ptr,
 u32* __restrict__ latents, float* __restrict__ edges, u32* __restrict__ overflow, u32 tokens,
 u32 length, u32 total) {
  SHARED(u32, shared);
  constexpr u32 NONE = ~0u;
  u32* winners = shared + warp_id() * length;
  const u32 b = global_warp();
  if (b >= tokens) return;
  const u32 least = least_of(state);
  const u32 equal = state[2] > ties[b] ? state[2] - ties[b] : 0;
  const List list = list_of(keys, counts, b, length);
  u32 won = 0;
  for (u32 i = lane_id(); i < list.held; i += 32) {
    const u64 key = list.keys[i];
    bool wins = upper(key) > least;
    if (upper(key) == least) {
      // A lower latent has the larger key.
      u32 earlier = 0;
      for (u32 o = 0; o < list.held; ++o) earlier += upper(list.keys[o]) == least && list.keys[o] > key;
      wins = earlier < equal;
    }
    winners[i] = wins ? latent_of(key) : NONE;
    won += wins;
  }
  won = warp_sum(won);
  __syncwarp();
  const u32 from = row_ptr[b];
  for (u32 i = lane_id(); i < list.held; i += 32) {
    const u32 latent = winners[i];
    if (latent == NONE) continue;
    u32 place = from;
    for (u32 o = 0; o < list.held; ++o) place += winners[o] < latent;
    latents[place] = latent;
    edges[place] = pres[(u64)b * length + i];
  }
  if (b + 1 < tokens || from + won == total) return;
  for (u32 e = from + won + lane_id(); e < total; e += 32) latents[e] = 0, edges[e] = 0.0f;
  if (lane_id() == 0) row_ptr[tokens] = total, atomicMax(overflow, 1u);
}
EXPORT(batch_emit)
