// Functions that the CPU and the GPU share: ordinary C++ unless nvcc compiles them.
#pragma once

#ifdef __CUDACC__
#define FASTSAM_HD __host__ __device__
#else
#define FASTSAM_HD
#endif
