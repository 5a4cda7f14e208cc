// Sums over the edges of a latent, which lie together in `order` from starts[j] to starts[j + 1],
// by ascending token.
#include "common.cuh"
#include "halves.cuh"

namespace {
// Edges that a block looks up together.
constexpr u32 CHUNK = 64;

// Rows to be gathered, W neighbours at a time: as they move, and as they are summed. A thread has
// `ahead` of them under way.
struct Floats {
  const float* rows;
  static constexpr u32 ahead = 4;

  template <u32 W> using Some = Pack<W>;
  template <u32 W> DEVICE Pack<W> get(u64 at) const { return load<W>(rows + at); }
  template <u32 W> DEVICE static float wide(const Pack<W>& some, u32 w) { return some.v[w]; }
};
template <class F> struct Halves {
  const u16* rows;
  static constexpr u32 ahead = 8;

  template <u32 W> struct alignas(2 * W) Some {
    u16 v[W];
  };
  template <u32 W> DEVICE Some<W> get(u64 at) const {
    return *reinterpret_cast<const Some<W>*>(rows + at);
  }
  template <u32 W> DEVICE static float wide(const Some<W>& some, u32 w) { return F::wide(some.v[w]); }
};

// What is summed, and where it goes.
template <class Rows> struct Segment {
  const u32 *order, *token;
  const float* values;
  Rows rows;
  const float* center;
  u32 from, to, d;
  float* out;
  bool accumulate;
  float factor;
};

// A thread owns W columns. Every CHUNK edges have a sum of their own.
template <u32 W, class Rows> DEVICE void add_rows(const Segment<Rows>& s, u32* token_of) {
  float* value_of = reinterpret_cast<float*>(token_of + CHUNK);
  for (u32 at = 0; at < s.d; at += blockDim.x * W) {
    const u32 c = at + threadIdx.x * W;
    const bool inside = c < s.d;
    Pack<W> sum = {}, middle = {};
    if (inside && s.center) middle = load<W>(s.center + c);
    for (u32 first = s.from; first < s.to; first += CHUNK) {
      const u32 count = s.to - first < CHUNK ? s.to - first : CHUNK;
      __syncthreads();
      for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        const u32 e = s.order[first + i];
        token_of[i] = s.token[e], value_of[i] = s.values[e];
      }
      __syncthreads();
      constexpr u32 AHEAD = Rows::ahead;
      Pack<W> part = {};
      for (u32 i = 0; inside && i < count; i += AHEAD) {
        typename Rows::template Some<W> row[AHEAD] = {};
#pragma unroll
        for (u32 u = 0; u < AHEAD; ++u)
          if (i + u < count) row[u] = s.rows.template get<W>((u64)token_of[i + u] * s.d + c);
#pragma unroll
        for (u32 u = 0; u < AHEAD; ++u) {
          if (i + u >= count) continue;
          for (u32 w = 0; w < W; ++w)
            part.v[w] += value_of[i + u] * (Rows::template wide<W>(row[u], w) - middle.v[w]);
        }
      }
      for (u32 w = 0; w < W; ++w) sum.v[w] += part.v[w];
    }
    if (!inside) continue;
    for (u32 w = 0; w < W; ++w) sum.v[w] *= s.factor;
    if (s.accumulate) {
      const Pack<W> old = load<W>(s.out + c);
      for (u32 w = 0; w < W; ++w) sum.v[w] = old.v[w] + sum.v[w];
    }
    store<W>(s.out + c, sum);
  }
}

template <u32 W>
DEVICE void add_partials(const float* first, const float* others, u32 count, u32 d, float* out,
                         bool accumulate) {
  for (u32 c = threadIdx.x * W; c < d; c += blockDim.x * W) {
    Pack<W> sum = load<W>(first + c);
#pragma unroll 4
    for (u32 i = 0; i < count; ++i) {
      const Pack<W> part = load<W>(others + (u64)i * 2 * d + c);
      for (u32 w = 0; w < W; ++w) sum.v[w] += part.v[w];
    }
    if (accumulate) {
      const Pack<W> old = load<W>(out + c);
      for (u32 w = 0; w < W; ++w) sum.v[w] = old.v[w] + sum.v[w];
    }
    store<W>(out + c, sum);
  }
}
// What a block of `outer_grad` does.
template <class Rows>
DEVICE void outer(u32* shared, Segment<Rows> s, const u32* starts, const u32* latents,
                  const u32* widths, float* out, float* partials, u64 block, u32 n, u32 prefixes,
                  u32 accumulate, u32 piece, u32 pieces) {
  u32 j;
  if (blockIdx.x < 2 * pieces) {
    const u32 begin = blockIdx.x / 2 * piece, end = n - begin < piece ? n : begin + piece;
    j = latents[begin];
    if (blockIdx.x % 2) {
      if (latents[end - 1] == j) return;
      j = latents[end - 1];
    }
    s.from = starts[j], s.to = starts[j + 1];
    if (s.to - s.from <= piece) return;
    s.from = s.from < begin ? begin : s.from, s.to = s.to < end ? s.to : end;
    s.out = partials + (u64)blockIdx.x * s.d;
  } else {
    j = blockIdx.x - 2 * pieces;
    s.from = starts[j], s.to = starts[j + 1];
    if ((pieces && s.to - s.from > piece) || (accumulate && s.from == s.to)) return;
    s.out = out + (u64)j * s.d;
    s.accumulate = accumulate;
  }
  if (prefixes) s.rows.rows += group_of(widths, prefixes, j) * block;
  if (s.d % 4) add_rows<1>(s, shared);
  else add_rows<4>(s, shared);
}
}  // namespace

