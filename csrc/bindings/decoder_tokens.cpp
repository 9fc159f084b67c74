// Python bindings of decoder/tokens.h. They check all sizes, and cut the flat weight arrays that
// ops/_decoder/weights.py packs into layers.
#include "bindings/arrays.h"
#include "common/panels.h"
#include "decoder/tokens.h"

namespace fastsam::bindings {

namespace {

namespace dec = fastsam::decoder;

// Cuts a flat array into consecutive pieces, each padded to a multiple of 16 values. `check_end` checks that none is
// left over.
class WeightReader {
 public:
  WeightReader(const float* data, int64_t size) : next_(data), remaining_(size) {}

  const float* read(int64_t size) {
    const int64_t padded_size = padded(size);
    require(padded_size <= remaining_, "there are fewer weights than the sizes ask for");
    const float* piece = next_;
    next_ += padded_size, remaining_ -= padded_size;
    return piece;
  }
  dec::TokenLayer layer(int64_t k, int64_t n) {
    const float* weight = read(n * k);
    return {weight, read(n), n, k};
  }
  dec::TokenNorm norm(int64_t width) {
    const float* weight = read(width);
    return {weight, read(width)};
  }
  void check_end() const { require(remaining_ == 0, "there are more weights than the sizes ask for"); }

 private:
  const float* next_;
  int64_t remaining_;
};

dec::TokenBlock read_block(WeightReader& reader, int64_t width, int64_t inner, int64_t hidden) {
  dec::TokenBlock block{};
  for (dec::TokenLayer* layer : {&block.self_q, &block.self_k, &block.self_v, &block.self_out}) {
    *layer = reader.layer(width, width);
  }
  block.norm1 = reader.norm(width);
  block.token_to_image_q = reader.layer(width, inner), block.token_to_image_out = reader.layer(inner, width);
  block.norm2 = reader.norm(width);
  block.mlp1 = reader.layer(width, hidden);
  block.mlp2 = reader.layer(hidden, width);
  block.norm3 = reader.norm(width);
  block.image_to_token_k = reader.layer(width, inner), block.image_to_token_v = reader.layer(width, inner);
  return block;
}

// sizes: width, inner = heads * head_dim, hidden channels of the first and the second block's MLP, outputs of the three
// layers of the IoU head. image: first_keys, first_values, image1, values1, norms1, image2, values2, norms2.
void decoder_prompts(const Floats& tokens, const Floats& weights, const std::vector<int64_t>& sizes,
                     const std::vector<Floats>& image, double constant, double eps, int64_t heads, int64_t length,
                     const std::vector<int64_t>& chosen, Floats state, Floats final_tokens, Floats iou,
                     Floats first_token_values, Floats second_token_values, int64_t threads) {
  require(tokens.ndim() == 3 && tokens.shape(1) > 0 && tokens.shape(2) > 0, "tokens must be (prompts, tokens, width)");
  require(first_token_values.ndim() == 4 && first_token_values.shape(3) > 0,
          "values must be (prompts, heads, tokens, head_dim)");
  require(heads > 0 && tokens.shape(2) % heads == 0, "the width must be a multiple of heads");
  check_length(length);
  dec::Prompts job{};
  job.prompts = tokens.shape(0), job.tokens = tokens.shape(1), job.width = tokens.shape(2);
  job.heads = heads, job.head_dim = first_token_values.shape(3), job.length = length, job.eps = static_cast<float>(eps);
  const int64_t inner = heads * job.head_dim, rows = heads * job.tokens, width = job.width;
  require(sizes.size() == 7, "sizes must hold seven numbers");
  for (const int64_t size : sizes) require(size > 0 && size <= (int64_t{1} << 20), "sizes must be from 1 to 2^20");
  require(sizes[0] == width && sizes[1] == inner, "the first two sizes must be those of tokens and values");
  const int64_t panels = num_panels(length);

  require(weights.ndim() == 1, "weights must be one-dimensional");
  WeightReader reader(weights.data(), weights.size());
  job.first = read_block(reader, width, inner, sizes[2]);
  job.second = read_block(reader, width, inner, sizes[3]);
  job.final_q = reader.layer(width, inner), job.final_out = reader.layer(inner, width);
  job.final_norm = reader.norm(width);
  job.iou1 = reader.layer(width, sizes[4]);
  job.iou2 = reader.layer(sizes[4], sizes[5]);
  job.iou3 = reader.layer(sizes[5], sizes[6]);
  dec::TokenMixes& mixes = job.mixes;
  for (const float** matrix : {&mixes.gram1, &mixes.queries1, &mixes.values1}) *matrix = reader.read(inner * inner);
  mixes.values1_bias = reader.read(inner);
  mixes.keys = reader.read(inner * inner), mixes.keys_bias = reader.read(inner);
  mixes.gram2_first = reader.read(inner * inner), mixes.gram2_first_bias = reader.read(inner);
  mixes.cross = reader.read(inner * inner), mixes.cross_bias = reader.read(inner);
  mixes.gram2_second = reader.read(inner * inner);
  mixes.queries2_first = reader.read(inner * inner), mixes.queries2_second = reader.read(inner * inner);
  mixes.queries2_constant = reader.read(inner);
  mixes.values2_first = reader.read(inner * inner), mixes.values2_second = reader.read(inner * inner);
  mixes.values2_constant = reader.read(inner), mixes.values2_bias = reader.read(inner);
  reader.check_end();

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
  for (const Floats* token_values : {&first_token_values, &second_token_values}) {
    require(has_shape(*token_values, {job.prompts, heads, job.tokens, job.head_dim}),
            "values must be (prompts, heads, tokens, head_dim)");
  }
  job.input_tokens = tokens.data();
  job.state = state.mutable_data(), job.final_tokens = final_tokens.mutable_data(), job.iou = iou.mutable_data();
  job.first_token_values = first_token_values.mutable_data(),
  job.second_token_values = second_token_values.mutable_data();
  py::gil_scoped_release release;
  dec::decode_prompts(job, threads);
}

// masks: for each chosen token after the first, which row of `layers` (masks, packed weights) belongs to it. sizes:
// outputs of the three layers in such a row.
void decoder_mask_factors(const Floats& final_tokens, const Floats& first_token_values,
                          const Floats& second_token_values, const Int64s& selected, const Int64s& index,
                          const Int64s& column, const std::vector<int64_t>& masks, const Floats& layers,
                          const std::vector<int64_t>& sizes, const Floats& first_mix, const Floats& second_mix,
                          const Floats& constant_mix, Floats factors, Floats weights, int64_t threads) {
  require(final_tokens.ndim() == 3 && final_tokens.shape(1) > 0 && final_tokens.shape(2) > 0,
          "final must be (prompts, chosen, width)");
  require(first_token_values.ndim() == 4, "values must be (prompts, heads, tokens, head_dim)");
  require(constant_mix.ndim() == 1, "constant_mix must be (4 * middle)");
  require(selected.ndim() == 1 && index.ndim() == 1 && column.ndim() == 1,
          "selected, index and column must be one-dimensional");
  require(index.size() == column.size(), "index and column must be of one length");
  dec::MaskFactors job{};
  job.prompts = final_tokens.shape(0), job.chosen_count = final_tokens.shape(1), job.width = final_tokens.shape(2);
  job.heads = first_token_values.shape(1), job.tokens = first_token_values.shape(2),
  job.head_dim = first_token_values.shape(3);
  const int64_t inner = job.heads * job.head_dim;
  job.conv1_channels = constant_mix.size(), job.selected_count = selected.size(), job.count = index.size();
  require(has_shape(first_token_values, {job.prompts, job.heads, job.tokens, job.head_dim}),
          "values must be of the same prompts as final");
  require(has_shape(second_token_values, {job.prompts, job.heads, job.tokens, job.head_dim}),
          "second_token_values must be like first_token_values");
  require(has_shape(first_mix, {job.conv1_channels, inner}), "first_mix must be (4 * middle, inner)");
  require(has_shape(second_mix, {job.conv1_channels, inner}), "second_mix must be (4 * middle, inner)");
  require(has_shape(factors, {job.selected_count, job.conv1_channels, 2 * job.heads * job.tokens + 2}),
          "factors must be (selected, 4 * middle, rows)");
  require(sizes.size() == 3, "sizes must hold three numbers");
  for (const int64_t size : sizes) require(size > 0 && size <= (int64_t{1} << 20), "sizes must be from 1 to 2^20");
  require(layers.ndim() == 2, "layers must be (masks, weights)");
  require(static_cast<int64_t>(masks.size()) + 1 == job.chosen_count,
          "there must be a mask for each chosen token but the first");
  require(has_shape(weights, {job.count, sizes[2]}), "weights must be (count, outputs of the last layer)");
  std::vector<dec::TokenLayer> mask_layers;
  for (const int64_t mask : masks) {
    require(mask >= 0 && mask < layers.shape(0), "masks must be indices of rows of layers");
    WeightReader reader(layers.data() + mask * layers.shape(1), layers.shape(1));
    mask_layers.push_back(reader.layer(job.width, sizes[0]));
    mask_layers.push_back(reader.layer(sizes[0], sizes[1]));
    mask_layers.push_back(reader.layer(sizes[1], sizes[2]));
    reader.check_end();
  }
  job.final_tokens = final_tokens.data(), job.first_token_values = first_token_values.data(),
  job.second_token_values = second_token_values.data();
  job.selected = selected.data(), job.index = index.data(), job.column = column.data(), job.layers = mask_layers.data();
  job.first_mix = first_mix.data(), job.second_mix = second_mix.data(), job.constant_mix = constant_mix.data();
  job.factors = factors.mutable_data(), job.weights = weights.mutable_data();
  py::gil_scoped_release release;
  dec::mask_factors(job, threads);
}

}  // namespace

void bind_decoder_tokens(py::module_& m) {
  m.def("decoder_prompts", &decoder_prompts, exact("tokens"), exact("weights"), py::arg("sizes"), exact("image"),
        py::arg("constant"), py::arg("eps"), py::arg("heads"), py::arg("length"), py::arg("chosen"), exact("state"),
        exact("final_tokens"), exact("iou"), exact("first_token_values"), exact("second_token_values"),
        py::arg("threads"));
  m.def("decoder_mask_factors", &decoder_mask_factors, exact("final_tokens"), exact("first_token_values"),
        exact("second_token_values"), exact("selected"), exact("index"), exact("column"), py::arg("masks"),
        exact("layers"), py::arg("sizes"), exact("first_mix"), exact("second_mix"), exact("constant_mix"),
        exact("factors"), exact("weights"), py::arg("threads"));
}

}  // namespace fastsam::bindings
