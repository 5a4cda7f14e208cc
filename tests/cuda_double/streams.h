// Streams and events of the stand-in: what is done before what, and copies that land late.
//
// Work is done when it is given, but for two kinds of copies. One to the host lands when the host
// waits for it. One to the device out of pinned memory lands when its stream, or one that waits for
// it, goes on: until then work that does not wait sees what was there before, and what the host
// writes over is lost.
//
// Each stream counts its work and knows how much of the others' is done before its next. Where two
// streams touch an allocation without that knowledge the device breaks down, in whatever order they
// happened to come.
#pragma once
#include <stddef.h>

#include <string>

#include "devices.h"

namespace double_ {

// How much of each stream's work is done, by number of the stream.
typedef std::vector<uint64_t> Clock;

struct Stream {
  Device* device;
  size_t number;
  Clock known;
};
struct Event {
  // Of the work before it, which is of this stream last.
  Clock known;
  size_t stream = 0;
  // When it was recorded.
  double milliseconds = 0;
};

Stream* new_stream(Device* device);
// Work of `stream` begins: what was copied before it lands.
void work(Stream* stream);
// Work touches the allocation that `at` is in. What is wrong with that, or "".
std::string touch(Stream* stream, Address at);
// The host frees an allocation. What is wrong with that, or "".
std::string free_by_host(Address at);
// A stream has freed it.
void forget(Address at);
// A copy out of pinned memory that is work of `stream`. What is wrong with it, or "": the host
// fills such memory anew for each copy, and has waited for the last one by then.
std::string copy_later(Stream* stream, Address to, const void* from, size_t bytes);
// What stands there on the device now, to the host.
void land_later(Stream* stream, void* to, const void* from, size_t bytes);

void record(Event* event, const Stream* stream);
void wait(Stream* stream, const Event* event);
void wait_on_host(const Event* event);
void wait_on_host(const Stream* stream);
// What was waited for in vain does not come later: its memory may be gone.
void forget(const Stream* stream);
void forget_pinned(const void* at);

}  // namespace double_
