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
class RowStream {
 public:
  RowStream(const Picture& picture, const Axis& rows, const Axis& columns)
      : picture_(picture),
        rows_(rows),
        columns_(columns),
        taps_(columns.taps()),
        row_bytes_(3 * taps_.n),
        slot_bytes_(row_bytes_ + 4),  // resize_row writes that much more
        slots_(static_cast<size_t>(rows.max_count() * slot_bytes_)),
        window_(static_cast<size_t>(rows.max_count())),
        packed_(direct() ? 0 : static_cast<size_t>(3 * picture.width)) {}

  // Writes output row y, 3 * width bytes of RGB. y must not be less than in the previous call.
  void write(int64_t y, uint8_t* out) {
    const int64_t begin = rows_.begin(y), count = rows_.count(y);
    next_ = std::max(next_, begin);
    for (; next_ < begin + count; ++next_) fill(next_, slot(next_));
    if (count == 1) {
      std::memcpy(out, slot(begin), static_cast<size_t>(row_bytes_));
      return;
    }
    for (int64_t t = 0; t < count; ++t) window_[static_cast<size_t>(t)] = slot(begin + t);
    kernels().preprocess.blend_rows(window_.data(), rows_.weights(y), count, row_bytes_, out);
  }

 private:
  // Whether the pixels of a row are contiguous.
  bool direct() const { return picture_.stride_x == 3 && picture_.stride_c == 1; }

  uint8_t* slot(int64_t row) { return slots_.data() + row % rows_.max_count() * slot_bytes_; }

  // Writes input row y, resized horizontally.
  void fill(int64_t y, uint8_t* out) {
    const uint8_t* row = picture_.data + y * picture_.stride_y;
    const bool swap = picture_.swap;
    if (columns_.identity()) {
      pack(row, swap, out);
    } else if (direct()) {
      kernels().preprocess.resize_row(row, picture_.width, taps_, swap, out);
    } else {
      pack(row, swap, packed_.data());
      kernels().preprocess.resize_row(packed_.data(), picture_.width, taps_, false, out);
    }
  }

  // Copies an input row to contiguous pixels, reversing the channels if `swap`.
  void pack(const uint8_t* row, bool swap, uint8_t* out) const {
    if (direct() && !swap) {
      std::memcpy(out, row, static_cast<size_t>(3 * picture_.width));
      return;
    }
    const int64_t step = swap ? -picture_.stride_c : picture_.stride_c;
    if (swap) row += 2 * picture_.stride_c;
    for (int64_t x = 0; x < picture_.width; ++x, row += picture_.stride_x, out += 3) {
      out[0] = row[0];
      out[1] = row[step];
      out[2] = row[2 * step];
    }
  }

  const Picture& picture_;
  const Axis& rows_;
  const Axis& columns_;
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
int64_t grain_rows(const Picture& picture, int64_t height, int64_t width) {
  const int64_t bytes_per_row = 3 * (picture.width * std::max<int64_t>(1, picture.height / height) + 4 * width);
  return std::max<int64_t>(1, kGrain / bytes_per_row);
}

// A table of (value - mean) / std for each channel and byte: 768 divisions instead of three per pixel, with the same
// bits.
struct Normalised {
  float of[3][256];

  Normalised(const float* mean, const float* std) {
    for (int c = 0; c < 3; ++c) {
      for (int value = 0; value < 256; ++value) of[c][value] = (static_cast<float>(value) - mean[c]) / std[c];
    }
  }

  void write_planar(const uint8_t* row, int64_t n, float* out, int64_t plane) const {
    for (int64_t x = 0; x < n; ++x, row += 3) {
      out[x] = of[0][row[0]];
      out[x + plane] = of[1][row[1]];
      out[x + 2 * plane] = of[2][row[2]];
    }
  }

  void write_interleaved(const uint8_t* row, int64_t n, float* out) const {
    for (int64_t x = 0; x < 3 * n; x += 3) {
      out[x] = of[0][row[x]];
      out[x + 1] = of[1][row[x + 1]];
      out[x + 2] = of[2][row[x + 2]];
    }
  }
};

}  // namespace

void resize(const Picture& picture, int64_t height, int64_t width, uint8_t* out, int64_t threads) {
  for (const int64_t side : {picture.height, picture.width, height, width}) check_side(side);
  const Axis rows(picture.height, height), columns(picture.width, width);
  fork_join(threads, height, grain_rows(picture, height, width), [&](int64_t begin, int64_t end) {
    RowStream stream(picture, rows, columns);
    for (int64_t y = begin; y < end; ++y) stream.write(y, out + y * 3 * width);
  });
}

void normalise(const Picture& picture, int64_t height, int64_t width, int64_t size, const float* mean, const float* std,
               bool channels_last, float* out, int64_t threads) {
  for (const int64_t side : {picture.height, picture.width, height, width}) check_side(side);
  if (size < height || size < width) throw std::invalid_argument("the content must fit into the square of size `size`");
  const Axis rows(picture.height, height), columns(picture.width, width);
  const Normalised normalised(mean, std);
  const int64_t plane = size * size, channels = channels_last ? 1 : 3;
  const int64_t step = channels_last ? 3 : 1;  // floats from one pixel of a row to the next
  fork_join(threads, height, grain_rows(picture, height, width), [&](int64_t begin, int64_t end) {
    RowStream stream(picture, rows, columns);
    std::vector<uint8_t> bytes(static_cast<size_t>(3 * width));
    for (int64_t y = begin; y < end; ++y) {
      stream.write(y, bytes.data());
      float* row = out + y * size * step;
      if (channels_last) {
        normalised.write_interleaved(bytes.data(), width, row);
      } else {
        normalised.write_planar(bytes.data(), width, row, plane);
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
