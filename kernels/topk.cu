// TopK, one stretch of latents after the other: a token keeps a list of the best that it has
// seen, so the whole matrix of pre-activations is never held.
#include "common.cuh"

namespace {
constexpr u32 THREADS = 128;

// Sorts the first n (a power of two) descending, with what belongs to them.
DEVICE void sort(u64* key, float* pre, u32 n) {
  for (u32 size = 2; size <= n; size <<= 1)
    for (u32 stride = size >> 1; stride; stride >>= 1) {
      __syncthreads();
      for (u32 i = threadIdx.x; i < n / 2; i += THREADS) {
        const u32 low = 2 * i - (i & (stride - 1)), high = low + stride;
        const bool down = (low & size) == 0;
        const u64 a = key[low], b = key[high];
        if ((a < b) == down) {
          const float p = pre[low];
          key[low] = b, key[high] = a;
          pre[low] = pre[high], pre[high] = p;
        }
      }
    }
  __syncthreads();
}

// Sorts `fill` entries of a list that holds a power of two of them.
DEVICE void sort_filled(u64* key, float* pre, u32 fill) {
  u32 n = 2;
  while (n < fill) n <<= 1;
  __syncthreads();
  for (u32 i = fill + threadIdx.x; i < n; i += THREADS) key[i] = 0, pre[i] = 0.0f;
  sort(key, pre, n);
}
}  // namespace

// A block is a token. p [., columns] holds `count` latents of it, the first of them `first`, or
// those that `pick` names. keys and pres [., k] are the list, best first; `seen` of it are there.
// Shared: `capacity` keys and values (a power of two, at least k + 128), and 4 counts.
KERNEL(topk_merge, THREADS)
(const float* __restrict__ p, const u32* __restrict__ pick, const float* __restrict__ scale,
 u64* __restrict__ keys, float* __restrict__ pres, u32 columns, u32 count, u32 first, u32 k,
 u32 seen, u32 capacity) {
  SHARED(u64, key);
  float* pre = reinterpret_cast<float*>(key + capacity);
  u32* counts = reinterpret_cast<u32*>(pre + capacity);
  const float* row = p + (u64)blockIdx.x * columns;
  u64* list = keys + (u64)blockIdx.x * k;
  float* values = pres + (u64)blockIdx.x * k;
  u32 fill = seen < k ? seen : k;
  for (u32 i = threadIdx.x; i < fill; i += THREADS) key[i] = list[i], pre[i] = values[i];
  __syncthreads();
  u64 bound = fill == k ? key[k - 1] : 0;
  for (u32 base = 0; base < count; base += THREADS) {
    const u32 at = base + threadIdx.x;
    u64 mine = 0;
    float value = 0.0f;
    if (at < count) {
      const u32 latent = pick ? pick[first + at] : first + at;
      value = row[at];
      mine = key_of(scale ? value * scale[latent] : value, latent);
    }
    const bool better = mine > bound;
    const u32 mask = __ballot_sync(ALL_LANES, better);
    if (lane_id() == 0) counts[warp_id()] = __popc(mask);
    __syncthreads();
    u32 before = 0, all = 0;
    for (u32 w = 0; w < THREADS / 32; ++w) {
      before += w < warp_id() ? counts[w] : 0;
      all += counts[w];
    }
    if (better) {
      const u32 place = fill + before + __popc(mask & lanes_below());
      key[place] = mine, pre[place] = value;
    }
    fill += all;
    __syncthreads();
    if (fill + THREADS > capacity || base + THREADS >= count) {
      sort_filled(key, pre, fill);
      fill = fill < k ? fill : k;
      bound = fill == k ? key[k - 1] : 0;
      __syncthreads();
    }
  }
  for (u32 i = threadIdx.x; i < fill; i += THREADS) list[i] = key[i], values[i] = pre[i];
}
EXPORT(topk_merge)

// The lists as edges: k of each token, by ascending latent. Shared as for topk_merge.
KERNEL(topk_emit, THREADS)
(const u64* __restrict__ keys, const float* __restrict__ pres, u32* __restrict__ row_ptr,
 u32* __restrict__ latents, float* __restrict__ edges, u32 k, u32 capacity) {
  SHARED(u64, key);
  float* pre = reinterpret_cast<float*>(key + capacity);
  const u64 from = (u64)blockIdx.x * k;
  for (u32 i = threadIdx.x; i < k; i += THREADS) {
    // Without the value, descending is by ascending latent.
    key[i] = (keys[from + i] & 0xffffffffu) | 1ull << 32;
    pre[i] = pres[from + i];
  }
  sort_filled(key, pre, k);
  for (u32 i = threadIdx.x; i < k; i += THREADS) {
    latents[from + i] = latent_of(key[i]);
    edges[from + i] = pre[i];
  }
  if (threadIdx.x == 0) {
    row_ptr[blockIdx.x] = (u32)from;
    if (blockIdx.x + 1 == gridDim.x) row_ptr[gridDim.x] = (u32)from + k;
  }
}
EXPORT(topk_emit)
