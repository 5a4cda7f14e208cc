// A libcuda for tests: the calls of the driver's API that this project makes through cudarc, over
// the emulator. Memory of a device is memory of the host, and a kernel runs when it is launched.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <initializer_list>
#include <set>

#include "devices.h"
#include "image.h"
#include "machine.h"
#include "streams.h"
#include "traffic.h"

using double_::Address;
using double_::Device;
using double_::Event;
using double_::Stream;

namespace {

struct Function {
  std::string name;
  const emulator::Kernel* kernel;
  size_t most_shared = 48 << 10;
  bool told = false;
};
struct Module {
  Device* device;
  std::set<std::string> names;
  std::map<std::string, Function> functions;
};
double now() {
  timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return double(at.tv_sec) * 1e3 + double(at.tv_nsec) / 1e6;
}

thread_local Device* current;

// What a call returns that touches the device of the current context.
int begin(Device* device) {
  if (!device) return double_::INVALID_CONTEXT;
  if (const long long code = device->number("sticky", 0)) return int(code);
  if (device->is_due("fail_call_at")) {
    const int code = int(device->number("fail_call_code", double_::LAUNCH_FAILED));
    if (double_::is_sticky(code)) cuda_double_set(device->ordinal, "sticky", code);
    return code;
  }
  return double_::SUCCESS;
}
#define BEGIN(device)                        \
  if (const int code = begin(device)) {      \
    return code;                             \
  }

Stream* stream_of(void* handle) { return static_cast<Stream*>(handle); }

// Writes the kernel's name to the file that CUDA_DOUBLE_RAN names, at its first launch.
void tell(Function& function) {
  static const char* const file = getenv("CUDA_DOUBLE_RAN");
  if (!file || function.told) return;
  function.told = true;
  if (FILE* to = fopen(file, "a")) {
    fprintf(to, "%s\n", function.name.c_str());
    fclose(to);
  }
}

// What went wrong on a device is told by the call after it.
void break_down(Device* device, const std::string& what, const std::string& why, int code) {
  fprintf(stderr, "emulated device %d: %s: %s\n", device->ordinal, what.c_str(), why.c_str());
  cuda_double_set(device->ordinal, "sticky", code);
}

// Work of a stream begins that touches these; of none, where the host waits for it.
void work(void* stream, const char* what, std::initializer_list<Address> touched) {
  if (!stream) return;
  double_::work(stream_of(stream));
  for (const Address at : touched) {
    const std::string wrong = double_::touch(stream_of(stream), at);
    if (!wrong.empty()) break_down(current, what, wrong, double_::ILLEGAL_ADDRESS);
  }
}

}  // namespace

