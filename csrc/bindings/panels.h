// How image tokens lie in the decoder's arguments.
#pragma once

#include <cstdint>

namespace fastsam::bindings {

constexpr int64_t kPanel = 16;  // image tokens side by side

inline int64_t panels_of(int64_t length) { return (length + kPanel - 1) / kPanel; }
inline int64_t padded(int64_t values) { return panels_of(values) * kPanel; }

}  // namespace fastsam::bindings
