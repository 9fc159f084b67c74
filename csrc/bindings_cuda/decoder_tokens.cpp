// Python bindings of decoder/tokens_cuda.h; see pointers.h for what callers guarantee. They cut the flat weight tensors
// that ops/_decoder/weights.py packs into layers.
#include <vector>

#include "bindings_cuda/pointers.h"
#include "decoder/tokens_cuda.h"

namespace fastsam::bindings {

namespace {

namespace kernels = fastsam::decoder::cuda;

// Cuts a flat tensor of 16-bit elements into consecutive pieces, each padded to a multiple of 16 elements. `end` checks
// that none is left over.
class Pieces {
 public:
  Pieces(Address data, int64_t count) : next_(data), left_(count) {}

  const void* take(int64_t count) {
    const int64_t padded = (count + 15) / 16 * 16;
    require(padded <= left_, "there are fewer weights than the sizes ask for");
    const auto* const piece = pointer<const void>(next_);
    next_ += static_cast<Address>(2 * padded), left_ -= padded;
    return piece;
  }
  kernels::TokenLayer layer(int64_t k, int64_t n) {
    const void* const weight = take(n * k);
    return {weight, take(n), static_cast<int>(n), static_cast<int>(k)};
  }
  kernels::TokenNorm norm() {
    const void* const weight = take(kernels::kWidth);
    return {weight, take(kernels::kWidth)};
  }
  const void* mix() { return take(int64_t{kernels::kInner} * kernels::kInner); }
  const void* vector() { return take(kernels::kInner); }
  void end() const { require(left_ == 0, "there are more weights than the sizes ask for"); }

