// The Python module fastsam_core._cpu. Its functions take and return NumPy arrays. The files in bindings/ check the
// arrays and release the GIL around the work. Only the bindings include pybind11; the operations know nothing of
// Python.
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "common/isa.h"

namespace py = pybind11;

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  m.doc() = "Native CPU operations of fastsam_core; fastsam_core.ops is the way to call them.";
  m.attr("PYBIND11_VERSION") = std::to_string(PYBIND11_VERSION_MAJOR) + "." + std::to_string(PYBIND11_VERSION_MINOR);
  m.def("isa", [] { return std::string(fastsam::kernels().name); }, "Return the name of the instruction set in use.");
  m.def(
      "has_native_bfloat16", [] { return fastsam::kernels().has_native_bfloat16; },
      "Return whether the instruction set in use has instructions for products of bfloat16.");
  m.def(
      "available_isas",
      [] {
        std::vector<std::string> names;
        for (const fastsam::Kernels* table : fastsam::available_kernels()) names.emplace_back(table->name);
        return names;
      },
      "Return the names of the instruction sets that this build holds and this machine has, best first.");
  m.def("force_isa", &fastsam::force_isa, py::arg("name"), "Use the instruction set of this name from now on.");

  fastsam::bindings::bind_linear(m);
  fastsam::bindings::bind_attention(m);
  fastsam::bindings::bind_conv(m);
  fastsam::bindings::bind_decoder(m);
  fastsam::bindings::bind_decoder_tokens(m);
  fastsam::bindings::bind_masks(m);
  fastsam::bindings::bind_nms(m);
  fastsam::bindings::bind_preprocess(m);
  fastsam::bindings::bind_rle(m);
  fastsam::bindings::bind_rle_dicts(m);
}
