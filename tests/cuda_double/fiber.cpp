// Switching between stacks, with what AddressSanitizer and ThreadSanitizer want to know of it.
//
// For ThreadSanitizer this file and the scheduler are built without it and with
// -DWATCH_RACES, and the kernels with it: then every CUDA thread is one of its fibers, and only
// barriers order memory.
#include "fiber.h"

#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#if defined(WATCH_RACES)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

#if !defined(__x86_64__)
#error "the emulator switches stacks in x86-64 code"
#endif

// Puts the registers that a call preserves on the old stack, and takes them from the new one.
extern "C" void emulator_switch(void** old_pointer, void* new_pointer);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret
.size emulator_switch,.-emulator_switch
)");

namespace emulator {
namespace {

struct Host {
  void* stack_pointer = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
#endif
#if defined(WATCH_RACES)
  void* fiber = nullptr;
#endif
};
thread_local Host host;
thread_local void (*body_of_next)();

void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &host.bottom, &host.size);
#endif
  body_of_next();
  abort();
}

}  // namespace

void Fiber::begin(unsigned char* memory, void (*body)()) {
  stack = memory;
#if defined(__SANITIZE_ADDRESS__)
  // The fiber before left its frames as they were.
  ASAN_UNPOISON_MEMORY_REGION(memory, STACK_BYTES);
#endif
  body_of_next = body;
  // At its first instruction a function finds the stack 8 bytes off a multiple of 16.
  void** top = reinterpret_cast<void**>(memory + STACK_BYTES) - 3;
  *--top = reinterpret_cast<void*>(&enter);
  stack_pointer = top - 6;
#if defined(WATCH_RACES)
  if (!sanitizer_state) sanitizer_state = __tsan_create_fiber(0);
#endif
}

void Fiber::resume() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&host.fake_stack, stack, STACK_BYTES);
#endif
#if defined(WATCH_RACES)
  host.fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(sanitizer_state, __tsan_switch_to_fiber_no_sync);
#endif
  emulator_switch(&host.stack_pointer, stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(host.fake_stack, nullptr, nullptr);
#endif
}

void Fiber::to_host(bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack, host.bottom, host.size);
#endif
#if defined(WATCH_RACES)
  __tsan_switch_to_fiber(host.fiber, __tsan_switch_to_fiber_no_sync);
#endif
  emulator_switch(&stack_pointer, host.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, &host.bottom, &host.size);
#endif
  (void)for_good;
}

void Fiber::suspend() { to_host(false); }

void Fiber::leave() {
  to_host(true);
  abort();
}

#if defined(WATCH_RACES)
void give(void* at) { __tsan_release(at); }
void take(void* at) { __tsan_acquire(at); }
void watch_accesses(bool on) {
  if (on) {
    AnnotateIgnoreReadsEnd("", 0);
    AnnotateIgnoreWritesEnd("", 0);
  } else {
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
  }
}
#else
void give(void*) {}
void take(void*) {}
void watch_accesses(bool) {}
#endif

}  // namespace emulator
