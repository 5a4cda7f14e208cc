// Tensor cores, asynchronous copies and numbers of 16 bits (sm_80 and later), as thin wrappers around PTX. Their twins
// for the emulator are in `tests/cuda_double/tensor.h`.
#pragma once
#ifdef EMULATED
#include "tensor.h"
#else
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Begins to copy 16 bytes to shared memory, of which the first `bytes` are read and the rest 0.
DEVICE void copy_async(void* to, const void* from, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
               "l"(from), "r"(bytes) : "memory");
}
// Closes the group of the copies that were begun since the last one.
DEVICE void copy_async_close() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `left` groups of this thread are under way.
template <int left> DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

// Four 8 x 8 matrices of 16-bit numbers out of shared memory: lane l has the address of row l % 8
// of matrix l / 8, and gets of each matrix two numbers of row l / 4.
DEVICE void load_matrices(u32 (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row)) : "memory");
}
// … and of each matrix two numbers of column l / 4: the matrix as what stands right of a product.
DEVICE void load_matrices_across(u32 (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row)) : "memory");
}
// The nearest bf16 of both, the first in the low half.
DEVICE u32 pair_of_bf16(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
// 2^x to 22 bits; 0 below 2^-126.
DEVICE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// d += a . b, of 16 x 16 and 16 x 8 numbers of 16 bits, in f32.
#define MULTIPLY(name, type)                                                        \
  DEVICE void name(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {              \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "     \
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"            \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));   \
  }
MULTIPLY(multiply_bf16, "bf16")
MULTIPLY(multiply_f16, "f16")
// The nearest f16, beyond 65504 an infinity; and back.
DEVICE u16 to_f16(float v) {
  u16 half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(v));
  return half;
}
DEVICE float from_f16(u16 half) {
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(half));
  return v;
}

// ---- sm_90a: products of a warpgroup (four warps), with both factors in shared memory ------------

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WARPGROUPS 1
DEVICE u32 shared_offset(const void* p) { return shared_address(p); }
// A tile of rows of 64 numbers of 16 bits (128 bytes) from a multiple of 1024 bytes, in which piece c of 16
// bytes of row r lies at c ^ (r & 7).
DEVICE u64 swizzled_tile(const void* tile) {
  const u64 rows_of_8 = 1024 >> 4, by_128_bytes = 1;
  return (shared_address(tile) & 0x3ffff) >> 4 | 1ull << 16 | rows_of_8 << 32 | by_128_bytes << 62;
}
// Gives registers of this warpgroup's threads back, or takes some of those, up to `most` a thread.
template <int most> DEVICE void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(most));
}
template <int most> DEVICE void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(most));
}
// Makes what this thread wrote to shared memory visible to the tensor cores.
DEVICE void show_to_tensor_cores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
DEVICE void warpgroup_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void warpgroup_close() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `left` groups of products of this warpgroup are under way.
template <int left> DEVICE void warpgroup_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}
// d += a . b^T of 64 x 256, of values 16 * part .. 16 * part + 16 of k; begins and does not wait.
// Sum 4 j + i of thread t is in row t / 32 * 16 + t % 32 / 4 + i / 2 * 8, column 8 j + t % 4 * 2 + i % 2.
// Without `more`, d = a . b^T.
#define MULTIPLY_WARPGROUP(name, type)                                                                                    \
  DEVICE void name(float (&d)[128], const u16* a, const u16* b, u32 part, bool more) {                                    \
    const u64 of_a = swizzled_tile(a) + part * 2, of_b = swizzled_tile(b) + part * 2;                                     \
    asm volatile(                                                                                                         \
        "{.reg .pred more; setp.ne.u32 more, %130, 0; "                                                                   \
        "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {"                                                 \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                          \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                                \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                                \
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                                \
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "                    \
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"                  \
        "}, %128, %129, more, 1, 1, 0, 0;}"                                                                               \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),                 \
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),           \
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),         \
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),         \
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),         \
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),         \
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),         \
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),         \
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),         \
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),         \
          "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),         \
          "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),         \
          "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),     \
          "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), \
          "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), \
          "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])  \
        : "l"(of_a), "l"(of_b), "r"((u32)more));                                                                          \
  }
MULTIPLY_WARPGROUP(multiply_warpgroup_bf16, "bf16")
MULTIPLY_WARPGROUP(multiply_warpgroup_f16, "f16")

// ---- sm_90: barriers for transactions, which count who arrives and the bytes that land --------

// One thread makes a barrier for so many arrivals in each of its turns, and shows it to the copy
// engine; a __syncthreads() shows it to the others.
DEVICE void barrier_init(u64* barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
DEVICE void barrier_show() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(u64* barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and has the turn wait for `bytes` more.
DEVICE void barrier_expect(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes) : "memory");
}
// Waits until the turn of this parity is over: of 0 the first, of 1 the second, and so on. Of a
// new barrier that of parity 1 is.
DEVICE void barrier_wait(u64* barrier, u32 parity) {
  asm volatile(
      "{.reg .pred over; again_%=: mbarrier.try_wait.parity.shared.b64 over, [%0], %1; "
      "@!over bra again_%=;}" ::"r"(shared_address(barrier)), "r"(parity) : "memory");
}
// Copies to shared memory and tells the barrier; a multiple of 16 bytes, from one.
DEVICE void copy_bulk(void* to, const void* from, u32 bytes, u64* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier)) : "memory");
}
#endif
#endif