 private:
  Address next_;
  int64_t left_;
};

kernels::TokenBlock block_of(Pieces& pieces, int64_t hidden) {
  constexpr int64_t kWidth = kernels::kWidth, kInner = kernels::kInner;
  kernels::TokenBlock block{};
  for (auto* layer : {&block.self_q, &block.self_k, &block.self_v, &block.self_out}) {
    *layer = pieces.layer(kWidth, kWidth);
  }
  block.norm1 = pieces.norm();
  block.look_q = pieces.layer(kWidth, kInner), block.look_out = pieces.layer(kInner, kWidth);
  block.norm2 = pieces.norm();
  block.mlp1 = pieces.layer(kWidth, hidden), block.mlp2 = pieces.layer(hidden, kWidth);
  block.norm3 = pieces.norm();
  block.answer_k = pieces.layer(kWidth, kInner), block.answer_v = pieces.layer(kWidth, kInner);
  return block;
}

// A job with the sizes of a call and pointers to its weights, of which there are `count`. sizes: width, inner, hidden
// channels of the first and the second block's MLP, outputs of the three layers of the IoU head.
kernels::Prompts prompts_of(Address weights, int64_t count, const std::vector<int64_t>& sizes, int64_t prompts,
                            int64_t tokens, int64_t length, const std::vector<int>& chosen) {
  constexpr int64_t kWidth = kernels::kWidth, kInner = kernels::kInner;
  require(sizes.size() == 7, "sizes must hold seven numbers");
  for (const int64_t size : sizes) require(size > 0 && size <= (int64_t{1} << 20), "sizes must be from 1 to 2^20");
  require(sizes[0] == kWidth && sizes[1] == kInner,
          "only tokens of 256 channels, with 128 in attention to the image, have kernels");
  require(chosen.size() >= 1 && chosen.size() <= kernels::kTokens, "chosen must hold 1 to 8 indices");
  kernels::Prompts job{};
  job.prompts = prompts, job.tokens = tokens, job.length = length;
  Pieces pieces(weights, count);
  job.first = block_of(pieces, sizes[2]), job.second = block_of(pieces, sizes[3]);
  job.final_q = pieces.layer(kWidth, kInner), job.final_out = pieces.layer(kInner, kWidth);
  job.final_norm = pieces.norm();
  job.iou1 = pieces.layer(kWidth, sizes[4]), job.iou2 = pieces.layer(sizes[4], sizes[5]);
  job.iou3 = pieces.layer(sizes[5], sizes[6]);
  kernels::TokenMixes& mixes = job.mixes;
  mixes.gram1 = pieces.mix(), mixes.look1 = pieces.mix(), mixes.seen1 = pieces.mix();
  mixes.seen1_bias = pieces.vector();
  mixes.keys = pieces.mix(), mixes.keys_bias = pieces.vector();
  mixes.own = pieces.mix(), mixes.own_bias = pieces.vector();
  mixes.cross = pieces.mix(), mixes.cross_bias = pieces.vector();
  mixes.gram2 = pieces.mix(), mixes.look2_first = pieces.mix(), mixes.look2_second = pieces.mix();
  mixes.look2_rest = pieces.vector();
  mixes.seen2_first = pieces.mix(), mixes.seen2_second = pieces.mix();
  mixes.seen2_rest = pieces.vector(), mixes.seen2_bias = pieces.vector();
  pieces.end();
  for (size_t i = 0; i < chosen.size(); ++i) job.chosen[i] = chosen[i];
  job.chosen_count = static_cast<int>(chosen.size());
  return job;
}

int64_t prompts_scratch(int64_t count, const std::vector<int64_t>& sizes, bool laid_out, int64_t prompts,
                        int64_t tokens, int64_t length, const std::vector<int>& chosen) {
  kernels::Prompts job = prompts_of(0, count, sizes, prompts, tokens, length, chosen);
  job.laid_out = laid_out;
  return kernels::prompts_scratch(job);
}

void lay_out(const std::vector<Address>& from, const std::vector<Address>& to, int64_t length, Address stream) {
  require(from.size() == kernels::kImageParts && to.size() == kernels::kImageParts,
          "source and to must have six parts each");
  require(length >= 1, "sizes must be positive");
  const void* sources[kernels::kImageParts];
  void* targets[kernels::kImageParts];
  for (size_t i = 0; i < kernels::kImageParts; ++i) {
    sources[i] = pointer<const void>(from[i]), targets[i] = pointer<void>(to[i]);
  }
  kernels::lay_out(sources, targets, length, pointer<void>(stream));
}

void decoder_prompts(int dtype, Address given, Address output, int64_t outputs, Address weights, int64_t count,
                     const std::vector<int64_t>& sizes, const std::vector<Address>& image, bool laid_out,
                     Address constant, double eps, int64_t prompts, int64_t tokens, int64_t length,
                     const std::vector<int>& chosen, Address state, Address final_tokens, Address iou,
                     Address first_own, Address second_own, Address scratch, int64_t scratch_bytes,
                     int64_t shared_memory, Address stream) {
  require(image.size() == 8, "image must have eight parts");
  kernels::Prompts job = prompts_of(weights, count, sizes, prompts, tokens, length, chosen);
  job.outputs = outputs, job.output = pointer<const void>(output), job.laid_out = laid_out;
  (outputs > 0 ? job.sparse : job.given) = pointer<const void>(given);
  job.constant = pointer<const float>(constant), job.eps = static_cast<float>(eps);
  job.first_keys = pointer<const void>(image[0]), job.first_values = pointer<const void>(image[1]);
  job.image1 = pointer<const void>(image[2]), job.values1 = pointer<const void>(image[3]);
  job.norms1 = pointer<const float>(image[4]);
  job.image2 = pointer<const void>(image[5]), job.values2 = pointer<const void>(image[6]);
  job.norms2 = pointer<const float>(image[7]);
  job.state = pointer<void>(state), job.final_tokens = pointer<void>(final_tokens), job.iou = pointer<void>(iou);
  job.first_own = pointer<void>(first_own), job.second_own = pointer<void>(second_own);
  require(kernels::prompts_scratch(job) <= scratch_bytes, "there is less scratch memory than the call takes");
  job.scratch = pointer<void>(scratch);
  kernels::decode_prompts(job, static_cast<DType>(dtype), shared_memory, pointer<void>(stream));
}

// A job with the sizes of a call and pointers to the layers of each chosen token after the first. layers: (any number
// of masks, each) elements; masks: which of these rows each such token uses; sizes: outputs of a row's three layers.
kernels::MaskFactors factors_of(Address layers, int64_t each, const std::vector<int64_t>& sizes,
                                const std::vector<int64_t>& masks, int64_t prompts, int64_t tokens, int64_t wide,
                                int64_t asked_count, int64_t count) {
  require(sizes.size() == 3, "sizes must hold three numbers");
  for (const int64_t size : sizes) require(size > 0 && size <= (int64_t{1} << 20), "sizes must be from 1 to 2^20");
  require(masks.size() < kernels::kTokens, "there are at most seven masks");
  require(wide > 0 && wide <= (int64_t{1} << 20), "wide must be from 1 to 2^20");
  kernels::MaskFactors job{};
  job.prompts = prompts, job.tokens = tokens, job.asked_count = asked_count, job.count = count;
  job.wide = static_cast<int>(wide), job.chosen_count = static_cast<int>(masks.size()) + 1;
  for (size_t i = 0; i < masks.size(); ++i) {
    require(masks[i] >= 0, "masks must not be negative");
    Pieces pieces(layers + static_cast<Address>(2 * masks[i] * each), each);
    auto& of_mask = job.layers[i];
    of_mask[0] = pieces.layer(kernels::kWidth, sizes[0]), of_mask[1] = pieces.layer(sizes[0], sizes[1]);
    of_mask[2] = pieces.layer(sizes[1], sizes[2]);
    pieces.end();
  }
  return job;
}

int64_t mask_factors_scratch(int64_t each, const std::vector<int64_t>& sizes, const std::vector<int64_t>& masks,
                             int64_t prompts, int64_t tokens, int64_t wide, int64_t asked_count, int64_t count) {
  return kernels::mask_factors_scratch(factors_of(0, each, sizes, masks, prompts, tokens, wide, asked_count, count));
}

void decoder_mask_factors(int dtype, Address final_tokens, Address first_own, Address second_own, Address asked,
                          Address index, Address column, Address layers, int64_t each,
                          const std::vector<int64_t>& sizes, const std::vector<int64_t>& masks, int64_t prompts,
                          int64_t tokens, int64_t wide, int64_t asked_count, int64_t count, Address first,
                          Address second, Address rest, bool laid_out, Address factors, Address weights,
                          Address scratch, int64_t scratch_bytes, Address stream) {
  auto job = factors_of(layers, each, sizes, masks, prompts, tokens, wide, asked_count, count);
  job.final_tokens = pointer<const void>(final_tokens), job.first_own = pointer<const void>(first_own);
  job.second_own = pointer<const void>(second_own), job.asked = pointer<const int64_t>(asked);
  job.index = pointer<const int64_t>(index), job.column = pointer<const int64_t>(column);
  job.first = pointer<const void>(first), job.second = pointer<const void>(second);
  job.rest = pointer<const void>(rest), job.laid_out = laid_out, job.factors = pointer<void>(factors);
  job.weights = pointer<void>(weights);
  require(kernels::mask_factors_scratch(job) <= scratch_bytes, "there is less scratch memory than the call takes");
  job.scratch = pointer<void>(scratch);
  kernels::mask_factors(job, static_cast<DType>(dtype), pointer<void>(stream));
}

}  // namespace

void bind_decoder_tokens(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> released;
  m.def("decoder_prompts_scratch", &prompts_scratch, py::arg("count"), py::arg("sizes"), py::arg("laid_out"),
        py::arg("prompts"), py::arg("tokens"), py::arg("length"), py::arg("chosen"));
  m.def("decoder_lay_out", &lay_out, py::arg("source"), py::arg("to"), py::arg("length"), py::arg("stream"), released);
  m.def("decoder_prompts", &decoder_prompts, py::arg("dtype"), py::arg("given"), py::arg("output"), py::arg("outputs"),
        py::arg("weights"), py::arg("count"), py::arg("sizes"), py::arg("image"), py::arg("laid_out"),
        py::arg("constant"), py::arg("eps"), py::arg("prompts"), py::arg("tokens"), py::arg("length"),
        py::arg("chosen"), py::arg("state"), py::arg("final_tokens"), py::arg("iou"), py::arg("first_own"),
        py::arg("second_own"), py::arg("scratch"), py::arg("scratch_bytes"), py::arg("shared_memory"),
        py::arg("stream"), released);
  m.def("decoder_mask_factors_scratch", &mask_factors_scratch, py::arg("each"), py::arg("sizes"), py::arg("masks"),
        py::arg("prompts"), py::arg("tokens"), py::arg("wide"), py::arg("asked_count"), py::arg("count"));
  m.def("decoder_mask_factors", &decoder_mask_factors, py::arg("dtype"), py::arg("final_tokens"), py::arg("first_own"),
        py::arg("second_own"), py::arg("asked"), py::arg("index"), py::arg("column"), py::arg("layers"),
        py::arg("each"), py::arg("sizes"), py::arg("masks"), py::arg("prompts"), py::arg("tokens"), py::arg("wide"),
        py::arg("asked_count"), py::arg("count"), py::arg("first"), py::arg("second"), py::arg("rest"),
        py::arg("laid_out"), py::arg("factors"), py::arg("weights"), py::arg("scratch"), py::arg("scratch_bytes"),
        py::arg("stream"), released);
}

}  // namespace fastsam::bindings
