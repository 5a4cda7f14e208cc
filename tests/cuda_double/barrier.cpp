// Barriers for transactions: they count who arrives and the bytes that land. Copies land when their
// barrier is waited for. A race detector is told of arrivals and waits, and sees nothing else here.
#include <string.h>

#include "emulator.h"
#include "tensor.h"

namespace {
using namespace emulator;

// What a barrier is in shared memory.
struct Transactions {
  uint8_t expected, pending;
  uint16_t phase;
  int32_t bytes;
};
static_assert(sizeof(Transactions) == 8, "a barrier is 8 bytes");

Transactions* transactions(u64* barrier) {
  if (uintptr_t(barrier) % 8 || !is_shared(barrier, 8)) fail("a barrier outside shared memory");
  return reinterpret_cast<Transactions*>(barrier);
}

void turn(Transactions* t) {
  if (t->pending || t->bytes) return;
  ++t->phase;
  t->pending = t->expected;
  wake_sleepers();
}

// Lands the copies that this barrier counts; whether there were any.
bool land(Transactions* t) {
  auto& copies = bulk_copies();
  bool landed = false;
  watch_accesses(false);
  for (size_t i = 0; i < copies.size();) {
    const BulkCopy copy = copies[i];
    if (copy.barrier != t) {
      ++i;
      continue;
    }
    memcpy(copy.to, copy.from, copy.bytes);
    t->bytes -= int32_t(copy.bytes);
    copies.erase(copies.begin() + long(i));
    landed = true;
  }
  watch_accesses(true);
  return landed;
}
}  // namespace

void barrier_init(u64* barrier, u32 arrivals) {
  *transactions(barrier) = {uint8_t(arrivals), uint8_t(arrivals), 0, 0};
}

void barrier_arrive(u64* barrier) {
  Transactions* t = transactions(barrier);
  give(barrier);
  if (!t->pending) fail("more arrive at a barrier than it waits for");
  --t->pending;
  turn(t);
}

void barrier_expect(u64* barrier, u32 bytes) {
  transactions(barrier)->bytes += int32_t(bytes);
  barrier_arrive(barrier);
}

void barrier_wait(u64* barrier, u32 parity) {
  Transactions* t = transactions(barrier);
  while ((t->phase & 1) == (parity & 1)) {
    if (land(t)) turn(t);
    else sleep_for_transaction();
  }
  take(barrier);
}

void copy_bulk(void* to, const void* from, u32 bytes, u64* barrier) {
  if ((uintptr_t(to) | uintptr_t(from) | bytes) % 16) fail("a bulk copy off its alignment");
  if (!is_shared(to, bytes)) fail("a bulk copy outside shared memory");
  traffic::copied(from, bytes);
  // Who reads before the barrier turns reads NaN.
  watch_accesses(false);
  memset(to, 0xff, bytes);
  bulk_copies().push_back({to, from, bytes, transactions(barrier)});
  watch_accesses(true);
  wake_sleepers();
}
