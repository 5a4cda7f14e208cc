#include "streams.h"

#include <string.h>

#include <deque>

namespace double_ {
namespace {

struct Copy {
  // Its number among the work of its stream.
  uint64_t at;
  Device* device;
  Address to;
  const void* from;
  size_t bytes;
};
// What comes to the host was read when the copy was given.
struct Landing {
  uint64_t at;
  void* to;
  std::vector<unsigned char> bytes;
};

struct Order {
  std::mutex lock;
  size_t streams = 0;
  // What the host has waited for.
  Clock host;
  std::map<size_t, std::deque<Copy>> copies;
  std::map<size_t, std::deque<Landing>> landings;
  // The last work of each stream that touched an allocation.
  std::map<Address, Clock> touched;
  // The last copy out of memory of the host: its stream, and its number there.
  std::map<const void*, std::pair<size_t, uint64_t>> copied;
};
Order& order() {
  static Order* const the = new Order;
  return *the;
}
typedef std::lock_guard<std::mutex> Held;

void join(Clock& to, const Clock& from) {
  if (to.size() < from.size()) to.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i)
    if (from[i] > to[i]) to[i] = from[i];
}
uint64_t of(const Clock& clock, size_t stream) { return stream < clock.size() ? clock[stream] : 0; }

void land_copies(size_t stream, uint64_t up_to) {
  auto& copies = order().copies[stream];
  for (; !copies.empty() && copies.front().at <= up_to; copies.pop_front()) {
    const Copy& copy = copies.front();
    if (copy.device->holds(copy.to, copy.bytes)) memcpy(reinterpret_cast<void*>(copy.to), copy.from, copy.bytes);
  }
}
void land_on_host(size_t stream, uint64_t up_to) {
  land_copies(stream, up_to);
  auto& landings = order().landings[stream];
  for (; !landings.empty() && landings.front().at <= up_to; landings.pop_front())
    memcpy(landings.front().to, landings.front().bytes.data(), landings.front().bytes.size());
}

uint64_t next(Stream* stream) {
  join(stream->known, order().host);
  return ++stream->known[stream->number];
}

std::string compare(const Clock& known, Address at, size_t own) {
  const Clock& last = order().touched[at];
  for (size_t other = 0; other < last.size(); ++other)
    if (other != own && last[other] > of(known, other)) return "streams that do not wait for each other";
  return "";
}

}  // namespace

Stream* new_stream(Device* device) {
  Held held(order().lock);
  const size_t number = order().streams++;
  return new Stream{device, number, Clock(number + 1)};
}

void work(Stream* stream) {
  Held held(order().lock);
  land_copies(stream->number, next(stream));
}

std::string touch(Stream* stream, Address at) {
  const Address base = stream->device->base(at);
  if (!base) return "";
  Held held(order().lock);
  const std::string wrong = compare(stream->known, base, stream->number);
  Clock& last = order().touched[base];
  if (last.size() <= stream->number) last.resize(stream->number + 1);
  last[stream->number] = stream->known[stream->number];
  return wrong;
}

std::string free_by_host(Address at) {
  Held held(order().lock);
  const std::string wrong = compare(order().host, at, SIZE_MAX);
  order().touched.erase(at);
  return wrong;
}

void forget(Address at) {
  Held held(order().lock);
  order().touched.erase(at);
}

std::string copy_later(Stream* stream, Address to, const void* from, size_t bytes) {
  Held held(order().lock);
  auto& last = order().copied[from];
  const bool under_way = last.second > of(order().host, last.first);
  last = {stream->number, stream->known[stream->number]};
  order().copies[stream->number].push_back({last.second, stream->device, to, from, bytes});
  return under_way ? "the host did not wait before it wrote there again" : "";
}
void land_later(Stream* stream, void* to, const void* from, size_t bytes) {
  Held held(order().lock);
  auto* first = static_cast<const unsigned char*>(from);
  order().landings[stream->number].push_back({stream->known[stream->number], to, {first, first + bytes}});
}

void record(Event* event, const Stream* stream) {
  Held held(order().lock);
  event->known = stream->known;
  event->stream = stream->number;
}
void wait(Stream* stream, const Event* event) {
  Held held(order().lock);
  join(stream->known, event->known);
  for (size_t other = 0; other < event->known.size(); ++other)
    if (other != stream->number) land_copies(other, event->known[other]);
}
void wait_on_host(const Event* event) {
  Held held(order().lock);
  join(order().host, event->known);
  land_on_host(event->stream, of(event->known, event->stream));
}
void wait_on_host(const Stream* stream) {
  Held held(order().lock);
  join(order().host, stream->known);
  land_on_host(stream->number, stream->known[stream->number]);
}
void forget_pinned(const void* at) {
  Held held(order().lock);
  order().copied.erase(at);
}
void forget(const Stream* stream) {
  Held held(order().lock);
  order().copies[stream->number].clear();
  order().landings[stream->number].clear();
}

}  // namespace double_
