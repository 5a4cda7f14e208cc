// TopK in f32 through products of rounded factors. How far such a product may be from the one that
// is asked for is known for each token and latent (`reach_of`), so that a list of what could be
// among the k best is short; what is on it at last is computed anew. A warp is a token.
#include "product.cuh"
#include "rank.cuh"
#include "tensor.cuh"

namespace {
// Rows whose products could overflow are within reach of everything, and none is so short that what
// underflows shows.
constexpr float LONGEST = 1.0f * (1 << 30), LEAST = 1.0f / (1ull << 40);

// Columns of a candidate's row that are there at a time, and their place in a ring of two stages;
// rows are 4 values longer, so that lanes that read theirs meet no bank twice. A chain of f32 sums
// is cut where that of product_nt is.
constexpr u32 COLUMNS = 32, ROW = COLUMNS + 4, STAGE = 32 * ROW + COLUMNS, CHAIN = 256;
// Where number n of the candidates is that wait until 32 do: behind the rows of the first stage.
DEVICE u32 behind(u32 n) { return n / 4 * ROW + COLUMNS + n % 4; }

// (x - center) . w of the lane's latent, with the bits of product_nt; all lanes have the same x.
// `count` lanes have a latent.
DEVICE float exact(float* shared, const float* x, const float* center, const float* w, u32 latent,
                   u32 count, u32 d) {
  // Where d is a multiple of 4 eight lanes copy a row, else all do.
  const bool aligned = d % 4 == 0;
  const u32 c = lane_id() % 8 * 4;
  const float* from[8];
#pragma unroll
  for (u32 q = 0; q < 8; ++q)
    from[q] = w + (u64)__shfl_sync(ALL_LANES, latent, q * 4 + lane_id() / 8) * d + c;
  auto bring = [&](u32 c0, u32 stage) {
    float* to = shared + stage * STAGE;
    if (aligned)
#pragma unroll
      for (u32 q = 0; q < 8; ++q) {
        const u32 r = q * 4 + lane_id() / 8;
        const bool in = r < count && c0 + c < d;
        copy_async(to + r * ROW + c, in ? from[q] + c0 : w, in ? 16 : 0);
      }
    else
      for (u32 r = 0; r < count; ++r) {
        const u64 row = __shfl_sync(ALL_LANES, latent, r);
        to[r * ROW + lane_id()] = c0 + lane_id() < d ? w[row * d + c0 + lane_id()] : 0.0f;
      }
    const u32 l = c0 + lane_id();
    to[32 * ROW + lane_id()] = l < d ? x[l] - (center ? center[l] : 0.0f) : 0.0f;
    copy_async_close();
  };
  float total = 0.0f, part = 0.0f;
  bring(0, 0);
  for (u32 c0 = 0, turn = 0; c0 < d; c0 += COLUMNS, turn ^= 1) {
    const bool more = c0 + COLUMNS < d;
    if (more) bring(c0 + COLUMNS, turn ^ 1);
    else copy_async_close();
    copy_async_wait<1>();
    __syncwarp();
    const float *mine = shared + turn * STAGE + lane_id() * ROW, *of_x = shared + turn * STAGE + 32 * ROW;
    if (lane_id() < count)
#pragma unroll
      for (u32 four = 0; four < COLUMNS; four += 4) {
        const Pack<4> a = load<4>(of_x + four), b = load<4>(mine + four);
#pragma unroll
        for (u32 q = 0; q < 4; ++q) part = fmaf(a.v[q], b.v[q], part);
      }
    if ((c0 + COLUMNS) % CHAIN == 0 || !more) total += part, part = 0.0f;
    __syncwarp();
  }
  return total;
}
}  // namespace

