// The table of kernels of one instruction set. Plain data only: this header and the table headers it includes are
// compiled with every set's flags, and the linker could use an inline function compiled for one set on machines that
// lack it.
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
  bool has_native_bfloat16;  // whether it has native bfloat16 products, which are twice as fast as float32 ones
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
