// The image side of the mask decoder on the GPU (decoder_cuda.h): checks sizes and dispatches on the element type.
#include "decoder/decoder_cuda.h"

#include <stdexcept>

#include "common/cuda.h"
#include "decoder/decoder_cuda_call.cuh"

namespace fastsam::decoder::cuda {
namespace {

using fastsam::cuda::bfloat16;
using fastsam::cuda::half;

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// Throw unless there are 1 to 2^28 image tokens (2^24 panels), and `panels` is the number of panels for `length`
// tokens.
void check_image(int64_t panels, int64_t length) {
  require(length >= 1 && panels <= int64_t{1} << 24, "decoder: there must be 1 to 2^28 image tokens");
  require(panels == (length + 15) / 16, "decoder: the number of panels does not match the number of image tokens");
}

}  // namespace

void first_token_to_image(const FirstTokenToImage& attention, DType dtype, void* stream) {
  check_image(attention.panels, attention.length);
  require(attention.rows >= 0, "decoder: sizes must not be negative");
  if (dtype == DType::float32) return run_first_token_to_image<float>(attention, stream);
  if (dtype == DType::float16) return run_first_token_to_image<half>(attention, stream);
  if (dtype == DType::bfloat16) return run_first_token_to_image<bfloat16>(attention, stream);
  throw std::invalid_argument("decoder: there are no kernels for this dtype");
}

void pass(const Pass& pass, DType dtype, int64_t shared_memory, void* stream) {
  check_image(pass.panels, pass.length);
  require(pass.prompts >= 0, "decoder: sizes must not be negative");
  require(pass.tokens >= 1 && pass.tokens <= kTokens, "decoder: there are kernels for 1 to 8 tokens");
  require(pass.second || !pass.few_queries, "decoder: only the second pass takes few queries");
  if (dtype == DType::float32) return run_pass<float>(pass, shared_memory, stream);
  if (dtype == DType::float16) return run_pass<half>(pass, shared_memory, stream);
  if (dtype == DType::bfloat16) return run_pass<bfloat16>(pass, shared_memory, stream);
  throw std::invalid_argument("decoder: there are no kernels for this dtype");
}

void upscale(const Upscaling& up, DType dtype, void* stream) {
  require(up.height >= 1 && up.width >= 1 && up.height <= int64_t{1} << 28,
          "decoder: height and width must be at least 1, and height at most 2^28");
  check_image((up.height * up.width + 15) / 16, up.height * up.width);
  require(up.selected_count >= 0, "decoder: sizes must not be negative");
  require(up.rows >= 3 && up.rows <= 2 * kRows + 2, "decoder: there are kernels for 3 to 130 coefficients");
  if (dtype == DType::float32) return run_upscale<float>(up, stream);
  if (dtype == DType::float16) return run_upscale<half>(up, stream);
  if (dtype == DType::bfloat16) return run_upscale<bfloat16>(up, stream);
  throw std::invalid_argument("decoder: there are no kernels for this dtype");
}

}  // namespace fastsam::decoder::cuda