extern "C" {

int cuInit(unsigned) {
  if (const long long code = double_::of_all("init", 0)) return int(code);
  return double_::visible().empty() ? double_::NO_DEVICE : double_::SUCCESS;
}
int cuDriverGetVersion(int* to) {
  *to = int(double_::of_all("driver", 13000));
  return double_::SUCCESS;
}
int cuDeviceGetCount(int* to) {
  *to = int(double_::visible().size());
  return double_::SUCCESS;
}
int cuDeviceGet(int* to, int ordinal) {
  const auto visible = double_::visible();
  if (ordinal < 0 || size_t(ordinal) >= visible.size()) return double_::INVALID_DEVICE;
  *to = visible[size_t(ordinal)];
  return double_::SUCCESS;
}
// No other process has such a device, where it is not told so.
int cuDeviceGetUuid_v2(unsigned char* to, int d) {
  const long long uuid = double_::device(d).number("uuid", -1 - (long long)getpid());
  memset(to, 0, 16);
  memcpy(to, &uuid, 8);
  to[15] = (unsigned char)d;
  return double_::SUCCESS;
}
int cuDeviceGetName(char* to, int length, int) {
  snprintf(to, size_t(length), "emulated GPU");
  return double_::SUCCESS;
}
int cuDeviceTotalMem_v2(size_t* to, int d) {
  *to = size_t(double_::device(d).number("memory", 1ll << 30));
  return double_::SUCCESS;
}
int cuDeviceGetAttribute(int* to, int attribute, int d) {
  Device& device = double_::device(d);
  switch (attribute) {
    case 1: *to = 1024; break;                              // threads of a block
    case 10: *to = 32; break;                               // of a warp
    case 16: *to = 2; break;                                // multiprocessors
    case 20: *to = int(device.number("mode", 0)); break;    // who may use it
    case 75: *to = int(device.number("major", 9)); break;   // compute capability
    case 76: *to = int(device.number("minor", 0)); break;
    case 97: *to = int(emulator::MOST_SHARED); break;       // shared memory, where asked for
    case 115: *to = int(device.number("pools", 1)); break;  // memory pools
    default: *to = 0;
  }
  return double_::SUCCESS;
}
int cuDeviceGetDefaultMemPool(void** to, int d) {
  *to = &double_::device(d);
  return double_::SUCCESS;
}
// 8 is the most that was in use, which starts anew when it is set.
int cuMemPoolSetAttribute(void* pool, int attribute, void*) {
  auto* device = static_cast<Device*>(pool);
  if (attribute == 8) cuda_double_set(device->ordinal, "peak", device->number("used", 0));
  return double_::SUCCESS;
}
int cuMemPoolGetAttribute(void* pool, int attribute, void* to) {
  if (attribute != 8) return double_::INVALID_VALUE;
  *static_cast<uint64_t*>(to) = uint64_t(static_cast<Device*>(pool)->number("peak", 0));
  return double_::SUCCESS;
}

int cuDevicePrimaryCtxRetain(void** to, int d) {
  *to = &double_::device(d);
  if (double_::device(d).number("mode", 0) != 0) return double_::DEVICE_UNAVAILABLE;
  return begin(&double_::device(d));
}
int cuDevicePrimaryCtxRelease_v2(int) { return double_::SUCCESS; }
int cuCtxSetCurrent(void* context) {
  current = static_cast<Device*>(context);
  return double_::SUCCESS;
}
int cuCtxGetCurrent(void** to) {
  *to = current;
  return double_::SUCCESS;
}
int cuCtxSynchronize() { return begin(current); }
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  BEGIN(current);
  *total = size_t(current->number("memory", 1ll << 30));
  *free_bytes = *total - size_t(current->number("used", 0));
  return double_::SUCCESS;
}

int cuStreamCreate(void** to, unsigned) {
  BEGIN(current);
  *to = double_::new_stream(current);
  return double_::SUCCESS;
}
int cuStreamDestroy_v2(void* stream) {
  double_::forget(stream_of(stream));
  delete stream_of(stream);
  return double_::SUCCESS;
}
int cuStreamSynchronize(void* stream) {
  Device* device = stream ? stream_of(stream)->device : current;
  const int code = begin(device);
  if (stream && code) double_::forget(stream_of(stream));
  if (stream && !code) double_::wait_on_host(stream_of(stream));
  return code;
}
int cuStreamWaitEvent(void* stream, void* event, unsigned) {
  BEGIN(current);
  if (!current->is_due("ignore_wait_at")) double_::wait(stream_of(stream), static_cast<Event*>(event));
  return double_::SUCCESS;
}
int cuEventCreate(void** to, unsigned) {
  BEGIN(current);
  *to = new Event;
  return double_::SUCCESS;
}
int cuEventDestroy_v2(void* event) {
  delete static_cast<Event*>(event);
  return double_::SUCCESS;
}
int cuEventRecord(void* event, void* stream) {
  BEGIN(current);
  static_cast<Event*>(event)->milliseconds = now();
  double_::record(static_cast<Event*>(event), stream_of(stream));
  return double_::SUCCESS;
}
int cuEventSynchronize(void* event) {
  BEGIN(current);
  if (!current->is_due("ignore_wait_at")) double_::wait_on_host(static_cast<Event*>(event));
  return double_::SUCCESS;
}
int cuEventQuery(void*) { return begin(current); }
int cuEventElapsedTime(float* to, void* start, void* end) {
  BEGIN(current);
  *to = float(static_cast<Event*>(end)->milliseconds - static_cast<Event*>(start)->milliseconds);
  return double_::SUCCESS;
}

