// The scheduler: runs the threads of a block in some order until all are done, or until none
// can go on.
#include "machine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <atomic>
#include <map>
#include <memory>
#include <thread>

#include "traffic.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {
namespace {

constexpr uint32_t MOST_THREADS = 1024;
constexpr size_t GUARD = 4096;

std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

// Lanes that wait for the others of their mask.
struct Gathering {
  uint32_t mask = 0, arrived = 0;
  Meeting meeting = Meeting::none;
  Act act = nullptr;
};

// A place where one block at a time runs.
struct Multiprocessor {
  std::vector<Thread> threads{MOST_THREADS};
  Gathering gatherings[32][4];
  unsigned char *stacks, *shared;
  Place place;
  uint32_t count = 0, alive = 0, at_barrier = 0;
  size_t shared_bytes = 0;
  std::vector<BulkCopy> bulk;
  const Kernel* kernel = nullptr;
  void** arguments = nullptr;
  std::string error;
  char started = 0, ended = 0;

  Multiprocessor() {
    void* memory = mmap(nullptr, MOST_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    stacks = static_cast<unsigned char*>(memory);
    shared = static_cast<unsigned char*>(aligned_alloc(1024, MOST_SHARED + GUARD + 1024));
  }
  ~Multiprocessor() {
    munmap(stacks, MOST_THREADS * STACK_BYTES);
    free(shared);
  }
};
thread_local Multiprocessor* sm;

void thread_body() {
  take(&sm->started);
  sm->kernel->call(sm->arguments);
  give(&sm->ended);
  Thread& me = *current_thread;
  if (!me.copies.empty()) fail("a thread ends while its copies are under way");
  if (!me.products.empty()) fail("a thread ends while its products are under way");
  me.state = Thread::done;
  --sm->alive;
  me.fiber.leave();
}

void wait_at(Meeting meeting) {
  Thread& me = *current_thread;
  me.state = Thread::waiting;
  me.meeting = meeting;
  me.fiber.suspend();
}

const char* name_of(Meeting meeting) {
  static const char* const names[] = {"nothing",      "a shuffle",     "a vote",
                                      "__syncwarp()", "a matrix load", "__syncthreads()",
                                      "a barrier for transactions"};
  return names[uint32_t(meeting)];
}

std::string stuck() {
  std::string text = "deadlock";
  uint32_t done = 0, waiting[8] = {};
  for (uint32_t i = 0; i < sm->count; ++i) {
    const Thread& t = sm->threads[i];
    t.state == Thread::done ? ++done : ++waiting[uint32_t(t.meeting)];
  }
  for (uint32_t m = 1; m < 8; ++m)
    if (waiting[m])
      text += ", " + std::to_string(waiting[m]) + " threads at " + name_of(Meeting(m));
  return text + ", " + std::to_string(done) + " done";
}

uint32_t mixed(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// The i-th of `count`, in the order of a schedule.
uint32_t in_order(uint32_t i, uint32_t count, uint32_t schedule, uint32_t salt) {
  if (schedule == 0) return i;
  if (schedule == 1) return count - 1 - i;
  // A step that has no divisor in common with the count visits everything.
  uint32_t step = mixed(schedule + 31 * salt) % count | 1;
  auto gcd = [](uint32_t a, uint32_t b) {
    while (b) {
      const uint32_t rest = a % b;
      a = b, b = rest;
    }
    return a;
  };
  while (gcd(step, count) != 1) step += 2;
  return uint32_t((uint64_t(i) * step + mixed(schedule * 7 + salt)) % count);
}

void prepare_shared(size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(sm->shared, MOST_SHARED + GUARD);
#endif
  // NaN in every format: what was never written shows.
  memset(sm->shared, 0xff, bytes + GUARD);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(sm->shared + bytes, MOST_SHARED + GUARD - bytes);
#endif
}

bool guard_is_whole() {
#if !defined(__SANITIZE_ADDRESS__)
  for (size_t i = 0; i < GUARD; ++i)
    if (sm->shared[sm->shared_bytes + i] != 0xff) return false;
#endif
  return true;
}

void run_block(uint32_t schedule) {
  prepare_shared(sm->shared_bytes);
  for (auto& warp : sm->gatherings)
    for (auto& gathering : warp) gathering = Gathering();
  sm->at_barrier = 0;
  sm->alive = sm->count;
  sm->bulk.clear();
  traffic::begin_block();
  give(&sm->started);
  const Index size = sm->place.threads;
  for (uint32_t i = 0; i < sm->count; ++i) {
    Thread& t = sm->threads[i];
    t.number = i;
    t.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    t.state = Thread::ready;
    t.copies.clear();
    t.groups.clear();
    t.products.clear();
    t.product_groups.clear();
    t.fiber.begin(sm->stacks + i * STACK_BYTES, thread_body);
  }
  const uint32_t warps = (sm->count + 31) / 32;
  while (sm->alive) {
    bool moved = false;
    for (uint32_t i = 0; i < warps; ++i) {
      const uint32_t warp = in_order(i, warps, schedule, sm->place.block.x);
      // A warp runs until none of its lanes can: warps drift apart as far as barriers let them.
      for (bool again = true; again;) {
        again = false;
        for (uint32_t l = 0; l < 32; ++l) {
          const uint32_t number = warp * 32 + in_order(l, 32, schedule, warp);
          if (number >= sm->count || sm->threads[number].state != Thread::ready) continue;
          current_thread = &sm->threads[number];
          current_thread->fiber.resume();
          if (!sm->error.empty()) return;
          again = moved = true;
        }
      }
    }
    if (!moved) {
      sm->error = stuck();
      return;
    }
  }
  take(&sm->ended);
  if (!sm->bulk.empty()) sm->error = "a block ends while its copies are under way";
  if (!guard_is_whole()) sm->error = "a write behind the end of shared memory";
}

}  // namespace

__thread Thread* current_thread;
__thread Place* current_place;
unsigned char* shared_memory() { return sm->shared; }

bool is_shared(const void* at, size_t n) {
  auto* first = static_cast<const unsigned char*>(at);
  return first >= sm->shared && first + n <= sm->shared + sm->shared_bytes;
}

void fail(const std::string& what) {
  const Index b = sm->place.block;
  sm->error = what + " (block " + std::to_string(b.x) + "," + std::to_string(b.y) + ", thread " +
              std::to_string(current_thread->number) + ")";
  current_thread->fiber.leave();
}

void meet_block() {
  give(&sm->at_barrier);
  if (++sm->at_barrier < sm->count) {
    wait_at(Meeting::block);
    take(&sm->at_barrier);
    return;
  }
  take(&sm->at_barrier);
  sm->at_barrier = 0;
  for (uint32_t i = 0; i < sm->count; ++i) {
    Thread& t = sm->threads[i];
    if (t.state == Thread::waiting && t.meeting == Meeting::block) t.state = Thread::ready;
  }
}

std::vector<BulkCopy>& bulk_copies() { return sm->bulk; }
void sleep_for_transaction() { wait_at(Meeting::transaction); }
void wake_sleepers() {
  for (uint32_t i = 0; i < sm->count; ++i) {
    Thread& t = sm->threads[i];
    if (t.state == Thread::waiting && t.meeting == Meeting::transaction) t.state = Thread::ready;
  }
}

void meet_warp(uint32_t mask, Meeting meeting, void* brought, Act act) {
  Thread& me = *current_thread;
  const uint32_t warp = me.number / 32, width = sm->count - warp * 32;
  if (width < 32) mask &= (1u << width) - 1;
  if (!(mask >> me.lane() & 1)) fail(std::string(name_of(meeting)) + " without its own lane");
  Gathering *found = nullptr, *free_one = nullptr;
  for (auto& g : sm->gatherings[warp]) {
    if (!g.arrived) free_one = &g;
    else if (g.mask == mask) found = &g;
    else if (g.mask & mask) fail(std::string("lanes wait under two masks at ") + name_of(meeting));
  }
  if (!found) {
    if (!free_one) fail("more than four masks are waited for in one warp");
    found = free_one;
    *found = {mask, 0, meeting, act};
  }
  if (found->meeting != meeting || found->act != act)
    fail(std::string("lanes of one mask meet at ") + name_of(found->meeting) + " and at " +
         name_of(meeting));
  me.brought = brought;
  found->arrived |= 1u << me.lane();
  // Shuffles and votes do not order memory; __syncwarp does.
  const bool orders = meeting == Meeting::syncwarp;
  if (orders) give(found);
  if (found->arrived != mask) {
    wait_at(meeting);
    if (orders) take(found);
    return;
  }
  if (orders) take(found);
  void* lanes[32] = {};
  Thread* first = &sm->threads[warp * 32];
  for (uint32_t i = 0; i < 32; ++i)
    if (mask >> i & 1) lanes[i] = first[i].brought;
  found->arrived = 0;
  watch_accesses(false);
  act(lanes, mask);
  watch_accesses(true);
  for (uint32_t i = 0; i < 32; ++i)
    if (mask >> i & 1) first[i].state = Thread::ready;
}

bool export_kernel(const char* name, Kernel kernel) {
  kernels()[name] = std::move(kernel);
  return true;
}

const Kernel* find_kernel(const std::string& name) {
  auto it = kernels().find(name);
  return it == kernels().end() ? nullptr : &it->second;
}

std::string run(const Kernel& kernel, const Launch& launch) {
  const Index grid = launch.blocks;
  const uint64_t total = uint64_t(grid.x) * grid.y * grid.z;
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::vector<std::string> errors(launch.workers ? launch.workers : 1);
  auto work = [&](uint32_t worker) {
    static thread_local std::unique_ptr<Multiprocessor> own;
    if (!own) own = std::make_unique<Multiprocessor>();
    sm = own.get();
    sm->error.clear();
    current_place = &sm->place;
    sm->kernel = &kernel;
    sm->arguments = launch.arguments;
    sm->shared_bytes = launch.shared_bytes;
    sm->count = launch.threads.x * launch.threads.y * launch.threads.z;
    sm->place.threads = launch.threads;
    sm->place.blocks = grid;
    for (uint64_t i; !failed && (i = next++) < total;) {
      const uint64_t b = in_order(uint32_t(i), uint32_t(total), launch.schedule, 0);
      sm->place.block = {uint32_t(b % grid.x), uint32_t(b / grid.x % grid.y),
                         uint32_t(b / grid.x / grid.y)};
      run_block(launch.schedule);
      if (!sm->error.empty()) errors[worker] = sm->error, failed = true;
    }
  };
  if (errors.size() == 1 || total == 1) {
    work(0);
  } else {
    std::vector<std::thread> workers;
    for (uint32_t i = 0; i < errors.size(); ++i) workers.emplace_back(work, i);
    for (auto& worker : workers) worker.join();
  }
  for (auto& error : errors)
    if (!error.empty()) return error;
  return "";
}

}  // namespace emulator
