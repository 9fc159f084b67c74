// Run-time choice among the instruction-set tables. A table holds every kernel that gains from wide registers.
//
// Each set is compiled in a translation unit of its own (kernels_<name>.cpp) with that set's compiler flags, inside a
// namespace of its own, so that the linker can never give a baseline caller an inline function with AVX code. The best
// set that the machine supports is used by default; tests and the FASTSAM_ISA environment variable can select another.
#pragma once

#include <string>
#include <vector>

#include "common/kernels.h"

namespace fastsam {

// The sets that this build contains and this machine can run, best first; never empty.
const std::vector<const Kernels*>& available_kernels();

// The selected set.
const Kernels& kernels();

// Select the set `name`. "baseline" always selects the last set, whatever its name. Throws std::invalid_argument,
// listing the available names, for any other name.
void force_isa(const std::string& name);

}  // namespace fastsam
