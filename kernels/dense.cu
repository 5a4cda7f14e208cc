// Codes as a matrix [tokens, columns], where so many of the pairs are edges that dense products are
// cheaper than a row for each edge: from edges to such a matrix and back, and what its products
// are made of. A column is a latent, or the latent in that place of an ascending `list`.
#include "common.cuh"
#include "tensor.cuh"

namespace {
DEVICE u32 column_of(const u32* list, u32 listed, u32 latent) {
  if (!list) return latent;
  u32 low = 0, high = listed;
  while (low < high) {
    const u32 middle = low + (high - low) / 2;
    if (list[middle] < latent) low = middle + 1;
    else high = middle;
  }
  return low;
}

// A tile of 64 x 64, turned: `put` gets it [64 rows][SIDE + 1]. What lies outside is 0.
constexpr u32 SIDE = 64, ROW = SIDE + 1;

DEVICE void fill_tile(float* tile, const float* in, const float* center, u32 rows, u32 d) {
  const u32 c = blockIdx.x * SIDE + threadIdx.x % SIDE;
  const float middle = center && c < d ? center[c] : 0.0f;
#pragma unroll 4
  for (u32 i = threadIdx.x / SIDE; i < SIDE; i += 256 / SIDE) {
    const u32 r = blockIdx.y * SIDE + i;
    tile[i * ROW + threadIdx.x % SIDE] = r < rows && c < d ? in[(u64)r * d + c] - middle : 0.0f;
  }
  __syncthreads();
}

template <u32 W> DEVICE void move_row(const float* from, float* to, u32 d, bool accumulate) {
  for (u32 c = threadIdx.x * W; c < d; c += blockDim.x * W) {
    Pack<W> row = load<W>(from + c);
    if (accumulate) {
      const Pack<W> old = load<W>(to + c);
      for (u32 w = 0; w < W; ++w) row.v[w] += old.v[w];
    }
    store<W>(to + c, row);
  }
}
DEVICE void move_row(const float* from, float* to, u32 d, bool accumulate) {
  if (d % 4) move_row<1>(from, to, d, accumulate);
  else move_row<4>(from, to, d, accumulate);
}
}  // namespace

// out [tokens, columns] = the value of each edge, and 0 elsewhere, of tokens from `token` and
// columns from `column`. A block is a token.
KERNEL(edges_to_rows, 256)
(const u32* __restrict__ row_ptr, const u32* __restrict__ latents,
 const float* __restrict__ values, const u32* __restrict__ list, float* __restrict__ out,
 u32 listed, u32 token, u32 column, u32 columns) {
  const u32 b = token + blockIdx.x;
  float* row = out + (u64)blockIdx.x * columns;
  for (u32 c = threadIdx.x; c < columns; c += 256) row[c] = 0.0f;
  __syncthreads();
  for (u32 e = row_ptr[b] + threadIdx.x; e < row_ptr[b + 1]; e += 256) {
    const u32 c = column_of(list, listed, latents[e]);
    if (c >= column && c - column < columns) row[c - column] = values[e];
  }
}
EXPORT(edges_to_rows)

// The other way: values[e] = what stands in the edge's place in [tokens, columns], of all columns.
KERNEL(rows_to_edges, 256)
(const u32* __restrict__ row_ptr, const u32* __restrict__ latents, const float* __restrict__ in,
 const u32* __restrict__ list, float* __restrict__ values, u32 listed, u32 token, u32 columns) {
  const u32 b = token + blockIdx.x;
  const float* row = in + (u64)blockIdx.x * columns;
  for (u32 e = row_ptr[b] + threadIdx.x; e < row_ptr[b + 1]; e += 256)
    values[e] = row[column_of(list, listed, latents[e])];
}
EXPORT(rows_to_edges)

// out [n, d] = rows list[i] of `from`. A block is a row.
KERNEL(take_rows, 256)
(const float* __restrict__ from, const u32* __restrict__ list, float* __restrict__ out, u32 d) {
  move_row(from + (u64)list[blockIdx.x] * d, out + (u64)blockIdx.x * d, d, false);
}
EXPORT(take_rows)

