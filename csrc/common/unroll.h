// FASTSAM_UNROLL before a loop of at most 16 steps: written out, so that the arrays it indexes lie in registers.
#pragma once

#if defined(__clang__)
#define FASTSAM_UNROLL _Pragma("unroll")
#else
#define FASTSAM_UNROLL _Pragma("GCC unroll 16")
#endif
