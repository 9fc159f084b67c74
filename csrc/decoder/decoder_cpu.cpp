// The image side of the mask decoder on the CPU (decoder.h): packs operands, distributes prompts and stretches of the
// image to threads, and runs the kernels of the selected instruction set (decoder_table.h).
#include "decoder/decoder.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "common/fork_join.h"
#include "common/isa.h"
#include "decoder/arena.h"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace fastsam::decoder {
namespace {

// The image is divided into stretches of this many panels. Sums over the image are always formed per stretch and then
// merged in order, so that they don't depend on the number of threads.
constexpr int64_t kStretch = 32;
// Number of panels that the passes process for one prompt before the next prompt's turn; the same as kVisit in
// look.inc.
constexpr int64_t kVisit = 4;
// Number of rows of the first look per piece of work.
constexpr int64_t kLookRows = 48;

int64_t stretches_of(int64_t panels) { return (panels + kStretch - 1) / kStretch; }
// Number of pieces of work below which a thread costs more than it saves.
int64_t grain_of(int64_t panels) { return std::max<int64_t>(1, kStretch / std::max<int64_t>(1, panels)); }

// Return the bytes of a core's second-level cache as the system reports it, or else 512 KB, which is common.
int64_t second_level_cache() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const auto size = static_cast<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE));
  if (size > 0) return size;
#endif
  return int64_t{512} << 10;
}

// Return how many prompts to process together, given the bytes of one prompt's operands and of the image's part in a
// visit. All but the first prompt read the image's part (160 and 224 KB in the two passes of SAM's decoder) from the
// second-level cache, but too many prompts would evict their own operands (36 and 81 KB) from it.
int64_t together(int64_t operands, int64_t image) {
  constexpr int64_t kLeast = 2, kMost = 8;  // more than 8 would save little
  const int64_t room = second_level_cache() / 5 * 4 - image;
  return std::min(kMost, std::max(kLeast, room / std::max<int64_t>(1, operands)));
}

int64_t sums_size(int64_t columns, int64_t wide, int64_t mixed_rows) {
  return 2 * padded(columns) + padded(columns * wide) + padded(mixed_rows * columns);
}

DecoderSums take_sums(Arena& memory, int64_t columns, int64_t wide, int64_t mixed_rows) {
  float* largest = memory.take(columns);
  float* total = memory.take(columns);
  float* seen = memory.take(columns * wide);
  return {largest, total, seen, memory.take(mixed_rows * columns)};
}

// Sizes of a pass, the same for every prompt. mixed_rows: number of coefficients of an image token that the look uses.
// columns: padded number of look rows. wide: padded head_dim.
struct Sizes {
  int64_t rows, look_rows, mixed_rows, columns, wide;

  Sizes(const Pass& pass, const DecoderKernels& isa) : Sizes(pass, pass.tokens, pass.heads * pass.tokens, isa) {}
  Sizes(const SecondPass& pass, const DecoderKernels& isa)
      : Sizes(pass, pass.look_tokens, 2 * pass.heads * pass.tokens + 2, isa) {}

 private:
  Sizes(const Pass& pass, int64_t look_tokens, int64_t mixed, const DecoderKernels& isa)
      : rows(pass.heads * pass.tokens),
        look_rows(pass.heads * look_tokens),
        mixed_rows(mixed),
        columns(isa.columns(look_rows)),
        wide(padded(pass.head_dim)) {}
};

// The operands of one prompt, packed for the selected instruction set.
template <typename AnyPass, typename Operands>
class Packed {
 public:
  Packed(const AnyPass& pass, const Sizes& sizes, const DecoderKernels& isa)
      : pass_(pass), sizes_(sizes), isa_(isa), memory_(size(pass, sizes)) {}

  static int64_t size(const AnyPass& pass, const Sizes& sizes) {
    constexpr bool kSecond = std::is_same_v<AnyPass, SecondPass>;
    const int64_t vectors = padded(sizes.rows * pass.head_dim), square = padded(sizes.rows * sizes.rows);
    return (kSecond ? 4 : 3) * vectors + (kSecond ? 4 : 1) * square + padded(sizes.look_rows * sizes.mixed_rows);
  }

