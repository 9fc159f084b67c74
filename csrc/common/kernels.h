// What one instruction set offers. Plain data only: this header, and the tables that it holds, are compiled under every
// set's flags, and an inline function in them could reach machines that lack that set.
#pragma once

#include "attention/attention_table.h"
#include "conv/conv_table.h"
#include "decoder/decoder_table.h"
#include "linear/linear_table.h"
#include "masks/masks_table.h"
#include "nms/nms_table.h"
#include "preprocess/preprocess_table.h"
#include "rle/rle_table.h"

namespace fastsam {

struct Kernels {
  const char* name;
  bool multiplies_bfloat16;  // by products of its own, twice as fast as those of floats
  AttentionKernels attention, attention_bfloat16;
  ConvKernels conv;
  DecoderKernels decoder;
  UpscaleKernels upscale, upscale_bfloat16;
  LinearKernels linear;
  MasksKernels masks;
  NmsKernels nms;
  PreprocessKernels preprocess;
  RleKernels rle;
};

}  // namespace fastsam
