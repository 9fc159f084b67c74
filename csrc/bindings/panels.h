// How image tokens lie in the decoder's arguments.
#pragma once

#include <cstdint>

namespace fastsam::bindings {

constexpr int64_t kPanel = 16;  // image tokens side by side

}  // namespace fastsam::bindings
