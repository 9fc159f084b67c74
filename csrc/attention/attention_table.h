// What one instruction set offers to attention. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct AttentionKernels {};

}  // namespace fastsam
