// A libnvrtc for tests: it "compiles" a source to the names of its kernels. The variable
// NVRTC_DOUBLE=fail makes every source wrong.
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "image.h"

namespace {

struct Program {
  std::string source, log, code;
};
enum { SUCCESS = 0, INVALID_INPUT = 3, INVALID_OPTION = 5, COMPILATION = 6 };

const char* const ARCHITECTURES[] = {"sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120"};

// NAME of every KERNEL(NAME, threads) and KERNEL_ALONE(NAME, threads).
std::string names_in(const std::string& source) {
  std::string names;
  for (size_t at = 0; (at = source.find("\nKERNEL", at)) != std::string::npos;) {
    at = source.find("(", at) + 1;
    names += source.substr(at, source.find_first_of(",)", at) - at) + "\n";
  }
  return names;
}

}  // namespace

extern "C" {

int nvrtcVersion(int* major, int* minor) {
  *major = 13, *minor = 0;
  return SUCCESS;
}
int nvrtcCreateProgram(Program** to, const char* source, const char*, int headers, const char* const* texts,
                       const char* const* names) {
  if (headers && (!texts || !names)) return INVALID_INPUT;
  *to = new Program{source, "", ""};
  // An include that nobody brings is an error here too.
  for (size_t at = 0; (at = (*to)->source.find("#include \"", at)) != std::string::npos;) {
    at += 10;
    const std::string wanted = (*to)->source.substr(at, (*to)->source.find('"', at) - at);
    bool there = false;
    for (int i = 0; i < headers; ++i) there |= wanted == names[i];
    if (!there) (*to)->log += "cannot open source file \"" + wanted + "\"\n";
  }
  return SUCCESS;
}
int nvrtcDestroyProgram(Program** program) {
  delete *program;
  *program = nullptr;
  return SUCCESS;
}
int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
  std::string arch;
  for (int i = 0; i < count; ++i)
    if (!strncmp(options[i], "--gpu-architecture=", 19)) arch = options[i] + 19;
  bool known = false;
  for (const char* one : ARCHITECTURES) known |= arch == one;
  if (!known) {
    program->log = "invalid value for --gpu-architecture: " + arch + "\n";
    return INVALID_OPTION;
  }
  const char* told = getenv("NVRTC_DOUBLE");
  if (told && !strcmp(told, "fail")) program->log += "kernel.cu(1): error: told to fail\n";
  if (!program->log.empty()) return COMPILATION;
  program->code = image::pack(arch + "\n" + names_in(program->source));
  return SUCCESS;
}
int nvrtcGetProgramLogSize(Program* program, size_t* to) {
  *to = program->log.size() + 1;
  return SUCCESS;
}
int nvrtcGetProgramLog(Program* program, char* to) {
  memcpy(to, program->log.c_str(), program->log.size() + 1);
  return SUCCESS;
}
int nvrtcGetCUBINSize(Program* program, size_t* to) {
  // With the 0 that ends the text.
  *to = program->code.empty() ? 0 : program->code.size() + 1;
  return SUCCESS;
}
int nvrtcGetCUBIN(Program* program, char* to) {
  memcpy(to, program->code.c_str(), program->code.size() + 1);
  return SUCCESS;
}
const char* nvrtcGetErrorString(int code) {
  return code == COMPILATION ? "NVRTC_ERROR_COMPILATION" : "an NVRTC error";
}
}
