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
void set_common(dec::Pass& pass, int64_t projections, bool second, const Floats& image, const Floats& values,
                const Floats& norms, double eps, const Floats& keys, const Floats& cross, const Floats& gram,
                const Floats& queries, const Floats& queries_mix, int64_t length, Floats& state, Floats& value_sum,
                Floats& coefficient_sum) {
  check_length(length);
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
  require(queries.ndim() == 4 && queries.shape(2) > 0 && queries.shape(2) <= tokens,
          "queries must have 1 to `tokens` tokens");
  const int64_t query_tokens = queries.shape(2), query_rows = heads * query_tokens, state_rows = 2 * rows + 2;
  require(has_shape(queries, {prompts, heads, query_tokens, head_dim}),
          "queries must be (prompts, heads, tokens, head_dim)");
  require(second || query_tokens == tokens, "queries must be like keys");
  const int64_t num_coefficients = second ? state_rows : rows;
  require(has_shape(queries_mix, {prompts, query_rows, num_coefficients}),
          "queries_mix must be (prompts, query rows, coefficients)");
  require(has_shape(state, {prompts, panels, state_rows, kPanel}), "state must be (prompts, panels, 2 * rows + 2, 16)");
  require(has_shape(value_sum, {prompts, heads, query_tokens, head_dim}), "value_sum must be like queries");
  require(has_shape(coefficient_sum, {prompts, num_coefficients, query_rows}),
          "coefficient_sum must be (prompts, coefficients, query rows)");
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
          queries.data(),
          queries_mix.data(),
          state.mutable_data(),
          value_sum.mutable_data(),
          coefficient_sum.mutable_data()};
}

void decoder_first_pass(const Floats& image, const Floats& values, const Floats& norms, double eps, const Floats& keys,
                        const Floats& cross, const Floats& gram, const Floats& queries, const Floats& queries_mix,
                        int64_t length, Floats state, Floats value_sum, Floats coefficient_sum, int64_t threads) {
  dec::Pass pass{};
  set_common(pass, 4, false, image, values, norms, eps, keys, cross, gram, queries, queries_mix, length, state,
             value_sum, coefficient_sum);
  py::gil_scoped_release release;
  dec::first_pass(pass, threads);
}

void decoder_second_pass(const Floats& image, const Floats& values, const Floats& norms, double constant, double eps,
                         const Floats& keys, const Floats& keys_mix, const Floats& keys_bias, const Floats& first_cross,
                         const Floats& first_gram, const Floats& first_bias, const Floats& cross,
                         const Floats& cross_mix, const Floats& cross_bias, const Floats& gram, const Floats& queries,
                         const Floats& queries_mix, int64_t length, Floats state, Floats value_sum,
                         Floats coefficient_sum, int64_t threads) {
  dec::SecondPass pass{};
  set_common(pass, 6, true, image, values, norms, eps, keys, cross, gram, queries, queries_mix, length, state,
             value_sum, coefficient_sum);
  const int64_t rows = pass.heads * pass.tokens;
  require(has_shape(first_cross, {pass.prompts, pass.heads, pass.tokens, pass.head_dim}),
          "first_cross must be like keys");
  for (const Floats* matrix : {&keys_mix, &first_gram, &cross_mix}) {
    require(has_shape(*matrix, {pass.prompts, rows, rows}), "mixes and grams must be (prompts, rows, rows)");
  }
  for (const Floats* bias : {&keys_bias, &first_bias, &cross_bias}) {
    require(has_shape(*bias, {pass.prompts, rows}), "biases must be (prompts, rows)");
  }
  pass.query_tokens = queries.shape(2);
  pass.constant = static_cast<float>(constant);
  pass.keys_mix = keys_mix.data(), pass.keys_bias = keys_bias.data();
  pass.first_cross = first_cross.data(), pass.first_gram = first_gram.data(), pass.first_bias = first_bias.data();
  pass.cross_mix = cross_mix.data(), pass.cross_bias = cross_bias.data();
  py::gil_scoped_release release;
  dec::second_pass(pass, threads);
}

void decoder_first_token_to_image(const Floats& q, const Floats& keys, const Floats& values, int64_t length, Floats out,
                                  int64_t threads) {
  check_length(length);
  require(q.ndim() == 3 && q.shape(0) > 0 && q.shape(2) > 0, "q must be (heads, rows, head_dim)");
  const int64_t heads = q.shape(0), rows = q.shape(1), head_dim = q.shape(2), panels = num_panels(length);
  require(has_shape(keys, {panels, heads * head_dim, kPanel}), "keys must be (panels, heads * head_dim, 16)");
  require(has_shape(values, {heads, panels * kPanel, padded(head_dim)}),
          "values must be (heads, panels * 16, head_dim rounded up to 16)");
  require(has_shape(out, {heads, rows, head_dim}), "out must be like q");
  const float *q_data = q.data(), *keys_data = keys.data(), *values_data = values.data();
  float* out_data = out.mutable_data();
  py::gil_scoped_release release;
  dec::first_token_to_image(q_data, keys_data, values_data, heads, rows, head_dim, length, out_data, threads);
}