int cuMemAlloc_v2(Address* to, size_t bytes) {
  BEGIN(current);
  return current->allocate(to, bytes);
}
int cuMemAllocAsync(Address* to, size_t bytes, void* stream) {
  const int code = cuMemAlloc_v2(to, bytes);
  if (!code) work(stream, "an allocation", {*to});
  return code;
}
int cuMemFree_v2(Address at) {
  if (!current) return double_::INVALID_CONTEXT;
  const std::string wrong = double_::free_by_host(at);
  if (!wrong.empty()) break_down(current, "freeing", wrong, double_::ILLEGAL_ADDRESS);
  const int code = current->release(at);
  if (code == double_::ILLEGAL_ADDRESS) break_down(current, "memory", "a write outside an allocation", code);
  return code ? code : begin(current);
}
int cuMemFreeAsync(Address at, void* stream) {
  if (!current) return double_::INVALID_CONTEXT;
  work(stream, "freeing", {at});
  double_::forget(at);
  return cuMemFree_v2(at);
}
int cuMemHostAlloc(void** to, size_t bytes, unsigned) {
  BEGIN(current);
  if (!bytes) return double_::INVALID_VALUE;
  *to = current->is_due("fail_alloc_at") ? nullptr : aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (!*to) return double_::OUT_OF_MEMORY;
  {
    std::lock_guard<std::mutex> held(current->lock);
    current->pinned[Address(*to)] = bytes;
  }
  cuda_double_set(current->ordinal, "pinned", current->number("pinned", 0) + 1);
  return double_::SUCCESS;
}
int cuMemFreeHost(void* at) {
  if (!current) return double_::INVALID_CONTEXT;
  {
    std::lock_guard<std::mutex> held(current->lock);
    current->pinned.erase(Address(at));
  }
  double_::forget_pinned(at);
  cuda_double_set(current->ordinal, "pinned", current->number("pinned", 0) - 1);
  free(at);
  return begin(current);
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* stream) {
  BEGIN(current);
  if (!current->holds(to, bytes)) return double_::INVALID_VALUE;
  work(stream, "a copy to the device", {to});
  if (!stream || !current->is_pinned(Address(from))) {
    memcpy(reinterpret_cast<void*>(to), from, bytes);
    return double_::SUCCESS;
  }
  const std::string wrong = double_::copy_later(stream_of(stream), to, from, bytes);
  if (!wrong.empty()) break_down(current, "a copy to the device", wrong, double_::ILLEGAL_ADDRESS);
  return double_::SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* stream) {
  BEGIN(current);
  if (!current->holds(from, bytes)) return double_::INVALID_VALUE;
  work(stream, "a copy to the host", {from});
  const void* first = reinterpret_cast<const void*>(from);
  if (stream) {
    memset(to, 0xff, bytes);
    double_::land_later(stream_of(stream), to, first, bytes);
  } else {
    memcpy(to, first, bytes);
  }
  return double_::SUCCESS;
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* stream) {
  BEGIN(current);
  if (!current->holds(to, bytes) || !current->holds(from, bytes)) return double_::INVALID_VALUE;
  work(stream, "a copy", {to, from});
  memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  return double_::SUCCESS;
}
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void* stream) {
  BEGIN(current);
  if (!current->holds(to, bytes)) return double_::INVALID_VALUE;
  work(stream, "a clear", {to});
  memset(reinterpret_cast<void*>(to), value, bytes);
  return double_::SUCCESS;
}

