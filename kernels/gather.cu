// Rows of activations on their way from the language model to a window, and from there, in another
// order, to a batch. A warp is a row, a lane W columns at a time.
#include "common.cuh"

namespace {
template <u32 W> DEVICE void copy_row(const float* from, float* to, u32 d) {
#pragma unroll 4
  for (u32 c = lane_id() * W; c < d; c += 32 * W) store<W>(to + c, load<W>(from + c));
}

DEVICE bool is_finite(float v) { return (__float_as_uint(v) & 0x7f800000u) != 0x7f800000u; }

template <u32 W> DEVICE bool all_finite(const float* row, u32 d) {
  bool finite = true;
#pragma unroll 4
  for (u32 c = lane_id() * W; c < d; c += 32 * W) {
    const Pack<W> x = load<W>(row + c);
    for (u32 w = 0; w < W; ++w) finite &= is_finite(x.v[w]);
  }
  return finite;
}
}  // namespace

// to[i] = from[pick[i]].
KERNEL(gather_rows, 256)
(const float* __restrict__ from, const u32* __restrict__ pick, float* __restrict__ to, u32 rows,
 u32 d) {
  const u32 i = global_warp();
  if (i >= rows) return;
  const float* row = from + (u64)pick[i] * d;
  if (d % 4) copy_row<1>(row, to + (u64)i * d, d);
  else copy_row<4>(row, to + (u64)i * d, d);
}
EXPORT(gather_rows)

// The least number of a row that holds a number that is not finite; *least is all ones before.
KERNEL(first_not_finite, 256)
(const float* __restrict__ rows, u32* least, u32 count, u32 d) {
  const u32 i = global_warp();
  if (i >= count) return;
  const float* row = rows + (u64)i * d;
  if (!(d % 4 ? all_finite<1>(row, d) : all_finite<4>(row, d))) atomicMin(least, i);
}
EXPORT(first_not_finite)
