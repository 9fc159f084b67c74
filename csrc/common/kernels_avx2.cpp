// The AVX2 table, built with that set's flags (CMakeLists.txt). Must include nothing but kernels.inc.
#define FASTSAM_ISA isa_avx2
#include "common/kernels.inc"

namespace fastsam {
extern constexpr Kernels kernels_avx2 = isa_avx2::table("avx2");
}  // namespace fastsam
