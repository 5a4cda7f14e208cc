// The language model's forward, but for its products: embeddings, norms, rotary positions,
// attention, nonlinearities and losses.
#include "coded.cuh"
#include "common.cuh"
#include "tensor.cuh"

namespace {
constexpr u32 NOT_THERE = 0xffffffffu;
enum Activation : u32 { GELU, GELU_TANH, SILU, RELU };

DEVICE float activate(u32 kind, float x) {
  if (kind == GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  if (kind == GELU_TANH) {
    const float inner = 0.79788456080286536f * (x + 0.044715f * x * x * x);
    return x / (1.0f + expf(-2.0f * inner));
  }
  if (kind == SILU) return x / (1.0f + expf(-x));
  return x <= 0.0f ? 0.0f : x;
}
DEVICE float capped(float v, float cap) { return cap > 0.0f ? cap * tanhf(v / cap) : v; }
DEVICE float no_score() { return __uint_as_float(0xff800000u); }
DEVICE float warp_max(float v) {
  for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, o));
  return v;
}
}  // namespace

// out[r] = table[ids[r]] * scale + positions[at[r]]. A block is a row. The table is in f32, or in
// codes where these are there.
KERNEL(embed, 256)
(const float* __restrict__ table, const u8* __restrict__ codes, const float* __restrict__ scales,
 const float* __restrict__ positions, const u32* __restrict__ ids, const u32* __restrict__ at,
 float* __restrict__ out, float scale, u32 d, u32 kind, u32 group) {
  const u32 r = blockIdx.x;
  const Coded coded = {codes, scales, kind, group, d};
  for (u32 c = threadIdx.x; c < d; c += blockDim.x) {
    const float added = positions ? positions[(u64)at[r] * d + c] : 0.0f;
    const float token = codes ? coded.at(ids[r], c) : table[(u64)ids[r] * d + c];
    out[(u64)r * d + c] = token * scale + added;
  }
}
EXPORT(embed)

// A warp is one of the `each` stretches of d that begin at `offset` of every row of `stride`.
// `out` may be `x`.
KERNEL(norm_rows, 256)
(const float* x, const float* __restrict__ weight, const float* __restrict__ bias, float* out,
 double eps, u32 rows, u32 each, u32 stride, u32 offset, u32 d, u32 centred) {
  const u32 i = global_warp();
  if (i >= rows * each) return;
  const u64 from = (u64)(i / each) * stride + offset + (u64)(i % each) * d;
  double mean = 0.0, square = 0.0;
  if (centred) {
    for (u32 c = lane_id(); c < d; c += 32) mean += x[from + c];
    mean = warp_sum(mean) / d;
  }
  for (u32 c = lane_id(); c < d; c += 32) square += (x[from + c] - mean) * (x[from + c] - mean);
  const double scale = 1.0 / sqrt(warp_sum(square) / d + eps);
  for (u32 c = lane_id(); c < d; c += 32)
    out[from + c] = (float)((x[from + c] - mean) * scale * weight[c] + (bias ? bias[c] : 0.0f));
}
EXPORT(norm_rows)

// The norm of whole rows, rounded to bf16, in rows or panels of `padded` values, with 0 behind them.
KERNEL(norm_to_bf16, 256)
(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
 u16* __restrict__ out, double eps, u32 rows, u32 d, u32 padded, u32 panels, u32 centred) {
  const u32 r = global_warp();
  if (r >= rows) return;
  const float* row = x + (u64)r * d;
  double mean = 0.0, square = 0.0;
  if (centred) {
    for (u32 c = lane_id(); c < d; c += 32) mean += row[c];
    mean = warp_sum(mean) / d;
  }
  for (u32 c = lane_id(); c < d; c += 32) square += (row[c] - mean) * (row[c] - mean);
  const double scale = 1.0 / sqrt(warp_sum(square) / d + eps);
  for (u32 c = lane_id() * 2; c < padded; c += 64) {
    float v[2] = {};
#pragma unroll
    for (u32 q = 0; q < 2; ++q)
      if (c + q < d)
        v[q] = (float)((row[c + q] - mean) * scale * weight[c + q] + (bias ? bias[c + q] : 0.0f));
    *reinterpret_cast<u32*>(out + place_of(r, c, padded, panels)) = pair_of_bf16(v[0], v[1]);
  }
}
EXPORT(norm_to_bf16)

