// Causal attention by tiles of queries: scores of a tile of keys at a time, with a running maximum
// and sum, so that no row of scores is held and keys are read once for a tile.
//
// A block is a tile of consecutive rows of one context and a head. tiles [., 3] are first row, rows
// and the context's first row (none: padding, which gets 0). A row sees `window` rows up to itself.
// Tiles of keys are cut from the context's first row, so that a context gives the same bits
// wherever it lies in a batch.
#include "common.cuh"
#include "tensor.cuh"

namespace {
constexpr u32 NOT_THERE = 0xffffffffu;
constexpr float LOG2_E = 1.4426950408889634f;

// What a block is for.
struct Work {
  u32 head, row, rows, start, window;

  DEVICE Work(const u32* tiles, u32 heads, u32 window_) {
    const u32* tile = tiles + (u64)(blockIdx.x / heads) * 3;
    head = blockIdx.x % heads;
    row = tile[0], rows = tile[1], start = tile[2], window = window_;
  }
  // The first key that row r sees.
  DEVICE u32 first(u32 r) const { return r - start >= window ? r - window + 1 : start; }
  DEVICE bool sees(u32 r, u32 key) const { return key <= r && key >= first(r); }
  // Where tiles of `keys` keys begin, and the row behind all keys.
  DEVICE u32 begin(u32 keys) const { return start + (first(row) - start) / keys * keys; }
  DEVICE u32 end() const { return row + rows; }
};

DEVICE float lowest() { return __uint_as_float(0xff800000u); }

DEVICE void clear_rows(const Work& work, float* out, u32 heads, u32 d) {
  for (u32 i = threadIdx.x; i < work.rows * d; i += blockDim.x)
    out[((u64)(work.row + i / d) * heads + work.head) * d + i % d] = 0.0f;
}

// ---- f32 ------------------------------------------------------------------------------------

constexpr u32 SIDE = 64, DEEP = 32, ROW = DEEP + 4, WIDE = SIDE + 4;

// Columns c .. c + 3 of a row of d.
DEVICE Pack<4> four(const float* row, u32 c, u32 d, bool there) {
  if (there && d % 4 == 0 && c < d) return load<4>(row + c);
  Pack<4> out;
#pragma unroll
  for (u32 q = 0; q < 4; ++q) out.v[q] = there && c + q < d ? row[c + q] : 0.0f;
  return out;
}

// Heads of at most 64 * PARTS. 256 threads: 4 rows each, of 4 keys (16 apart) and of 4 neighbouring
// columns of each part. Shared: scores [64, 68] and what is multiplied, 35840 bytes.
template <u32 PARTS>
DEVICE void attend(float* shared, const float* qkv, const Work& work, float* out, float scale,
                   float cap, u32 heads, u32 kv_heads, u32 d) {
  float* weights = shared;
  float* sa = shared + SIDE * WIDE;
  float* sb = sa + SIDE * ROW;
  const u32 tid = threadIdx.x, tx = tid & 15, ty = tid >> 4;
  const u32 width = (heads + 2 * kv_heads) * d, group = heads / kv_heads;
  const float* queries = qkv + work.head * d;
  const float* keys = qkv + (heads + work.head / group) * d;
  const float* values = keys + kv_heads * d;
  const u32 end = work.end();
  float most[4], sum[4] = {}, mix[4][PARTS][4] = {};
#pragma unroll
  for (u32 i = 0; i < 4; ++i) most[i] = lowest();

  for (u32 base = work.begin(SIDE); base < end; base += SIDE) {
    float s[4][4] = {};
    for (u32 c0 = 0; c0 < d; c0 += DEEP) {
      __syncthreads();
#pragma unroll
      for (u32 q = 0; q < 2; ++q) {
        const u32 r = (tid >> 3) + q * 32, c = (tid & 7) * 4;
        const u32 query = work.row + r, key = base + r;
        store<4>(sa + r * ROW + c, four(queries + (u64)query * width, c0 + c, d, query < end));
        store<4>(sb + r * ROW + c, four(keys + (u64)key * width, c0 + c, d, key < end));
      }
      __syncthreads();
#pragma unroll 1
      for (u32 c = 0; c < DEEP; c += 4) {
        Pack<4> a[4], b[4];
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
          a[i] = load<4>(sa + (ty * 4 + i) * ROW + c);
          b[i] = load<4>(sb + (tx + i * 16) * ROW + c);
        }
#pragma unroll
        for (u32 q = 0; q < 4; ++q)
#pragma unroll
          for (u32 i = 0; i < 4; ++i)
#pragma unroll
            for (u32 j = 0; j < 4; ++j) s[i][j] += a[i].v[q] * b[j].v[q];
      }
    }
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
      const u32 r = work.row + ty * 4 + i;
      float high = lowest();
#pragma unroll
      for (u32 j = 0; j < 4; ++j) {
        const float score = s[i][j] * scale;
        s[i][j] = cap > 0.0f ? cap * tanhf(score / cap) : score;
        if (work.sees(r, base + tx + j * 16)) high = fmaxf(high, s[i][j]);
      }
#pragma unroll
      for (int o = 8; o; o >>= 1) high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, o));
      const float now = fmaxf(most[i], high), shrink = most[i] == now ? 1.0f : expf(most[i] - now);
      sum[i] *= shrink;
