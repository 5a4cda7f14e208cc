// Decode, compare, differentiate, for widths that are multiples of 4. Every row of W_dec is read
// once: a warp has the rows of a token's edges, 128 columns of them, in shared memory, and its
// columns of x-hat, of G and of the gradients of the edges' values depend on nothing else.
#include "common.cuh"
#include "tensor.cuh"

namespace {
constexpr u32 COLUMNS = 128;
// Lanes that read a row each meet no bank twice.
constexpr u32 STRIDE = COLUMNS + 4;

// Shared memory of a warp: [slots] rows, [prefixes] rows of G, and of each slot the edge's sum of
// gradient times row, its value and its latent.
struct Tile {
  float *rows, *grad, *dot, *value;
  u32* latent;

  DEVICE static u32 size(u32 slots, u32 prefixes) {
    return (slots + prefixes) * STRIDE + 3 * slots;
  }
  DEVICE Tile(float* at, u32 slots, u32 prefixes) {
    rows = at;
    grad = rows + slots * STRIDE;
    dot = grad + prefixes * STRIDE;
    value = dot + slots;
    latent = reinterpret_cast<u32*>(value + slots);
  }

  // The edges at `from`, and columns c .. c + 4 of their rows; zeros behind the last column.
  DEVICE void fill(const u32* latents, const float* values, const float* w, u32 from, u32 count,
                   u32 c, u32 d) const {
    __syncwarp();
    for (u32 i = lane_id(); i < count; i += 32)
      latent[i] = latents[from + i], value[i] = values[from + i];
    __syncwarp();
    const bool inside = c < d;
#pragma unroll 8
    for (u32 i = 0; i < count; ++i)
      copy_async(rows + i * STRIDE + lane_id() * 4, w + (u64)latent[i] * d + (inside ? c : 0),
                 inside ? 16 : 0);
    copy_async_close();
    copy_async_wait<0>();
  }
  // A lane's columns: those of an edge to a sum, and what a sum is off by.
  DEVICE void add_row(u32 i, Pack<4>& sum) const {
    const Pack<4> row = load<4>(rows + i * STRIDE + lane_id() * 4);
    for (u32 v = 0; v < 4; ++v) sum.v[v] += value[i] * row.v[v];
  }
  DEVICE void keep(u32 m, const Pack<4>& sum, const Pack<4>& target, bool inside) const {
    Pack<4> residual = {};
    for (u32 v = 0; v < 4; ++v) residual.v[v] = inside ? sum.v[v] - target.v[v] : 0.0f;
    store<4>(grad + m * STRIDE + lane_id() * 4, residual);
  }
  // A lane is an edge.
  DEVICE void add_dots(u32 count, const u32* widths, u32 prefixes) const {
    __syncwarp();
    for (u32 i = lane_id(); i < count; i += 32) {
      const float* row = rows + i * STRIDE;
      const float* g = grad + group_of(widths, prefixes, latent[i]) * STRIDE;
      Pack<4> sum = {};
#pragma unroll 8
      for (u32 c = 0; c < COLUMNS; c += 4) {
        const Pack<4> a = load<4>(row + c), b = load<4>(g + c);
        for (u32 w = 0; w < 4; ++w) sum.v[w] += a.v[w] * b.v[w];
      }
      dot[i] += (sum.v[0] + sum.v[1]) + (sum.v[2] + sum.v[3]);
    }
  }
};
}  // namespace

