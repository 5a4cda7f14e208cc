// Memory of the devices, with poison inside and a guard around, and the numbers that tests set.
#include "devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <iterator>

namespace double_ {
namespace {

constexpr size_t GUARD = 256;
constexpr unsigned char GUARD_BYTE = 0xa5;

struct All {
  Device devices[MOST_DEVICES];
  std::mutex lock;
  std::map<std::string, long long> numbers;

  All() {
    for (int i = 0; i < MOST_DEVICES; ++i) devices[i].ordinal = i;
    const char* text = getenv("CUDA_DOUBLE");
    std::string rest = text ? text : "";
    while (!rest.empty()) {
      const size_t end = rest.find(' ');
      const std::string word = rest.substr(0, end);
      rest = end == std::string::npos ? "" : rest.substr(end + 1);
      const size_t dot = word.find('.'), is = word.find('=');
      if (is == std::string::npos) continue;
      const long long value = atoll(word.c_str() + is + 1);
      if (dot == std::string::npos) {
        numbers[word.substr(0, is)] = value;
      } else {
        const int at = atoi(word.c_str());
        if (at >= 0 && at < MOST_DEVICES) devices[at].numbers[word.substr(dot + 1, is - dot - 1)] = value;
      }
    }
  }
};
All& all() {
  static All* const the = new All;
  return *the;
}

unsigned char* bytes_at(Address at) { return reinterpret_cast<unsigned char*>(at); }

bool guards_are_whole(Address at, size_t bytes) {
  const unsigned char* first = bytes_at(at);
  for (size_t i = 0; i < GUARD; ++i)
    if (first[-1 - long(i)] != GUARD_BYTE || first[bytes + i] != GUARD_BYTE) return false;
  return true;
}

}  // namespace

bool is_sticky(int code) {
  return code == 700 || code == 702 || code == 710 || (code >= 714 && code <= 719) || code == 999;
}

Device& device(int ordinal) {
  if (ordinal < 0 || ordinal >= MOST_DEVICES) {
    fprintf(stderr, "no emulated device has number %d: raise MOST_DEVICES\n", ordinal);
    abort();
  }
  return all().devices[ordinal];
}

long long of_all(const std::string& key, long long otherwise) {
  std::lock_guard<std::mutex> held(all().lock);
  auto it = all().numbers.find(key);
  return it == all().numbers.end() ? otherwise : it->second;
}

std::vector<int> visible() {
  const int count = int(of_all("devices", MOST_DEVICES));
  std::vector<int> list;
  const char* text = getenv("CUDA_VISIBLE_DEVICES");
  if (!text) {
    for (int i = 0; i < count; ++i) list.push_back(i);
    return list;
  }
  for (;;) {
    char* end;
    const long index = strtol(text, &end, 10);
    if (end == text || index < 0 || index >= count) return list;
    for (int earlier : list)
      if (earlier == index) return {};
    list.push_back(int(index));
    if (*end != ',') return list;
    text = end + 1;
  }
}

long long Device::number(const std::string& key, long long otherwise) {
  std::lock_guard<std::mutex> held(lock);
  auto it = numbers.find(key);
  return it == numbers.end() ? otherwise : it->second;
}

bool Device::is_due(const char* key) {
  std::lock_guard<std::mutex> held(lock);
  auto it = numbers.find(key);
  if (it == numbers.end() || it->second <= 0) return false;
  return --it->second == 0;
}

int Device::allocate(Address* to, size_t bytes) {
  if (!bytes) return INVALID_VALUE;
  const bool due = is_due("fail_alloc_at");
  const long long most = number("fail_alloc_above", -1);
  const size_t memory = size_t(number("memory", 1ll << 30));
  std::lock_guard<std::mutex> held(lock);
  long long& used = numbers["used"];
  if (due || (most >= 0 && bytes > size_t(most)) || bytes > memory - size_t(used)) return OUT_OF_MEMORY;
  const size_t whole = (bytes + 2 * GUARD + 255) / 256 * 256;
  auto* base = static_cast<unsigned char*>(aligned_alloc(256, whole));
  if (!base) return OUT_OF_MEMORY;
  memset(base, GUARD_BYTE, whole);
  // Memory of a device is not cleared: NaN, and indices that lead nowhere.
  memset(base + GUARD, 0xff, bytes);
  *to = Address(base + GUARD);
  live[*to] = bytes;
  used += (long long)bytes;
  if (used > numbers["peak"]) numbers["peak"] = used;
  ++numbers["allocs"];
  ++numbers["live"];
  return SUCCESS;
}

int Device::release(Address at) {
  std::lock_guard<std::mutex> held(lock);
  auto it = live.find(at);
  if (it == live.end()) return INVALID_VALUE;
  const bool whole = guards_are_whole(at, it->second);
  numbers["used"] -= (long long)it->second;
  --numbers["live"];
  live.erase(it);
  free(bytes_at(at) - GUARD);
  return whole ? SUCCESS : ILLEGAL_ADDRESS;
}

bool Device::holds(Address at, size_t bytes) {
  std::lock_guard<std::mutex> held(lock);
  auto it = live.upper_bound(at);
  if (it == live.begin()) return false;
  --it;
  return at - it->first <= it->second && bytes <= it->second - (at - it->first);
}

Address Device::base(Address at) {
  std::lock_guard<std::mutex> held(lock);
  auto it = live.upper_bound(at);
  if (it == live.begin()) return 0;
  --it;
  return at - it->first <= it->second ? it->first : 0;
}

bool Device::is_pinned(Address at) {
  std::lock_guard<std::mutex> held(lock);
  auto it = pinned.upper_bound(at);
  return it != pinned.begin() && at - std::prev(it)->first < std::prev(it)->second;
}

std::string Device::overrun() {
  std::lock_guard<std::mutex> held(lock);
  for (auto& [at, bytes] : live)
    if (!guards_are_whole(at, bytes)) return "a write outside an allocation of " + std::to_string(bytes) + " bytes";
  return "";
}

}  // namespace double_

extern "C" void cuda_double_set(int device, const char* key, long long value) {
  using namespace double_;
  if (device < 0) {
    std::lock_guard<std::mutex> held(all().lock);
    all().numbers[key] = value;
  } else {
    Device& one = double_::device(device);
    std::lock_guard<std::mutex> held(one.lock);
    one.numbers[key] = value;
  }
}

extern "C" long long cuda_double_get(int device, const char* key) {
  return device < 0 ? double_::of_all(key, 0) : double_::device(device).number(key, 0);
}
