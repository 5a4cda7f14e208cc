// TopK for lists that came out of a product's epilogue. A warp is a token, and no list is sorted.
#include "rank.cuh"

// The k largest keys of `columns` latents (1024 at most) of each token, by ascending latent, and
// the least of them as a bound.
KERNEL(topk_first, 256)
(const float* __restrict__ p, const float* __restrict__ scale, u64* __restrict__ keys,
 float* __restrict__ pres, float* __restrict__ bounds, u32 tokens, u32 columns, u32 k) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  const float* row = p + (u64)b * columns;
  u32 key[HELD];
#pragma unroll
  for (u32 i = 0; i < HELD; ++i) {
    const u32 l = i * 32 + lane_id();
    key[i] = l < columns ? ordered(scale ? row[l] * scale[l] : row[l]) : 0;
  }
  bool all;
  const u32 t = kth<u32>(
      k,
      [&](u32 with) {
        u32 n = 0;
#pragma unroll
        for (u32 i = 0; i < HELD; ++i) n += key[i] >= with;
        return n;
      },
      all);
  u32 above = 0;
#pragma unroll
  for (u32 i = 0; i < HELD; ++i) above += key[i] > t;
  // How many of those that are equal to t are left to be taken: the first of them.
  u32 equal = all ? 0 : k - warp_sum(above), place = 0, least = ~0u;
#pragma unroll
  for (u32 i = 0; i < HELD; ++i) {
    const u32 l = i * 32 + lane_id();
    const bool there = l < columns, tie = there && !all && key[i] == t;
    const u32 ties = mark(tie);
    const bool taken = there && (key[i] > t || (all && key[i] == t) || (tie && before(ties) < equal));
    const u32 tied = __popc(ties);
    equal -= tied < equal ? tied : equal;
    const u32 mask = mark(taken);
    if (taken) {
      const u64 to = (u64)b * k + place + before(mask);
      keys[to] = (u64)key[i] << 32 | (u32)~l;
      pres[to] = row[l];
      least = key[i] < least ? key[i] : least;
    }
    place += __popc(mask);
  }
  least = warp_min(least);
  if (lane_id() == 0) bounds[b] = from_ordered(least);
}
EXPORT(topk_first)

// The k largest keys of each token's k and of the list of what passed its bound, which is then
// empty again; in any order. Where a list of `length` was too short, `overflow` is set: what is
// missing cannot be found again. Shared: k numbers a warp.
KERNEL(topk_fold, 256)
(u32* __restrict__ counts, const u64* __restrict__ from_keys, const float* __restrict__ from_pres,
 u64* __restrict__ keys, float* __restrict__ pres, float* __restrict__ bounds,
 u32* __restrict__ overflow, u32 tokens, u32 length, u32 k) {
  SHARED(u32, shared);
  u32* free = shared + warp_id() * k;
  const u32 b = global_warp();
  if (b >= tokens) return;
  const u32 found = counts[b], more = found < length ? found : length;
  if (!more) return;
  const u64* next = from_keys + (u64)b * length;
  u64* list = keys + (u64)b * k;
  bool all;
  const u64 t = kth<u64>(
      k,
      [&](u64 with) {
        u32 n = 0;
        for (u32 i = lane_id(); i < k; i += 32) n += list[i] >= with;
        for (u32 i = lane_id(); i < more; i += 32) n += next[i] >= with;
        return n;
      },
      all);
  // Keys are all different: exactly k reach t. Whoever leaves makes room for one who comes.
  u32 leaving = 0, coming = 0;
  u64 least = ~0ull;
  for (u32 base = 0; base < k; base += 32) {
    const u32 i = base + lane_id();
    const u64 key = i < k ? list[i] : ~0ull;
    const bool leaves = key < t;
    const u32 mask = mark(leaves);
    if (leaves) free[leaving + before(mask)] = i;
    else least = key < least ? key : least;
    leaving += __popc(mask);
  }
  __syncwarp();
  for (u32 base = 0; base < more; base += 32) {
    const u32 i = base + lane_id();
    const u64 key = i < more ? next[i] : 0;
    const bool comes = i < more && key >= t;
    const u32 mask = mark(comes);
    if (comes) {
      const u32 place = free[coming + before(mask)];
      list[place] = key;
      pres[(u64)b * k + place] = from_pres[(u64)b * length + i];
      least = key < least ? key : least;
    }
    coming += __popc(mask);
  }
  least = warp_min(least);
  if (lane_id() == 0) {
    bounds[b] = from_ordered((u32)(least >> 32));
    counts[b] = 0;
    if (found > length) atomicMax(overflow, 1u);
  }
}
EXPORT(topk_fold)

// The lists as edges: k of each token, by ascending latent. An edge's place is how many latents
// are below its own. Shared: k numbers a warp.
KERNEL(topk_order, 256)
(const u64* __restrict__ keys, const float* __restrict__ pres, u32* __restrict__ row_ptr,
 u32* __restrict__ latents, float* __restrict__ edges, u32 tokens, u32 k) {
  SHARED(u32, shared);
  u32* mine = shared + warp_id() * k;
  const u32 b = global_warp();
  if (b >= tokens) return;
  const u64 from = (u64)b * k;
  for (u32 i = lane_id(); i < k; i += 32) mine[i] = latent_of(keys[from + i]);
  __syncwarp();
  for (u32 i = lane_id(); i < k; i += 32) {
    const u32 latent = mine[i];
    u32 place = 0;
    for (u32 o = 0; o < k; ++o) place += mine[o] < latent;
    latents[from + place] = latent;
    edges[from + place] = pres[from + i];
  }
  if (lane_id() == 0) {
    row_ptr[b] = (u32)from;
    if (b + 1 == tokens) row_ptr[tokens] = (u32)from + k;
  }
}
EXPORT(topk_order)

// All of each list as edges, by ascending latent; row_ptr says how much that is. Shared: `length`
// numbers a warp.
KERNEL(list_emit, 256)
(const u64* __restrict__ keys, const float* __restrict__ pres, const u32* __restrict__ row_ptr,
 u32* __restrict__ latents, float* __restrict__ edges, u32 tokens, u32 length) {
  SHARED(u32, shared);
  u32* mine = shared + warp_id() * length;
  const u32 b = global_warp();
  if (b >= tokens) return;
  const u32 to = row_ptr[b], held = row_ptr[b + 1] - to;
  const u64 from = (u64)b * length;
  for (u32 i = lane_id(); i < held; i += 32) mine[i] = latent_of(keys[from + i]);
  __syncwarp();
  for (u32 i = lane_id(); i < held; i += 32) {
    u32 place = to;
    for (u32 o = 0; o < held; ++o) place += mine[o] < mine[i];
    latents[place] = mine[i];
    edges[place] = pres[from + i];
  }
}
EXPORT(list_emit)
