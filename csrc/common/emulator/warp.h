// Block barriers and warp-level intrinsics: shuffles, votes, matches and reductions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "common/emulator/block.h"

inline void __syncthreads() { fastsam::emulator::sync_block("__syncthreads()"); }
inline int __syncthreads_count(int predicate) {
  return fastsam::emulator::sync_block("__syncthreads_count()", predicate != 0);
}
inline int __syncthreads_or(int predicate) {
  return fastsam::emulator::sync_block("__syncthreads_or()", predicate != 0) > 0;
}
inline int __syncthreads_and(int predicate) {
  return fastsam::emulator::sync_block("__syncthreads_and()", predicate == 0) == 0;
}

namespace fastsam::emulator {

// Call action(lane, operand) for each lane that takes part.
template <typename Operand, typename Action>
void for_each_lane(const Lanes& lanes, Action action) {
  for (int i = 0; i < 32; ++i) {
    if (lanes.operands[i] != nullptr) action(i, *static_cast<Operand*>(lanes.operands[i]));
  }
}

template <typename T>
struct Shuffle {
  T value, result;
  int source;
};

template <typename T>
T shuffle(const char* operation, unsigned mask, T value, int source) {
  Shuffle<T> operands{value, value, source};
  sync_warp(operation, mask, &operands, [](const Lanes& lanes) {
    for_each_lane<Shuffle<T>>(lanes, [&](int i, Shuffle<T>& lane_operands) {
      const void* from = lanes.operands[lane_operands.source];
      if (from == nullptr) {
        fail("is in a shuffle where lane " + std::to_string(i) + " reads lane " + std::to_string(lane_operands.source) +
             ", which does not take part");
      }
      lane_operands.result = static_cast<const Shuffle<T>*>(from)->value;
    });
  });
  return operands.result;
}

template <typename T>
struct Reduction {
  T value, result;
};

// Combine the values of all lanes of `mask`, and return the result to each. `Combine` is a stateless function object of
// two values.
template <typename T, typename Combine>
T reduce(const char* operation, unsigned mask, T value, Combine) {
  Reduction<T> operands{value, value};
  sync_warp(operation, mask, &operands, [](const Lanes& lanes) {
    bool first = true;
    T result{};
    for_each_lane<Reduction<T>>(lanes, [&](int, Reduction<T>& lane_operands) {
      result = first ? lane_operands.value : Combine()(result, lane_operands.value);
      first = false;
    });
    for_each_lane<Reduction<T>>(lanes, [&](int, Reduction<T>& lane_operands) { lane_operands.result = result; });
  });
  return operands.result;
}

struct Or {
  unsigned operator()(unsigned a, unsigned b) const { return a | b; }
};
struct And {
  unsigned operator()(unsigned a, unsigned b) const { return a & b; }
};
struct Xor {
  unsigned operator()(unsigned a, unsigned b) const { return a ^ b; }
};
struct Add {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
  }
};
struct Min {
  template <typename T>
  T operator()(T a, T b) const {
    return std::min(a, b);
  }
};
struct Max {
  template <typename T>
  T operator()(T a, T b) const {
    return std::max(a, b);
  }
};

}  // namespace fastsam::emulator

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  fastsam::emulator::sync_warp("__syncwarp()", mask, &mask, &fastsam::emulator::on_syncwarp);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int segment = fastsam::emulator::lane() & ~(width - 1);
  return fastsam::emulator::shuffle("__shfl_sync()", mask, value, segment | (source & (width - 1)));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = fastsam::emulator::lane(), source = lane - static_cast<int>(delta);
  return fastsam::emulator::shuffle("__shfl_up_sync()", mask, value, source < (lane & ~(width - 1)) ? lane : source);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = fastsam::emulator::lane(), source = lane + static_cast<int>(delta);
  return fastsam::emulator::shuffle("__shfl_down_sync()", mask, value, source > (lane | (width - 1)) ? lane : source);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32) {
  const int lane = fastsam::emulator::lane(), source = lane ^ other;
  return fastsam::emulator::shuffle("__shfl_xor_sync()", mask, value, source > (lane | (width - 1)) ? lane : source);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned bit = predicate != 0 ? 1u << fastsam::emulator::lane() : 0u;
  return fastsam::emulator::reduce("__ballot_sync()", mask, bit, fastsam::emulator::Or());
}
inline int __any_sync(unsigned mask, int predicate) {
  return fastsam::emulator::reduce("__any_sync()", mask, unsigned{predicate != 0}, fastsam::emulator::Or()) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return fastsam::emulator::reduce("__all_sync()", mask, unsigned{predicate != 0}, fastsam::emulator::And()) != 0;
}

template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  struct Match {
    T value;
    unsigned same;
  } operands{value, 0};
  fastsam::emulator::sync_warp("__match_any_sync()", mask, &operands, [](const fastsam::emulator::Lanes& lanes) {
    fastsam::emulator::for_each_lane<Match>(lanes, [&](int, Match& lane_operands) {
      fastsam::emulator::for_each_lane<Match>(
          lanes, [&](int j, Match& other) { lane_operands.same |= unsigned{lane_operands.value == other.value} << j; });
    });
  });
  return operands.same;
}

#define FASTSAM_REDUCE(name, T, Combine)                                                                      \
  inline T __reduce_##name##_sync(unsigned mask, T value) {                                                   \
    return fastsam::emulator::reduce("__reduce_" #name "_sync()", mask, value, fastsam::emulator::Combine()); \
  }
FASTSAM_REDUCE(add, unsigned, Add)
FASTSAM_REDUCE(add, int, Add)
FASTSAM_REDUCE(min, unsigned, Min)
FASTSAM_REDUCE(min, int, Min)
FASTSAM_REDUCE(max, unsigned, Max)
FASTSAM_REDUCE(max, int, Max)
FASTSAM_REDUCE(and, unsigned, And)
FASTSAM_REDUCE(or, unsigned, Or)
FASTSAM_REDUCE(xor, unsigned, Xor)
#undef FASTSAM_REDUCE
