# The module _cuda: kernels for NVIDIA GPUs in one fat binary. The CUDA run-time is linked statically, so that the
# module loads on machines without a GPU.
#   FASTSAM_CUDA=OFF    don't build it
#   FASTSAM_CUDA=AUTO   build it if CMake finds nvcc
#   FASTSAM_CUDA=ON     build it, or fail
#   CMAKE_CUDA_ARCHITECTURES (or CUDAARCHS in the environment) lists the GPU architectures to compile for

if(FASTSAM_CUDA STREQUAL "OFF")
  message(STATUS "fastsam_core: FASTSAM_CUDA=OFF; the CUDA module is not built")
  return()
endif()

# CMake supports the list of architectures from 3.18 on, and architectures that end in a letter from 3.25 on.
if(CMAKE_VERSION VERSION_LESS 3.25)
  set(_fastsam_no_cuda "it needs CMake 3.25 or newer, this is ${CMAKE_VERSION}")
elseif(WIN32)
  set(_fastsam_no_cuda "it is for Linux")
else()
  include(CheckLanguage)
  # 80 as machine code and as PTX, which every later GPU can run; 90a as machine code only, since it is for one chip.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND "$ENV{CUDAARCHS}" STREQUAL "")
    set(CMAKE_CUDA_ARCHITECTURES "80;90a-real")
  endif()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(_fastsam_no_cuda "no working nvcc was found; put it on PATH or set CUDACXX to it")
  else()
    # Asked here, since enable_language fails if nvcc is too old for the architectures.
    execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --version OUTPUT_VARIABLE _fastsam_nvcc ERROR_QUIET)
    if(_fastsam_nvcc MATCHES "release ([0-9]+\\.[0-9]+)" AND CMAKE_MATCH_1 VERSION_LESS 12.0)
      set(_fastsam_no_cuda "it needs CUDA 12.0 or newer, ${CMAKE_CUDA_COMPILER} is ${CMAKE_MATCH_1}")
    endif()
  endif()
endif()
if(DEFINED _fastsam_no_cuda)
  if(FASTSAM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FASTSAM_CUDA=ON, but the CUDA module can't be built: ${_fastsam_no_cuda}. "
                        "With FASTSAM_CUDA=OFF, PyTorch runs every operation on a GPU.")
  endif()
  message(STATUS "fastsam_core: FASTSAM_CUDA=AUTO; the CUDA module is not built: ${_fastsam_no_cuda}")
  return()
endif()

enable_language(CUDA)
message(STATUS "fastsam_core: building the CUDA module for ${CMAKE_CUDA_ARCHITECTURES}")

# Kernels whose results must equal the CPU's to the bit are compiled without fused multiply-add.
set(_fastsam_exact_kernels
  csrc/masks/masks_cuda.cu
  csrc/nms/nms_cuda.cu
  csrc/preprocess/preprocess_cuda.cu
  csrc/rle/rle_cuda.cu
  csrc/rle/rle_read_cuda.cu)
set(_fastsam_kernels
  csrc/attention/attention_cuda.cu
  csrc/attention/attention_cuda_bfloat16.cu
  csrc/attention/attention_cuda_float16.cu
  csrc/attention/attention_cuda_float32.cu
  csrc/attention/attention_cuda_wgmma.cu
  csrc/common/cuda_device.cu
  csrc/conv/depthwise_cuda.cu
  csrc/decoder/decoder_cuda.cu
  csrc/decoder/decoder_cuda_bfloat16.cu
  csrc/decoder/decoder_cuda_float16.cu
  csrc/decoder/decoder_cuda_float32.cu
  csrc/decoder/tokens_cuda.cu
  csrc/norm/norm_cuda.cu)
set_source_files_properties(${_fastsam_exact_kernels} PROPERTIES COMPILE_OPTIONS -fmad=false)

pybind11_add_module(_cuda MODULE
  csrc/bindings_cuda.cpp
  csrc/bindings_cuda/attention.cpp
  csrc/bindings_cuda/conv.cpp
  csrc/bindings_cuda/copies.cpp
  csrc/bindings_cuda/decoder.cpp
  csrc/bindings_cuda/decoder_tokens.cpp
  csrc/bindings_cuda/masks.cpp
  csrc/bindings_cuda/nms.cpp
  csrc/bindings_cuda/norm.cpp
  csrc/bindings_cuda/preprocess.cpp
  csrc/bindings_cuda/rle.cpp
  ${_fastsam_exact_kernels}
  ${_fastsam_kernels})
target_compile_features(_cuda PRIVATE cxx_std_17 cuda_std_17)
set_target_properties(_cuda PROPERTIES
  CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
  CUDA_EXTENSIONS OFF CUDA_VISIBILITY_PRESET hidden CUDA_RUNTIME_LIBRARY Static CUDA_SEPARABLE_COMPILATION OFF)
target_include_directories(_cuda PRIVATE csrc)
list(JOIN CMAKE_CUDA_ARCHITECTURES ", " _fastsam_architectures)
target_compile_definitions(_cuda PRIVATE
  "$<$<COMPILE_LANGUAGE:CXX>:FASTSAM_CUDA_ARCHITECTURES=\"${_fastsam_architectures}\">")
target_compile_options(_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>
  "$<$<COMPILE_LANGUAGE:CUDA>:-lineinfo;-Xcompiler=-Wall,-Wextra,-ffp-contract=off>")
# Hide the run-time's symbols as well: PyTorch brings its own copy of it.
target_link_options(_cuda PRIVATE -Wl,--exclude-libs,ALL)
if(FASTSAM_WERROR)
  target_compile_options(_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Werror>
    "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Werror>")
endif()

fastsam_join_bindings(_cuda)
install(TARGETS _cuda LIBRARY DESTINATION fastsam_core)
