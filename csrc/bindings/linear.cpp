// Python bindings of linear/linear.h. All shapes and strides are checked, since they decide what memory is read and
// written.
#include "linear/linear.h"

#include <optional>

#include "bindings/arrays.h"

namespace fastsam::bindings {

namespace {

using linear::MatrixView;
using linear::Norm;
using linear::Weight;

// float32 at any strides; row_stride checks these.
using Matrix = py::array_t<float, 0>;
using Vector = std::optional<Array<float>>;

// Floats from one row to the next. Throws `message` unless the matrix is 2-D with contiguous rows.
int64_t row_stride(const Matrix& matrix, const char* message) {
  require(matrix.ndim() == 2, message);
  constexpr py::ssize_t size = sizeof(float);
  require(matrix.shape(1) <= 1 || matrix.strides(1) == size, message);
  require(matrix.strides(0) % size == 0, message);
  return matrix.strides(0) / size;
}

MatrixView to_matrix_view(const Matrix& matrix, int64_t rows, int64_t columns, const char* message) {
  const int64_t stride = row_stride(matrix, message);
  require(matrix.shape(0) == rows && matrix.shape(1) == columns, message);
  return {matrix.data(), stride};
}

float* to_output(Matrix& out, int64_t rows, int64_t columns, int64_t& stride) {
  stride = to_matrix_view(out, rows, columns, "out must be (m, n) with contiguous rows").stride;
  require(rows <= 1 || stride >= columns, "the rows of out must not overlap");
  return out.mutable_data();  // throws for a read-only array
}

Weight to_weight(const Matrix& weight, const char* message) {
  const int64_t stride = row_stride(weight, message);
  return {weight.data(), stride, weight.shape(0), weight.shape(1)};
}

const float* to_vector(const Vector& vector, int64_t size, const char* message) {
  require(!vector || has_shape(*vector, {size}), message);
  return vector ? vector->data() : nullptr;
}

Norm to_norm(const Vector& weight, const Vector& bias, int64_t k, double eps) {
  require(weight.has_value() == bias.has_value(), "norm_weight and norm_bias belong together");
  return {to_vector(weight, k, "norm_weight must be (k,)"), to_vector(bias, k, "norm_bias must be (k,)"),
          static_cast<float>(eps)};
}

void linear(const Matrix& x, const Matrix& weight, const Vector& bias, int32_t activation, const Vector& norm_weight,
            const Vector& norm_bias, double eps, const std::optional<Matrix>& residual, Matrix out, int64_t threads) {
  const Weight w = to_weight(weight, "weight must be (n, k) with contiguous rows");
  require(x.ndim() == 2 && x.shape(1) >= 1, "x must be (m, k), k at least 1");
  const int64_t m = x.shape(0);
  const MatrixView a = to_matrix_view(x, m, w.k, "x must be (m, k) with contiguous rows");
  const Norm norm = to_norm(norm_weight, norm_bias, w.k, eps);
  require(activation >= kLinearNone && activation <= kLinearRelu, "activation must be 0, 1 or 2");
  LinearEpilogue epilogue{to_vector(bias, w.n, "bias must be (n,)"), activation, nullptr, 0, nullptr, 0};
  if (residual) {
    const MatrixView residual_view = to_matrix_view(*residual, m, w.n, "residual must be (m, n) with contiguous rows");
    epilogue.residual = residual_view.data, epilogue.residual_stride = residual_view.stride;
  }
  epilogue.out = to_output(out, m, w.n, epilogue.out_stride);
  py::gil_scoped_release release;
  fastsam::linear::linear(a, m, norm, w, epilogue, threads);
}

void mlp(const Matrix& x, const Array<float>& norm_weight, const Array<float>& norm_bias, double eps,
         const Matrix& weight1, const Array<float>& bias1, const Matrix& weight2, const Array<float>& bias2, Matrix out,
         int64_t threads) {
  const Weight first = to_weight(weight1, "weight1 must be (h, k) with contiguous rows");
  const Weight second = to_weight(weight2, "weight2 must be (k, h) with contiguous rows");
  require(first.n >= 1, "the hidden layer must not be empty");
  require(second.n == first.k && second.k == first.n, "weight2 must be (k, h) for weight1 (h, k)");
  require(x.ndim() == 2 && x.shape(1) >= 1, "x must be (m, k), k at least 1");
  const int64_t m = x.shape(0);
  const MatrixView a = to_matrix_view(x, m, first.k, "x must be (m, k) with contiguous rows");
  const Norm norm = to_norm(norm_weight, norm_bias, first.k, eps);
  const float* b1 = to_vector(bias1, first.n, "bias1 must be (h,)");
  const float* b2 = to_vector(bias2, second.n, "bias2 must be (k,)");
  int64_t stride = 0;
  float* out_data = to_output(out, m, second.n, stride);
  py::gil_scoped_release release;
  fastsam::linear::mlp(a, m, norm, first, b1, second, b2, out_data, stride, threads);
}

}  // namespace

void bind_linear(py::module_& m) {
  m.def("linear", &linear, exact("x"), exact("weight"), exact("bias"), py::arg("activation"), exact("norm_weight"),
        exact("norm_bias"), py::arg("eps"), exact("residual"), exact("out"), py::arg("threads"));
  m.def("mlp", &mlp, exact("x"), exact("norm_weight"), exact("norm_bias"), py::arg("eps"), exact("weight1"),
        exact("bias1"), exact("weight2"), exact("bias2"), exact("out"), py::arg("threads"));
}

}  // namespace fastsam::bindings
