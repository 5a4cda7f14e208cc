// Sums over the edges of a latent, which lie together in `order` from starts[j] to starts[j + 1],
// by ascending token.
#include "common.cuh"

// out [latents, d] (+)= sum over the latent's edges of value * (row of the token - center). A
// block is a latent. Of several blocks of rows, a latent takes that of its group.
KERNEL(outer_grad, 256)
(const u32* __restrict__ starts, const u32* __restrict__ order, const u32* __restrict__ token,
 const float* __restrict__ values, const float* __restrict__ rows,
 const float* __restrict__ center, const u32* __restrict__ widths, float* __restrict__ out,
 u64 block, u32 d, u32 prefixes, u32 accumulate) {
  const u32 j = blockIdx.x, from = starts[j], to = starts[j + 1];
  if (accumulate && from == to) return;
  const float* mine = rows + (prefixes ? group_of(widths, prefixes, j) * block : 0);
  for (u32 c = threadIdx.x; c < d; c += blockDim.x) {
    const float middle = center ? center[c] : 0.0f;
    float sum = 0.0f;
    for (u32 i = from; i < to; ++i) {
      const u32 e = order[i];
      sum += values[e] * (mine[(u64)token[e] * d + c] - middle);
    }
    float* place = out + (u64)j * d + c;
    *place = accumulate ? *place + sum : sum;
  }
}
EXPORT(outer_grad)

// out[j] (+)= sum of the latent's values. A warp is a latent.
KERNEL(latent_sums, 256)
(const u32* __restrict__ starts, const u32* __restrict__ order, const float* __restrict__ values,
 float* __restrict__ out, u32 latents, u32 accumulate) {
  const u32 j = global_warp();
  if (j >= latents) return;
  double sum = 0.0;
  for (u32 i = starts[j] + lane_id(); i < starts[j + 1]; i += 32) sum += values[order[i]];
  sum = warp_sum(sum);
  if (lane_id() == 0) out[j] = (float)(accumulate ? out[j] + sum : sum);
}
EXPORT(latent_sums)

// counts[j] += the latent's positive values, up to the largest number. A warp is a latent.
KERNEL(count_fired, 256)
(const u32* __restrict__ starts, const u32* __restrict__ order, const float* __restrict__ values,
 u32* __restrict__ counts, u32 latents) {
  const u32 j = global_warp();
  if (j >= latents) return;
  u32 fired = 0;
  for (u32 i = starts[j] + lane_id(); i < starts[j + 1]; i += 32) fired += values[order[i]] > 0.0f;
  fired = warp_sum(fired);
  if (lane_id() == 0) counts[j] = counts[j] > ~fired ? ~0u : counts[j] + fired;
}
EXPORT(count_fired)
