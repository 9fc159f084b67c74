// Attention in bfloat16 by the processor's own products of pairs, for AVX-512 sets that have them. Built with the flags
// of these (CMakeLists.txt), under the rules of common/kernels.inc.
#include "attention/attention_table.h"
#include "common/intrinsics.inc"

namespace fastsam {
namespace isa_avx512_bf16 {

#include "common/simd.inc"

#include "common/gemm.inc"

#include "attention/attention_kernels.inc"

}  // namespace isa_avx512_bf16

extern constexpr AttentionKernels attention_avx512_bf16 = isa_avx512_bf16::attention_table<isa_avx512_bf16::Bfloat16>();

}  // namespace fastsam
