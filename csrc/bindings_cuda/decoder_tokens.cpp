// Python bindings of decoder/tokens_cuda.h; see pointers.h for what callers guarantee. They cut the flat weight tensors
// that ops/_decoder/weights.py packs into layers.
#include <vector>

#include "bindings_cuda/pointers.h"
#include "decoder/tokens_cuda.h"

namespace fastsam::bindings {

namespace {

namespace kernels = fastsam::decoder::cuda;

// Cuts a flat tensor of 16-bit elements into consecutive pieces, each padded to a multiple of 16 elements. `check_end`
// checks that none is left over.
class WeightReader {
 public:
  WeightReader(Address data, int64_t count) : next_(data), remaining_(count) {}

  const void* read(int64_t count) {
    const int64_t padded_count = (count + 15) / 16 * 16;
    require(padded_count <= remaining_, "there are fewer weights than the sizes ask for");
    const auto* const piece = pointer<const void>(next_);
    next_ += static_cast<Address>(2 * padded_count), remaining_ -= padded_count;
    return piece;
  }
  kernels::TokenLayer layer(int64_t k, int64_t n) {
    const void* const weight = read(n * k);
    return {weight, read(n), static_cast<int>(n), static_cast<int>(k)};
  }
  kernels::TokenNorm norm() {
    const void* const weight = read(kernels::kWidth);
    return {weight, read(kernels::kWidth)};
  }
  const void* mix() { return read(int64_t{kernels::kInner} * kernels::kInner); }
  const void* vector() { return read(kernels::kInner); }
  void check_end() const { require(remaining_ == 0, "there are more weights than the sizes ask for"); }

