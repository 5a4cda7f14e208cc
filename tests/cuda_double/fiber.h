// Stacks that take turns on one thread of the host: a CUDA thread is one of them.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace emulator {

constexpr size_t STACK_BYTES = 64 << 10;

class Fiber {
 public:
  // Makes the next resume() call body(), which must end in leave().
  void begin(unsigned char* stack, void (*body)());
  // Runs the fiber until it suspends or leaves.
  void resume();
  // Gives control back to whoever resumed. From within only.
  void suspend();
  // As suspend, for good: nothing on the stack is used again, and no destructor runs.
  [[noreturn]] void leave();

 private:
  void to_host(bool for_good);
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;
  void* sanitizer_state = nullptr;
};

// What one fiber did before give() another sees after take(), as across a barrier. Only a race
// detector asks.
void give(void* at);
void take(void* at);
// Whether accesses are looked at by a race detector from here on.
void watch_accesses(bool on);

}  // namespace emulator
