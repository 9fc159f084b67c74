// Launches of the mask decoder's kernels for one element type. Resources as compiled by CUDA 13.0 for sm_80 and sm_90a,
// with spills of only 8 to 64 bytes, outside inner loops:
//
//   per prompt             threads  registers  shared memory  warps on a multiprocessor of 227 KB (prompts per block)
//   first look                 256         80       26 KB                  24
//   first pass                 256         80       43 KB                  24 (3)
//   second pass, narrow        256        128       86 KB                  16 (2)
//   second pass, wide          256        128       94 KB                  16 (2)
//   upscaling            512 / 384  128 - 168  147 / 159 KB           16 / 12
//   float32: first look        256        128       26 KB                  16
//   first pass                 256        128       87 KB                  16 (1)
//   second pass                256        255      174 to 191 KB            8 (1)
//   upscaling                  384        168       68 to 76 KB            12
#pragma once

#include "decoder/decoder_cuda_call.cuh"
#include "decoder/decoder_cuda_look.cuh"
#include "decoder/decoder_cuda_passes.cuh"
#include "decoder/decoder_cuda_upscale.cuh"

namespace fastsam::decoder::cuda {

template <typename T>
void first_look_of(const FirstLook& look, void* stream) {
  const int64_t blocks = (look.rows + kLookRows - 1) / kLookRows;
  launch((first_look_kernel<T>), blocks_for(kHeads * blocks, 1), kLookThreads, 0, static_cast<cudaStream_t>(stream),
         look);
}

template <typename T, bool kSecond, bool kNarrow, int kTogether>
void launch_together(const Pass& pass, void* stream) {
  const int64_t blocks = (pass.prompts + kTogether - 1) / kTogether * parts_of(pass.panels, kPartPanels);
  launch((pass_kernel<T, kSecond, kNarrow, kTogether>), blocks_for(blocks, 1), kPassThreads * kTogether,
         kTogether * PassShape<T, kSecond, kNarrow>::kBytes, static_cast<cudaStream_t>(stream), pass);
}

template <typename T, bool kSecond, bool kNarrow>
void launch_pass(const Pass& pass, int64_t shared, void* stream) {
  constexpr int kTogether = kWide<T> > 1 ? 1 : kSecond ? 2 : 3;
  // With few prompts, one prompt per block spreads them over more multiprocessors. Each block occupies a kilobyte more
  // than it requests.
  const bool room = kTogether * PassShape<T, kSecond, kNarrow>::kBytes + 1024 <= static_cast<uint64_t>(shared);
  if (kTogether > 1 && room && pass.prompts >= kManyPrompts)
    return launch_together<T, kSecond, kNarrow, kTogether>(pass, stream);
  launch_together<T, kSecond, kNarrow, 1>(pass, stream);
}

template <typename T>
void pass_of(const Pass& pass, int64_t shared, void* stream) {
  if (!pass.second) return launch_pass<T, false, false>(pass, shared, stream);
  if (pass.narrow) return launch_pass<T, true, true>(pass, shared, stream);
  launch_pass<T, true, false>(pass, shared, stream);
}

static_assert(2 * PassShape<half, true, false>::kBytes <= 227 * 1024 &&
              2 * PassShape<half, true, true>::kBytes <= 227 * 1024);
static_assert(PassShape<half, true, false>::kBytes <= kSharedBytes && UpscaleShape<half, 10>::kBytes <= kSharedBytes);
static_assert(PassShape<float, true, false>::kBytes <= kSharedBytesOfFloats &&
              UpscaleShape<float, 10>::kBytes <= kSharedBytesOfFloats);

template <typename T, int kSteps>
void launch_upscale(const Upscaling& up, void* stream) {
  const int64_t panels = (up.height * up.width + 15) / 16;
  // With few masks, small parts spread the work over more multiprocessors. With many, large parts load each prompt's
  // factors into fewer blocks.
  int part_panels = kUpscalePanels;
  for (int blocks = 512; blocks >= 128 && up.asked_count * parts_of(panels, part_panels) < blocks; blocks /= 2) {
    part_panels = UpscaleShape<T, kSteps>::kWarps * (blocks / 128);
  }
  constexpr int kGroups = 4 / UpscaleShape<T, kSteps>::kCells;
  launch((upscale_kernel<T, kSteps>), blocks_for(up.asked_count * kGroups * parts_of(panels, part_panels), 1),
         UpscaleShape<T, kSteps>::kThreads, UpscaleShape<T, kSteps>::kBytes, static_cast<cudaStream_t>(stream), up,
         part_panels);
}

template <typename T>
void upscale_of(const Upscaling& up, void* stream) {
  if (upscale_steps(up.rows) == 8) return launch_upscale<T, 8>(up, stream);
  launch_upscale<T, 10>(up, stream);
}

}  // namespace fastsam::decoder::cuda
