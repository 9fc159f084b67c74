#include "decoder/decoder.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "common/fork_join.h"
#include "common/isa.h"

namespace fastsam::decoder {
namespace {

constexpr int64_t kPanel = 16;
// A prompt's image is worked through in stretches of this many panels, whoever does it: sums over the image are formed
// by stretch and then merged in order, so the number of threads can't change them.
constexpr int64_t kStretch = 32;
// Rows of the first look per piece of work.
constexpr int64_t kLookRows = 48;

int64_t panels_of(int64_t length) { return (length + kPanel - 1) / kPanel; }
int64_t stretches_of(int64_t panels) { return (panels + kStretch - 1) / kStretch; }
// Fewer pieces of work than this are not worth a thread.
int64_t grain_of(int64_t panels) { return std::max<int64_t>(1, kStretch / std::max<int64_t>(1, panels)); }

// Uninitialised memory in whole cache lines, handed out piece by piece.
class Arena {
 public:
  explicit Arena(int64_t floats)
      : memory_(static_cast<float*>(::operator new(static_cast<size_t>(floats) * sizeof(float), kAlign))),
        next_(memory_.get()) {}
  static int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }
  float* take(int64_t floats) {
    float* piece = next_;
    next_ += padded(floats);
    return piece;
  }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<float, Free> memory_;
  float* next_;
};

int64_t sums_size(int64_t channels, int64_t columns) {
  return 2 * Arena::padded(columns) + Arena::padded(channels * columns);
}

DecoderSums take_sums(Arena& memory, int64_t channels, int64_t columns) {
  float* largest = memory.take(columns);
  float* total = memory.take(columns);
  return {largest, total, memory.take(channels * columns)};
}

// One thread's work: the operands of one prompt at a time, packed for the instruction set in use.
class PassWorker {
 public:
  // The instruction set is chosen once per call: it sizes what several workers share.
  PassWorker(const Pass& pass, const DecoderKernels& isa)
      : pass_(pass),
        isa_(isa),
        rows_(pass.heads * pass.tokens),
        columns_(isa_.columns(rows_)),
        depth_(pass.queries != nullptr ? pass.head_dim : pass.channels),
        memory_(Arena::padded(rows_ * std::max(depth_, pass.channels)) + Arena::padded(rows_ * depth_) +
                Arena::padded(rows_) + Arena::padded(rows_ * pass.channels) + Arena::padded(columns_ * pass.channels) +
                Arena::padded(isa_.pass_scratch(pass.channels, rows_))) {
    gathered_rows_ = memory_.take(rows_ * std::max(depth_, pass.channels));
    keys_ = memory_.take(rows_ * depth_);
    key_bias_ = memory_.take(rows_);
    values_ = memory_.take(rows_ * pass.channels);
    look_ = memory_.take(columns_ * pass.channels);
    scratch_ = memory_.take(isa_.pass_scratch(pass.channels, rows_));
  }

  int64_t columns() const { return columns_; }

  void run(int64_t prompt, int64_t stretch, const DecoderSums& sums) {
    if (prompt != prompt_) pack(prompt);
    const int64_t panels = panels_of(pass_.length), first = stretch * kStretch;
    const int64_t size = panels * pass_.channels * kPanel;
    const DecoderPass operands{pass_.length,   pass_.channels,
                               rows_,          pass_.heads,
                               pass_.head_dim, pass_.source + prompt * pass_.source_stride,
                               pass_.position, pass_.queries,
                               keys_,          key_bias_,
                               values_,        pass_.norm,
                               look_,          pass_.out + prompt * size};
    isa_.pass(operands, first, std::min(first + kStretch, panels), sums, scratch_);
  }

  void finish(int64_t prompt, const std::vector<DecoderSums>& sums) {
    const int64_t per_prompt = pass_.tokens * pass_.channels;
    isa_.finish(sums.data(), static_cast<int64_t>(sums.size()), pass_.channels, rows_, pass_.tokens,
                pass_.prompts * per_prompt, pass_.gathered + prompt * per_prompt);
  }

 private:
  // The prompt's rows of all heads, one below the other: (rows, width).
  const float* rows_of(const float* x, int64_t prompt, int64_t width, float* out) const {
    const int64_t size = pass_.tokens * width;
    for (int64_t h = 0; h < pass_.heads; ++h) {
      std::memcpy(out + h * size, x + (h * pass_.prompts + prompt) * size, static_cast<size_t>(size) * sizeof(float));
    }
    return out;
  }

  void pack(int64_t prompt) {
    const int64_t channels = pass_.channels;
    const float* keys = rows_of(pass_.keys, prompt, depth_, gathered_rows_);
    // With queries of its own, each head is a product by itself.
    const int64_t parts = pass_.queries != nullptr ? pass_.heads : 1, part = rows_ / parts;
    for (int64_t i = 0; i < parts; ++i) {
      isa_.pack_slivers(keys + i * part * depth_, part, depth_, depth_, 1, keys_ + i * part * depth_);
    }
    if (pass_.queries == nullptr) rows_of(pass_.key_bias, prompt, 1, key_bias_);
    isa_.pack_slivers(rows_of(pass_.values, prompt, channels, gathered_rows_), channels, rows_, 1, channels, values_);
    isa_.pack_strips(rows_of(pass_.look, prompt, channels, gathered_rows_), rows_, channels, look_);
    prompt_ = prompt;
  }

  const Pass& pass_;
  const DecoderKernels& isa_;
  int64_t rows_, columns_, depth_;
  Arena memory_;
  float *gathered_rows_, *keys_, *key_bias_, *values_, *look_, *scratch_;
  int64_t prompt_ = -1;
};

}  // namespace

