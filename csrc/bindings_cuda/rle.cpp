// Python bindings of rle/rle_cuda.h; see pointers.h for what callers guarantee.
#include "rle/rle_cuda.h"

#include "bindings_cuda/pointers.h"

namespace fastsam::bindings {

namespace {

namespace cuda = fastsam::rle::cuda;

void check_size(int64_t height, int64_t width) {
  require(fastsam::rle::is_valid_size(height, width),
          "height and width must not be negative, nor their product too large");
}

// The kernels count a band's columns and rows in 32 bits.
void check_side(int64_t side) {
  require(side < INT32_MAX - 64, "masks of 2147483583 or more pixels a side can't be encoded or decoded on a GPU");
}

MaskView to_mask_view(Address masks, int64_t n, int64_t height, int64_t width, int64_t stride_n, int64_t stride_y,
                      int64_t stride_x) {
  require(n >= 0 && height >= 1 && width >= 1, "masks must have at least one pixel");
  check_size(height, width);
  check_side(height);
  check_side(width);
  return {pointer<const uint8_t>(masks), n, height, width, stride_n, stride_y, stride_x};
}

fastsam::rle::RunsView to_runs_view(Address counts, int64_t size, Address offsets, int64_t n) {
  require(size >= 0 && n >= 0, "sizes must not be negative");
  return {pointer<const int64_t>(counts), size, pointer<const int64_t>(offsets), n};
}

int64_t rle_encode_num_parts(int64_t height, int64_t width) {
  const MaskView view = to_mask_view(0, 0, height, width, 0, 0, 0);
  return cuda::num_encode_parts(view.height, view.width);
}

void rle_encode_count(Address masks, int64_t n, int64_t height, int64_t width, int64_t stride_n, int64_t stride_y,
                      int64_t stride_x, Address parts, Address lengths, Address stream) {
  const MaskView view = to_mask_view(masks, n, height, width, stride_n, stride_y, stride_x);
  cuda::encode_count(view, pointer<cuda::Part>(parts), pointer<int64_t>(lengths), pointer<void>(stream));
}

void rle_encode_write(Address masks, int64_t n, int64_t height, int64_t width, int64_t stride_n, int64_t stride_y,
                      int64_t stride_x, Address parts, Address offsets, Address counts, Address stream) {
  const MaskView view = to_mask_view(masks, n, height, width, stride_n, stride_y, stride_x);
  cuda::encode_write(view, pointer<const cuda::Part>(parts), pointer<const int64_t>(offsets), pointer<int64_t>(counts),
                     pointer<void>(stream));
}

void rle_offsets(Address lengths, int64_t n, Address offsets, Address stream) {
  require(n >= 0, "sizes must not be negative");
  cuda::compute_offsets(pointer<const int64_t>(lengths), n, pointer<int64_t>(offsets), pointer<void>(stream));
}

void rle_measure(Address counts, int64_t size, Address offsets, int64_t n, Address error, Address totals, Address areas,
                 Address heights, Address boxes, Address ends, Address set_before, Address stream) {
  require((heights == 0) == (boxes == 0) && (ends == 0) == (set_before == 0),
          "heights and boxes belong together, and so do ends and set_before");
  const cuda::RunStats stats{pointer<int64_t>(error),     pointer<int64_t>(totals),        pointer<int64_t>(areas),
                             pointer<int64_t>(boxes),     pointer<const int64_t>(heights), pointer<int64_t>(ends),
                             pointer<int64_t>(set_before)};
  cuda::measure_runs(to_runs_view(counts, size, offsets, n), stats, pointer<void>(stream));
}

void rle_decode(Address counts, int64_t size, Address offsets, int64_t n, Address ends, int64_t height, int64_t width,
                bool column_major, Address out, Address stream) {
  check_size(height, width);
  check_side(height);
  check_side(width);
  cuda::decode(to_runs_view(counts, size, offsets, n), pointer<const int64_t>(ends), height, width, column_major,
               pointer<uint8_t>(out), pointer<void>(stream));
}

// cuda::MeasuredRuns as Python passes it: (counts, size, offsets, n, ends, set_before, areas).
using MeasuredTuple = std::tuple<Address, int64_t, Address, int64_t, Address, Address, Address>;

cuda::MeasuredRuns to_measured_runs(const MeasuredTuple& masks) {
  const auto& [counts, size, offsets, n, ends, set_before, areas] = masks;
  return {to_runs_view(counts, size, offsets, n), pointer<const int64_t>(ends), pointer<const int64_t>(set_before),
          pointer<const int64_t>(areas)};
}

void rle_iou(const MeasuredTuple& dt, const MeasuredTuple& gt, Address iscrowd, Address out, Address stream) {
  cuda::iou(to_measured_runs(dt), to_measured_runs(gt), pointer<const uint8_t>(iscrowd), pointer<double>(out),
            pointer<void>(stream));
}

}  // namespace

void bind_rle(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> released;
  m.attr("RLE_PART_BYTES") = sizeof(cuda::Part);
  m.attr("RLE_BAD_OFFSETS") = static_cast<int64_t>(cuda::kBadOffsets);
  m.attr("RLE_BAD_RUN") = static_cast<int64_t>(cuda::kBadRun);
  m.attr("RLE_BAD_SUM") = static_cast<int64_t>(cuda::kBadSum);
  m.attr("RLE_BAD_HEIGHT") = static_cast<int64_t>(cuda::kBadHeight);
  m.def("rle_encode_num_parts", &rle_encode_num_parts, py::arg("height"), py::arg("width"));
  m.def("rle_encode_count", &rle_encode_count, py::arg("masks"), py::arg("n"), py::arg("height"), py::arg("width"),
        py::arg("stride_n"), py::arg("stride_y"), py::arg("stride_x"), py::arg("parts"), py::arg("lengths"),
        py::arg("stream"), released);
  m.def("rle_encode_write", &rle_encode_write, py::arg("masks"), py::arg("n"), py::arg("height"), py::arg("width"),
        py::arg("stride_n"), py::arg("stride_y"), py::arg("stride_x"), py::arg("parts"), py::arg("offsets"),
        py::arg("counts"), py::arg("stream"), released);
  m.def("rle_offsets", &rle_offsets, py::arg("lengths"), py::arg("n"), py::arg("offsets"), py::arg("stream"), released);
  m.def("rle_measure", &rle_measure, py::arg("counts"), py::arg("size"), py::arg("offsets"), py::arg("n"),
        py::arg("error"), py::arg("totals"), py::arg("areas"), py::arg("heights"), py::arg("boxes"), py::arg("ends"),
        py::arg("set_before"), py::arg("stream"), released);
  m.def("rle_decode", &rle_decode, py::arg("counts"), py::arg("size"), py::arg("offsets"), py::arg("n"),
        py::arg("ends"), py::arg("height"), py::arg("width"), py::arg("column_major"), py::arg("out"),
        py::arg("stream"), released);
  m.def("rle_iou", &rle_iou, py::arg("dt"), py::arg("gt"), py::arg("iscrowd"), py::arg("out"), py::arg("stream"),
        released);
}

}  // namespace fastsam::bindings