// What `reach_of` wants of each row of in - center, of which `rounded` has the values that are
// multiplied, as `place_of` has them. The row's own product has an error of `gamma` times both
// lengths at most. A warp is a row.
KERNEL(margins, 256)
(const float* __restrict__ in, const float* __restrict__ center, const u16* __restrict__ rounded,
 float* __restrict__ out, u32 rows, u32 d, u32 padded, u32 panels, double gamma) {
  const u32 r = global_warp();
  if (r >= rows) return;
  const float* row = in + (u64)r * d;
  double square = 0.0, off = 0.0;
  for (u32 c0 = lane_id() * 8; c0 < d; c0 += 256) {
    const u64* from = reinterpret_cast<const u64*>(rounded + place_of(r, c0, padded, panels));
    const u64 eight[2] = {from[0], from[1]};
#pragma unroll
    for (u32 q = 0; q < 8; ++q) {
      const u32 c = c0 + q;
      if (c >= d) continue;
      const float v = row[c] - (center ? center[c] : 0.0f);
      const float near = __uint_as_float((u32)(eight[q / 4] >> q % 4 * 16) << 16);
      const double by = (double)v - near;
      square += (double)v * v;
      off += by * by;
    }
  }
  square = warp_sum(square), off = warp_sum(off);
  if (lane_id()) return;
  // A little more than that: what follows is rounded.
  const double slack = 1.0 + 1e-6, length = (sqrt(square) + sqrt(off)) * slack;
  const float reach = (float)((sqrt(off) + gamma * length) * slack), size = (float)length;
  const bool fits = size < LONGEST;
  const float all = __uint_as_float(0x7f800000);
  const Margin margin = {{fits ? fmaxf(reach, LEAST) : all, fits ? fmaxf(size, LEAST) : all}};
  store<2>(out + 2 * r, margin);
}
EXPORT(margins)

// A bound of each token that k of its latents reach for certain, out of the first `columns` (1024
// at most): p has their pre-activations out of rounded factors.
KERNEL(filter_bounds, 256)
(const float* __restrict__ p, const float* __restrict__ scale, const float* __restrict__ of_rows,
 const float* __restrict__ of_columns, float* __restrict__ bounds, u32 tokens, u32 columns, u32 k) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  const float* row = p + (u64)b * columns;
  const Margin of_row = load<2>(of_rows + 2 * b);
  u32 key[HELD];
#pragma unroll
  for (u32 i = 0; i < HELD; ++i) {
    const u32 l = i * 32 + lane_id();
    key[i] = 0;
    if (l >= columns) continue;
    // The sum with its bias has been rounded.
    const float sum = row[l] - fabsf(row[l]) * 0x1p-22f;
    const float lower = below(sum, reach_of(of_row, load<2>(of_columns + 2 * l)));
    key[i] = ordered(scale ? lower * scale[l] : lower);
  }
  bool all;
  const u32 t = kth<u32>(
      k,
      [&](u32 with) {
        u32 n = 0;
#pragma unroll
        for (u32 i = 0; i < HELD; ++i) n += key[i] >= with;
        return n;
      },
      all);
  u32 least = ~0u;
#pragma unroll
  for (u32 i = 0; i < HELD; ++i)
    if (i * 32 + lane_id() < columns && key[i] >= t) least = key[i] < least ? key[i] : least;
  least = warp_min(least);
  if (lane_id() == 0) bounds[b] = from_ordered(least);
}
EXPORT(filter_bounds)

// Takes from each list what does not reach the k-th of its least keys, which becomes the bound.
// Where a list of `length` was too short, `overflow` is set: what is missing cannot be found again.
KERNEL(filter_fold, 256)
(u32* __restrict__ counts, u64* __restrict__ keys, float* __restrict__ uppers,
 float* __restrict__ bounds, u32* __restrict__ overflow, u32 tokens, u32 length, u32 k) {
  const u32 b = global_warp();
  if (b >= tokens) return;
  const u32 found = counts[b], held = found < length ? found : length;
  u64* list = keys + (u64)b * length;
  float* upper = uppers + (u64)b * length;
  const u32 t = kth_upper(list, held, k);
  u32 least = ~0u;
  for (u32 i = lane_id(); i < held; i += 32) {
    const u32 key = (u32)(list[i] >> 32);
    if (key >= t) least = key < least ? key : least;
  }
  const float bound = from_ordered(warp_min(least));
  u32 left = 0;
  for (u32 base = 0; base < held; base += 32) {
    const u32 i = base + lane_id();
    const u64 key = i < held ? list[i] : 0;
    const float most = i < held ? upper[i] : 0.0f;
    const bool stays = i < held && !(most < bound);
    const u32 mask = mark(stays);
    // All have read theirs when one writes, and no place is still to be read: a vote alone orders no
    // memory.
    __syncwarp();
    if (stays) list[left + before(mask)] = key, upper[left + before(mask)] = most;
    left += __popc(mask);
  }
  __syncwarp();
  if (lane_id() == 0) {
    bounds[b] = bound;
    counts[b] = left;
    if (found > length) atomicMax(overflow, 1u);
  }
}
EXPORT(filter_fold)