int cuModuleLoadData(void** to, const void* data) {
  BEGIN(current);
  std::string rest = image::unpack(data);
  if (rest.empty()) return double_::INVALID_IMAGE;
  auto* module = new Module{current, {}, {}};
  // sm_90a is code for 9.0 and nothing else.
  const std::string arch = rest.substr(0, rest.find('\n'));
  const std::string own = "sm_" + std::to_string(current->number("major", 9)) +
                          std::to_string(current->number("minor", 0));
  if (arch != own && arch != own + "a") {
    delete module;
    return double_::NO_BINARY;
  }
  for (size_t at = arch.size() + 1; at < rest.size();) {
    const size_t end = rest.find('\n', at);
    module->names.insert(rest.substr(at, end - at));
    at = end + 1;
  }
  cuda_double_set(current->ordinal, "loads", current->number("loads", 0) + 1);
  *to = module;
  return double_::SUCCESS;
}
int cuModuleUnload(void* module) {
  delete static_cast<Module*>(module);
  return double_::SUCCESS;
}
int cuModuleGetFunction(void** to, void* handle, const char* name) {
  BEGIN(current);
  auto* module = static_cast<Module*>(handle);
  const emulator::Kernel* kernel = emulator::find_kernel(name);
  if (!module->names.count(name) || !kernel) return double_::NOT_FOUND;
  *to = &(module->functions[name] = Function{name, kernel});
  return double_::SUCCESS;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  BEGIN(current);
  if (attribute == 8) {
    if (size_t(value) > emulator::MOST_SHARED) return double_::INVALID_VALUE;
    static_cast<Function*>(function)->most_shared = size_t(value);
  }
  return double_::SUCCESS;
}
int cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* size) {
  const auto& sizes = static_cast<Function*>(function)->kernel->argument_sizes;
  if (index >= sizes.size()) return double_::INVALID_VALUE;
  size_t at = 0;
  for (size_t i = 0; i <= index; ++i) {
    at = (at + sizes[i] - 1) / sizes[i] * sizes[i];
    *offset = at;
    at += sizes[i];
  }
  *size = sizes[index];
  return double_::SUCCESS;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** arguments, void**) {
  BEGIN(current);
  auto& f = *static_cast<Function*>(function);
  const uint64_t threads = uint64_t(bx) * by * bz;
  if (!threads || threads > f.kernel->most_threads || !gx || !gy || !gz || gx > 0x7fffffffu || gy > 65535 ||
      gz > 65535 || shared > f.most_shared)
    return double_::INVALID_VALUE;
  cuda_double_set(current->ordinal, "launches", current->number("launches", 0) + 1);
  if (current->is_due("fail_launch_at")) {
    const int code = int(current->number("fail_launch_code", double_::LAUNCH_FAILED));
    if (!double_::is_sticky(code)) return code;
    break_down(current, f.name, "told to fail", code);
    return double_::SUCCESS;
  }
  work(stream, f.name.c_str(), {});
  for (size_t i = 0; stream && i < f.kernel->argument_sizes.size(); ++i) {
    Address at = 0;
    if (f.kernel->argument_sizes[i] != sizeof at) continue;
    memcpy(&at, arguments[i], sizeof at);
    const std::string wrong = double_::touch(stream_of(stream), at);
    if (!wrong.empty()) break_down(current, f.name, wrong, double_::ILLEGAL_ADDRESS);
  }
  emulator::Launch launch;
  launch.blocks = {gx, gy, gz};
  launch.threads = {bx, by, bz};
  launch.shared_bytes = shared;
  launch.arguments = arguments;
  launch.schedule = uint32_t(current->number("schedule", 0));
  launch.workers = uint32_t(current->number("workers", 1));
  tell(f);
  traffic::begin_launch(*current, f.name, *f.kernel, arguments);
  std::string error = emulator::run(*f.kernel, launch);
  traffic::end_launch();
  if (!error.empty()) break_down(current, f.name, error, double_::LAUNCH_FAILED);
  error = current->overrun();
  if (!error.empty()) break_down(current, f.name, error, double_::ILLEGAL_ADDRESS);
  return double_::SUCCESS;
}

int cuGetErrorName(int code, const char** to) {
  static thread_local char name[48];
  switch (code) {
    case double_::OUT_OF_MEMORY: *to = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case double_::NO_DEVICE: *to = "CUDA_ERROR_NO_DEVICE"; break;
    case double_::LAUNCH_FAILED: *to = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: snprintf(name, sizeof name, "CUDA_ERROR_%d", code), *to = name;
  }
  return double_::SUCCESS;
}
int cuGetErrorString(int code, const char** to) {
  static thread_local char text[64];
  snprintf(text, sizeof text, "error %d of the stand-in", code);
  *to = text;
  return double_::SUCCESS;
}
}
