// Norms and projections of rows [rows, d]; a warp is a row. Sums in f64: these kernels wait for
// memory.
#include "common.cuh"

namespace {
DEVICE double dot(const float* a, const float* b, u32 d) {
  double sum = 0.0;
  for (u32 c = lane_id(); c < d; c += 32) sum += (double)a[c] * b[c];
  return warp_sum(sum);
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
  for (u32 c = lane_id(); c < d; c += 32) grad[(u64)j * d + c] += (float)(factor * row[c]);
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
  for (u32 c = lane_id(); c < d; c += 32) row[c] = (float)(row[c] / norm);
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
  for (u32 c = lane_id(); c < d; c += 32) g[c] = (float)(g[c] - along / square * row[c]);
}
EXPORT(project_rows)