KERNEL(add_to, 256)
(const float* __restrict__ delta, float* __restrict__ to, u64 n) {
  const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i < n) to[i] += delta[i];
}
EXPORT(add_to)

// Turns the first `heads` heads of every row of queries and keys by the angles of its position,
// counted from the context's first row in `start`.
KERNEL(rotate, 256)
(float* __restrict__ qkv, const float* __restrict__ cosines, const float* __restrict__ sines,
 const u32* __restrict__ start, u64 n, u32 heads, u32 head_dim, u32 width, u32 half) {
  const u64 t = (u64)blockIdx.x * 256 + threadIdx.x;
  if (t >= n) return;
  const u32 i = (u32)(t % half), head = (u32)(t / half % heads), r = (u32)(t / half / heads);
  if (start[r] == NOT_THERE) return;
  const u64 angle = (u64)(r - start[r]) * half + i;
  float* pair = qkv + (u64)r * width + head * head_dim + i;
  const float a = pair[0], b = pair[half], c = cosines[angle], s = sines[angle];
  pair[0] = a * c - b * s;
  pair[half] = b * c + a * s;
}
EXPORT(rotate)

// Causal attention of one row (blockIdx.x) and head (blockIdx.y), for heads that are too wide for
// tiles (attention.cu): over `window` rows up to itself at most, of its context, which begins with
// row start[row]; a stretch of 128 keys at a time, so that no row of scores is held. Padding rows
// get 0. Shared: 128 weights and 4 numbers.
KERNEL(attention, 128)
(const float* __restrict__ qkv, const u32* __restrict__ start, float* __restrict__ out,
 float scale, float cap, u32 heads, u32 kv_heads, u32 head_dim, u32 window) {
  SHARED(float, weights);
  float* scratch = weights + 128;
  const u32 r = blockIdx.x, head = blockIdx.y, width = (heads + 2 * kv_heads) * head_dim;
  const u32 shared_head = head / (heads / kv_heads);
  float* place = out + ((u64)r * heads + head) * head_dim;
  if (start[r] == NOT_THERE) {
    for (u32 c = threadIdx.x; c < head_dim; c += 128) place[c] = 0.0f;
    return;
  }
  const float* query = qkv + (u64)r * width + head * head_dim;
  const float* keys = qkv + (heads + shared_head) * head_dim;
  const float* values = keys + kv_heads * head_dim;
  // The maximum so far, the sum of weights, and this thread's columns of the mix.
  float most = no_score(), sum = 0.0f, mix[4] = {};
  const u32 first = r - start[r] >= window ? r - window + 1 : start[r];
  for (u32 base = first; base <= r; base += 128) {
    const u32 seen = base + threadIdx.x, stretch = r - base < 127 ? r - base + 1 : 128;
    float score = no_score();
    if (seen <= r) {
      float dot = 0.0f;
      for (u32 c = 0; c < head_dim; ++c) dot += query[c] * keys[(u64)seen * width + c];
      score = capped(dot * scale, cap);
    }
    float high = warp_max(score);
    if (lane_id() == 0) scratch[warp_id()] = high;
    __syncthreads();
    high = fmaxf(fmaxf(scratch[0], scratch[1]), fmaxf(scratch[2], scratch[3]));
    const float now = fmaxf(most, high), shrink = expf(most - now);
    weights[threadIdx.x] = seen <= r ? expf(score - now) : 0.0f;
    __syncthreads();
    sum *= shrink;
    for (u32 i = 0; i < stretch; ++i) sum += weights[i];
    for (u32 q = 0; q < 4; ++q) {
      const u32 c = threadIdx.x + q * 128;
      if (c >= head_dim) break;
      mix[q] *= shrink;
      for (u32 i = 0; i < stretch; ++i) mix[q] += weights[i] * values[(u64)(base + i) * width + c];
    }
    most = now;
    __syncthreads();
  }
  for (u32 q = 0; q < 4; ++q) {
    const u32 c = threadIdx.x + q * 128;
    if (c < head_dim) place[c] = mix[q] / sum;
  }
}
EXPORT(attention)

