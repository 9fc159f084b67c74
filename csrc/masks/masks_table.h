// What one instruction set offers to masks. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct MasksKernels {};

}  // namespace fastsam
