// Element by element: Adam, scaling, bounds.
#include "common.cuh"

namespace {
DEVICE u64 element() { return (u64)blockIdx.x * 256 + threadIdx.x; }
}  // namespace

// One step of Adam: reads 16 bytes a parameter and writes 12. kept = 1 - lr * decay, rate = lr /
// correction1, root = 1 / sqrt(correction2).
KERNEL(adam, 256)
(float* __restrict__ param, const float* __restrict__ grad, float* __restrict__ mean,
 float* __restrict__ square, u64 n, float scale, float beta1, float rest1, float beta2,
 float rest2, float eps, float kept, float rate, float root) {
  const u64 i = element();
  if (i >= n) return;
  const float g = scale * grad[i];
  const float m = beta1 * mean[i] + rest1 * g;
  const float v = beta2 * square[i] + rest2 * g * g;
  mean[i] = m;
  square[i] = v;
  param[i] = kept * param[i] - rate * m / (sqrtf(v) * root + eps);
}
EXPORT(adam)

KERNEL(scaled, 256)
(const float* __restrict__ in, float* __restrict__ out, u64 n, float factor) {
  const u64 i = element();
  if (i < n) out[i] = factor * in[i];
}
EXPORT(scaled)

// NaN stays.
KERNEL(clamp_below, 256)
(float* __restrict__ buf, u64 n, float least) {
  const u64 i = element();
  if (i < n && buf[i] < least) buf[i] = least;
}
EXPORT(clamp_below)
