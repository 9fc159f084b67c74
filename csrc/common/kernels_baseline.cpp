// The table that every machine of the architecture can run: SSE2 on x86-64, NEON on aarch64, plain C++ elsewhere.
#define FASTSAM_ISA isa_baseline
#include "common/kernels.inc"

namespace fastsam {
#if defined(__aarch64__)
extern constexpr Kernels kernels_baseline = isa_baseline::table("neon");
#else
extern constexpr Kernels kernels_baseline = isa_baseline::table("baseline");
#endif
}  // namespace fastsam
