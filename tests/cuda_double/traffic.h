// What kernels move and multiply, for libraries that are built with -DCOUNT_TRAFFIC and kernels that
// are compiled to tell every access (`-fsanitize=thread`, whose calls traffic.cpp answers).
//
// Numbers of a device to read, summed over launches, KERNEL/launches and KERNEL/multiplied (pairs of
// factors that tensor cores multiply and add), and of every parameter that points to its memory:
//
//   KERNEL/0/read       bytes in sectors of 32 that loads of warps ask for. A load is one for its
//                       warp: lanes that ask for the same sector, or for parts of it, ask once
//   KERNEL/0/copied     bytes of asynchronous copies and of bulk copies
//   KERNEL/0/distinct   bytes in sectors that a launch reads or copies at all: what comes from memory
//                       where the cache holds everything
//   KERNEL/0/written    as read, of stores
//   KERNEL/0/atomics    updates
//
// The n-th time that lanes of a warp come by a place in the code is one load of the warp.
#pragma once
#include <stdint.h>

#include <string>

namespace double_ {
struct Device;
}
namespace emulator {
struct Kernel;
}

namespace traffic {
#ifdef COUNT_TRAFFIC
void begin_launch(double_::Device& device, const std::string& name, const emulator::Kernel& kernel,
                  void** arguments);
void begin_block();
void end_launch();
void copied(const void* from, uint32_t bytes);
void multiplied(uint64_t pairs);
#else
inline void begin_launch(double_::Device&, const std::string&, const emulator::Kernel&, void**) {}
inline void begin_block() {}
inline void end_launch() {}
inline void copied(const void*, uint32_t) {}
inline void multiplied(uint64_t) {}
#endif
}  // namespace traffic
