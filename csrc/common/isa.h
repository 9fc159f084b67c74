// The instruction-set table: every kernel that gains from wide registers, once per instruction set.
//
// Each set is compiled in a translation unit of its own (kernels_<name>.cpp) with that set's compiler flags, inside a
// namespace of its own, so that the linker can never hand a baseline caller an inline function that holds AVX code.
// The best set that the machine has is in use from the start; tests and the FASTSAM_ISA variable may choose another.
#pragma once

#include <string>
#include <vector>

#include "common/kernels.h"

namespace fastsam {

// The sets that this build holds and this machine can run, best first; never empty.
const std::vector<const Kernels*>& available_kernels();

// The set in use.
const Kernels& kernels();

// Puts the set `name` in use, the last one also as "baseline". Throws std::invalid_argument, listing what is available,
// for any other name.
void force_isa(const std::string& name);

}  // namespace fastsam
