// Helpers shared by the CPU bindings: types and checks for NumPy arguments, and arrays that own a result. pybind11
// translates exceptions: std::invalid_argument becomes ValueError, std::bad_alloc becomes MemoryError.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "common/tensor_view.h"

namespace fastsam::bindings {

namespace py = pybind11;

// A C-contiguous array of dtype T. Bound with `exact`, it accepts nothing else: pybind11 raises TypeError instead of
// converting.
template <typename T>
using Array = py::array_t<T, py::array::c_style>;
using Floats = Array<float>;
using Int64s = Array<int64_t>;

// An argument that pybind11 must not convert.
inline py::arg exact(const char* name) { return py::arg(name).noconvert(); }

inline void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

inline bool has_shape(const py::array& x, std::initializer_list<int64_t> shape) {
  if (x.ndim() != static_cast<py::ssize_t>(shape.size())) return false;
  py::ssize_t axis = 0;
  for (const int64_t size : shape) {
    if (x.shape(axis++) != size) return false;
  }
  return true;
}

// Most image tokens of the decoder: sizes of arrays made of their panels then stay within int64.
constexpr int64_t kMaxLength = int64_t{1} << 40;

inline void check_length(int64_t length) {
  require(length > 0 && length <= kMaxLength, "length must be positive, and at most 2^40");
}

// Returns work(). Releases the GIL meanwhile if `release_gil`; short work is faster with the GIL held.
template <typename Work>
auto without_gil(const Work& work, bool release_gil = true) {
  std::optional<py::gil_scoped_release> release;
  if (release_gil) release.emplace();
  return work();
}

// A 1-D array that takes over the vector's memory.
template <typename T>
py::array_t<T> to_array(std::vector<T>&& values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  const T* data = owned->data();
  const auto size = static_cast<py::ssize_t>(owned->size());
  py::capsule owner(owned.get(), [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
  owned.release();
  // NumPy accepts a null data pointer only without an owner.
  return data == nullptr ? py::array_t<T>(0) : py::array_t<T>(size, data, owner);
}

// The same, reshaped to (rows, columns).
template <typename T>
py::array_t<T> to_array(std::vector<T>&& values, int64_t rows, int64_t columns) {
  return to_array(std::move(values)).reshape(std::vector<py::ssize_t>{rows, columns});
}

// Each adds the operations of one file in bindings/ to the module; bindings_cpu.cpp calls them.
void bind_linear(py::module_& m);
void bind_attention(py::module_& m);
void bind_conv(py::module_& m);
void bind_decoder(py::module_& m);
void bind_decoder_tokens(py::module_& m);
void bind_masks(py::module_& m);
void bind_nms(py::module_& m);
void bind_preprocess(py::module_& m);
void bind_rle(py::module_& m);
void bind_rle_dicts(py::module_& m);

}  // namespace fastsam::bindings