#pragma unroll
      for (u32 j = 0; j < 4; ++j) {
        const u32 key = tx + j * 16;
        const float weight = work.sees(r, base + key) ? expf(s[i][j] - now) : 0.0f;
        weights[(ty * 4 + i) * WIDE + key] = weight;
        sum[i] += weight;
      }
#pragma unroll
      for (u32 p = 0; p < PARTS; ++p)
#pragma unroll
        for (u32 q = 0; q < 4; ++q) mix[i][p][q] *= shrink;
      most[i] = now;
    }
#pragma unroll
    for (u32 p = 0; p < PARTS; ++p) {
      if (p * SIDE >= d) break;
      __syncthreads();
#pragma unroll
      for (u32 q = 0; q < 4; ++q) {
        const u32 r = (tid >> 4) + q * 16, c = (tid & 15) * 4;
        const float* row = values + (u64)(base + r) * width;
        store<4>(sa + r * WIDE + c, four(row, p * SIDE + c, d, base + r < end));
      }
      __syncthreads();
#pragma unroll 1
      for (u32 key = 0; key < SIDE; key += 4) {
        Pack<4> w[4];
#pragma unroll
        for (u32 i = 0; i < 4; ++i) w[i] = load<4>(weights + (ty * 4 + i) * WIDE + key);
#pragma unroll
        for (u32 k = 0; k < 4; ++k) {
          const Pack<4> v = load<4>(sa + (key + k) * WIDE + tx * 4);
#pragma unroll
          for (u32 i = 0; i < 4; ++i)
#pragma unroll
            for (u32 q = 0; q < 4; ++q) mix[i][p][q] += w[i].v[k] * v.v[q];
        }
      }
    }
  }
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
#pragma unroll
    for (int o = 8; o; o >>= 1) sum[i] += __shfl_xor_sync(ALL_LANES, sum[i], o);
    if (ty * 4 + i >= work.rows) continue;
    float* place = out + ((u64)(work.row + ty * 4 + i) * heads + work.head) * d;
#pragma unroll
    for (u32 p = 0; p < PARTS; ++p)
#pragma unroll
      for (u32 q = 0; q < 4; ++q) {
        const u32 c = p * SIDE + tx * 4 + q;
        if (c < d) place[c] = mix[i][p][q] / sum[i];
      }
  }
}

// ---- bf16 -----------------------------------------------------------------------------------