// out [rows, d] = act(inner[.., c]), times inner[.., d + c] where there is a gate.
KERNEL(mlp_activate, 256)
(const float* __restrict__ inner, float* __restrict__ out, u64 n, u32 d, u32 kind, u32 gated) {
  const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  const float* row = inner + i / d * d * (gated ? 2 : 1);
  const u32 c = (u32)(i % d);
  const float a = activate(kind, row[c]);
  out[i] = gated ? a * row[d + c] : a;
}
EXPORT(mlp_activate)

// … rounded to bf16, in rows or panels of `padded` values, a multiple of 8, with 0 behind them. A
// thread has four.
KERNEL(mlp_activate_bf16, 256)
(const float* __restrict__ inner, u16* __restrict__ out, u64 n, u32 d, u32 padded, u32 panels,
 u32 kind, u32 gated) {
  const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  const u32 c = (u32)(i % (padded / 4)) * 4, r = (u32)(i / (padded / 4));
  const float* row = inner + (u64)r * d * (gated ? 2 : 1) + c;
  Pack<4> a = {}, gate = {};
  if (d % 4 == 0) {
    if (c < d) a = load<4>(row);
    if (c < d && gated) gate = load<4>(row + d);
  } else {
#pragma unroll
    for (u32 q = 0; q < 4; ++q)
      if (c + q < d) {
        a.v[q] = row[q];
        if (gated) gate.v[q] = row[d + q];
      }
  }
#pragma unroll
  for (u32 q = 0; q < 4; ++q) a.v[q] = activate(kind, a.v[q]) * (gated ? gate.v[q] : 1.0f);
  const u64 low = pair_of_bf16(a.v[0], a.v[1]), high = pair_of_bf16(a.v[2], a.v[3]);
  *reinterpret_cast<u64*>(out + place_of(r, c, padded, panels)) = low | high << 32;
}
EXPORT(mlp_activate_bf16)

KERNEL(softcap, 256)
(float* __restrict__ logits, u64 n, float cap) {
  const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i < n) logits[i] = capped(logits[i], cap);
}
EXPORT(softcap)

// state [rows, 3]: the largest logit so far, the sum of exp(logit - largest), and the target's
// logit. A warp is a row; the tile's first token is `first`.
KERNEL(loss_tile, 256)
(const float* __restrict__ logits, const u32* __restrict__ targets, double* __restrict__ state,
 float cap, u32 rows, u32 columns, u32 first) {
  const u32 r = global_warp();
  if (r >= rows) return;
  const float* row = logits + (u64)r * columns;
  double* mine = state + (u64)r * 3;
  float high = no_score();
  for (u32 c = lane_id(); c < columns; c += 32) high = fmaxf(high, capped(row[c], cap));
  const double old = mine[0], most = first ? fmax(old, (double)warp_max(high)) : warp_max(high);
  double sum = 0.0;
  for (u32 c = lane_id(); c < columns; c += 32) sum += exp(capped(row[c], cap) - most);
  sum = warp_sum(sum);
  __syncwarp();
  if (lane_id() == 0) {
    mine[1] = (first ? mine[1] * exp(old - most) : 0.0) + sum;
    mine[0] = most;
    const u32 at = targets[r] - first;
    if (targets[r] != NOT_THERE && targets[r] >= first && at < columns) mine[2] = capped(row[at], cap);
  }
}
EXPORT(loss_tile)
