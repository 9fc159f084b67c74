// Built with the flags of this instruction set (CMakeLists.txt); includes nothing but kernels.inc.
#define FASTSAM_ISA isa_avx512
#include "common/kernels.inc"

namespace fastsam {
extern constexpr Kernels kernels_avx512 = isa_avx512::table("avx512");
}  // namespace fastsam
