// Sums over whole buffers and over columns. What a block sums depends on the shape alone, and
// partial sums are added in order: no result depends on how blocks are scheduled.
#include "common.cuh"

// partials[first + block] = sum of squares of a stretch of `stretch` values, a multiple of 4.
// Shared: 32 f64.
KERNEL(square_partials, 256)
(const float* __restrict__ in, double* __restrict__ partials, u64 len, u64 stretch, u32 first) {
  SHARED(double, shared);
  const u64 from = blockIdx.x * stretch, to = from + stretch < len ? from + stretch : len;
  const u64 whole = to - (to - from) % 4;
  double sum = 0.0;
#pragma unroll 4
  for (u64 i = from + threadIdx.x * 4; i < whole; i += blockDim.x * 4) {
    const Pack<4> v = load<4>(in + i);
    for (u32 w = 0; w < 4; ++w) sum += (double)v.v[w] * v.v[w];
  }
  if (whole + threadIdx.x < to) sum += (double)in[whole + threadIdx.x] * in[whole + threadIdx.x];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partials[first + blockIdx.x] = sum;
}
EXPORT(square_partials)

// out[first + row] = sum of row `row` of in [gridDim, n]. Shared: 32 f64.
KERNEL(sum_rows, 1024)
(const double* __restrict__ in, double* __restrict__ out, u32 n, u32 first) {
  SHARED(double, shared);
  double sum = 0.0;
#pragma unroll 4
  for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += in[(u64)blockIdx.x * n + i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) out[first + blockIdx.x] = sum;
}
EXPORT(sum_rows)

// partials[chunk, c] = sum over the chunk's rows of weight * in, or, where `means` is there, of
// (in - mean)^2.
KERNEL(column_partials, 128)
(const float* __restrict__ in, const float* __restrict__ weights,
 const double* __restrict__ means, double* __restrict__ partials, u32 rows, u32 d, u32 chunk) {
  const u32 c = blockIdx.x * 128 + threadIdx.x;
  if (c >= d) return;
  const u32 from = blockIdx.y * chunk, to = from + chunk < rows ? from + chunk : rows;
  double sum = 0.0;
#pragma unroll 8
  for (u32 r = from; r < to; ++r) {
    const double v = in[(u64)r * d + c];
    if (means) sum += (v - means[c]) * (v - means[c]);
    else sum += weights ? v * weights[r] : v;
  }
  partials[(u64)blockIdx.y * d + c] = sum;
}
EXPORT(column_partials)

// out[c] (+)= factor * the column's sum; wide[c] the same in f64. One of the two may be absent. A
// lane is a column, and the block's eight warps share its chunks. Shared: 256 f64.
KERNEL(column_finish, 256)
(const double* __restrict__ partials, float* __restrict__ out, double* __restrict__ wide,
 double factor, u32 chunks, u32 d, u32 accumulate) {
  SHARED(double, shared);
  const u32 c = blockIdx.x * 32 + lane_id();
  double sum = 0.0;
#pragma unroll 8
  for (u32 i = warp_id(); c < d && i < chunks; i += 8) sum += partials[(u64)i * d + c];
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= 32 || c >= d) return;
  for (u32 w = 1; w < 8; ++w) sum += shared[w * 32 + lane_id()];
  sum *= factor;
  if (wide) wide[c] = sum;
  if (out) out[c] = (float)(accumulate ? out[c] + sum : sum);
}
EXPORT(column_finish)