// Number: element type of the matrices `factors` and `conv2`; float, or int16 that holds the bits of bfloat16.
template <typename Number>
void decoder_upscale(const Floats& state, const Int64s& selected, const Array<Number>& factors, const Int64s& index,
                     const Floats& weights, const Floats& base, const Floats& bias, const Floats& norm_weight,
                     const Floats& norm_bias, double norm_eps, const Array<Number>& conv2, const Floats& conv2_bias,
                     int64_t height, int64_t width, Floats out, int64_t threads) {
  require(height > 0 && width > 0 && height <= kMaxLength / width,
          "height and width must be positive, and their product at most 2^40");
  const int64_t panels = num_panels(height * width);
  require(state.ndim() == 4 && state.shape(2) > 2, "state must be (prompts, panels, rows, 16)");
  require(selected.ndim() == 1 && index.ndim() == 1, "selected and index must be one-dimensional");
  require(weights.ndim() == 2 && weights.shape(1) > 0 && norm_weight.ndim() == 1 && norm_weight.size() > 0,
          "weights must be (count, narrow) and norm_weight (middle)");
  dec::Upscaling up{};
  up.dtype = std::is_same_v<Number, float> ? DType::float32 : DType::bfloat16;
  up.prompts = state.shape(0), up.rows = state.shape(2), up.selected_count = selected.size(), up.count = index.size();
  up.narrow = weights.shape(1), up.middle = norm_weight.size(), up.height = height, up.width = width;
  require(has_shape(state, {up.prompts, panels, up.rows, kPanel}), "state must be (prompts, panels, rows, 16)");
  require(has_shape(factors, {up.selected_count, 4 * up.middle, up.rows}),
          "factors must be (selected, 4 * middle, rows)");
  require(weights.shape(0) == up.count, "weights must be (count, narrow)");
  require(has_shape(base, {panels, 4 * up.middle, kPanel}), "base must be (panels, 4 * middle, 16)");
  require(has_shape(bias, {4 * up.middle}), "bias must be (4 * middle)");
  require(has_shape(norm_bias, {up.middle}), "norm_bias must be like norm_weight");
  require(has_shape(conv2, {4 * up.narrow, up.middle}) && has_shape(conv2_bias, {4 * up.narrow}),
          "conv2 must be (4 * narrow, middle) with a bias of (4 * narrow)");
  require(has_shape(out, {up.count, 4 * height, 4 * width}), "out must be (count, 4 * height, 4 * width)");
  up.state = state.data(), up.selected = selected.data(), up.factors = factors.data();
  up.index = index.data(), up.weights = weights.data(), up.base = base.data(), up.bias = bias.data();
  up.norm = {norm_weight.data(), norm_bias.data(), static_cast<float>(norm_eps)};
  up.conv2 = conv2.data(), up.conv2_bias = conv2_bias.data();
  up.out = out.mutable_data();
  py::gil_scoped_release release;
  dec::upscale(up, threads);
}

template <typename Number>
void bind_upscale(py::module_& m) {
  m.def("decoder_upscale", &decoder_upscale<Number>, exact("state"), exact("selected"), exact("factors"),
        exact("index"), exact("weights"), exact("base"), exact("bias"), exact("norm_weight"), exact("norm_bias"),
        py::arg("norm_eps"), exact("conv2"), exact("conv2_bias"), py::arg("height"), py::arg("width"), exact("out"),
        py::arg("threads"));
}

}  // namespace

void bind_decoder(py::module_& m) {
  m.def("decoder_first_pass", &decoder_first_pass, exact("image"), exact("values"), exact("norms"), py::arg("eps"),
        exact("keys"), exact("cross"), exact("gram"), exact("queries"), exact("queries_mix"), py::arg("length"),
        exact("state"), exact("value_sum"), exact("coefficient_sum"), py::arg("threads"));
  m.def("decoder_second_pass", &decoder_second_pass, exact("image"), exact("values"), exact("norms"),
        py::arg("constant"), py::arg("eps"), exact("keys"), exact("keys_mix"), exact("keys_bias"), exact("first_cross"),
        exact("first_gram"), exact("first_bias"), exact("cross"), exact("cross_mix"), exact("cross_bias"),
        exact("gram"), exact("queries"), exact("queries_mix"), py::arg("length"), exact("state"), exact("value_sum"),
        exact("coefficient_sum"), py::arg("threads"));
  m.def("decoder_first_token_to_image", &decoder_first_token_to_image, exact("q"), exact("keys"), exact("values"),
        py::arg("length"), exact("out"), py::arg("threads"));
  bind_upscale<float>(m);
  bind_upscale<int16_t>(m);
}

}  // namespace fastsam::bindings
