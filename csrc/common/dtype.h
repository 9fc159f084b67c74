// Element types that kernels choose between; python/fastsam_core/ops/_native_cuda.py has the same numbers.
#pragma once

namespace fastsam {

enum class DType : int { float32 = 0, float16 = 1, bfloat16 = 2 };

}  // namespace fastsam