  Operands pack(int64_t prompt) {
    prompt_ = prompt;
    memory_.clear();
    const int64_t rows = sizes_.rows, look_tokens = sizes_.look_rows / pass_.heads;
    Operands operands{};
    DecoderPass& common = operands;
    common = {pass_.length,
              pass_.heads,
              pass_.tokens,
              pass_.head_dim,
              pass_.image,
              pass_.values,
              pass_.norms,
              pass_.eps,
              heads(pass_.keys, pass_.tokens),
              heads(pass_.cross, pass_.tokens),
              triangle(pass_.gram),
              heads(pass_.look, look_tokens),
              matrix(pass_.look_mix, sizes_.look_rows, sizes_.mixed_rows),
              pass_.state + prompt * num_panels(pass_.length) * (2 * rows + 2) * kPanel};
    if constexpr (std::is_same_v<AnyPass, SecondPass>) {
      operands.look_tokens = look_tokens;
      operands.constant = pass_.constant;
      operands.keys_mix = matrix(pass_.keys_mix, rows, rows);
      operands.keys_bias = pass_.keys_bias + prompt * rows;
      operands.own = heads(pass_.own, pass_.tokens);
      operands.own_gram = triangle(pass_.own_gram);
      operands.own_bias = pass_.own_bias + prompt * rows;
      operands.cross_mix = matrix(pass_.cross_mix, rows, rows);
      operands.cross_bias = pass_.cross_bias + prompt * rows;
    }
    return operands;
  }

 private:
  // Pack (heads * tokens, head_dim), each head as a left-hand side of its own.
  const float* heads(const float* x, int64_t tokens) {
    const int64_t part = tokens * pass_.head_dim;
    float* out = memory_.take(pass_.heads * part);
    for (int64_t h = 0; h < pass_.heads; ++h) {
      isa_.pack_slivers(x + (prompt_ * pass_.heads + h) * part, tokens, pass_.head_dim, pass_.head_dim, 1,
                        out + h * part);
    }
    return out;
  }
  const float* matrix(const float* x, int64_t rows, int64_t depth) {
    float* out = memory_.take(rows * depth);
    isa_.pack_slivers(x + prompt_ * rows * depth, rows, depth, depth, 1, out);
    return out;
  }
  const float* triangle(const float* x) {
    float* out = memory_.take(sizes_.rows * sizes_.rows);
    isa_.pack_triangle(x + prompt_ * sizes_.rows * sizes_.rows, sizes_.rows, out);
    return out;
  }

  const AnyPass& pass_;
  const Sizes& sizes_;
  const DecoderKernels& isa_;
  Arena memory_;
  int64_t prompt_ = 0;
};

// One thread's work on a group of prompts that are processed together.
template <typename AnyPass, typename Operands>
class PassWorker {
 public:
  PassWorker(const AnyPass& pass, const Sizes& sizes, const DecoderKernels& isa, int64_t most)
      : pass_(pass), sizes_(sizes), isa_(isa), scratch_(isa.pass_scratch(sizes.rows)) {
    for (int64_t i = 0; i < most; ++i) packed_.push_back(std::make_unique<Packed<AnyPass, Operands>>(pass, sizes, isa));
  }

  void take(int64_t first, int64_t count) {
    operands_.clear();
    for (int64_t i = 0; i < count; ++i) operands_.push_back(packed_[static_cast<size_t>(i)]->pack(first + i));
  }

  // Process one stretch of the image; `sums` has one element per prompt that was taken.
  void run(int64_t stretch, const DecoderSums* sums) {
    const int64_t first = stretch * kStretch, last = std::min(first + kStretch, num_panels(pass_.length));
    const auto count = static_cast<int64_t>(operands_.size());
    if constexpr (std::is_same_v<AnyPass, SecondPass>) {
      isa_.second_pass(operands_.data(), count, first, last, sums, scratch_.data());
    } else {
      isa_.first_pass(operands_.data(), count, first, last, sums, scratch_.data());
    }
  }

