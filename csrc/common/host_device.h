// FASTSAM_HD marks functions that both the CPU and the GPU call. It expands to nothing unless nvcc compiles the file.
#pragma once

#ifdef __CUDACC__
#define FASTSAM_HD __host__ __device__
#else
#define FASTSAM_HD
#endif