void image_pass(const Pass& pass, int64_t threads) {
  if (pass.prompts == 0) return;
  const int64_t panels = panels_of(pass.length), stretches = stretches_of(panels);
  const DecoderKernels& isa = kernels().decoder;
  const int64_t columns = isa.columns(pass.heads * pass.tokens);
  const int64_t sums_floats = sums_size(pass.channels, columns);
  threads = std::max<int64_t>(1, threads);

  // Whole prompts as long as all threads have one; the last few are shared out by stretches.
  const int64_t alone = threads == 1 ? pass.prompts : pass.prompts / threads * threads;
  fork_join(threads, alone, grain_of(panels), [&](int64_t begin, int64_t end) {
    PassWorker worker(pass, isa);
    Arena memory(stretches * sums_floats);
    std::vector<DecoderSums> sums;
    for (int64_t i = 0; i < stretches; ++i) sums.push_back(take_sums(memory, pass.channels, columns));
    for (int64_t prompt = begin; prompt < end; ++prompt) {
      for (int64_t i = 0; i < stretches; ++i) worker.run(prompt, i, sums[static_cast<size_t>(i)]);
      worker.finish(prompt, sums);
    }
  });
  const int64_t rest = pass.prompts - alone;
  if (rest == 0) return;
  Arena memory(rest * stretches * sums_floats);
  std::vector<std::vector<DecoderSums>> sums(static_cast<size_t>(rest));
  for (std::vector<DecoderSums>& of_prompt : sums) {
    for (int64_t i = 0; i < stretches; ++i) of_prompt.push_back(take_sums(memory, pass.channels, columns));
  }
  fork_join(threads, rest * stretches, grain_of(panels), [&](int64_t begin, int64_t end) {
    PassWorker worker(pass, isa);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t prompt = item / stretches, i = item % stretches;
      worker.run(alone + prompt, i, sums[static_cast<size_t>(prompt)][static_cast<size_t>(i)]);
    }
  });
  PassWorker worker(pass, isa);
  for (int64_t prompt = 0; prompt < rest; ++prompt) worker.finish(alone + prompt, sums[static_cast<size_t>(prompt)]);
}

void first_look(const float* q, const float* keys, const float* values, int64_t heads, int64_t rows, int64_t head_dim,
                int64_t length, float* out, int64_t threads) {
  const DecoderKernels& isa = kernels().decoder;
  const int64_t panels = panels_of(length), wide = (head_dim + kPanel - 1) / kPanel * kPanel;
  const int64_t pieces = (rows + kLookRows - 1) / kLookRows, inner = heads * head_dim;
  fork_join(threads, heads * pieces, grain_of(panels), [&](int64_t begin, int64_t end) {
    Arena memory(isa.first_look_scratch(kLookRows, head_dim));
    float* scratch = memory.take(0);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t head = item / pieces, first = item % pieces * kLookRows;
      const int64_t at = (head * rows + first) * head_dim;
      isa.first_look(q + at, std::min(kLookRows, rows - first), head_dim, keys + head * head_dim * kPanel,
                     inner * kPanel, values + head * panels * kPanel * wide, length, out + at, scratch);
    }
  });
}

void upscale(const Upscaling& up, int64_t threads) {
  if (up.count == 0) return;
  for (int64_t i = 0; i < up.count; ++i) {
    if (up.index[i] < 0 || up.index[i] >= up.prompts) {
      throw std::invalid_argument("a mask's prompt is not among those decoded");
    }
  }
  // Masks of one prompt beside one another: its image tokens are enlarged once for all of them.
  std::vector<int64_t> order(static_cast<size_t>(up.count));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return up.index[a] < up.index[b]; });
  const int64_t logits = 16 * up.height * up.width;
  std::vector<const float*> weights;
  std::vector<float*> outs;
  std::vector<size_t> begins;
  int64_t most = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || up.index[order[i]] != up.index[order[i - 1]]) begins.push_back(i);
    weights.push_back(up.weights + order[i] * up.narrow);
    outs.push_back(up.out + order[i] * logits);
    most = std::max(most, static_cast<int64_t>(i - begins.back()) + 1);
  }
  const auto prompts = static_cast<int64_t>(begins.size());
  begins.push_back(order.size());

  const DecoderKernels& isa = kernels().decoder;
  const int64_t enlarge_size = 4 * up.middle * up.channels, more_size = 4 * up.narrow * up.middle;
  Arena packed(Arena::padded(enlarge_size) + Arena::padded(more_size));
  float* enlarge = packed.take(enlarge_size);
  float* enlarge_more = packed.take(more_size);
  isa.pack_slivers(up.enlarge, 4 * up.middle, up.channels, up.channels, 1, enlarge);
  isa.pack_slivers(up.enlarge_more, 4 * up.narrow, up.middle, up.middle, 1, enlarge_more);
  const DecoderUpscaling operands{up.channels,     up.middle, up.narrow,    enlarge,
                                  up.enlarge_bias, up.norm,   enlarge_more, up.enlarge_more_bias};

  const int64_t panels = panels_of(up.height * up.width), stretches = stretches_of(panels);
  fork_join(threads, prompts * stretches, grain_of(panels), [&](int64_t begin, int64_t end) {
    Arena memory(isa.upscale_scratch(up.channels, up.middle, up.narrow, most));
    float* scratch = memory.take(0);
    for (int64_t item = begin; item < end; ++item) {
      const auto group = static_cast<size_t>(item / stretches);
      const int64_t first = item % stretches * kStretch;
      const size_t at = begins[group];
      isa.upscale(operands, up.tokens + up.index[order[at]] * panels * up.channels * kPanel, first,
                  std::min(first + kStretch, panels), up.height, up.width, weights.data() + at, outs.data() + at,
                  static_cast<int64_t>(begins[group + 1] - at), scratch);
    }
  });
}

}  // namespace fastsam::decoder
