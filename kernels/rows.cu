// Norms and projections of rows [rows, d]; a warp is a row, a lane W columns at a time. Sums in f64:
// these kernels wait for memory.
#include "common.cuh"

namespace {
template <u32 W> DEVICE double dot(const float* a, const float* b, u32 d) {
  double sum = 0.0;
#pragma unroll 4
  for (u32 c = lane_id() * W; c < d; c += 32 * W) {
    const Pack<W> x = load<W>(a + c), y = load<W>(b + c);
    for (u32 w = 0; w < W; ++w) sum += (double)x.v[w] * y.v[w];
  }
  return warp_sum(sum);
}
DEVICE double dot(const float* a, const float* b, u32 d) {
  return d % 4 ? dot<1>(a, b, d) : dot<4>(a, b, d);
}

// to[c] = f(to[c], from[c]), columns that move as one.
template <u32 W, class F> DEVICE void combine(float* to, const float* from, u32 d, F f) {
#pragma unroll 4
  for (u32 c = lane_id() * W; c < d; c += 32 * W) {
    Pack<W> x = load<W>(to + c);
    const Pack<W> y = load<W>(from + c);
    for (u32 w = 0; w < W; ++w) x.v[w] = f(x.v[w], y.v[w]);
    store<W>(to + c, x);
  }
}
template <class F> DEVICE void combine(float* to, const float* from, u32 d, F f) {
  if (d % 4) combine<1>(to, from, d, f);
  else combine<4>(to, from, d, f);
}
}  // namespace

KERNEL(row_norms, 256)
(const float* __restrict__ w, float* __restrict__ out, u32 rows, u32 d) {
  const u32 j = global_warp();
  if (j >= rows) return;
  const float* row = w + (u64)j * d;
  const double square = dot(row, row, d);
  if (lane_id() == 0) out[j] = (float)sqrt(square);
}
EXPORT(row_norms)

// grad[j] += v[j] * w[j] / max(|w[j]|, 1e-12).
KERNEL(add_norm_grad, 256)
(const float* __restrict__ w, const float* __restrict__ v, float* __restrict__ grad, u32 rows,
 u32 d) {
  const u32 j = global_warp();
  if (j >= rows) return;
  const float* row = w + (u64)j * d;
  const double norm = sqrt(dot(row, row, d)), factor = v[j] / (norm < 1e-12 ? 1e-12 : norm);
  combine(grad + (u64)j * d, row, d, [&](float g, float x) { return g + (float)(factor * x); });
}
EXPORT(add_norm_grad)

// w[j] /= |w[j]|; a row of zeros stays.
KERNEL(normalize_rows, 256)
(float* w, u32 rows, u32 d) {
  const u32 j = global_warp();
  if (j >= rows) return;
  float* row = w + (u64)j * d;
  const double norm = sqrt(dot(row, row, d));
  if (!(norm > 0.0)) return;
  combine(row, row, d, [&](float x, float) { return (float)(x / norm); });
}
EXPORT(normalize_rows)

// grad[j] -= its part along w[j].
KERNEL(project_rows, 256)
(const float* __restrict__ w, float* __restrict__ grad, u32 rows, u32 d) {
  const u32 j = global_warp();
  if (j >= rows) return;
  const float* row = w + (u64)j * d;
  float* g = grad + (u64)j * d;
  const double square = dot(row, row, d), along = dot(row, g, d);
  if (!(square > 0.0)) return;
  combine(g, row, d, [&](float old, float x) { return (float)(old - along / square * x); });
}
EXPORT(project_rows)
