// Python bindings of decoder/decoder_cuda.h; see pointers.h for what callers guarantee.
#include "bindings_cuda/pointers.h"
#include "common/panels.h"
#include "decoder/decoder_cuda.h"

namespace fastsam::bindings {

namespace {

namespace kernels = fastsam::decoder::cuda;

void first_token_to_image(int dtype, Address q, Address keys, Address values, int64_t rows, int64_t length, Address out,
                          Address stream) {
  require(rows >= 0 && length >= 1, "sizes must be positive");
  kernels::first_token_to_image({pointer<const void>(q), pointer<const void>(keys), pointer<const void>(values),
                                 pointer<void>(out), rows, num_panels(length), length},
                                static_cast<DType>(dtype), pointer<void>(stream));
}

// The arguments that both passes share.
kernels::Pass make_pass(Address image, Address values, Address norms, double eps, Address keys, Address cross,
                        Address gram, Address queries, Address queries_mix, int64_t prompts, int64_t tokens,
                        int64_t length, Address state, Address max_scores, Address weight_sums, Address value_sums,
                        Address coefficient_sums) {
  require(prompts >= 0 && tokens >= 1 && length >= 1, "sizes must be positive");
  kernels::Pass pass{};
  pass.image = pointer<const void>(image), pass.values = pointer<const void>(values);
  pass.norms = pointer<const float>(norms), pass.eps = static_cast<float>(eps);
  pass.keys = pointer<const void>(keys), pass.cross = pointer<const void>(cross);
  pass.gram = pointer<const void>(gram), pass.queries = pointer<const void>(queries);
  pass.queries_mix = pointer<const void>(queries_mix);
  pass.prompts = prompts, pass.tokens = tokens, pass.panels = num_panels(length), pass.length = length;
  pass.state = pointer<void>(state), pass.max_scores = pointer<float>(max_scores),
  pass.weight_sums = pointer<float>(weight_sums);
  pass.value_sums = pointer<float>(value_sums), pass.coefficient_sums = pointer<float>(coefficient_sums);
  return pass;
}

void first_pass(int dtype, Address image, Address values, Address norms, double eps, Address keys, Address cross,
                Address gram, Address queries, Address queries_mix, int64_t prompts, int64_t tokens, int64_t length,
                Address state, Address max_scores, Address weight_sums, Address value_sums, Address coefficient_sums,
                int64_t shared_memory, Address stream) {
  const auto pass = make_pass(image, values, norms, eps, keys, cross, gram, queries, queries_mix, prompts, tokens,
                              length, state, max_scores, weight_sums, value_sums, coefficient_sums);
  kernels::pass(pass, static_cast<DType>(dtype), shared_memory, pointer<void>(stream));
}

void second_pass(int dtype, Address image, Address values, Address norms, double constant, double eps, Address keys,
                 Address keys_mix, Address keys_bias, Address first_cross, Address first_gram, Address first_bias,
                 Address cross, Address cross_mix, Address cross_bias, Address gram, Address queries,
                 Address queries_mix, Address queries_mix_last, bool few_queries, int64_t prompts, int64_t tokens,
                 int64_t length, Address state, Address max_scores, Address weight_sums, Address value_sums,
                 Address coefficient_sums, int64_t shared_memory, Address stream) {
  auto pass = make_pass(image, values, norms, eps, keys, cross, gram, queries, queries_mix, prompts, tokens, length,
                        state, max_scores, weight_sums, value_sums, coefficient_sums);
  pass.second = true, pass.few_queries = few_queries, pass.constant = static_cast<float>(constant);
  pass.keys_mix = pointer<const void>(keys_mix), pass.keys_bias = pointer<const float>(keys_bias);
  pass.first_cross = pointer<const void>(first_cross), pass.first_gram = pointer<const void>(first_gram);
  pass.first_bias = pointer<const float>(first_bias), pass.cross_mix = pointer<const void>(cross_mix);
  pass.cross_bias = pointer<const float>(cross_bias), pass.queries_mix_last = pointer<const float>(queries_mix_last);
  kernels::pass(pass, static_cast<DType>(dtype), shared_memory, pointer<void>(stream));
}

void upscale(int dtype, Address state, Address selected, Address factors, Address mask_offsets, Address out_indices,
             Address weights, Address base, Address bias, Address norm_weight, Address norm_bias, double norm_eps,
             Address conv2, Address conv2_bias, int64_t selected_count, int64_t rows, int64_t height, int64_t width,
             Address out, Address stream) {
  kernels::upscale(
      {pointer<const void>(state), pointer<const int64_t>(selected), pointer<const void>(factors),
       pointer<const int64_t>(mask_offsets), pointer<const int64_t>(out_indices), pointer<const void>(weights),
       pointer<const void>(base), pointer<const float>(bias), pointer<const float>(norm_weight),
       pointer<const float>(norm_bias), static_cast<float>(norm_eps), pointer<const void>(conv2),
       pointer<const float>(conv2_bias), pointer<float>(out), selected_count, rows, height, width},
      static_cast<DType>(dtype), pointer<void>(stream));
}

int64_t num_parts(int64_t length) { return kernels::count_parts(num_panels(length), kernels::kPartPanels); }

}  // namespace

void bind_decoder(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> released;
  m.attr("DECODER_SHARED_BYTES") = kernels::kSharedBytes;
  m.attr("DECODER_SHARED_BYTES_FLOAT32") = kernels::kSharedBytesFloat32;
  m.def("decoder_parts", &num_parts, py::arg("length"));
  m.def("decoder_first_token_to_image", &first_token_to_image, py::arg("dtype"), py::arg("q"), py::arg("keys"),
        py::arg("values"), py::arg("rows"), py::arg("length"), py::arg("out"), py::arg("stream"), released);
  m.def("decoder_first_pass", &first_pass, py::arg("dtype"), py::arg("image"), py::arg("values"), py::arg("norms"),
        py::arg("eps"), py::arg("keys"), py::arg("cross"), py::arg("gram"), py::arg("queries"), py::arg("queries_mix"),
        py::arg("prompts"), py::arg("tokens"), py::arg("length"), py::arg("state"), py::arg("max_scores"),
        py::arg("weight_sums"), py::arg("value_sums"), py::arg("coefficient_sums"), py::arg("shared_memory"),
        py::arg("stream"), released);
  m.def("decoder_second_pass", &second_pass, py::arg("dtype"), py::arg("image"), py::arg("values"), py::arg("norms"),
        py::arg("constant"), py::arg("eps"), py::arg("keys"), py::arg("keys_mix"), py::arg("keys_bias"),
        py::arg("first_cross"), py::arg("first_gram"), py::arg("first_bias"), py::arg("cross"), py::arg("cross_mix"),
        py::arg("cross_bias"), py::arg("gram"), py::arg("queries"), py::arg("queries_mix"), py::arg("queries_mix_last"),
        py::arg("few_queries"), py::arg("prompts"), py::arg("tokens"), py::arg("length"), py::arg("state"),
        py::arg("max_scores"), py::arg("weight_sums"), py::arg("value_sums"), py::arg("coefficient_sums"),
        py::arg("shared_memory"), py::arg("stream"), released);
  m.def("decoder_upscale", &upscale, py::arg("dtype"), py::arg("state"), py::arg("selected"), py::arg("factors"),
        py::arg("mask_offsets"), py::arg("out_indices"), py::arg("weights"), py::arg("base"), py::arg("bias"),
        py::arg("norm_weight"), py::arg("norm_bias"), py::arg("norm_eps"), py::arg("conv2"), py::arg("conv2_bias"),
        py::arg("selected_count"), py::arg("rows"), py::arg("height"), py::arg("width"), py::arg("out"),
        py::arg("stream"), released);
}

}  // namespace fastsam::bindings
