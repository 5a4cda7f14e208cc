// From edges to reconstructions, their errors and the gradients that reach each edge. A block is
// a token; a thread owns columns, so that every sum has the order of the edges.
#include "common.cuh"

namespace {
DEVICE float start_of(const float* base, u64 stride, u32 b, u32 c) {
  return base ? base[b * stride + c] : 0.0f;
}
}  // namespace

// out [tokens, d] = base + sum over edges of value * row of w. A base of one row has stride 0.
KERNEL(decode, 256)
(const u32* __restrict__ row_ptr, const u32* __restrict__ latents,
 const float* __restrict__ values, const float* __restrict__ w, const float* __restrict__ base,
 float* __restrict__ out, u64 base_stride, u32 d) {
  const u32 b = blockIdx.x;
  for (u32 c = threadIdx.x; c < d; c += blockDim.x) {
    float sum = start_of(base, base_stride, b, c);
    for (u32 e = row_ptr[b]; e < row_ptr[b + 1]; ++e) sum += values[e] * w[(u64)latents[e] * d + c];
    out[(u64)b * d + c] = sum;
  }
}
EXPORT(decode)

// Decode, compare with y - less, differentiate. grad [prefixes, tokens, d] takes G of each
// prefix, dots the gradient of each edge's value, errors [prefixes, tokens] the squared errors.
// Shared: 32 f64.
KERNEL(reconstruct, 256)
(const u32* __restrict__ row_ptr, const u32* __restrict__ latents,
 const float* __restrict__ values, const float* __restrict__ w, const float* __restrict__ base,
 const float* __restrict__ y, const float* __restrict__ less, const u32* __restrict__ widths,
 const float* __restrict__ scales, float* out, float* grad, float* __restrict__ dots,
 double* __restrict__ errors, u64 base_stride, u32 d, u32 prefixes) {
  SHARED(double, shared);
  const u32 b = blockIdx.x, from = row_ptr[b], to = row_ptr[b + 1];
  const u64 block = (u64)gridDim.x * d;
  float* mine = grad + (u64)b * d;
  // The residual of each prefix, while edges go by in the order of their latents.
  for (u32 c = threadIdx.x; c < d; c += blockDim.x) {
    float sum = start_of(base, base_stride, b, c);
    float target = y[(u64)b * d + c];
    if (less) target -= less[(u64)b * d + c];
    u32 e = from;
    for (u32 m = 0; m < prefixes; ++m) {
      for (; e < to && latents[e] < widths[m]; ++e) sum += values[e] * w[(u64)latents[e] * d + c];
      mine[m * block + c] = sum - target;
    }
    if (out) out[(u64)b * d + c] = sum;
  }
  for (u32 m = 0; m < prefixes; ++m) {
    double square = 0.0;
    for (u32 c = threadIdx.x; c < d; c += blockDim.x) {
      const double residual = mine[m * block + c];
      square += residual * residual;
    }
    square = block_sum(square, shared);
    if (threadIdx.x == 0) errors[m * gridDim.x + b] = square;
  }
  for (u32 c = threadIdx.x; c < d; c += blockDim.x) {
    float sum = 0.0f;
    for (u32 m = prefixes; m-- > 0;) {
      sum += scales[m] * mine[m * block + c];
      mine[m * block + c] = sum;
    }
  }
  __syncthreads();
  for (u32 e = from + warp_id(); e < to; e += blockDim.x >> 5) {
    const u32 j = latents[e];
    const float* g = mine + group_of(widths, prefixes, j) * block;
    const float* row = w + (u64)j * d;
    float dot = 0.0f;
    for (u32 c = lane_id(); c < d; c += 32) dot += g[c] * row[c];
    dot = warp_sum(dot);
    if (lane_id() == 0) dots[e] = dot;
  }
}
EXPORT(reconstruct)
