// The Python module fastsam_core._cuda. Its functions take device addresses and sizes, and launch kernels on the given
// stream. The tests compile the same files into a module whose kernels run on the CPU (common/cuda_emulator.h).
#include <string>

#include "bindings_cuda/pointers.h"
#include "common/cuda_device.h"

#ifdef FASTSAM_CUDA_EMULATION
#include "common/emulator/block.h"
#define FASTSAM_MODULE _cuda_emulated
#else
#define FASTSAM_MODULE _cuda
#endif

namespace py = pybind11;

PYBIND11_MODULE(FASTSAM_MODULE, m, py::mod_gil_not_used()) {
  m.doc() = "CUDA operations of fastsam_core; fastsam_core.ops is the way to call them.";
  m.attr("ARCHITECTURES") = FASTSAM_CUDA_ARCHITECTURES;
  m.def("unavailable_reason", &fastsam::cuda::unavailable_reason,
        "Return why kernels can't run on the current device, or \"\" if they can.");
  m.def("shared_memory_per_multiprocessor", &fastsam::cuda::shared_memory_per_multiprocessor,
        "Return the bytes of shared memory that each multiprocessor of the current device has.");
  fastsam::bindings::bind_copies(m);
#ifdef FASTSAM_CUDA_EMULATION
  m.attr("EMULATED") = true;
  m.def("set_order", &fastsam::emulator::set_order, py::arg("reverse"),
        "Run a block's threads last to first from now on, or first to last.");
  m.def("launched_kernels", &fastsam::emulator::take_launched_kernels,
        "Return the names of all kernels that have run since the last call of this function.");
#else
  m.attr("EMULATED") = false;
#endif

  fastsam::bindings::bind_attention(m);
  fastsam::bindings::bind_conv(m);
  fastsam::bindings::bind_decoder(m);
  fastsam::bindings::bind_decoder_tokens(m);
  fastsam::bindings::bind_masks(m);
  fastsam::bindings::bind_nms(m);
  fastsam::bindings::bind_norm(m);
  fastsam::bindings::bind_preprocess(m);
  fastsam::bindings::bind_rle(m);
}
