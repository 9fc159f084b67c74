// FASTSAM_UNROLL before a loop of at most 16 iterations unrolls it fully, so that arrays it indexes stay in registers.
#pragma once

#if defined(__clang__)
#define FASTSAM_UNROLL _Pragma("unroll")
#else
#define FASTSAM_UNROLL _Pragma("GCC unroll 16")
#endif