 private:
  Address next_;
  int64_t remaining_;
};

kernels::TokenBlock read_block(WeightReader& reader, int64_t hidden) {
  constexpr int64_t kWidth = kernels::kWidth, kInner = kernels::kInner;
  kernels::TokenBlock block{};
  for (auto* layer : {&block.self_q, &block.self_k, &block.self_v, &block.self_out}) {
    *layer = reader.layer(kWidth, kWidth);
  }
  block.norm1 = reader.norm();
  block.token_to_image_q = reader.layer(kWidth, kInner), block.token_to_image_out = reader.layer(kInner, kWidth);
  block.norm2 = reader.norm();
  block.mlp1 = reader.layer(kWidth, hidden), block.mlp2 = reader.layer(hidden, kWidth);
  block.norm3 = reader.norm();
  block.image_to_token_k = reader.layer(kWidth, kInner), block.image_to_token_v = reader.layer(kWidth, kInner);
  return block;
}

// A job with the sizes of a call and pointers to its weights, of which there are `count`. sizes: width, inner, hidden
// channels of the first and the second block's MLP, outputs of the three layers of the IoU head.
kernels::Prompts make_prompts(Address weights, int64_t count, const std::vector<int64_t>& sizes, int64_t prompts,
                              int64_t tokens, int64_t length, const std::vector<int>& chosen) {
  constexpr int64_t kWidth = kernels::kWidth, kInner = kernels::kInner;
  require(sizes.size() == 7, "sizes must hold seven numbers");
  for (const int64_t size : sizes) require(size > 0 && size <= (int64_t{1} << 20), "sizes must be from 1 to 2^20");
  require(sizes[0] == kWidth && sizes[1] == kInner,
          "only tokens of 256 channels, with 128 in attention to the image, have kernels");
  require(chosen.size() >= 1 && chosen.size() <= kernels::kTokens, "chosen must hold 1 to 8 indices");
  kernels::Prompts job{};
  job.prompts = prompts, job.tokens = tokens, job.length = length;
  WeightReader reader(weights, count);
  job.first = read_block(reader, sizes[2]), job.second = read_block(reader, sizes[3]);
  job.final_q = reader.layer(kWidth, kInner), job.final_out = reader.layer(kInner, kWidth);
  job.final_norm = reader.norm();
  job.iou1 = reader.layer(kWidth, sizes[4]), job.iou2 = reader.layer(sizes[4], sizes[5]);
  job.iou3 = reader.layer(sizes[5], sizes[6]);
  kernels::TokenMixes& mixes = job.mixes;
  mixes.gram1 = reader.mix(), mixes.queries1 = reader.mix(), mixes.values1 = reader.mix();
  mixes.values1_bias = reader.vector();
  mixes.keys = reader.mix(), mixes.keys_bias = reader.vector();
  mixes.gram2_first = reader.mix(), mixes.gram2_first_bias = reader.vector();
  mixes.cross = reader.mix(), mixes.cross_bias = reader.vector();
  mixes.gram2_second = reader.mix(), mixes.queries2_first = reader.mix(), mixes.queries2_second = reader.mix();
  mixes.queries2_constant = reader.vector();
  mixes.values2_first = reader.mix(), mixes.values2_second = reader.mix();
  mixes.values2_constant = reader.vector(), mixes.values2_bias = reader.vector();
  reader.check_end();
  for (size_t i = 0; i < chosen.size(); ++i) job.chosen[i] = chosen[i];
  job.chosen_count = static_cast<int>(chosen.size());
  return job;
}

int64_t prompts_scratch_bytes(int64_t count, const std::vector<int64_t>& sizes, bool packed, int64_t prompts,
                              int64_t tokens, int64_t length, const std::vector<int>& chosen) {
  kernels::Prompts job = make_prompts(0, count, sizes, prompts, tokens, length, chosen);
  job.packed = packed;
  return kernels::prompts_scratch_bytes(job);
}

void pack_image(const std::vector<Address>& from, const std::vector<Address>& to, int64_t length, Address stream) {
  require(from.size() == kernels::kImageParts && to.size() == kernels::kImageParts,
          "source and to must have six parts each");
  require(length >= 1, "sizes must be positive");
  const void* sources[kernels::kImageParts];
  void* targets[kernels::kImageParts];
  for (size_t i = 0; i < kernels::kImageParts; ++i) {
    sources[i] = pointer<const void>(from[i]), targets[i] = pointer<void>(to[i]);
  }
  kernels::pack_image(sources, targets, length, pointer<void>(stream));
}

void decoder_prompts(int dtype, Address input_tokens, Address output, int64_t outputs, Address weights, int64_t count,
                     const std::vector<int64_t>& sizes, const std::vector<Address>& image, bool packed,
                     Address constant, double eps, int64_t prompts, int64_t tokens, int64_t length,
                     const std::vector<int>& chosen, Address state, Address final_tokens, Address iou,
                     Address first_token_values, Address second_token_values, Address scratch, int64_t scratch_bytes,
                     int64_t shared_memory, Address stream) {
  require(image.size() == 8, "image must have eight parts");
  kernels::Prompts job = make_prompts(weights, count, sizes, prompts, tokens, length, chosen);
  job.outputs = outputs, job.output = pointer<const void>(output), job.packed = packed;
  (outputs > 0 ? job.sparse : job.input_tokens) = pointer<const void>(input_tokens);
  job.constant = pointer<const float>(constant), job.eps = static_cast<float>(eps);
  job.first_keys = pointer<const void>(image[0]), job.first_values = pointer<const void>(image[1]);
  job.image1 = pointer<const void>(image[2]), job.values1 = pointer<const void>(image[3]);
  job.norms1 = pointer<const float>(image[4]);
  job.image2 = pointer<const void>(image[5]), job.values2 = pointer<const void>(image[6]);
  job.norms2 = pointer<const float>(image[7]);
  job.state = pointer<void>(state), job.final_tokens = pointer<void>(final_tokens), job.iou = pointer<void>(iou);
  job.first_token_values = pointer<void>(first_token_values),
  job.second_token_values = pointer<void>(second_token_values);
  require(kernels::prompts_scratch_bytes(job) <= scratch_bytes, "there is less scratch memory than the call takes");
  job.scratch = pointer<void>(scratch);
  kernels::decode_prompts(job, static_cast<DType>(dtype), shared_memory, pointer<void>(stream));
}

// A job with the sizes of a call and pointers to the layers of each chosen token after the first. layers: (any number
// of masks, mask_size) elements; masks: which of these rows each such token uses; sizes: outputs of a row's three
// layers.
kernels::MaskFactors make_mask_factors(Address layers, int64_t mask_size, const std::vector<int64_t>& sizes,
                                       const std::vector<int64_t>& masks, int64_t prompts, int64_t tokens,
                                       int64_t conv1_channels, int64_t selected_count, int64_t count) {
  require(sizes.size() == 3, "sizes must hold three numbers");
  for (const int64_t size : sizes) require(size > 0 && size <= (int64_t{1} << 20), "sizes must be from 1 to 2^20");
  require(masks.size() < kernels::kTokens, "there are at most seven masks");
  require(conv1_channels > 0 && conv1_channels <= (int64_t{1} << 20), "conv1_channels must be from 1 to 2^20");
  kernels::MaskFactors job{};
  job.prompts = prompts, job.tokens = tokens, job.selected_count = selected_count, job.count = count;
  job.conv1_channels = static_cast<int>(conv1_channels), job.chosen_count = static_cast<int>(masks.size()) + 1;
  for (size_t i = 0; i < masks.size(); ++i) {
    require(masks[i] >= 0, "masks must not be negative");
    WeightReader reader(layers + static_cast<Address>(2 * masks[i] * mask_size), mask_size);
    auto& mask_layers = job.layers[i];
    mask_layers[0] = reader.layer(kernels::kWidth, sizes[0]), mask_layers[1] = reader.layer(sizes[0], sizes[1]);
    mask_layers[2] = reader.layer(sizes[1], sizes[2]);
    reader.check_end();
  }
  return job;
}

int64_t mask_factors_scratch_bytes(int64_t mask_size, const std::vector<int64_t>& sizes,
                                   const std::vector<int64_t>& masks, int64_t prompts, int64_t tokens,
                                   int64_t conv1_channels, int64_t selected_count, int64_t count) {
  return kernels::mask_factors_scratch_bytes(
      make_mask_factors(0, mask_size, sizes, masks, prompts, tokens, conv1_channels, selected_count, count));
}

void decoder_mask_factors(int dtype, Address final_tokens, Address first_token_values, Address second_token_values,
                          Address selected, Address index, Address column, Address layers, int64_t mask_size,
                          const std::vector<int64_t>& sizes, const std::vector<int64_t>& masks, int64_t prompts,
                          int64_t tokens, int64_t conv1_channels, int64_t selected_count, int64_t count,
                          Address first_mix, Address second_mix, Address constant_mix, bool packed, Address factors,
                          Address weights, Address scratch, int64_t scratch_bytes, Address stream) {
  auto job = make_mask_factors(layers, mask_size, sizes, masks, prompts, tokens, conv1_channels, selected_count, count);
  job.final_tokens = pointer<const void>(final_tokens),
  job.first_token_values = pointer<const void>(first_token_values);
  job.second_token_values = pointer<const void>(second_token_values), job.selected = pointer<const int64_t>(selected);
  job.index = pointer<const int64_t>(index), job.column = pointer<const int64_t>(column);
  job.first_mix = pointer<const void>(first_mix), job.second_mix = pointer<const void>(second_mix);
  job.constant_mix = pointer<const void>(constant_mix), job.packed = packed, job.factors = pointer<void>(factors);
  job.weights = pointer<void>(weights);
  require(kernels::mask_factors_scratch_bytes(job) <= scratch_bytes,
          "there is less scratch memory than the call takes");
  job.scratch = pointer<void>(scratch);
  kernels::mask_factors(job, static_cast<DType>(dtype), pointer<void>(stream));
}

}  // namespace

void bind_decoder_tokens(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> released;
  m.def("decoder_prompts_scratch_bytes", &prompts_scratch_bytes, py::arg("count"), py::arg("sizes"), py::arg("packed"),
        py::arg("prompts"), py::arg("tokens"), py::arg("length"), py::arg("chosen"));
  m.def("decoder_pack_image", &pack_image, py::arg("source"), py::arg("to"), py::arg("length"), py::arg("stream"),
        released);
  m.def("decoder_prompts", &decoder_prompts, py::arg("dtype"), py::arg("input_tokens"), py::arg("output"),
        py::arg("outputs"), py::arg("weights"), py::arg("count"), py::arg("sizes"), py::arg("image"), py::arg("packed"),
        py::arg("constant"), py::arg("eps"), py::arg("prompts"), py::arg("tokens"), py::arg("length"),
        py::arg("chosen"), py::arg("state"), py::arg("final_tokens"), py::arg("iou"), py::arg("first_token_values"),
        py::arg("second_token_values"), py::arg("scratch"), py::arg("scratch_bytes"), py::arg("shared_memory"),
        py::arg("stream"), released);
  m.def("decoder_mask_factors_scratch_bytes", &mask_factors_scratch_bytes, py::arg("mask_size"), py::arg("sizes"),
        py::arg("masks"), py::arg("prompts"), py::arg("tokens"), py::arg("conv1_channels"), py::arg("selected_count"),
        py::arg("count"));
  m.def("decoder_mask_factors", &decoder_mask_factors, py::arg("dtype"), py::arg("final_tokens"),
        py::arg("first_token_values"), py::arg("second_token_values"), py::arg("selected"), py::arg("index"),
        py::arg("column"), py::arg("layers"), py::arg("mask_size"), py::arg("sizes"), py::arg("masks"),
        py::arg("prompts"), py::arg("tokens"), py::arg("conv1_channels"), py::arg("selected_count"), py::arg("count"),
        py::arg("first_mix"), py::arg("second_mix"), py::arg("constant_mix"), py::arg("packed"), py::arg("factors"),
        py::arg("weights"), py::arg("scratch"), py::arg("scratch_bytes"), py::arg("stream"), released);
}

}  // namespace fastsam::bindings
