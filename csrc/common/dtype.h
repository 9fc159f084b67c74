// Element types for dispatch at run time. python/fastsam_core/ops/_native_cuda.py uses the same numbers.
#pragma once

namespace fastsam {

enum class DType : int { float32 = 0, float16 = 1, bfloat16 = 2 };

}  // namespace fastsam