 private:
  const AnyPass& pass_;
  const Sizes& sizes_;
  const DecoderKernels& isa_;
  Floats scratch_;
  std::vector<std::unique_ptr<Packed<AnyPass, Operands>>> packed_;
  std::vector<Operands> operands_;
};

// The sums of `prompts` prompts over each stretch of the image. Those of one stretch are adjacent.
class Stretches {
 public:
  Stretches(const Sizes& sizes, int64_t stretches, int64_t prompts)
      : prompts_(prompts), memory_(stretches * prompts * sums_size(sizes.columns, sizes.wide, sizes.mixed_rows)) {
    for (int64_t i = 0; i < stretches * prompts; ++i) {
      sums_.push_back(take_sums(memory_, sizes.columns, sizes.wide, sizes.mixed_rows));
    }
  }
  const DecoderSums* of(int64_t stretch, int64_t prompt) const {
    return &sums_[static_cast<size_t>(stretch * prompts_ + prompt)];
  }

  void finish(const Pass& pass, const Sizes& sizes, const DecoderKernels& isa, int64_t i, int64_t prompt) const {
    std::vector<DecoderSums> parts;
    for (size_t at = static_cast<size_t>(i); at < sums_.size(); at += static_cast<size_t>(prompts_)) {
      parts.push_back(sums_[at]);
    }
    isa.finish(parts.data(), static_cast<int64_t>(parts.size()), sizes.look_rows, pass.head_dim, sizes.mixed_rows,
               pass.seen + prompt * sizes.look_rows * pass.head_dim,
               pass.mixed + prompt * sizes.mixed_rows * sizes.look_rows);
  }

 private:
  int64_t prompts_;
  Arena memory_;
  std::vector<DecoderSums> sums_;
};

// Run a pass of all prompts on up to `threads` threads. `projections`: number of projections of the image.
template <typename AnyPass, typename Operands>
void run_pass(const AnyPass& pass, int64_t projections, int64_t threads) {
  if (pass.prompts == 0) return;
  // Read the selected instruction set only once, because it determines sizes that all workers share.
  const DecoderKernels& isa = kernels().decoder;
  const Sizes sizes(pass, isa);
  using Worker = PassWorker<AnyPass, Operands>;
  const int64_t visit = kVisit * kPanel * projections * pass.heads * pass.head_dim, bytes = sizeof(float);
  const int64_t group = together(Packed<AnyPass, Operands>::size(pass, sizes) * bytes, visit * bytes);
  const int64_t panels = num_panels(pass.length), stretches = stretches_of(panels);
  threads = std::max<int64_t>(1, threads);

  // Threads get whole prompts as long as there is at least one for each; the remaining prompts are split by stretches.
  const int64_t alone = threads == 1 ? pass.prompts : pass.prompts / threads * threads;
  fork_join(threads, alone, grain_of(panels), [&](int64_t begin, int64_t end) {
    const int64_t most = std::min(group, end - begin);
    Worker worker(pass, sizes, isa, most);
    const Stretches sums(sizes, stretches, most);
    for (int64_t prompt = begin; prompt < end; prompt += most) {
      const int64_t count = std::min(most, end - prompt);
      worker.take(prompt, count);
      for (int64_t i = 0; i < stretches; ++i) worker.run(i, sums.of(i, 0));
      for (int64_t i = 0; i < count; ++i) sums.finish(pass, sizes, isa, i, prompt + i);
    }
  });
  const int64_t rest = pass.prompts - alone;
  if (rest == 0) return;
  const Stretches sums(sizes, stretches, rest);
  fork_join(threads, rest * stretches, grain_of(panels), [&](int64_t begin, int64_t end) {
    Worker worker(pass, sizes, isa, 1);
    int64_t taken = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t i = item / stretches, stretch = item % stretches;
      if (i != taken) worker.take(alone + i, 1);
      taken = i;
      worker.run(stretch, sums.of(stretch, i));
    }
  });
  for (int64_t i = 0; i < rest; ++i) sums.finish(pass, sizes, isa, i, alone + i);
}

}  // namespace

