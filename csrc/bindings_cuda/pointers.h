// Helpers shared by the CUDA bindings. Tensors arrive as addresses and sizes: the module knows neither torch nor NumPy.
// Python (ops/_<family>/cuda.py) has checked dtypes, shapes and devices. The bindings check sizes again, since these
// decide what a kernel reads. std::invalid_argument becomes ValueError, std::runtime_error becomes RuntimeError.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>

namespace fastsam::bindings {

namespace py = pybind11;

// A tensor's data_ptr(), or a CUDA stream's handle.
using Address = uintptr_t;

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

inline void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// Each adds the operations of one file in bindings_cuda/ to the module; bindings_cuda.cpp calls them.
void bind_attention(py::module_& m);
void bind_conv(py::module_& m);
void bind_copies(py::module_& m);
void bind_decoder(py::module_& m);
void bind_decoder_tokens(py::module_& m);
void bind_masks(py::module_& m);
void bind_nms(py::module_& m);
void bind_norm(py::module_& m);
void bind_preprocess(py::module_& m);
void bind_rle(py::module_& m);

}  // namespace fastsam::bindings
