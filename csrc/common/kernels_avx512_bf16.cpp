// The kernels that multiply pairs of bfloat16 with the native instruction of AVX512-BF16 (vdpbf16ps); isa.cpp puts them
// into the AVX-512 table if the machine supports it. Built with that set's flags (CMakeLists.txt), under the rules of
// common/kernels.inc.
#include "common/intrinsics.inc"
#include "common/kernels.h"

namespace fastsam {
namespace isa_avx512_bf16 {

#include "common/simd.inc"

#include "common/bfloat16.inc"

#include "common/gemm.inc"

#include "attention/attention_kernels.inc"
#include "decoder/products.inc"
#include "decoder/upscale.inc"

}  // namespace isa_avx512_bf16

extern constexpr AttentionKernels attention_avx512_bf16 = isa_avx512_bf16::attention_table<isa_avx512_bf16::Bfloat16>();
extern constexpr UpscaleKernels upscale_avx512_bf16 = isa_avx512_bf16::upscale_table<true>();

}  // namespace fastsam
