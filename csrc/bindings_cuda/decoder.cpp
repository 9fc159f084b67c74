// Python bindings of decoder/decoder_cuda.h; see pointers.h for what callers guarantee.
#include "bindings_cuda/pointers.h"
#include "common/panels.h"
#include "decoder/decoder_cuda.h"

namespace fastsam::bindings {

namespace {

namespace kernels = fastsam::decoder::cuda;

void first_look(int dtype, Address q, Address keys, Address values, int64_t rows, int64_t length, Address out,
                Address stream) {
  require(rows >= 0 && length >= 1, "sizes must be positive");
  kernels::first_look({pointer<const void>(q), pointer<const void>(keys), pointer<const void>(values),
                       pointer<void>(out), rows, num_panels(length), length},
                      static_cast<DType>(dtype), pointer<void>(stream));
}

// The arguments that both passes share.
kernels::Pass pass_of(Address image, Address values, Address norms, double eps, Address keys, Address cross,
                      Address gram, Address look, Address look_mix, int64_t prompts, int64_t tokens, int64_t length,
                      Address state, Address tops, Address totals, Address seen, Address mixed) {
  require(prompts >= 0 && tokens >= 1 && length >= 1, "sizes must be positive");
  kernels::Pass pass{};
  pass.image = pointer<const void>(image), pass.values = pointer<const void>(values);
  pass.norms = pointer<const float>(norms), pass.eps = static_cast<float>(eps);
  pass.keys = pointer<const void>(keys), pass.cross = pointer<const void>(cross);
  pass.gram = pointer<const void>(gram), pass.look = pointer<const void>(look);
  pass.look_mix = pointer<const void>(look_mix);
  pass.prompts = prompts, pass.tokens = tokens, pass.panels = num_panels(length), pass.length = length;
  pass.state = pointer<void>(state), pass.tops = pointer<float>(tops), pass.totals = pointer<float>(totals);
  pass.seen = pointer<float>(seen), pass.mixed = pointer<float>(mixed);
  return pass;
}

void first_pass(int dtype, Address image, Address values, Address norms, double eps, Address keys, Address cross,
                Address gram, Address look, Address look_mix, int64_t prompts, int64_t tokens, int64_t length,
                Address state, Address tops, Address totals, Address seen, Address mixed, int64_t shared_memory,
                Address stream) {
  const auto pass = pass_of(image, values, norms, eps, keys, cross, gram, look, look_mix, prompts, tokens, length,
                            state, tops, totals, seen, mixed);
  kernels::pass(pass, static_cast<DType>(dtype), shared_memory, pointer<void>(stream));
}

void second_pass(int dtype, Address image, Address values, Address norms, double constant, double eps, Address keys,
                 Address keys_mix, Address keys_bias, Address own, Address own_gram, Address own_bias, Address cross,
                 Address cross_mix, Address cross_bias, Address gram, Address look, Address look_mix, Address look_rest,
                 bool narrow, int64_t prompts, int64_t tokens, int64_t length, Address state, Address tops,
                 Address totals, Address seen, Address mixed, int64_t shared_memory, Address stream) {
  auto pass = pass_of(image, values, norms, eps, keys, cross, gram, look, look_mix, prompts, tokens, length, state,
                      tops, totals, seen, mixed);
  pass.second = true, pass.narrow = narrow, pass.constant = static_cast<float>(constant);
  pass.keys_mix = pointer<const void>(keys_mix), pass.keys_bias = pointer<const float>(keys_bias);
  pass.own = pointer<const void>(own), pass.own_gram = pointer<const void>(own_gram);
  pass.own_bias = pointer<const float>(own_bias), pass.cross_mix = pointer<const void>(cross_mix);
  pass.cross_bias = pointer<const float>(cross_bias), pass.look_rest = pointer<const float>(look_rest);
  kernels::pass(pass, static_cast<DType>(dtype), shared_memory, pointer<void>(stream));
}

void upscale(int dtype, Address state, Address asked, Address factors, Address first, Address places, Address weights,
             Address base, Address bias, Address norm_weight, Address norm_bias, double norm_eps, Address enlarge_more,
             Address enlarge_more_bias, int64_t asked_count, int64_t rows, int64_t height, int64_t width, Address out,
             Address stream) {
  kernels::upscale({pointer<const void>(state), pointer<const int64_t>(asked), pointer<const void>(factors),
                    pointer<const int64_t>(first), pointer<const int64_t>(places), pointer<const void>(weights),
                    pointer<const void>(base), pointer<const float>(bias), pointer<const float>(norm_weight),
                    pointer<const float>(norm_bias), static_cast<float>(norm_eps), pointer<const void>(enlarge_more),
                    pointer<const float>(enlarge_more_bias), pointer<float>(out), asked_count, rows, height, width},
                   static_cast<DType>(dtype), pointer<void>(stream));
}

int64_t parts(int64_t length) { return kernels::parts_of(num_panels(length), kernels::kPartPanels); }

}  // namespace

void bind_decoder(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> released;
  m.attr("DECODER_SHARED_BYTES") = kernels::kSharedBytes;
  m.attr("DECODER_SHARED_BYTES_OF_FLOATS") = kernels::kSharedBytesOfFloats;
  m.def("decoder_parts", &parts, py::arg("length"));
  m.def("decoder_first_look", &first_look, py::arg("dtype"), py::arg("q"), py::arg("keys"), py::arg("values"),
        py::arg("rows"), py::arg("length"), py::arg("out"), py::arg("stream"), released);
  m.def("decoder_first_pass", &first_pass, py::arg("dtype"), py::arg("image"), py::arg("values"), py::arg("norms"),
        py::arg("eps"), py::arg("keys"), py::arg("cross"), py::arg("gram"), py::arg("look"), py::arg("look_mix"),
        py::arg("prompts"), py::arg("tokens"), py::arg("length"), py::arg("state"), py::arg("tops"), py::arg("totals"),
        py::arg("seen"), py::arg("mixed"), py::arg("shared_memory"), py::arg("stream"), released);
  m.def("decoder_second_pass", &second_pass, py::arg("dtype"), py::arg("image"), py::arg("values"), py::arg("norms"),
        py::arg("constant"), py::arg("eps"), py::arg("keys"), py::arg("keys_mix"), py::arg("keys_bias"), py::arg("own"),
        py::arg("own_gram"), py::arg("own_bias"), py::arg("cross"), py::arg("cross_mix"), py::arg("cross_bias"),
        py::arg("gram"), py::arg("look"), py::arg("look_mix"), py::arg("look_rest"), py::arg("narrow"),
        py::arg("prompts"), py::arg("tokens"), py::arg("length"), py::arg("state"), py::arg("tops"), py::arg("totals"),
        py::arg("seen"), py::arg("mixed"), py::arg("shared_memory"), py::arg("stream"), released);
  m.def("decoder_upscale", &upscale, py::arg("dtype"), py::arg("state"), py::arg("asked"), py::arg("factors"),
        py::arg("first"), py::arg("places"), py::arg("weights"), py::arg("base"), py::arg("bias"),
        py::arg("norm_weight"), py::arg("norm_bias"), py::arg("norm_eps"), py::arg("enlarge_more"),
        py::arg("enlarge_more_bias"), py::arg("asked_count"), py::arg("rows"), py::arg("height"), py::arg("width"),
        py::arg("out"), py::arg("stream"), released);
}

}  // namespace fastsam::bindings
