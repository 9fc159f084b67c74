// The AVX-512 table, built with that set's flags (CMakeLists.txt). Must include nothing but kernels.inc.
#define FASTSAM_ISA isa_avx512
#include "common/kernels.inc"

namespace fastsam {
extern constexpr Kernels kernels_avx512 = isa_avx512::table("avx512");
}  // namespace fastsam
