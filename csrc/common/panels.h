// Sizes of matrices packed for the CPU kernels: in panels of 16 columns, one cache line wide (see common/gemm.inc).
#pragma once

#include <cstdint>

namespace fastsam {

constexpr int64_t kPanel = 16;

constexpr int64_t num_panels(int64_t columns) { return (columns + kPanel - 1) / kPanel; }
constexpr int64_t padded(int64_t columns) { return num_panels(columns) * kPanel; }

}  // namespace fastsam
