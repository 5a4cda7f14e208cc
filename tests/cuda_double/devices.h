// The devices of the stand-in, and what a test makes of them.
//
// A test sets numbers by device and key, from its own process with cuda_double_set(), or for
// another process with the variable CUDA_DOUBLE: `devices=2 init=100 0.fail_alloc_at=7`.
//
//   devices            how many there are (of all, so without a device)
//   init               what cuInit returns (of all)
//   driver             version of the driver's API, 13000 (of all)
//   memory             bytes of a device, 1 GiB
//   major, minor       compute capability, 9.0
//   uuid               the same for each process that is to see the same device
//   mode               who may use it: 0 everybody, 2 nobody, 3 another process
//   pools              whether there are memory pools, 1
//   fail_alloc_at      the n-th allocation from here on does not get its memory
//   fail_alloc_above   nor do those of more bytes
//   fail_launch_at     the n-th launch from here on fails ...
//   fail_launch_code   ... with this error, 719
//   fail_call_at, fail_call_code   the same for any call that touches the device
//   ignore_wait_at     the n-th wait for an event is none
//   sticky             an error that every call returns from now on
//   schedule           order of threads and blocks
//   workers            threads that run blocks
//
// Which devices there are, and their numbers, is also up to CUDA_VISIBLE_DEVICES; it names them by
// index alone.
//
// Numbers to read: allocs, live, used, peak, launches, loads, and pinned, the allocations of the
// host's memory that are there.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace double_ {

enum Result : int {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  DEVICE_UNAVAILABLE = 46,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY = 209,
  NOT_FOUND = 500,
  ILLEGAL_ADDRESS = 700,
  OUT_OF_RESOURCES = 701,
  LAUNCH_FAILED = 719,
};

// Whether an error leaves its context of no use.
bool is_sticky(int code);

typedef uint64_t Address;

struct Device {
  std::mutex lock;
  int ordinal = 0;
  std::map<Address, size_t> live;
  // Memory of the host that is pinned.
  std::map<Address, size_t> pinned;
  std::map<std::string, long long> numbers;

  long long number(const std::string& key, long long otherwise);
  // Counts down `key`; true when it gets to 0.
  bool is_due(const char* key);
  int allocate(Address* to, size_t bytes);
  int release(Address at);
  // The start of the allocation that `at` is in, or 0.
  Address base(Address at);
  // Whether the range lies within one allocation.
  bool holds(Address at, size_t bytes);
  bool is_pinned(Address at);
  // The first allocation with a write before its start or behind its end, or "".
  std::string overrun();
};

// Every test has some of its own.
constexpr int MOST_DEVICES = 1024;
Device& device(int ordinal);
// The devices, in their order.
std::vector<int> visible();
long long of_all(const std::string& key, long long otherwise);

}  // namespace double_

extern "C" {
// device -1: of all.
void cuda_double_set(int device, const char* key, long long value);
long long cuda_double_get(int device, const char* key);
}