// The k best of each list by the keys that product_nt would give them, in any order. Those of the k
// largest least keys are computed first: what cannot reach all of them is not computed. In `lists`
// and `exacts` [tokens, length] keys and pre-activations take the place of the least and the largest
// keys. Shared: two stages a warp.
KERNEL(filter_exact, 256)
(const float* __restrict__ x, const float* __restrict__ center, const float* __restrict__ w,
 const float* __restrict__ bias, const float* __restrict__ scale, const u32* __restrict__ counts,
 u64* __restrict__ lists, float* __restrict__ exacts, u64* __restrict__ keys,
 float* __restrict__ pres, u32 tokens, u32 d, u32 length, u32 k) {
  SHARED(float, shared);
  const u32 b = global_warp();
  if (b >= tokens) return;
  float* stages = shared + warp_id() * 2 * STAGE;
  u32* queue = reinterpret_cast<u32*>(stages);
  const u32 held = counts[b];
  u64* list = lists + (u64)b * length;
  float* value = exacts + (u64)b * length;
  const u32 sure = kth_upper(list, held, k);
  u32 least = ~0u;
  float bound = 0.0f;
#pragma unroll 1
  for (u32 round = 0; round < 2; ++round) {
    for (u32 base = 0, waiting = 0; base < held || waiting; base += 32) {
      const u32 i = base + lane_id();
      bool wants = i < held;
      // A key that has been computed is no less than its least one was.
      if (wants) {
        const bool first = (u32)(list[i] >> 32) >= sure;
        wants = round ? !first && !(value[i] < bound) : first;
      }
      const u32 mask = mark(wants);
      if (wants) queue[behind(waiting + before(mask))] = i;
      waiting += __popc(mask);
      __syncwarp();
      if (!waiting || (waiting < 32 && base + 32 < held)) continue;
      const u32 count = waiting < 32 ? waiting : 32, place = lane_id() < count ? queue[behind(lane_id())] : 0;
      const u32 latent = lane_id() < count ? latent_of(list[place]) : 0;
      const float sum = exact(stages, x + (u64)b * d, center, w, latent, count, d);
      if (lane_id() < count) {
        const float p = sum + bias[latent];
        const u64 key = key_of(scale ? p * scale[latent] : p, latent);
        list[place] = key, value[place] = p;
        least = (u32)(key >> 32) < least ? (u32)(key >> 32) : least;
      }
      waiting -= count;
      const u32 next = lane_id() < waiting ? queue[behind(32 + lane_id())] : 0;
      __syncwarp();
      queue[behind(lane_id())] = next;
      __syncwarp();
    }
    bound = from_ordered(warp_min(least));
  }
  bool all;
  const u64 t = kth<u64>(
      k,
      [&](u64 with) {
        u32 n = 0;
        for (u32 i = lane_id(); i < held; i += 32) n += list[i] >= with;
        return n;
      },
      all);
  // Keys are all different: exactly k reach t.
  u32 taken = 0;
  for (u32 base = 0; base < held; base += 32) {
    const u32 i = base + lane_id();
    const bool takes = i < held && list[i] >= t;
    const u32 mask = mark(takes);
    if (takes) {
      const u64 to = (u64)b * k + taken + before(mask);
      keys[to] = list[i], pres[to] = value[i];
    }
    taken += __popc(mask);
  }
}
EXPORT(filter_exact)
