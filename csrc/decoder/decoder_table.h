// What one instruction set offers to decoder. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct DecoderKernels {};

}  // namespace fastsam
