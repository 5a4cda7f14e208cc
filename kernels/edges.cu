// Activation functions and penalties, edge by edge; formulas and names as in
// `src/device/sae/rules.rs`, in f64 as there.
#include "common.cuh"

namespace {
enum Kind : u32 { RELU, JUMP, MAGNITUDE };
enum Loss : u32 { NONE, L1, STEP, QUADRATIC, TANH };

// max(p, 0) that lets NaN through.
DEVICE double relu(double p) { return p <= 0.0 ? 0.0 : p; }

struct Rule {
  u32 kind;
  const float *threshold, *b_gate, *r_mag, *b_mag;

  DEVICE double magnitude(u32 j, double p) const {
    return (p - b_gate[j]) * exp((double)r_mag[j]) + b_mag[j];
  }
  DEVICE double value(u32 j, double p) const {
    if (kind == RELU) return relu(p);
    if (kind == JUMP) return p <= threshold[j] ? 0.0 : p;
    return relu(magnitude(j, p));
  }
};
}  // namespace

// values[e] = a of edge e; active[block] = number of its 256 that are not 0. Shared: 32 numbers.
KERNEL(activate, 256)
(const u32* __restrict__ latents, const float* __restrict__ pre, float* __restrict__ values,
 double* __restrict__ active, const float* threshold, const float* b_gate, const float* r_mag,
 const float* b_mag, u32 n, u32 kind) {
  SHARED(u32, scratch);
  const Rule rule = {kind, threshold, b_gate, r_mag, b_mag};
  const u32 e = blockIdx.x * 256 + threadIdx.x;
  double a = 0.0;
  if (e < n) {
    a = rule.value(latents[e], pre[e]);
    values[e] = (float)a;
  }
  const u32 sum = block_sum<u32>(a != 0.0, scratch);
  if (threadIdx.x == 0) active[blockIdx.x] = sum;
}
EXPORT(activate)

// Gradients of each edge, and of each token the sums of the penalty (losses[b]) and of the
// pre-activation loss (losses[tokens + b]). A warp is a token. Outputs may be absent.
KERNEL(activate_backward, 256)
(const u32* __restrict__ row_ptr, const u32* __restrict__ latents, const float* __restrict__ pre,
 const float* __restrict__ da, float* dp, float* d_norm, float* d_threshold, float* d_r_mag,
 float* d_b_mag, double* __restrict__ losses, const float* threshold, const float* b_gate,
 const float* r_mag, const float* b_mag, const float* norms, const float* pre_norms,
 const u32* dead, double weight, double curve, double bandwidth, double pre_weight, u32 kind,
 u32 loss, u32 ste_to_input, u32 add_to_pre, u32 tokens) {
  const Rule rule = {kind, threshold, b_gate, r_mag, b_mag};
  const u32 b = global_warp();
  if (b >= tokens) return;
  const u32 from = row_ptr[b], to = row_ptr[b + 1];
  double excess = 0.0, penalty = 0.0, pre_act = 0.0;
  if (loss == QUADRATIC) {
    u32 l0 = 0;
    for (u32 e = from + lane_id(); e < to; e += 32) l0 += rule.value(latents[e], pre[e]) != 0.0;
    excess = (double)warp_sum(l0) - curve;
    if (lane_id() == 0) penalty = weight * 2.0 / curve * excess * excess;
  }
  for (u32 e = from + lane_id(); e < to; e += 32) {
    const u32 j = latents[e];
    const double p = pre[e], a = rule.value(j, p);
    double g = da[e], by_pre = 0.0, by_norm = 0.0, by_threshold = 0.0, by_r = 0.0, by_b = 0.0;
    if (loss == L1) {
      penalty += weight * a * norms[j];
      by_norm = weight * a;
      g += weight * norms[j];
    } else if (loss == TANH) {
      const double n = norms[j], t = tanh(curve * a * n), slope = weight * curve * (1.0 - t * t);
      penalty += weight * t;
      by_norm = slope * a;
      g += slope * n;
    }
    if (kind == RELU) {
      by_pre = p <= 0.0 ? 0.0 : g;
    } else if (kind == JUMP) {
      const double theta = threshold[j];
      const double step = loss == STEP        ? weight
                          : loss == QUADRATIC ? weight * 4.0 / curve * excess
                                              : 0.0;
      if (loss == STEP && p > theta) penalty += weight;
      if (p > theta) by_pre = g;
      if (fabs((p - theta) / bandwidth) < 0.5) {
        by_threshold = -(theta * g + step) / bandwidth;
        if (ste_to_input) by_pre -= by_threshold;
      }
      if (dead && dead[j] && p < theta) {
        const double n = pre_norms[j];
        pre_act += pre_weight * (theta - p) * n;
        by_norm += pre_weight * (theta - p);
        by_pre -= pre_weight * n;
        by_threshold += pre_weight * n;
      }
    } else if (rule.magnitude(j, p) > 0.0) {
      const double gain = exp((double)r_mag[j]);
      by_pre = g * gain;
      by_r = g * gain * (p - b_gate[j]);
      by_b = g;
    }
    dp[e] = (float)(add_to_pre ? dp[e] + by_pre : by_pre);
    if (d_norm) d_norm[e] = (float)by_norm;
    if (d_threshold) d_threshold[e] = (float)by_threshold;
    if (d_r_mag) d_r_mag[e] = (float)by_r;
    if (d_b_mag) d_b_mag[e] = (float)by_b;
  }
  penalty = warp_sum(penalty), pre_act = warp_sum(pre_act);
  if (lane_id() == 0) losses[b] = penalty, losses[tokens + b] = pre_act;
}
EXPORT(activate_backward)

// least = the smallest positive key, as an ordered number. A minimum has no order.
KERNEL(least_positive, 256)
(const u32* __restrict__ latents, const float* __restrict__ pre, const float* __restrict__ scale,
 u32* __restrict__ least, u32 n) {
  const u32 e = blockIdx.x * 256 + threadIdx.x;
  if (e >= n) return;
  const u32 key = ordered(scale ? pre[e] * scale[latents[e]] : pre[e]);
  if (key > ORDERED_ZERO) atomicMin(least, key);
}
EXPORT(least_positive)