// Row list[i] of `out` (+)= row i of `from`; without a list row first + i. A block is a row.
KERNEL(put_rows, 256)
(const float* __restrict__ from, const u32* __restrict__ list, float* __restrict__ out, u32 first,
 u32 d, u32 accumulate) {
  const u32 i = first + blockIdx.x;
  move_row(from + (u64)blockIdx.x * d, out + (u64)(list ? list[i] : i) * d, d, accumulate);
}
EXPORT(put_rows)

// out [d, rows] = (in [rows, d] - center)^T. Shared: a tile of 64 x 65.
KERNEL(turn, 256)
(const float* __restrict__ in, const float* __restrict__ center, float* __restrict__ out, u32 rows,
 u32 d) {
  SHARED(float, tile);
  fill_tile(tile, in, center, rows, d);
  const u32 r = blockIdx.y * SIDE + threadIdx.x % SIDE;
#pragma unroll 4
  for (u32 i = threadIdx.x / SIDE; i < SIDE; i += 256 / SIDE) {
    const u32 c = blockIdx.x * SIDE + i;
    if (c < d && r < rows) out[(u64)c * rows + r] = tile[threadIdx.x % SIDE * ROW + i];
  }
}
EXPORT(turn)

// … as the nearest bf16, where `place_of` says: `wide` rows of `padded` values, with 0 behind what is there.
KERNEL(turn_to_bf16, 256)
(const float* __restrict__ in, const float* __restrict__ center, u16* __restrict__ out, u32 rows,
 u32 d, u32 wide, u32 padded, u32 panels) {
  SHARED(float, tile);
  fill_tile(tile, in, center, rows, d);
#pragma unroll
  for (u32 h = 0; h < 2; ++h) {
    // Eight neighbours of a row of the result.
    const u32 piece = threadIdx.x + 256 * h, i = piece / 8, at = piece % 8 * 8;
    const u32 c = blockIdx.x * SIDE + i, r = blockIdx.y * SIDE + at;
    if (c >= wide || r >= padded) continue;
    u32* to = reinterpret_cast<u32*>(out + place_of(c, r, padded, panels));
#pragma unroll
    for (u32 q = 0; q < 4; ++q)
      to[q] = pair_of_bf16(tile[(at + 2 * q) * ROW + i], tile[(at + 2 * q + 1) * ROW + i]);
  }
}
EXPORT(turn_to_bf16)

// From sums to what `reconstruct` gives, in place: sums [tokens, d] are those of values times
// rows, and then G. out = base + sum; G = scale * (out - (y - less)); errors[b] = the token's
// squared error. A block is a token. Shared: 32 f64.
KERNEL(compare, 256)
(const float* __restrict__ base, const float* __restrict__ y, const float* __restrict__ less,
 float* out, float* sums, double* __restrict__ errors, u64 base_stride, float scale, u32 token,
 u32 d) {
  SHARED(double, shared);
  const u32 b = token + blockIdx.x;
  const u64 row = (u64)b * d;
  double square = 0.0;
  for (u32 c = threadIdx.x; c < d; c += 256) {
    const float sum = (base ? base[b * base_stride + c] : 0.0f) + sums[row + c];
    float target = y[row + c];
    if (less) target -= less[row + c];
    const float residual = sum - target;
    square += (double)residual * residual;
    if (out) out[row + c] = sum;
    sums[row + c] = scale * residual;
  }
  square = block_sum(square, shared);
  if (threadIdx.x == 0) errors[b] = square;
}
EXPORT(compare)

// found[j] += 1 for each edge of latent j whose value is positive. No order shows in a count.
KERNEL(count_edges, 256)
(const u32* __restrict__ latents, const float* __restrict__ values, u32* __restrict__ found,
 u32 n) {
  const u32 e = blockIdx.x * 256 + threadIdx.x;
  if (e < n && values[e] > 0.0f) atomicAdd(found + latents[e], 1u);
}
EXPORT(count_edges)

// counts[j] += found[j], up to the largest number.
KERNEL(add_counts, 256)
(const u32* __restrict__ found, u32* __restrict__ counts, u32 n) {
  const u32 j = blockIdx.x * 256 + threadIdx.x;
  if (j < n) counts[j] = counts[j] > ~found[j] ? ~0u : counts[j] + found[j];
}
EXPORT(add_counts)
