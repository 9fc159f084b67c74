// Launches of the mask decoder's kernels for one element type. Resources as compiled by CUDA 13.0 for sm_80 and sm_90a,
// with spills of only 8 to 64 bytes, outside inner loops:
//
//   per prompt             threads  registers  shared memory  warps on a multiprocessor of 227 KB (prompts per block)
//   first token-to-image       256         80       26 KB                  24
//   first pass                 256         80       43 KB                  24 (3)
//   second pass, few queries   256        128       86 KB                  16 (2)
//   second pass, more queries  256        128       94 KB                  16 (2)
//   upscaling            512 / 384  128 - 168  147 / 159 KB           16 / 12
//   float32:
//   first token-to-image       256        128       26 KB                  16
//   first pass                 256        128       87 KB                  16 (1)
//   second pass                256        255      174 to 191 KB            8 (1)
//   upscaling                  384        168       68 to 76 KB            12
#pragma once

#include "decoder/decoder_cuda_call.cuh"
#include "decoder/decoder_cuda_passes.cuh"
#include "decoder/decoder_cuda_token_to_image.cuh"
#include "decoder/decoder_cuda_upscale.cuh"

namespace fastsam::decoder::cuda {

template <typename T>
void run_first_token_to_image(const FirstTokenToImage& attention, void* stream) {
  const int64_t blocks = (attention.rows + kAttentionRows - 1) / kAttentionRows;
  launch((first_token_to_image_kernel<T>), blocks_for(kHeads * blocks, 1), kAttentionThreads, 0,
         static_cast<cudaStream_t>(stream), attention);
}

template <typename T, bool kSecond, bool kFewQueries, int kPromptsPerBlock>
void launch_pass_kernel(const Pass& pass, void* stream) {
  const int64_t blocks =
      (pass.prompts + kPromptsPerBlock - 1) / kPromptsPerBlock * count_parts(pass.panels, kPartPanels);
  launch((pass_kernel<T, kSecond, kFewQueries, kPromptsPerBlock>), blocks_for(blocks, 1),
         kPassThreads * kPromptsPerBlock, kPromptsPerBlock * PassShape<T, kSecond, kFewQueries>::kBytes,
         static_cast<cudaStream_t>(stream), pass);
}

template <typename T, bool kSecond, bool kFewQueries>
void launch_pass(const Pass& pass, int64_t shared_memory, void* stream) {
  constexpr int kPromptsPerBlock = kSizeFactor<T> > 1 ? 1 : kSecond ? 2 : 3;
  // With few prompts, one prompt per block spreads them over more multiprocessors. Each block occupies a kilobyte more
  // than it requests.
  const bool fits =
      kPromptsPerBlock * PassShape<T, kSecond, kFewQueries>::kBytes + 1024 <= static_cast<uint64_t>(shared_memory);
  if (kPromptsPerBlock > 1 && fits && pass.prompts >= kManyPrompts)
    return launch_pass_kernel<T, kSecond, kFewQueries, kPromptsPerBlock>(pass, stream);
  launch_pass_kernel<T, kSecond, kFewQueries, 1>(pass, stream);
}

template <typename T>
void run_pass(const Pass& pass, int64_t shared_memory, void* stream) {
  if (!pass.second) return launch_pass<T, false, false>(pass, shared_memory, stream);
  if (pass.few_queries) return launch_pass<T, true, true>(pass, shared_memory, stream);
  launch_pass<T, true, false>(pass, shared_memory, stream);
}

static_assert(2 * PassShape<half, true, false>::kBytes <= 227 * 1024 &&
              2 * PassShape<half, true, true>::kBytes <= 227 * 1024);
static_assert(PassShape<half, true, false>::kBytes <= kSharedBytes && UpscaleShape<half, 10>::kBytes <= kSharedBytes);
static_assert(PassShape<float, true, false>::kBytes <= kSharedBytesFloat32 &&
              UpscaleShape<float, 10>::kBytes <= kSharedBytesFloat32);

template <typename T, int kSteps>
void launch_upscale(const Upscaling& up, void* stream) {
  const int64_t panels = (up.height * up.width + 15) / 16;
  // With few masks, small parts spread the work over more multiprocessors. With many, large parts load each prompt's
  // factors into fewer blocks.
  int part_panels = kUpscalePanels;
  for (int blocks = 512; blocks >= 128 && up.selected_count * count_parts(panels, part_panels) < blocks; blocks /= 2) {
    part_panels = UpscaleShape<T, kSteps>::kWarps * (blocks / 128);
  }
  constexpr int kGroups = 4 / UpscaleShape<T, kSteps>::kCells;
  launch((upscale_kernel<T, kSteps>), blocks_for(up.selected_count * kGroups * count_parts(panels, part_panels), 1),
         UpscaleShape<T, kSteps>::kThreads, UpscaleShape<T, kSteps>::kBytes, static_cast<cudaStream_t>(stream), up,
         part_panels);
}

template <typename T>
void run_upscale(const Upscaling& up, void* stream) {
  if (upscale_steps(up.rows) == 8) return launch_upscale<T, 8>(up, stream);
  launch_upscale<T, 10>(up, stream);
}

}  // namespace fastsam::decoder::cuda
