// The emulated machine: blocks of threads that meet at barriers and warp operations.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fiber.h"

namespace emulator {

struct Index {
  uint32_t x = 1, y = 1, z = 1;
};

// Where threads wait for each other.
enum class Meeting : uint32_t { none, shuffle, vote, syncwarp, matrix, block, transaction };

struct Thread {
  Index index;
  uint32_t number = 0;
  enum { ready, waiting, done } state = ready;
  Meeting meeting = Meeting::none;
  // What the thread brings to a meeting; lies on its own stack.
  void* brought = nullptr;
  // Asynchronous copies that were issued and have not landed, oldest first, and how many of
  // them each closed group holds.
  struct Copy {
    void* to;
    const void* from;
    uint32_t bytes;
  };
  std::vector<Copy> copies;
  std::vector<size_t> groups;
  // Products of this thread's warpgroup that were begun and are not waited for, likewise.
  struct Product {
    float* sums;
    const uint16_t *a, *b;
    uint32_t part;
    bool more;
    // The number that 16 bits of a factor are.
    float (*wide)(uint16_t);
  };
  std::vector<Product> products;
  std::vector<size_t> product_groups;
  Fiber fiber;

  uint32_t lane() const { return number & 31; }
};

struct Place {
  Index block, threads, blocks;
};

// Of the host's thread; kernels ask for them all the time.
extern __thread Thread* current_thread;
extern __thread Place* current_place;
inline Thread& self() { return *current_thread; }
inline const Place& place() { return *current_place; }
unsigned char* shared_memory();
// Whether n bytes lie within the block's shared memory.
bool is_shared(const void* at, size_t n);
// Ends the kernel with an error.
[[noreturn]] void fail(const std::string& what);

void meet_block();

// Copies of a block that complete a barrier for transactions, and have not landed.
struct BulkCopy {
  void* to;
  const void* from;
  uint32_t bytes;
  void* barrier;
};
std::vector<BulkCopy>& bulk_copies();
// Sleeps until somebody calls wake_sleepers().
void sleep_for_transaction();
void wake_sleepers();

// Waits until all lanes of `mask` are here; the last one runs act(what each brought, mask).
typedef void (*Act)(void* const* lanes, uint32_t mask);
void meet_warp(uint32_t mask, Meeting meeting, void* brought, Act act);

struct Kernel {
  void (*call)(void** arguments);
  uint32_t most_threads;
  std::vector<uint32_t> argument_sizes;
};
bool export_kernel(const char* name, Kernel kernel);
const Kernel* find_kernel(const std::string& name);

template <class... A> std::vector<uint32_t> sizes_of(void (*)(A...)) {
  return {uint32_t(sizeof(A))...};
}
template <auto F> struct Invoke;
template <class... A, void (*F)(A...)> struct Invoke<F> {
  template <size_t... I> static void spread(void** arguments, std::index_sequence<I...>) {
    F(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
  }
  static void call(void** arguments) { spread(arguments, std::index_sequence_for<A...>()); }
};

struct Launch {
  Index blocks, threads;
  size_t shared_bytes = 0;
  void** arguments = nullptr;
  // Order of threads and blocks: 0 ascending, 1 descending, else shuffled by this number.
  uint32_t schedule = 0;
  // Threads of the host that run blocks.
  uint32_t workers = 1;
};
constexpr size_t MOST_SHARED = 227 << 10;

// Runs a kernel to its end. Empty, or what went wrong.
std::string run(const Kernel& kernel, const Launch& launch);

}  // namespace emulator