// As `reconstruct`; a block is a token, a warp has a tile of columns after the other, and `slots`, a
// multiple of 32, are edges that it holds at a time. Where a token has more, their rows are read
// again for `dots`. Shared: a Tile for each warp, then f64: [prefixes, threads] and 32 more.
KERNEL(reconstruct_tiles, 256)
(const u32* __restrict__ row_ptr, const u32* __restrict__ latents,
 const float* __restrict__ values, const float* __restrict__ w, const float* __restrict__ base,
 const float* __restrict__ y, const float* __restrict__ less, const u32* __restrict__ widths,
 const float* __restrict__ scales, float* out, float* grad, float* __restrict__ dots,
 double* __restrict__ errors, u64 base_stride, u32 d, u32 prefixes, u32 slots) {
  SHARED(float, tiles);
  const u32 b = blockIdx.x, size = Tile::size(slots, prefixes), warps = blockDim.x >> 5;
  const Tile tile(tiles + warp_id() * size, slots, prefixes);
  double* squares = reinterpret_cast<double*>(tiles + warps * size);
  const u32 from = row_ptr[b], edges = row_ptr[b + 1] - from;
  const u64 block = (u64)gridDim.x * d, row = (u64)b * d;
  const bool resident = edges <= slots;
  for (u32 i = lane_id(); i < slots; i += 32) tile.dot[i] = 0.0f;
  for (u32 m = 0; m < prefixes; ++m) squares[m * blockDim.x + threadIdx.x] = 0.0;
  // What lies behind the last column takes part as zeros.
  for (u32 at = 0; at < d; at += blockDim.x * 4) {
    const u32 c = at + threadIdx.x * 4;
    const bool inside = c < d;
    Pack<4> sum = {}, target = {};
    if (inside) {
      if (base) sum = load<4>(base + b * base_stride + c);
      target = load<4>(y + row + c);
      if (less) {
        const Pack<4> other = load<4>(less + row + c);
        for (u32 v = 0; v < 4; ++v) target.v[v] -= other.v[v];
      }
    }
    // The residual of each prefix, while edges go by in the order of their latents.
    u32 m = 0;
    for (u32 first = 0; first < edges; first += slots) {
      const u32 count = edges - first < slots ? edges - first : slots;
      tile.fill(latents, values, w, from + first, count, c, d);
      u32 i = 0;
      for (; m + 1 < prefixes; ++m) {
        for (; i < count && tile.latent[i] < widths[m]; ++i) tile.add_row(i, sum);
        if (i == count) break;
        tile.keep(m, sum, target, inside);
      }
#pragma unroll 8
      for (; i < count; ++i) tile.add_row(i, sum);
    }
    for (; m < prefixes; ++m) tile.keep(m, sum, target, inside);
    if (out && inside) store<4>(out + row + c, sum);
    // From residuals to G: a prefix has its own and those of all wider ones.
    Pack<4> total = {};
    while (m-- > 0) {
      float* place = tile.grad + m * STRIDE + lane_id() * 4;
      const Pack<4> residual = load<4>(place);
      double square = 0.0;
      for (u32 v = 0; v < 4; ++v) {
        square += (double)residual.v[v] * residual.v[v];
        total.v[v] += scales[m] * residual.v[v];
      }
      squares[m * blockDim.x + threadIdx.x] += square;
      store<4>(place, total);
      if (inside) store<4>(grad + m * block + row + c, total);
    }
    if (resident) tile.add_dots(edges, widths, prefixes);
  }
  // Of the tiles to the whole, in order.
  for (u32 first = 0; first < edges; first += slots) {
    const u32 count = edges - first < slots ? edges - first : slots;
    for (u32 at = 0; !resident && at < d; at += blockDim.x * 4) {
      const u32 c = at + threadIdx.x * 4;
      tile.fill(latents, values, w, from + first, count, c, d);
      for (u32 m = 0; m < prefixes; ++m)
        store<4>(tile.grad + m * STRIDE + lane_id() * 4,
                 c < d ? load<4>(grad + m * block + row + c) : Pack<4>{});
      tile.add_dots(count, widths, prefixes);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
      float sum = 0.0f;
      for (u32 o = 0; o < warps; ++o)
        sum += Tile(tiles + o * size, slots, prefixes).dot[i];
      dots[from + first + i] = sum;
    }
    __syncthreads();
    for (u32 i = lane_id(); i < slots; i += 32) tile.dot[i] = 0.0f;
  }
  for (u32 m = 0; m < prefixes; ++m) {
    const double sum = block_sum(squares[m * blockDim.x + threadIdx.x],
                                 squares + prefixes * blockDim.x);
    if (threadIdx.x == 0) errors[m * gridDim.x + b] = sum;
  }
}
EXPORT(reconstruct_tiles)