void first_pass(const Pass& pass, int64_t threads) { run_pass<Pass, DecoderPass>(pass, 4, threads); }

void second_pass(const SecondPass& pass, int64_t threads) { run_pass<SecondPass, DecoderSecondPass>(pass, 6, threads); }

void first_look(const float* q, const float* keys, const float* values, int64_t heads, int64_t rows, int64_t head_dim,
                int64_t length, float* out, int64_t threads) {
  const DecoderKernels& isa = kernels().decoder;
  const int64_t panels = num_panels(length), wide = padded(head_dim);
  const int64_t pieces = (rows + kLookRows - 1) / kLookRows, inner = heads * head_dim;
  fork_join(threads, heads * pieces, grain_of(panels), [&](int64_t begin, int64_t end) {
    const Floats scratch(isa.first_look_scratch(kLookRows, head_dim));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t head = item / pieces, first = item % pieces * kLookRows;
      const int64_t at = (head * rows + first) * head_dim;
      isa.first_look(q + at, std::min(kLookRows, rows - first), head_dim, keys + head * head_dim * kPanel,
                     inner * kPanel, values + head * panels * kPanel * wide, length, out + at, scratch.data());
    }
  });
}

void check_asked(const int64_t* asked, int64_t asked_count, int64_t prompts, const int64_t* index, int64_t count) {
  const auto beyond = [](const int64_t* numbers, int64_t n, int64_t end) {
    return std::any_of(numbers, numbers + n, [=](int64_t number) { return number < 0 || number >= end; });
  };
  if (beyond(asked, asked_count, prompts)) {
    throw std::invalid_argument("asked must be indices of the prompts that were decoded");
  }
  if (beyond(index, count, asked_count)) {
    throw std::invalid_argument("index must be indices of the prompts in asked");
  }
}

void upscale(const Upscaling& up, int64_t threads) {
  if (up.dtype == DType::float16) throw std::invalid_argument("upscaling on the CPU takes float32 and bfloat16");
  if (up.count == 0) return;
  check_asked(up.asked, up.asked_count, up.prompts, up.index, up.count);
  // Sort masks by prompt: a prompt's image tokens are upscaled once for all of its masks.
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

  const bool narrow_numbers = up.dtype == DType::bfloat16;
  const UpscaleKernels& isa = narrow_numbers ? kernels().upscale_bfloat16 : kernels().upscale;
  const int64_t wide = 4 * up.middle, more_size = 4 * up.narrow * up.middle;
  const Floats enlarge_more(more_size);
  isa.pack(up.enlarge_more, 4 * up.narrow, up.middle, enlarge_more.data());

  const int64_t panels = num_panels(up.height * up.width), stretches = stretches_of(panels);
  fork_join(threads, prompts * stretches, grain_of(panels), [&](int64_t begin, int64_t end) {
    const Floats factors(wide * up.rows), scratch(isa.scratch(up.rows, up.middle, up.narrow, most));
    const DecoderUpscaling operands{up.middle, up.narrow,           up.rows,
                                    up.base,   factors.data(),      up.bias,
                                    up.norm,   enlarge_more.data(), up.enlarge_more_bias};
    int64_t prepared = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / stretches, first = item % stretches * kStretch;
      const size_t at = begins[static_cast<size_t>(group)], next = begins[static_cast<size_t>(group) + 1];
      const int64_t asked = up.index[order[at]];
      if (group != prepared) {
        const int64_t bytes = asked * wide * up.rows * (narrow_numbers ? 2 : 4);
        isa.pack(static_cast<const char*>(up.factors) + bytes, wide, up.rows, factors.data());
        prepared = group;
      }
      isa.run(operands, up.state + up.asked[asked] * panels * up.rows * kPanel, first,
              std::min(first + kStretch, panels), up.height, up.width, weights.data() + at, outs.data() + at,
              static_cast<int64_t>(next - at), scratch.data());
    }
  });
}

}  // namespace fastsam::decoder
