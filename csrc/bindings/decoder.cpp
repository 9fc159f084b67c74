// Python bindings of decoder/decoder.h. All shapes are checked, since they decide what memory is read and written.
#include "decoder/decoder.h"

#include <type_traits>

#include "bindings/arrays.h"
#include "common/panels.h"

namespace fastsam::bindings {

namespace {

namespace dec = fastsam::decoder;

// Checks the arguments that both passes share and stores them in `pass`. projections: how many projections of the image
// the pass reads; second: whether this is the second pass.
void fill(dec::Pass& pass, int64_t projections, bool second, const Floats& image, const Floats& values,
          const Floats& norms, double eps, const Floats& keys, const Floats& cross, const Floats& gram,
          const Floats& look, const Floats& look_mix, int64_t length, Floats& state, Floats& seen, Floats& mixed) {
  require(length > 0, "length must be positive");
  const int64_t panels = num_panels(length);
  require(keys.ndim() == 4 && keys.shape(1) > 0 && keys.shape(2) > 0 && keys.shape(3) > 0,
          "keys must be (prompts, heads, tokens, head_dim)");
  const int64_t prompts = keys.shape(0), heads = keys.shape(1), tokens = keys.shape(2), head_dim = keys.shape(3);
  const int64_t rows = heads * tokens;
  require(has_shape(image, {panels, projections * heads * head_dim, kPanel}),
          "image must be (panels, projections * heads * head_dim, 16)");
  require(has_shape(values, {heads, panels * kPanel, padded(head_dim)}),
          "values must be (heads, panels * 16, head_dim rounded up to 16)");
  require(second ? has_shape(norms, {panels, 2, kPanel}) : has_shape(norms, {panels, kPanel}),
          "norms must be (panels, 16), of the second pass (panels, 2, 16)");
  require(has_shape(cross, {prompts, heads, tokens, head_dim}), "cross must be like keys");
  require(has_shape(gram, {prompts, rows, rows}), "gram must be (prompts, rows, rows)");
  require(look.ndim() == 4 && look.shape(2) > 0 && look.shape(2) <= tokens, "look must have 1 to `tokens` tokens");
  const int64_t look_tokens = look.shape(2), look_rows = heads * look_tokens, state_rows = 2 * rows + 2;
  require(has_shape(look, {prompts, heads, look_tokens, head_dim}), "look must be (prompts, heads, tokens, head_dim)");
  require(second || look_tokens == tokens, "look must be like keys");
  const int64_t inputs = second ? state_rows : rows;
  require(has_shape(look_mix, {prompts, look_rows, inputs}), "look_mix must be (prompts, rows of the look, inputs)");
  require(has_shape(state, {prompts, panels, state_rows, kPanel}), "state must be (prompts, panels, 2 * rows + 2, 16)");
  require(has_shape(seen, {prompts, heads, look_tokens, head_dim}), "seen must be like look");
  require(has_shape(mixed, {prompts, inputs, look_rows}), "mixed must be (prompts, inputs, rows of the look)");
  pass = {prompts,
          heads,
          tokens,
          head_dim,
          length,
          image.data(),
          values.data(),
          norms.data(),
          static_cast<float>(eps),
          keys.data(),
          cross.data(),
          gram.data(),
          look.data(),
          look_mix.data(),
          state.mutable_data(),
          seen.mutable_data(),
          mixed.mutable_data()};
}

void decoder_first_pass(const Floats& image, const Floats& values, const Floats& norms, double eps, const Floats& keys,
                        const Floats& cross, const Floats& gram, const Floats& look, const Floats& look_mix,
                        int64_t length, Floats state, Floats seen, Floats mixed, int64_t threads) {
  dec::Pass pass{};
  fill(pass, 4, false, image, values, norms, eps, keys, cross, gram, look, look_mix, length, state, seen, mixed);
  py::gil_scoped_release release;
  dec::first_pass(pass, threads);
}

void decoder_second_pass(const Floats& image, const Floats& values, const Floats& norms, double constant, double eps,
                         const Floats& keys, const Floats& keys_mix, const Floats& keys_bias, const Floats& own,
                         const Floats& own_gram, const Floats& own_bias, const Floats& cross, const Floats& cross_mix,
                         const Floats& cross_bias, const Floats& gram, const Floats& look, const Floats& look_mix,
                         int64_t length, Floats state, Floats seen, Floats mixed, int64_t threads) {
  dec::SecondPass pass{};
  fill(pass, 6, true, image, values, norms, eps, keys, cross, gram, look, look_mix, length, state, seen, mixed);
  const int64_t rows = pass.heads * pass.tokens;
  require(has_shape(own, {pass.prompts, pass.heads, pass.tokens, pass.head_dim}), "own must be like keys");
  for (const Floats* matrix : {&keys_mix, &own_gram, &cross_mix}) {
    require(has_shape(*matrix, {pass.prompts, rows, rows}), "mixes and grams must be (prompts, rows, rows)");
  }
  for (const Floats* bias : {&keys_bias, &own_bias, &cross_bias}) {
    require(has_shape(*bias, {pass.prompts, rows}), "biases must be (prompts, rows)");
  }
  pass.look_tokens = look.shape(2);
  pass.constant = static_cast<float>(constant);
  pass.keys_mix = keys_mix.data(), pass.keys_bias = keys_bias.data();
  pass.own = own.data(), pass.own_gram = own_gram.data(), pass.own_bias = own_bias.data();
  pass.cross_mix = cross_mix.data(), pass.cross_bias = cross_bias.data();
  py::gil_scoped_release release;
  dec::second_pass(pass, threads);
}

void decoder_first_look(const Floats& q, const Floats& keys, const Floats& values, int64_t length, Floats out,
                        int64_t threads) {
  require(length > 0, "length must be positive");
  require(q.ndim() == 3 && q.shape(0) > 0 && q.shape(2) > 0, "q must be (heads, rows, head_dim)");
  const int64_t heads = q.shape(0), rows = q.shape(1), head_dim = q.shape(2), panels = num_panels(length);
  require(has_shape(keys, {panels, heads * head_dim, kPanel}), "keys must be (panels, heads * head_dim, 16)");
  require(has_shape(values, {heads, panels * kPanel, padded(head_dim)}),
          "values must be (heads, panels * 16, head_dim rounded up to 16)");
  require(has_shape(out, {heads, rows, head_dim}), "out must be like q");
  const float *q_data = q.data(), *keys_data = keys.data(), *values_data = values.data();
  float* out_data = out.mutable_data();
  py::gil_scoped_release release;
  dec::first_look(q_data, keys_data, values_data, heads, rows, head_dim, length, out_data, threads);
}

// Number: element type of the matrices `factors` and `enlarge_more`; float, or int16 that holds the bits of bfloat16.
template <typename Number>
void decoder_upscale(const Floats& state, const Int64s& asked, const Array<Number>& factors, const Int64s& index,
                     const Floats& weights, const Floats& base, const Floats& bias, const Floats& norm_weight,
                     const Floats& norm_bias, double norm_eps, const Array<Number>& enlarge_more,
                     const Floats& enlarge_more_bias, int64_t height, int64_t width, Floats out, int64_t threads) {
  require(height > 0 && width > 0, "height and width must be positive");
  const int64_t panels = num_panels(height * width);
  require(state.ndim() == 4 && state.shape(2) > 2, "state must be (prompts, panels, rows, 16)");
  require(asked.ndim() == 1 && index.ndim() == 1, "asked and index must be one-dimensional");
  require(weights.ndim() == 2 && weights.shape(1) > 0 && norm_weight.ndim() == 1 && norm_weight.size() > 0,
          "weights must be (count, narrow) and norm_weight (middle)");
  dec::Upscaling up{};
  up.dtype = std::is_same_v<Number, float> ? DType::float32 : DType::bfloat16;
  up.prompts = state.shape(0), up.rows = state.shape(2), up.asked_count = asked.size(), up.count = index.size();
  up.narrow = weights.shape(1), up.middle = norm_weight.size(), up.height = height, up.width = width;
  require(has_shape(state, {up.prompts, panels, up.rows, kPanel}), "state must be (prompts, panels, rows, 16)");
  require(has_shape(factors, {up.asked_count, 4 * up.middle, up.rows}), "factors must be (asked, 4 * middle, rows)");
  require(weights.shape(0) == up.count, "weights must be (count, narrow)");
  require(has_shape(base, {panels, 4 * up.middle, kPanel}), "base must be (panels, 4 * middle, 16)");
  require(has_shape(bias, {4 * up.middle}), "bias must be (4 * middle)");
  require(has_shape(norm_bias, {up.middle}), "norm_bias must be like norm_weight");
  require(has_shape(enlarge_more, {4 * up.narrow, up.middle}) && has_shape(enlarge_more_bias, {4 * up.narrow}),
          "enlarge_more must be (4 * narrow, middle) with a bias of (4 * narrow)");
  require(has_shape(out, {up.count, 4 * height, 4 * width}), "out must be (count, 4 * height, 4 * width)");
  up.state = state.data(), up.asked = asked.data(), up.factors = factors.data();
  up.index = index.data(), up.weights = weights.data(), up.base = base.data(), up.bias = bias.data();
  up.norm = {norm_weight.data(), norm_bias.data(), static_cast<float>(norm_eps)};
  up.enlarge_more = enlarge_more.data(), up.enlarge_more_bias = enlarge_more_bias.data();
  up.out = out.mutable_data();
  py::gil_scoped_release release;
  dec::upscale(up, threads);
}

template <typename Number>
void bind_upscale(py::module_& m) {
  m.def("decoder_upscale", &decoder_upscale<Number>, exact("state"), exact("asked"), exact("factors"), exact("index"),
        exact("weights"), exact("base"), exact("bias"), exact("norm_weight"), exact("norm_bias"), py::arg("norm_eps"),
        exact("enlarge_more"), exact("enlarge_more_bias"), py::arg("height"), py::arg("width"), exact("out"),
        py::arg("threads"));
}

}  // namespace

void bind_decoder(py::module_& m) {
  m.def("decoder_first_pass", &decoder_first_pass, exact("image"), exact("values"), exact("norms"), py::arg("eps"),
        exact("keys"), exact("cross"), exact("gram"), exact("look"), exact("look_mix"), py::arg("length"),
        exact("state"), exact("seen"), exact("mixed"), py::arg("threads"));
  m.def("decoder_second_pass", &decoder_second_pass, exact("image"), exact("values"), exact("norms"),
        py::arg("constant"), py::arg("eps"), exact("keys"), exact("keys_mix"), exact("keys_bias"), exact("own"),
        exact("own_gram"), exact("own_bias"), exact("cross"), exact("cross_mix"), exact("cross_bias"), exact("gram"),
        exact("look"), exact("look_mix"), py::arg("length"), exact("state"), exact("seen"), exact("mixed"),
        py::arg("threads"));
  m.def("decoder_first_look", &decoder_first_look, exact("q"), exact("keys"), exact("values"), py::arg("length"),
        exact("out"), py::arg("threads"));
  bind_upscale<float>(m);
  bind_upscale<int16_t>(m);
}

}  // namespace fastsam::bindings
