// From edges to reconstructions, their errors and the gradients that reach each edge. A block is
// a token; a thread owns columns, so that every sum has the order of the edges.
#include "common.cuh"

namespace {
DEVICE float start_of(const float* base, u64 stride, u32 b, u32 c) {
  return base ? base[b * stride + c] : 0.0f;
}

// Rows that a thread has under way at a time.
constexpr u32 AHEAD = 4;

// A thread owns W columns.
template <u32 W>
DEVICE void add_rows(const u32* latents, const float* values, const float* w, const float* base,
                     float* out, u32 from, u32 to, u32 d) {
  for (u32 c = threadIdx.x * W; c < d; c += blockDim.x * W) {
    Pack<W> sum = {};
    if (base) sum = load<W>(base + c);
    for (u32 e = from; e < to; e += AHEAD) {
      Pack<W> row[AHEAD] = {};
#pragma unroll
      for (u32 u = 0; u < AHEAD; ++u)
        if (e + u < to) row[u] = load<W>(w + (u64)latents[e + u] * d + c);
#pragma unroll
      for (u32 u = 0; u < AHEAD; ++u) {
        if (e + u >= to) continue;
        for (u32 i = 0; i < W; ++i) sum.v[i] += values[e + u] * row[u].v[i];
      }
    }
    store<W>(out + c, sum);
  }
}
}  // namespace

// out [tokens, d] = base + sum over edges of value * row of w. A base of one row has stride 0.
KERNEL(decode, 256)
(const u32* __restrict__ row_ptr, const u32* __restrict__ latents,
 const float* __restrict__ values, const float* __restrict__ w, const float* __restrict__ base,
 float* __restrict__ out, u64 base_stride, u32 d) {
  const u32 b = blockIdx.x, from = row_ptr[b], to = row_ptr[b + 1];
  const float* start = base ? base + b * base_stride : nullptr;
  float* row = out + (u64)b * d;
  if (d % 4) add_rows<1>(latents, values, w, start, row, from, to, d);
  else add_rows<4>(latents, values, w, start, row, from, to, d);
}
EXPORT(decode)

// Decode, compare with y - less, differentiate, for any width. grad [prefixes, tokens, d] takes G of each
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
