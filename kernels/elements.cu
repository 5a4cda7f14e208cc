// Element by element: Adam, scaling, bounds.
#include "common.cuh"
#include "halves.cuh"

namespace {
DEVICE u64 element() { return (u64)blockIdx.x * 256 + threadIdx.x; }

// Parameter, moments and gradient of W neighbours, read before anything is written.
struct Adam {
  float *param, *mean, *square;
  const float* grad;
  float scale, beta1, rest1, beta2, rest2, eps, kept, rate, root;

  template <u32 W> DEVICE Pack<W> step(u64 i) const {
    const Pack<W> g = load<W>(grad + i);
    Pack<W> p = load<W>(param + i), m = load<W>(mean + i), v = load<W>(square + i);
    for (u32 w = 0; w < W; ++w) {
      const float by = scale * g.v[w];
      m.v[w] = beta1 * m.v[w] + rest1 * by;
      v.v[w] = beta2 * v.v[w] + rest2 * by * by;
      p.v[w] = kept * p.v[w] - rate * m.v[w] / (sqrtf(v.v[w]) * root + eps);
    }
    store<W>(mean + i, m);
    store<W>(square + i, v);
    store<W>(param + i, p);
    return p;
  }

  // … of row r of d parameters, and their rounding. A warp.
  template <class F>
  DEVICE void row(u16* rounded, u32 r, u32 d, u32 padded, u32 panels) const {
    const u64 first = (u64)r * d;
    const u32 fours = d % 4 ? 0 : d;
#pragma unroll 2
    for (u32 c = 4 * lane_id(); c < fours; c += 128) {
      const Pack<4> p = step<4>(first + c);
      u64 four = 0;
#pragma unroll
      for (u32 q = 0; q < 4; ++q) four |= (u64)F::of(p.v[q]) << 16 * q;
      *reinterpret_cast<u64*>(rounded + place_of(r, c, padded, panels)) = four;
    }
    for (u32 c = fours + lane_id(); c < d; c += 32)
      rounded[place_of(r, c, padded, panels)] = F::of(step<1>(first + c).v[0]);
  }
};
}  // namespace

// One step of Adam: reads 16 bytes a parameter and writes 12. kept = 1 - lr * decay, rate = lr /
// correction1, root = 1 / sqrt(correction2). A thread has four parameters.
KERNEL(adam, 256)
(float* __restrict__ param, const float* __restrict__ grad, float* __restrict__ mean,
 float* __restrict__ square, u64 n, float scale, float beta1, float rest1, float beta2,
 float rest2, float eps, float kept, float rate, float root) {
  const Adam adam = {param, mean,  square, grad, scale, beta1, rest1,
                     beta2, rest2, eps,    kept, rate,  root};
  const u64 first = 4 * element();
  if (first + 4 <= n) adam.step<4>(first);
  else
    for (u64 i = first; i < n; ++i) adam.step<1>(i);
}
EXPORT(adam)

// … of a matrix [rows, d], whose rounding, in rows or panels of `padded` values, is written too: 2
// bytes more. A warp is a row.
KERNEL(adam_rounded, 256)
(float* __restrict__ param, const float* __restrict__ grad, float* __restrict__ mean,
 float* __restrict__ square, u16* __restrict__ rounded, u32 rows, u32 d, u32 padded, u32 panels,
 u32 f16, float scale, float beta1, float rest1, float beta2, float rest2, float eps, float kept,
 float rate, float root) {
  const u32 r = global_warp();
  if (r >= rows) return;
  const Adam adam = {param, mean,  square, grad, scale, beta1, rest1,
                     beta2, rest2, eps,    kept, rate,  root};
  if (f16) adam.row<F16>(rounded, r, d, padded, panels);
  else adam.row<Bf16>(rounded, r, d, padded, panels);
}
EXPORT(adam_rounded)

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
