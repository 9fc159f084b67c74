// Resizing and normalising in horizontal strips, one per thread; the kernels of the instruction set do the arithmetic.
#include "preprocess/preprocess.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/fork_join.h"
#include "common/isa.h"
#include "preprocess/axis_taps.h"

namespace fastsam::preprocess {

namespace {

// Fewest bytes to read and multiply that are worth a thread.
constexpr int64_t kGrain = int64_t{1} << 18;

// Produces the rows of the resized image from top to bottom. Holds only as many horizontally resized rows as one output
// row needs.
class RowResizer {
 public:
  RowResizer(const ImageView& image, const ResampledAxis& rows, const ResampledAxis& columns)
      : image_(image),
        rows_(rows),
        columns_(columns),
        taps_(columns.taps()),
        row_bytes_(3 * taps_.n),
        slot_bytes_(row_bytes_ + 4),  // resize_row writes that much more
        slots_(static_cast<size_t>(rows.max_count() * slot_bytes_)),
        window_(static_cast<size_t>(rows.max_count())),
        packed_(is_packed() ? 0 : static_cast<size_t>(3 * image.width)) {}

  // Writes output row y, 3 * width bytes of RGB. y must not be less than in the previous call.
  void write(int64_t y, uint8_t* out) {
    const int64_t begin = rows_.begin(y), count = rows_.count(y);
    next_ = std::max(next_, begin);
    for (; next_ < begin + count; ++next_) fill_slot(next_, slot(next_));
    if (count == 1) {
      std::memcpy(out, slot(begin), static_cast<size_t>(row_bytes_));
      return;
    }
    for (int64_t t = 0; t < count; ++t) window_[static_cast<size_t>(t)] = slot(begin + t);
    kernels().preprocess.blend_rows(window_.data(), rows_.weights(y), count, row_bytes_, out);
  }

 private:
  // Whether the pixels of a row are contiguous.
  bool is_packed() const { return image_.stride_x == 3 && image_.stride_c == 1; }

  uint8_t* slot(int64_t row) { return slots_.data() + row % rows_.max_count() * slot_bytes_; }

  // Writes input row y, resized horizontally.
  void fill_slot(int64_t y, uint8_t* out) {
    const uint8_t* row = image_.data + y * image_.stride_y;
    const bool swap = image_.swap;
    if (columns_.identity()) {
      pack(row, swap, out);
    } else if (is_packed()) {
      kernels().preprocess.resize_row(row, image_.width, taps_, swap, out);
    } else {
      pack(row, swap, packed_.data());
      kernels().preprocess.resize_row(packed_.data(), image_.width, taps_, false, out);
    }
  }

  // Copies an input row to contiguous pixels, reversing the channels if `swap`.
  void pack(const uint8_t* row, bool swap, uint8_t* out) const {
    if (is_packed() && !swap) {
      std::memcpy(out, row, static_cast<size_t>(3 * image_.width));
      return;
    }
    const int64_t step = swap ? -image_.stride_c : image_.stride_c;
    if (swap) row += 2 * image_.stride_c;
    for (int64_t x = 0; x < image_.width; ++x, row += image_.stride_x, out += 3) {
      out[0] = row[0];
      out[1] = row[step];
      out[2] = row[2 * step];
    }
  }

  const ImageView& image_;
  const ResampledAxis& rows_;
  const ResampledAxis& columns_;
  const AxisTaps taps_;
  const int64_t row_bytes_, slot_bytes_;
  int64_t next_ = 0;  // the first input row that is not in a slot yet
  std::vector<uint8_t> slots_;
  std::vector<const uint8_t*> window_;
  std::vector<uint8_t> packed_;
};

void check_side(int64_t side) {
  if (side < 1 || side > kMaxSide) {
    throw std::invalid_argument("images must have sides from 1 to " + std::to_string(kMaxSide) + " pixels; got " +
                                std::to_string(side));
  }
}

// Fewest output rows that are worth a thread.
int64_t min_rows_per_thread(const ImageView& image, int64_t height, int64_t width) {
  const int64_t bytes_per_row = 3 * (image.width * std::max<int64_t>(1, image.height / height) + 4 * width);
  return std::max<int64_t>(1, kGrain / bytes_per_row);
}

// A table of (value - mean) / std for each channel and byte: 768 divisions instead of three per pixel, with the same
// bits.
struct NormalisationTable {
  float values[3][256];

  NormalisationTable(const float* mean, const float* std) {
    for (int c = 0; c < 3; ++c) {
      for (int value = 0; value < 256; ++value) values[c][value] = (static_cast<float>(value) - mean[c]) / std[c];
    }
  }

  void write_planar(const uint8_t* row, int64_t n, float* out, int64_t plane) const {
    for (int64_t x = 0; x < n; ++x, row += 3) {
      out[x] = values[0][row[0]];
      out[x + plane] = values[1][row[1]];
      out[x + 2 * plane] = values[2][row[2]];
    }
  }

  void write_interleaved(const uint8_t* row, int64_t n, float* out) const {
    for (int64_t x = 0; x < 3 * n; x += 3) {
      out[x] = values[0][row[x]];
      out[x + 1] = values[1][row[x + 1]];
      out[x + 2] = values[2][row[x + 2]];
    }
  }
};

}  // namespace

void resize(const ImageView& image, int64_t height, int64_t width, uint8_t* out, int64_t threads) {
  for (const int64_t side : {image.height, image.width, height, width}) check_side(side);
  const ResampledAxis rows(image.height, height), columns(image.width, width);
  fork_join(threads, height, min_rows_per_thread(image, height, width), [&](int64_t begin, int64_t end) {
    RowResizer resizer(image, rows, columns);
    for (int64_t y = begin; y < end; ++y) resizer.write(y, out + y * 3 * width);
  });
}

void normalise(const ImageView& image, int64_t height, int64_t width, int64_t size, const float* mean, const float* std,
               bool channels_last, float* out, int64_t threads) {
  for (const int64_t side : {image.height, image.width, height, width}) check_side(side);
  if (size < height || size < width) throw std::invalid_argument("the content must fit into the square of size `size`");
  const ResampledAxis rows(image.height, height), columns(image.width, width);
  const NormalisationTable table(mean, std);
  const int64_t plane = size * size, channels = channels_last ? 1 : 3;
  const int64_t step = channels_last ? 3 : 1;  // floats from one pixel of a row to the next
  fork_join(threads, height, min_rows_per_thread(image, height, width), [&](int64_t begin, int64_t end) {
    RowResizer resizer(image, rows, columns);
    std::vector<uint8_t> row_bytes(static_cast<size_t>(3 * width));
    for (int64_t y = begin; y < end; ++y) {
      resizer.write(y, row_bytes.data());
      float* row = out + y * size * step;
      if (channels_last) {
        table.write_interleaved(row_bytes.data(), width, row);
      } else {
        table.write_planar(row_bytes.data(), width, row, plane);
      }
      for (int64_t c = 0; c < channels; ++c) {
        std::fill(row + c * plane + width * step, row + c * plane + size * step, 0.0f);
      }
    }
    // Zero a part of the rows below the content, in proportion to this part's rows.
    const int64_t below = size - height;
    for (int64_t c = 0; c < channels; ++c) {
      float* first = out + c * plane;
      std::fill(first + (height + below * begin / height) * size * step,
                first + (height + below * end / height) * size * step, 0.0f);
    }
  });
}

}  // namespace fastsam::preprocess
