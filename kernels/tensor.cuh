// Tensor cores and asynchronous copies (sm_80 and later), as thin wrappers around PTX. Their twins
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
// d += a . b, of 16 x 16 and 16 x 8 bf16, in f32.
DEVICE void multiply_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif
