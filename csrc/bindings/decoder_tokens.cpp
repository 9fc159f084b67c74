// Python bindings of decoder/tokens.h. They check all sizes, and cut the flat weight arrays that
// ops/_decoder/weights.py packs into layers.
#include "bindings/arrays.h"
#include "common/panels.h"
#include "decoder/tokens.h"

namespace fastsam::bindings {

namespace {

namespace dec = fastsam::decoder;

// Cuts a flat array into consecutive pieces, each padded to a multiple of 16 values. `end` checks that none is left
// over.
class Taker {
 public:
  Taker(const float* data, int64_t size) : next_(data), left_(size) {}

  const float* take(int64_t size) {
    const int64_t whole = padded(size);
    require(whole <= left_, "there are fewer weights than the sizes ask for");
    const float* piece = next_;
    next_ += whole, left_ -= whole;
    return piece;
  }
  dec::TokenLayer layer(int64_t k, int64_t n) {
    const float* weight = take(n * k);
    return {weight, take(n), n, k};
  }
  dec::TokenNorm norm(int64_t width) {
    const float* weight = take(width);
    return {weight, take(width)};
  }
  void end() const { require(left_ == 0, "there are more weights than the sizes ask for"); }

 private:
  const float* next_;
  int64_t left_;
};

dec::TokenBlock take_block(Taker& taker, int64_t width, int64_t inner, int64_t hidden) {
  dec::TokenBlock block{};
  for (dec::TokenLayer* layer : {&block.self_q, &block.self_k, &block.self_v, &block.self_out}) {
    *layer = taker.layer(width, width);
  }
  block.norm1 = taker.norm(width);
  block.look_q = taker.layer(width, inner), block.look_out = taker.layer(inner, width);
  block.norm2 = taker.norm(width);
  block.mlp1 = taker.layer(width, hidden);
  block.mlp2 = taker.layer(hidden, width);
  block.norm3 = taker.norm(width);
  block.answer_k = taker.layer(width, inner), block.answer_v = taker.layer(width, inner);
  return block;
}

// sizes: width, inner = heads * head_dim, hidden channels of the first and the second block's MLP, outputs of the three
// layers of the IoU head. image: first_keys, first_values, image1, values1, norms1, image2, values2, norms2.
void decoder_prompts(const Floats& tokens, const Floats& weights, const std::vector<int64_t>& sizes,
                     const std::vector<Floats>& image, double constant, double eps, int64_t heads, int64_t length,
                     const std::vector<int64_t>& chosen, Floats state, Floats final_tokens, Floats iou,
                     Floats first_own, Floats second_own, int64_t threads) {
  require(tokens.ndim() == 3 && tokens.shape(1) > 0 && tokens.shape(2) > 0, "tokens must be (prompts, tokens, width)");
  require(first_own.ndim() == 4 && first_own.shape(3) > 0, "values must be (prompts, heads, tokens, head_dim)");
  require(heads > 0 && tokens.shape(2) % heads == 0, "the width must be a multiple of heads");
  require(length > 0, "length must be positive");
  dec::Prompts job{};
  job.prompts = tokens.shape(0), job.tokens = tokens.shape(1), job.width = tokens.shape(2);
  job.heads = heads, job.head_dim = first_own.shape(3), job.length = length, job.eps = static_cast<float>(eps);
  const int64_t inner = heads * job.head_dim, rows = heads * job.tokens, width = job.width;
  require(sizes.size() == 7, "sizes must hold seven numbers");
  for (const int64_t size : sizes) require(size > 0 && size <= (int64_t{1} << 20), "sizes must be from 1 to 2^20");
  require(sizes[0] == width && sizes[1] == inner, "the first two sizes must be those of tokens and values");
  const int64_t panels = num_panels(length);

  require(weights.ndim() == 1, "weights must be one-dimensional");
  Taker taker(weights.data(), weights.size());
  job.first = take_block(taker, width, inner, sizes[2]);
  job.second = take_block(taker, width, inner, sizes[3]);
  job.final_q = taker.layer(width, inner), job.final_out = taker.layer(inner, width);
  job.final_norm = taker.norm(width);
  job.iou1 = taker.layer(width, sizes[4]);
  job.iou2 = taker.layer(sizes[4], sizes[5]);
  job.iou3 = taker.layer(sizes[5], sizes[6]);
  dec::TokenMixes& mixes = job.mixes;
  for (const float** matrix : {&mixes.gram1, &mixes.look1, &mixes.seen1}) *matrix = taker.take(inner * inner);
  mixes.seen1_bias = taker.take(inner);
  mixes.keys = taker.take(inner * inner), mixes.keys_bias = taker.take(inner);
  mixes.own = taker.take(inner * inner), mixes.own_bias = taker.take(inner);
  mixes.cross = taker.take(inner * inner), mixes.cross_bias = taker.take(inner);
  mixes.gram2 = taker.take(inner * inner);
  mixes.look2_first = taker.take(inner * inner), mixes.look2_second = taker.take(inner * inner);
  mixes.look2_rest = taker.take(inner);
  mixes.seen2_first = taker.take(inner * inner), mixes.seen2_second = taker.take(inner * inner);
  mixes.seen2_rest = taker.take(inner), mixes.seen2_bias = taker.take(inner);
  taker.end();

  require(image.size() == 8, "image must have eight parts");
  require(has_shape(image[0], {panels, inner, kPanel}), "first_keys must be (panels, inner, 16)");
  for (const size_t at : {1, 3, 6}) {
    require(has_shape(image[at], {heads, panels * kPanel, padded(job.head_dim)}),
            "values must be (heads, panels * 16, head_dim rounded up to 16)");
  }
  require(has_shape(image[2], {panels, 4 * inner, kPanel}), "image1 must be (panels, 4 * inner, 16)");
  require(has_shape(image[4], {panels, kPanel}), "norms1 must be (panels, 16)");
  require(has_shape(image[5], {panels, 6 * inner, kPanel}), "image2 must be (panels, 6 * inner, 16)");
  require(has_shape(image[7], {panels, 2, kPanel}), "norms2 must be (panels, 2, 16)");
  job.first_keys = image[0].data(), job.first_values = image[1].data();
  job.image1 = image[2].data(), job.values1 = image[3].data(), job.norms1 = image[4].data();
  job.image2 = image[5].data(), job.values2 = image[6].data(), job.norms2 = image[7].data();
  job.constant = static_cast<float>(constant);

  job.chosen = chosen.data(), job.chosen_count = static_cast<int64_t>(chosen.size());
  require(job.chosen_count > 0 && job.chosen_count <= job.tokens, "chosen must hold 1 to `tokens` indices");
  for (int64_t i = 0; i < job.chosen_count; ++i) {
    require(job.chosen[i] >= 0 && job.chosen[i] < job.tokens, "a chosen token is not among the tokens");
  }
  require(has_shape(state, {job.prompts, panels, 2 * rows + 2, kPanel}),
          "state must be (prompts, panels, 2 * rows + 2, 16)");
  require(has_shape(final_tokens, {job.prompts, job.chosen_count, width}), "final must be (prompts, chosen, width)");
  require(has_shape(iou, {job.prompts, job.iou3.n}), "iou must be (prompts, masks)");
  for (const Floats* own : {&first_own, &second_own}) {
    require(has_shape(*own, {job.prompts, heads, job.tokens, job.head_dim}),
            "values must be (prompts, heads, tokens, head_dim)");
  }
  job.given = tokens.data();
  job.state = state.mutable_data(), job.final_tokens = final_tokens.mutable_data(), job.iou = iou.mutable_data();
  job.first_own = first_own.mutable_data(), job.second_own = second_own.mutable_data();
  py::gil_scoped_release release;
  dec::decode_prompts(job, threads);
}

// masks: for each chosen token after the first, which row of `layers` (masks, packed weights) belongs to it. sizes:
// outputs of the three layers in such a row.
void decoder_mask_factors(const Floats& final_tokens, const Floats& first_own, const Floats& second_own,
                          const Int64s& asked, const Int64s& index, const Int64s& column,
                          const std::vector<int64_t>& masks, const Floats& layers, const std::vector<int64_t>& sizes,
                          const Floats& first, const Floats& second, const Floats& rest, Floats factors, Floats weights,
                          int64_t threads) {
  require(final_tokens.ndim() == 3 && final_tokens.shape(1) > 0 && final_tokens.shape(2) > 0,
          "final must be (prompts, chosen, width)");
  require(first_own.ndim() == 4, "values must be (prompts, heads, tokens, head_dim)");
  require(rest.ndim() == 1, "rest must be (4 * middle)");
  require(asked.ndim() == 1 && index.ndim() == 1 && column.ndim() == 1,
          "asked, index and column must be one-dimensional");
  require(index.size() == column.size(), "index and column must be of one length");
  dec::MaskFactors job{};
  job.prompts = final_tokens.shape(0), job.chosen_count = final_tokens.shape(1), job.width = final_tokens.shape(2);
  job.heads = first_own.shape(1), job.tokens = first_own.shape(2), job.head_dim = first_own.shape(3);
  const int64_t inner = job.heads * job.head_dim;
  job.wide = rest.size(), job.asked_count = asked.size(), job.count = index.size();
  require(has_shape(first_own, {job.prompts, job.heads, job.tokens, job.head_dim}),
          "values must be of the same prompts as final");
  require(has_shape(second_own, {job.prompts, job.heads, job.tokens, job.head_dim}),
          "second_own must be like first_own");
  require(has_shape(first, {job.wide, inner}), "first must be (4 * middle, inner)");
  require(has_shape(second, {job.wide, inner}), "second must be (4 * middle, inner)");
  require(has_shape(factors, {job.asked_count, job.wide, 2 * job.heads * job.tokens + 2}),
          "factors must be (asked, wide, rows)");
  require(sizes.size() == 3, "sizes must hold three numbers");
  for (const int64_t size : sizes) require(size > 0 && size <= (int64_t{1} << 20), "sizes must be from 1 to 2^20");
  require(layers.ndim() == 2, "layers must be (masks, weights)");
  require(static_cast<int64_t>(masks.size()) + 1 == job.chosen_count,
          "there must be a mask for each chosen token but the first");
  require(has_shape(weights, {job.count, sizes[2]}), "weights must be (count, outputs of the last layer)");
  std::vector<dec::TokenLayer> of_masks;
  for (const int64_t mask : masks) {
    require(mask >= 0 && mask < layers.shape(0), "masks must be indices of rows of layers");
    Taker taker(layers.data() + mask * layers.shape(1), layers.shape(1));
    of_masks.push_back(taker.layer(job.width, sizes[0]));
    of_masks.push_back(taker.layer(sizes[0], sizes[1]));
    of_masks.push_back(taker.layer(sizes[1], sizes[2]));
    taker.end();
  }
  job.final_tokens = final_tokens.data(), job.first_own = first_own.data(), job.second_own = second_own.data();
  job.asked = asked.data(), job.index = index.data(), job.column = column.data(), job.layers = of_masks.data();
  job.first = first.data(), job.second = second.data(), job.rest = rest.data();
  job.factors = factors.mutable_data(), job.weights = weights.mutable_data();
  py::gil_scoped_release release;
  dec::mask_factors(job, threads);
}

}  // namespace

void bind_decoder_tokens(py::module_& m) {
  m.def("decoder_prompts", &decoder_prompts, exact("tokens"), exact("weights"), py::arg("sizes"), exact("image"),
        py::arg("constant"), py::arg("eps"), py::arg("heads"), py::arg("length"), py::arg("chosen"), exact("state"),
        exact("final_tokens"), exact("iou"), exact("first_own"), exact("second_own"), py::arg("threads"));
  m.def("decoder_mask_factors", &decoder_mask_factors, exact("final_tokens"), exact("first_own"), exact("second_own"),
        exact("asked"), exact("index"), exact("column"), py::arg("masks"), exact("layers"), py::arg("sizes"),
        exact("first"), exact("second"), exact("rest"), exact("factors"), exact("weights"), py::arg("threads"));
}

}  // namespace fastsam::bindings
