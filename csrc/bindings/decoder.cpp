#include "decoder/decoder.h"

#include <optional>

#include "bindings/arrays.h"

namespace fastsam::bindings {

namespace {

using Floats = Array<float>;

constexpr int64_t kPanel = 16;

bool has_shape(const Floats& x, std::initializer_list<int64_t> shape) {
  if (x.ndim() != static_cast<py::ssize_t>(shape.size())) return false;
  py::ssize_t axis = 0;
  for (const int64_t size : shape) {
    if (x.shape(axis++) != size) return false;
  }
  return true;
}

void require_panels(const Floats& position, int64_t length) {
  require(position.ndim() == 3 && position.shape(1) > 0 && position.shape(2) == kPanel,
          "position must be (panels, channels, 16)");
  require(length > 0 && position.shape(0) == (length + kPanel - 1) / kPanel,
          "length must be positive and fill all panels, the last one at least in part");
}

void decoder_pass(const std::optional<Floats>& source, const Floats& position, const std::optional<Floats>& queries,
                  const Floats& keys, const std::optional<Floats>& key_bias, const Floats& values,
                  const Floats& norm_weight, const Floats& norm_bias, double norm_eps, const Floats& look,
                  int64_t length, Floats out, Floats gathered, int64_t threads) {
  require_panels(position, length);
  const int64_t panels = position.shape(0), channels = position.shape(1);
  require(look.ndim() == 4 && look.shape(3) == channels && look.shape(0) > 0 && look.shape(2) > 0,
          "look must be (heads, prompts, tokens, channels)");
  const int64_t heads = look.shape(0), prompts = look.shape(1), tokens = look.shape(2);
  const int64_t head_dim = queries ? queries->shape(1) / heads : 0;
  require(!source || has_shape(*source, {panels, channels, kPanel}), "source must be like position");
  require(!queries || (has_shape(*queries, {panels, heads * head_dim, kPanel}) && head_dim > 0),
          "queries must be (panels, heads * head_dim, 16)");
  require(has_shape(keys, {heads, prompts, tokens, queries ? head_dim : channels}),
          "keys must be (heads, prompts, tokens, channels), with queries (heads, prompts, tokens, head_dim)");
  require(queries || (key_bias && has_shape(*key_bias, {heads, prompts, tokens})),
          "key_bias must be (heads, prompts, tokens)");
  require(has_shape(values, {heads, prompts, tokens, channels}), "values must be (heads, prompts, tokens, channels)");
  require(has_shape(norm_weight, {channels}) && has_shape(norm_bias, {channels}),
          "norm_weight and norm_bias must be (channels)");
  require(has_shape(out, {prompts, panels, channels, kPanel}), "out must be (prompts, panels, channels, 16)");
  require(has_shape(gathered, {heads, prompts, tokens, channels}), "gathered must be like look");
  const int64_t size = panels * channels * kPanel;
  fastsam::decoder::Pass pass{};
  pass.prompts = prompts, pass.heads = heads, pass.tokens = tokens, pass.channels = channels, pass.length = length;
  pass.out = out.mutable_data();
  pass.gathered = gathered.mutable_data();
  pass.source = source ? source->data() : pass.out;
  pass.source_stride = source ? 0 : size;
  pass.position = position.data();
  pass.queries = queries ? queries->data() : nullptr;
  pass.head_dim = head_dim;
  pass.keys = keys.data();
  pass.key_bias = key_bias ? key_bias->data() : nullptr;
  pass.values = values.data();
  pass.norm = {norm_weight.data(), norm_bias.data(), static_cast<float>(norm_eps)};
  pass.look = look.data();
  py::gil_scoped_release release;
  fastsam::decoder::image_pass(pass, threads);
}

void decoder_first_look(const Floats& q, const Floats& keys, const Floats& values, int64_t length, Floats out,
                        int64_t threads) {
  require(q.ndim() == 3 && q.shape(0) > 0 && q.shape(2) > 0, "q must be (heads, rows, head_dim)");
  const int64_t heads = q.shape(0), rows = q.shape(1), head_dim = q.shape(2);
  require_panels(keys, length);
  require(keys.shape(1) == heads * head_dim, "keys must be (panels, heads * head_dim, 16)");
  require(has_shape(values, {heads, keys.shape(0) * kPanel, (head_dim + kPanel - 1) / kPanel * kPanel}),
          "values must be (heads, panels * 16, head_dim rounded up to 16)");
  require(has_shape(out, {heads, rows, head_dim}), "out must be like q");
  const float *q_data = q.data(), *key_data = keys.data(), *value_data = values.data();
  float* out_data = out.mutable_data();
  py::gil_scoped_release release;
  fastsam::decoder::first_look(q_data, key_data, value_data, heads, rows, head_dim, length, out_data, threads);
}

void decoder_upscale(const Floats& tokens, const Int64s& index, const Floats& weights, const Floats& enlarge,
                     const Floats& enlarge_bias, const Floats& norm_weight, const Floats& norm_bias, double norm_eps,
                     const Floats& enlarge_more, const Floats& enlarge_more_bias, int64_t height, int64_t width,
                     Floats out, int64_t threads) {
  require(height > 0 && width > 0 && height <= (int64_t{1} << 24) && width <= (int64_t{1} << 24),
          "height and width must be positive");
  require(tokens.ndim() == 4 && tokens.shape(1) == (height * width + kPanel - 1) / kPanel && tokens.shape(2) > 0 &&
              tokens.shape(3) == kPanel,
          "tokens must be (prompts, panels, channels, 16) with panels for height x width image tokens");
  require(index.ndim() == 1, "index must be (count)");
  require(norm_weight.ndim() == 1 && norm_weight.shape(0) > 0 && weights.ndim() == 2 && weights.shape(1) > 0,
          "norm_weight must be (middle), weights (count, narrow)");
  fastsam::decoder::Upscaling up{};
  up.prompts = tokens.shape(0), up.channels = tokens.shape(2), up.height = height, up.width = width;
  up.middle = norm_weight.shape(0), up.narrow = weights.shape(1), up.count = index.shape(0);
  require(weights.shape(0) == up.count, "weights must be (count, narrow)");
  require(has_shape(norm_bias, {up.middle}), "norm_bias must be like norm_weight");
  require(has_shape(enlarge, {4 * up.middle, up.channels}) && has_shape(enlarge_bias, {4 * up.middle}),
          "enlarge must be (4 * middle, channels) with a bias of (4 * middle)");
  require(has_shape(enlarge_more, {4 * up.narrow, up.middle}) && has_shape(enlarge_more_bias, {4 * up.narrow}),
          "enlarge_more must be (4 * narrow, middle) with a bias of (4 * narrow)");
  require(has_shape(out, {up.count, 4 * height, 4 * width}), "out must be (count, 4 * height, 4 * width)");
  up.tokens = tokens.data();
  up.index = index.data();
  up.weights = weights.data();
  up.enlarge = enlarge.data();
  up.enlarge_bias = enlarge_bias.data();
  up.norm = {norm_weight.data(), norm_bias.data(), static_cast<float>(norm_eps)};
  up.enlarge_more = enlarge_more.data();
  up.enlarge_more_bias = enlarge_more_bias.data();
  up.out = out.mutable_data();
  py::gil_scoped_release release;
  fastsam::decoder::upscale(up, threads);
}

}  // namespace

void bind_decoder(py::module_& m) {
  const auto given = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("decoder_pass", &decoder_pass, given("source"), given("position"), given("queries"), given("keys"),
        given("key_bias"), given("values"), given("norm_weight"), given("norm_bias"), py::arg("norm_eps"),
        given("look"), py::arg("length"), given("out"), given("gathered"), py::arg("threads"));
  m.def("decoder_first_look", &decoder_first_look, given("q"), given("keys"), given("values"), py::arg("length"),
        given("out"), py::arg("threads"));
  m.def("decoder_upscale", &decoder_upscale, given("tokens"), given("index"), given("weights"), given("enlarge"),
        given("enlarge_bias"), given("norm_weight"), given("norm_bias"), py::arg("norm_eps"), given("enlarge_more"),
        given("enlarge_more_bias"), py::arg("height"), py::arg("width"), given("out"), py::arg("threads"));
}

}  // namespace fastsam::bindings
