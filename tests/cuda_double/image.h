// The "machine code" that the stand-in of NVRTC makes and that of the driver loads: a text with
// the architecture and the names of kernels, which are looked up among those of the emulator.
//
//   EMULATED-CUBIN <sum of the rest> <bytes of the rest>\nsm_90a\nname\nname\n
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <string>

namespace image {

constexpr const char* MAGIC = "EMULATED-CUBIN ";

inline uint32_t sum_of(const std::string& text) {
  uint32_t sum = 2166136261u;
  for (unsigned char c : text) sum = (sum ^ c) * 16777619u;
  return sum;
}

inline std::string pack(const std::string& rest) {
  char head[64];
  snprintf(head, sizeof head, "%s%08x %08zx\n", MAGIC, sum_of(rest), rest.size());
  return head + rest;
}

// The rest, or "" for what is no image.
inline std::string unpack(const void* data) {
  const char* text = static_cast<const char*>(data);
  if (strncmp(text, MAGIC, strlen(MAGIC))) return "";
  uint32_t sum;
  size_t bytes;
  if (sscanf(text + strlen(MAGIC), "%8x %8zx", &sum, &bytes) != 2) return "";
  const std::string rest(text + strlen(MAGIC) + 18, strnlen(text + strlen(MAGIC) + 18, bytes));
  return rest.size() == bytes && sum_of(rest) == sum ? rest : "";
}

}  // namespace image