// out [latents, d] (+)= factor * sum over the latent's edges of value * (row of the token -
// center). Of several blocks of rows, a latent takes that of its group. A block is a latent; but one
// of more than `piece` edges would take longer than all others, so the places are cut into `pieces`
// of that length, and a block is what such a latent has in one: of blocks 2i and 2i + 1, the first
// takes the latent that piece i begins with, and the other that with which it ends, if it is
// another. Their sums go to partials [2 * pieces, d]. `latents` is sorted as `order` is.
// Shared: 2 * CHUNK numbers.
#define OUTER_GRAD(Rows, T)                                                                    \
  (const u32* __restrict__ starts, const u32* __restrict__ latents,                            \
   const u32* __restrict__ order, const u32* __restrict__ token,                               \
   const float* __restrict__ values, const T* __restrict__ rows,                               \
   const float* __restrict__ center, const u32* __restrict__ widths, float* __restrict__ out,  \
   float* __restrict__ partials, u64 block, u32 n, u32 d, u32 prefixes, u32 accumulate,        \
   u32 piece, u32 pieces, float factor) {                                                      \
    SHARED(u32, shared);                                                                       \
    outer(shared,                                                                              \
          Segment<Rows>{order, token, values, {rows}, center, 0, 0, d, nullptr, false, factor}, \
          starts, latents, widths, out, partials, block, n, prefixes, accumulate, piece,       \
          pieces);                                                                             \
  }
KERNEL(outer_grad, 256)
OUTER_GRAD(Floats, float)
EXPORT(outer_grad)
KERNEL(outer_grad_bf16, 256)
OUTER_GRAD(Halves<Bf16>, u16)
EXPORT(outer_grad_bf16)
KERNEL(outer_grad_f16, 256)
OUTER_GRAD(Halves<F16>, u16)
EXPORT(outer_grad_f16)

// The partial sums of latents of more than `piece` edges, in order. A block is a piece, and adds
// for the latent that begins in it and goes on.
KERNEL(outer_finish, 256)
(const u32* __restrict__ starts, const u32* __restrict__ latents,
 const float* __restrict__ partials, float* __restrict__ out, u32 n, u32 d, u32 accumulate,
 u32 piece) {
  const u32 begin = blockIdx.x * piece, end = n - begin < piece ? n : begin + piece;
  const u32 j = latents[end - 1], from = starts[j], to = starts[j + 1];
  if (from < begin || to - from <= piece) return;
  const float* first = partials + (u64)(2 * blockIdx.x + (latents[begin] != j)) * d;
  const float* others = partials + (u64)(2 * blockIdx.x + 2) * d;
  const u32 count = (to - 1) / piece - blockIdx.x;
  if (d % 4) add_partials<1>(first, others, count, d, out + (u64)j * d, accumulate);
  else add_partials<4>(first, others, count, d, out + (u64)j * d, accumulate);
}
EXPORT(outer_finish)

// out[j] (+)= sum of the latent's values. A warp is a latent.
KERNEL(latent_sums, 256)
(const u32* __restrict__ starts, const u32* __restrict__ order, const float* __restrict__ values,
 float* __restrict__ out, u32 latents, u32 accumulate) {
  const u32 j = global_warp();
  if (j >= latents) return;
  double sum = 0.0;
#pragma unroll 8
  for (u32 i = starts[j] + lane_id(); i < starts[j + 1]; i += 32) sum += values[order[i]];
  sum = warp_sum(sum);
  if (lane_id() == 0) out[j] = (float)(accumulate ? out[j] + sum : sum);
}
EXPORT(latent_sums)

// counts[j] += the latent's positive values, up to the largest number. A warp is a latent.
KERNEL(count_fired, 256)
(const u32* __restrict__ starts, const u32* __restrict__ order, const float* __restrict__ values,
 u32* __restrict__ counts, u32 latents) {
  const u32 j = global_warp();
  if (j >= latents) return;
  u32 fired = 0;
#pragma unroll 8
  for (u32 i = starts[j] + lane_id(); i < starts[j + 1]; i += 32) fired += values[order[i]] > 0.0f;
  fired = warp_sum(fired);
  if (lane_id() == 0) counts[j] = counts[j] > ~fired ? ~0u : counts[j] + fired;
}
EXPORT(count_fired)
