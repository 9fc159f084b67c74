// Built with the flags of this instruction set (CMakeLists.txt); includes nothing but kernels.inc.
#define FASTSAM_ISA isa_avx2
#include "common/kernels.inc"

namespace fastsam {
extern constexpr Kernels kernels_avx2 = isa_avx2::table("avx2");
}  // namespace fastsam