// Heads of at most D, a multiple of 8; a warp has 16 rows, and KEYS keys are there at a time.
// Scores become the factor of the values where they are: sums of multiply_bf16 lie as its left
// factor does. Shared: 16 rows a warp and two stages of keys and values, rows 8 longer than D so
// that the rows of a matrix lie in different banks.
template <u32 D, u32 WARPS, u32 KEYS>
DEVICE void attend_bf16(u16* shared, const u16* qkv, const Work& work, float* out, float scale,
                        float cap, u32 heads, u32 kv_heads, u32 d) {
  constexpr u32 LONG = D + 8, PIECES = D / 8, THREADS = WARPS * 32;
  constexpr bool HELD = D <= 64;
  u16* sq = shared;
  u16* stages = shared + WARPS * 16 * LONG;
  const u32 tid = threadIdx.x, lane = lane_id();
  const u32 width = (heads + 2 * kv_heads) * d, group = heads / kv_heads, end = work.end();
  const u16* keys = qkv + (heads + work.head / group) * d;

  auto copy = [&](u16* to, const u16* from, u32 r, bool there, u32 piece) {
    const bool in = there && piece * 8 < d;
    copy_async(to + piece * 8, in ? from + (u64)r * width + piece * 8 : qkv, in ? 16 : 0);
  };
  auto load = [&](u32 base, u32 stage) {
    u16* sk = stages + stage * 2 * KEYS * LONG;
#pragma unroll
    for (u32 q = 0; q < KEYS * PIECES / THREADS; ++q) {
      const u32 i = tid + q * THREADS, r = i / PIECES, piece = i % PIECES;
      copy(sk + r * LONG, keys, base + r, base + r < end, piece);
      copy(sk + (KEYS + r) * LONG, keys + kv_heads * d, base + r, base + r < end, piece);
    }
    copy_async_close();
  };
#pragma unroll
  for (u32 q = 0; q < 16 * PIECES / 32; ++q) {
    const u32 i = tid + q * THREADS, r = i / PIECES;
    copy(sq + r * LONG, qkv + work.head * d, work.row + r, work.row + r < end, i % PIECES);
  }
  u32 base = work.begin(KEYS);
  load(base, 0);

  // This warp's first row, and this thread's two.
  const u32 top = work.row + warp_id() * 16, mine[2] = {top + (lane >> 2), top + (lane >> 2) + 8};
  const u16* query = sq + (warp_id() * 16 + (lane & 15)) * LONG + (lane >> 4) * 8;
  const float factor = cap > 0.0f ? 2.0f * LOG2_E * scale / cap : LOG2_E * scale;
  float most[2] = {lowest(), lowest()}, sum[2] = {}, mix[D / 8][4] = {};
  u32 held[HELD ? D / 16 : 1][4];

  for (u32 stage = 0; base < end; base += KEYS, stage ^= 1) {
    copy_async_wait<0>();
    __syncthreads();
    if (HELD && base == work.begin(KEYS))
#pragma unroll
      for (u32 c = 0; c < D / 16; ++c)
        if (HELD) load_matrices(held[HELD ? c : 0], query + c * 16);
    if (base + KEYS < end) load(base + KEYS, stage ^ 1);
    // What no row of this warp sees.
    if (base > top + 15 || top >= end || base + KEYS <= work.first(top)) continue;
    const u16* sk = stages + stage * 2 * KEYS * LONG;
    const u16* sv = sk + KEYS * LONG;

    float s[KEYS / 8][4] = {};
#pragma unroll
    for (u32 c = 0; c < D / 16; ++c) {
      if (c * 16 >= d) break;
      u32 a[4], b[4];
      if (!HELD) load_matrices(a, query + c * 16);
#pragma unroll
      for (u32 j = 0; j < KEYS / 16; ++j) {
        load_matrices(b, sk + (j * 16 + (lane >> 4) * 8 + (lane & 7)) * LONG + c * 16 + (lane >> 3 & 1) * 8);
        multiply_bf16(s[2 * j], HELD ? held[HELD ? c : 0] : a, b[0], b[1]);
        multiply_bf16(s[2 * j + 1], HELD ? held[HELD ? c : 0] : a, b[2], b[3]);
      }
    }
    // All sums as powers of 2: exp(x) = 2^(x log2 e).
    const bool whole = base + KEYS - 1 <= top && base >= work.first(top + 15);
    float high[2] = {lowest(), lowest()};
#pragma unroll
    for (u32 j = 0; j < KEYS / 8; ++j)
#pragma unroll
      for (u32 q = 0; q < 4; ++q) {
        float& v = s[j][q];
        v *= factor;
        // cap tanh(x / cap), with tanh(y) = 1 - 2 / (1 + exp(2 y)).
        if (cap > 0.0f) v = cap * LOG2_E * (1.0f - 2.0f / (1.0f + power_of_two(v)));
        if (!whole && !work.sees(mine[q >> 1], base + j * 8 + (lane & 3) * 2 + (q & 1))) v = lowest();
        high[q >> 1] = fmaxf(high[q >> 1], v);
      }
    float shrink[2], level[2];
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
      high[h] = fmaxf(high[h], __shfl_xor_sync(ALL_LANES, high[h], 1));
      high[h] = fmaxf(high[h], __shfl_xor_sync(ALL_LANES, high[h], 2));
      const float now = fmaxf(most[h], high[h]);
      // A row that has seen nothing yet has no level, and must not have NaN for one.
      level[h] = now == lowest() ? 0.0f : now;
      shrink[h] = power_of_two(most[h] - level[h]);
      sum[h] *= shrink[h];
      most[h] = now;
    }
#pragma unroll
    for (u32 j = 0; j < KEYS / 8; ++j)
#pragma unroll
      for (u32 q = 0; q < 4; ++q) {
        s[j][q] = power_of_two(s[j][q] - level[q >> 1]);
        sum[q >> 1] += s[j][q];
      }
    if (__ballot_sync(ALL_LANES, shrink[0] != 1.0f || shrink[1] != 1.0f))
#pragma unroll
      for (u32 c = 0; c < D / 8; ++c)
#pragma unroll
        for (u32 q = 0; q < 4; ++q) mix[c][q] *= shrink[q >> 1];
#pragma unroll
    for (u32 k = 0; k < KEYS / 16; ++k) {
      u32 a[4], b[4];
#pragma unroll
      for (u32 q = 0; q < 4; ++q)
        a[q] = pair_of_bf16(s[2 * k + (q >> 1)][(q & 1) * 2], s[2 * k + (q >> 1)][(q & 1) * 2 + 1]);
#pragma unroll
      for (u32 c = 0; c < D / 16; ++c) {
        if (c * 16 >= d) break;
        load_matrices_across(b, sv + (k * 16 + (lane & 15)) * LONG + c * 16 + (lane >> 4) * 8);
        multiply_bf16(mix[2 * c], a, b[0], b[1]);
        multiply_bf16(mix[2 * c + 1], a, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (u32 h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(ALL_LANES, sum[h], 1);
    sum[h] += __shfl_xor_sync(ALL_LANES, sum[h], 2);
    if (mine[h] >= end) continue;
    float* place = out + ((u64)mine[h] * heads + work.head) * d + (lane & 3) * 2;
#pragma unroll
    for (u32 c = 0; c < D / 8; ++c)
      if (c * 8 < d) {
        Pack<2> pair = {{mix[c][2 * h] / sum[h], mix[c][2 * h + 1] / sum[h]}};
        store<2>(place + c * 8, pair);
      }
  }
}
}  // namespace

#define ATTENTION(T, attend)                                                           \
  (const T* __restrict__ qkv, const u32* __restrict__ tiles, float* __restrict__ out, \
   float scale, float cap, u32 heads, u32 kv_heads, u32 d, u32 window) {               \
    SHARED(T, shared);                                                                 \
    const Work work(tiles, heads, window);                                             \
    if (work.start == NOT_THERE) return clear_rows(work, out, heads, d);               \
    attend(shared, qkv, work, out, scale, cap, heads, kv_heads, d);                    \
  }

// Queries, keys and values in f32; heads of at most 64, 128 and 256.
KERNEL(attention_64, 256)
ATTENTION(float, attend<1>)
EXPORT(attention_64)
KERNEL(attention_128, 256)
ATTENTION(float, attend<2>)
EXPORT(attention_128)
KERNEL(attention_256, 256)
ATTENTION(float, attend<4>)
EXPORT(attention_256)

// … rounded to bf16; heads of a multiple of 8. Shared: 55296, 69632 and 101376 bytes.
KERNEL(attention_bf16_64, 256)
ATTENTION(u16, (attend_bf16<64, 8, 64>))
EXPORT(attention_bf16_64)
KERNEL(attention_bf16_128, 256)
ATTENTION(u16, (attend_bf16<128, 8, 32>))
EXPORT(attention_bf16_128)
KERNEL(attention_bf16_256, 128)
ATTENTION(u16, (attend_bf16<256, 4, 32>))
EXPORT(attention_bf16_256)
