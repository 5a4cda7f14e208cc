// The counting itself. One thread of the host runs the blocks.
#include "traffic.h"

#ifdef COUNT_TRAFFIC
#include <string.h>

#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "devices.h"
#include "machine.h"

namespace traffic {
namespace {

constexpr uint64_t SECTOR = 32;

// A parameter that points to memory of the device, up to the end of the allocation.
struct Target {
  uint64_t from, end;
  std::string key;
  long long read = 0, copied = 0, distinct = 0, written = 0, atomics = 0;
};
struct Counts {
  double_::Device* device = nullptr;
  std::string name;
  std::vector<Target> targets;
  uint64_t low = ~0ull, high = 0, pairs = 0;
  // How often a thread came by a place, and the sectors that a warp asked for there, in a block.
  std::unordered_map<uint64_t, uint32_t> times;
  std::unordered_set<uint64_t> asked;
  // Sectors that the launch reads.
  std::unordered_set<uint64_t> fresh;
};
Counts counts;

// The last parameter that begins before: two may point to one allocation.
Target* target_of(uint64_t at) {
  if (at < counts.low || at >= counts.high) return nullptr;
  Target* found = nullptr;
  for (Target& t : counts.targets)
    if (t.from <= at && at < t.end && (!found || t.from > found->from)) found = &t;
  return found;
}

uint64_t mixed(uint64_t x) {
  x = (x ^ x >> 31) * 0x7fb5d329728ea185ull;
  x = (x ^ x >> 27) * 0x81dadef4bc2dd44dull;
  return x ^ x >> 33;
}

void reach(Target& target, uint64_t at, uint64_t bytes) {
  for (uint64_t s = at / SECTOR; s <= (at + bytes - 1) / SECTOR; ++s)
    if (counts.fresh.insert(s).second) target.distinct += SECTOR;
}

void access(const void* address, uint64_t bytes, bool write, const void* place) {
  const uint64_t at = uint64_t(address);
  Target* target = target_of(at);
  if (!target) return;
  const uint64_t number = emulator::self().number;
  const uint64_t time = counts.times[uint64_t(place) << 10 | number]++;
  const uint64_t load = mixed(mixed(uint64_t(place) << 5 | number / 32) + time);
  for (uint64_t s = at / SECTOR; s <= (at + bytes - 1) / SECTOR; ++s)
    if (counts.asked.insert(mixed(load + s)).second) (write ? target->written : target->read) += SECTOR;
  if (!write) reach(*target, at, bytes);
}

}  // namespace

void begin_launch(double_::Device& device, const std::string& name, const emulator::Kernel& kernel,
                  void** arguments) {
  counts = Counts();
  counts.device = &device;
  counts.name = name;
  for (size_t i = 0; i < kernel.argument_sizes.size(); ++i) {
    uint64_t at = 0;
    if (kernel.argument_sizes[i] != sizeof at) continue;
    memcpy(&at, arguments[i], sizeof at);
    const uint64_t base = device.base(at);
    if (!base) continue;
    const uint64_t end = base + device.live[base];
    counts.targets.push_back({at, end, name + "/" + std::to_string(i) + "/"});
    if (at < counts.low) counts.low = at;
    if (end > counts.high) counts.high = end;
  }
}

void begin_block() {
  counts.times.clear();
  counts.asked.clear();
}

void end_launch() {
  std::lock_guard<std::mutex> held(counts.device->lock);
  auto& numbers = counts.device->numbers;
  ++numbers[counts.name + "/launches"];
  numbers[counts.name + "/multiplied"] += (long long)counts.pairs;
  for (const Target& t : counts.targets) {
    numbers[t.key + "read"] += t.read;
    numbers[t.key + "copied"] += t.copied;
    numbers[t.key + "distinct"] += t.distinct;
    numbers[t.key + "written"] += t.written;
    numbers[t.key + "atomics"] += t.atomics;
  }
}

void copied(const void* from, uint32_t bytes) {
  Target* target = bytes ? target_of(uint64_t(from)) : nullptr;
  if (!target) return;
  target->copied += bytes;
  reach(*target, uint64_t(from), bytes);
}

void multiplied(uint64_t pairs) { counts.pairs += pairs; }

}  // namespace traffic

// What the compiler calls. Of atomic updates there are those of emulator.h.
#define PLACE __builtin_return_address(0)
#define ACCESS(bytes)                                                                             \
  void __tsan_read##bytes(void* at) { traffic::access(at, bytes, false, PLACE); }                 \
  void __tsan_write##bytes(void* at) { traffic::access(at, bytes, true, PLACE); }                 \
  void __tsan_unaligned_read##bytes(void* at) { traffic::access(at, bytes, false, PLACE); }       \
  void __tsan_unaligned_write##bytes(void* at) { traffic::access(at, bytes, true, PLACE); }
extern "C" {
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* at, unsigned long bytes) { traffic::access(at, bytes, false, PLACE); }
void __tsan_write_range(void* at, unsigned long bytes) { traffic::access(at, bytes, true, PLACE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
uint32_t __tsan_atomic32_load(const volatile uint32_t* at, int) { return *at; }
bool __tsan_atomic32_compare_exchange_strong(volatile uint32_t* at, uint32_t* expected,
                                             uint32_t desired, int, int) {
  if (traffic::Target* target = traffic::target_of(uint64_t(at))) ++target->atomics;
  return __atomic_compare_exchange_n(at, expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}
}
#endif
