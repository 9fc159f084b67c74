// Detects the instruction sets of the machine, and holds the selected table (isa.h).
#include "common/isa.h"

#include <atomic>
#include <stdexcept>

namespace fastsam {

// Defined by kernels_baseline.cpp, kernels_avx2.cpp, kernels_avx512.cpp and kernels_avx512_bf16.cpp.
extern const Kernels kernels_baseline;
#ifdef FASTSAM_X86_64
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#ifdef FASTSAM_AVX512_BF16
extern const AttentionKernels attention_avx512_bf16;
extern const UpscaleKernels upscale_avx512_bf16;
#endif
#endif

namespace {

#ifdef FASTSAM_X86_64
// Return the AVX-512 table, with the native bfloat16 products if the machine supports them.
const Kernels& avx512_kernels() {
#ifdef FASTSAM_AVX512_BF16
  static const Kernels with_bfloat16 = [] {
    Kernels table = kernels_avx512;
    table.has_native_bfloat16 = true;
    table.attention_bfloat16 = attention_avx512_bf16;
    table.upscale_bfloat16 = upscale_avx512_bf16;
    return table;
  }();
  if (__builtin_cpu_supports("avx512bf16")) return with_bfloat16;
#endif
  return kernels_avx512;
}
#endif

std::vector<const Kernels*> detect_kernels() {
  std::vector<const Kernels*> available;
#ifdef FASTSAM_X86_64
  __builtin_cpu_init();
  // Must check every feature flag that CMakeLists.txt passes to the corresponding translation unit.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  if (avx512) available.push_back(&avx512_kernels());
  if (avx2) available.push_back(&kernels_avx2);
#endif
  available.push_back(&kernels_baseline);
  return available;
}

std::atomic<const Kernels*>& selected() {
  static std::atomic<const Kernels*> table{available_kernels().front()};
  return table;
}

}  // namespace

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> available = detect_kernels();
  return available;
}

const Kernels& kernels() { return *selected().load(std::memory_order_acquire); }

void force_isa(const std::string& name) {
  std::string names;
  for (const Kernels* table : available_kernels()) {
    // The last set also answers to "baseline" (on ARM64 it is called "neon"), so that settings are portable.
    if (name == table->name || (name == "baseline" && table == available_kernels().back())) {
      selected().store(table, std::memory_order_release);
      return;
    }
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  }
  throw std::invalid_argument("the instruction set '" + name + "' is not available here; available: " + names);
}

}  // namespace fastsam
