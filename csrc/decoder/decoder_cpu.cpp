// The image side of the mask decoder on the CPU (decoder.h): packs operands, distributes prompts and spans of the
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

// The image is divided into spans of this many panels. Sums over the image are always formed per span and then
// merged in order, so that they don't depend on the number of threads.
constexpr int64_t kSpanPanels = 32;
// Number of panels that the passes process for one prompt before the next prompt's turn; the same as kStepPanels in
// token_to_image.inc.
constexpr int64_t kStepPanels = 4;
// Number of rows of the first token-to-image attention per piece of work.
constexpr int64_t kQueryRows = 48;

int64_t count_spans(int64_t panels) { return (panels + kSpanPanels - 1) / kSpanPanels; }
// Number of pieces of work below which a thread costs more than it saves.
int64_t grain_size(int64_t panels) { return std::max<int64_t>(1, kSpanPanels / std::max<int64_t>(1, panels)); }

// Return the bytes of a core's second-level cache as the system reports it, or else 512 KB, which is common.
int64_t second_level_cache() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const auto size = static_cast<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE));
  if (size > 0) return size;
#endif
  return int64_t{512} << 10;
}

// Return how many prompts to process together, given the bytes of one prompt's operands and of the image's part in a
// step. All but the first prompt read the image's part (160 and 224 KB in the two passes of SAM's decoder) from the
// second-level cache, but too many prompts would evict their own operands (36 and 81 KB) from it.
int64_t max_prompts_per_group(int64_t operand_bytes, int64_t image_bytes) {
  constexpr int64_t kMinPrompts = 2, kMaxPrompts = 8;  // more than 8 would save little
  const int64_t available = second_level_cache() / 5 * 4 - image_bytes;
  return std::min(kMaxPrompts, std::max(kMinPrompts, available / std::max<int64_t>(1, operand_bytes)));
}

int64_t sums_size(int64_t columns, int64_t padded_dim, int64_t num_coefficients) {
  return 2 * padded(columns) + padded(columns * padded_dim) + padded(num_coefficients * columns);
}

DecoderSums allocate_sums(Arena& memory, int64_t columns, int64_t padded_dim, int64_t num_coefficients) {
  float* max_score = memory.allocate(columns);
  float* weight_sum = memory.allocate(columns);
  float* value_sum = memory.allocate(columns * padded_dim);
  return {max_score, weight_sum, value_sum, memory.allocate(num_coefficients * columns)};
}

// Sizes of a pass, the same for every prompt. num_coefficients: number of coefficients of an image token that
// token-to-image attention uses. columns: padded number of query rows. padded_dim: padded head_dim.
struct Sizes {
  int64_t rows, query_rows, num_coefficients, columns, padded_dim;

  Sizes(const Pass& pass, const DecoderKernels& isa) : Sizes(pass, pass.tokens, pass.heads * pass.tokens, isa) {}
  Sizes(const SecondPass& pass, const DecoderKernels& isa)
      : Sizes(pass, pass.query_tokens, 2 * pass.heads * pass.tokens + 2, isa) {}

 private:
  Sizes(const Pass& pass, int64_t query_tokens, int64_t coefficients, const DecoderKernels& isa)
      : rows(pass.heads * pass.tokens),
        query_rows(pass.heads * query_tokens),
        num_coefficients(coefficients),
        columns(isa.columns(query_rows)),
        padded_dim(padded(pass.head_dim)) {}
};

// The operands of one prompt, packed for the selected instruction set.
template <typename AnyPass, typename Operands>
class PackedOperands {
 public:
  PackedOperands(const AnyPass& pass, const Sizes& sizes, const DecoderKernels& isa)
      : pass_(pass), sizes_(sizes), isa_(isa), memory_(size(pass, sizes)) {}

  static int64_t size(const AnyPass& pass, const Sizes& sizes) {
    constexpr bool kSecond = std::is_same_v<AnyPass, SecondPass>;
    const int64_t vectors = padded(sizes.rows * pass.head_dim), square = padded(sizes.rows * sizes.rows);
    return (kSecond ? 4 : 3) * vectors + (kSecond ? 4 : 1) * square + padded(sizes.query_rows * sizes.num_coefficients);
  }

  Operands pack(int64_t prompt) {
    prompt_ = prompt;
    memory_.clear();
    const int64_t rows = sizes_.rows, query_tokens = sizes_.query_rows / pass_.heads;
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
              pack_heads(pass_.keys, pass_.tokens),
              pack_heads(pass_.cross, pass_.tokens),
              pack_triangle(pass_.gram),
              pack_heads(pass_.queries, query_tokens),
              pack_matrix(pass_.queries_mix, sizes_.query_rows, sizes_.num_coefficients),
              pass_.state + prompt * num_panels(pass_.length) * (2 * rows + 2) * kPanel};
    if constexpr (std::is_same_v<AnyPass, SecondPass>) {
      operands.query_tokens = query_tokens;
      operands.constant = pass_.constant;
      operands.keys_mix = pack_matrix(pass_.keys_mix, rows, rows);
      operands.keys_bias = pass_.keys_bias + prompt * rows;
      operands.first_cross = pack_heads(pass_.first_cross, pass_.tokens);
      operands.first_gram = pack_triangle(pass_.first_gram);
      operands.first_bias = pass_.first_bias + prompt * rows;
      operands.cross_mix = pack_matrix(pass_.cross_mix, rows, rows);
      operands.cross_bias = pass_.cross_bias + prompt * rows;
    }
    return operands;
  }

 private:
  // Pack (heads * tokens, head_dim), each head as a left-hand side of its own.
  const float* pack_heads(const float* x, int64_t tokens) {
    const int64_t head_size = tokens * pass_.head_dim;
    float* out = memory_.allocate(pass_.heads * head_size);
    for (int64_t h = 0; h < pass_.heads; ++h) {
      isa_.pack_slivers(x + (prompt_ * pass_.heads + h) * head_size, tokens, pass_.head_dim, pass_.head_dim, 1,
                        out + h * head_size);
    }
    return out;
  }
  const float* pack_matrix(const float* x, int64_t rows, int64_t depth) {
    float* out = memory_.allocate(rows * depth);
    isa_.pack_slivers(x + prompt_ * rows * depth, rows, depth, depth, 1, out);
    return out;
  }
  const float* pack_triangle(const float* x) {
    float* out = memory_.allocate(sizes_.rows * sizes_.rows);
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
  PassWorker(const AnyPass& pass, const Sizes& sizes, const DecoderKernels& isa, int64_t max_prompts)
      : pass_(pass), sizes_(sizes), isa_(isa), scratch_(isa.pass_scratch_size(sizes.rows)) {
    for (int64_t i = 0; i < max_prompts; ++i)
      packed_.push_back(std::make_unique<PackedOperands<AnyPass, Operands>>(pass, sizes, isa));
  }

  void pack(int64_t first, int64_t count) {
    operands_.clear();
    for (int64_t i = 0; i < count; ++i) operands_.push_back(packed_[static_cast<size_t>(i)]->pack(first + i));
  }

  // Process one span of the image; `sums` has one element per prompt that was taken.
  void run(int64_t span, const DecoderSums* sums) {
    const int64_t first = span * kSpanPanels, last = std::min(first + kSpanPanels, num_panels(pass_.length));
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
  std::vector<std::unique_ptr<PackedOperands<AnyPass, Operands>>> packed_;
  std::vector<Operands> operands_;
};

// The sums of `prompts` prompts over each span of the image. Those of one span are adjacent.
class SpanSums {
 public:
  SpanSums(const Sizes& sizes, int64_t spans, int64_t prompts)
      : prompts_(prompts),
        memory_(spans * prompts * sums_size(sizes.columns, sizes.padded_dim, sizes.num_coefficients)) {
    for (int64_t i = 0; i < spans * prompts; ++i) {
      sums_.push_back(allocate_sums(memory_, sizes.columns, sizes.padded_dim, sizes.num_coefficients));
    }
  }
  const DecoderSums* at(int64_t span, int64_t prompt) const {
    return &sums_[static_cast<size_t>(span * prompts_ + prompt)];
  }

  void finish(const Pass& pass, const Sizes& sizes, const DecoderKernels& isa, int64_t i, int64_t prompt) const {
    std::vector<DecoderSums> parts;
    for (size_t at = static_cast<size_t>(i); at < sums_.size(); at += static_cast<size_t>(prompts_)) {
      parts.push_back(sums_[at]);
    }
    isa.finish(parts.data(), static_cast<int64_t>(parts.size()), sizes.query_rows, pass.head_dim,
               sizes.num_coefficients, pass.value_sum + prompt * sizes.query_rows * pass.head_dim,
               pass.coefficient_sum + prompt * sizes.num_coefficients * sizes.query_rows);
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
  const int64_t step = kStepPanels * kPanel * projections * pass.heads * pass.head_dim, bytes = sizeof(float);
  const int64_t group =
      max_prompts_per_group(PackedOperands<AnyPass, Operands>::size(pass, sizes) * bytes, step * bytes);
  const int64_t panels = num_panels(pass.length), spans = count_spans(panels);
  threads = std::max<int64_t>(1, threads);

  // Threads get whole prompts as long as there is at least one for each; the remaining prompts are split by spans.
  const int64_t unsplit = threads == 1 ? pass.prompts : pass.prompts / threads * threads;
  fork_join(threads, unsplit, grain_size(panels), [&](int64_t begin, int64_t end) {
    const int64_t max_prompts = std::min(group, end - begin);
    Worker worker(pass, sizes, isa, max_prompts);
    const SpanSums sums(sizes, spans, max_prompts);
    for (int64_t prompt = begin; prompt < end; prompt += max_prompts) {
      const int64_t count = std::min(max_prompts, end - prompt);
      worker.pack(prompt, count);
      for (int64_t i = 0; i < spans; ++i) worker.run(i, sums.at(i, 0));
      for (int64_t i = 0; i < count; ++i) sums.finish(pass, sizes, isa, i, prompt + i);
    }
  });
  const int64_t remaining = pass.prompts - unsplit;
  if (remaining == 0) return;
  const SpanSums sums(sizes, spans, remaining);
  fork_join(threads, remaining * spans, grain_size(panels), [&](int64_t begin, int64_t end) {
    Worker worker(pass, sizes, isa, 1);
    int64_t packed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t i = item / spans, span = item % spans;
      if (i != packed) worker.pack(unsplit + i, 1);
      packed = i;
      worker.run(span, sums.at(span, i));
    }
  });
  for (int64_t i = 0; i < remaining; ++i) sums.finish(pass, sizes, isa, i, unsplit + i);
}

}  // namespace

void first_pass(const Pass& pass, int64_t threads) { run_pass<Pass, DecoderPass>(pass, 4, threads); }

void second_pass(const SecondPass& pass, int64_t threads) { run_pass<SecondPass, DecoderSecondPass>(pass, 6, threads); }

void first_token_to_image(const float* q, const float* keys, const float* values, int64_t heads, int64_t rows,
                          int64_t head_dim, int64_t length, float* out, int64_t threads) {
  const DecoderKernels& isa = kernels().decoder;
  const int64_t panels = num_panels(length), padded_dim = padded(head_dim);
  const int64_t pieces = (rows + kQueryRows - 1) / kQueryRows, inner = heads * head_dim;
  fork_join(threads, heads * pieces, grain_size(panels), [&](int64_t begin, int64_t end) {
    const Floats scratch(isa.first_token_to_image_scratch_size(kQueryRows, head_dim));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t head = item / pieces, first = item % pieces * kQueryRows;
      const int64_t at = (head * rows + first) * head_dim;
      isa.first_token_to_image(q + at, std::min(kQueryRows, rows - first), head_dim, keys + head * head_dim * kPanel,
                               inner * kPanel, values + head * panels * kPanel * padded_dim, length, out + at,
                               scratch.data());
    }
  });
}

void check_indices(const int64_t* selected, int64_t selected_count, int64_t prompts, const int64_t* index,
                   int64_t count) {
  const auto out_of_range = [](const int64_t* indices, int64_t n, int64_t end) {
    return std::any_of(indices, indices + n, [=](int64_t index) { return index < 0 || index >= end; });
  };
  if (out_of_range(selected, selected_count, prompts)) {
    throw std::invalid_argument("selected must be indices of the prompts that were decoded");
  }
  if (out_of_range(index, count, selected_count)) {
    throw std::invalid_argument("index must be indices of the prompts in selected");
  }
}

void upscale(const Upscaling& up, int64_t threads) {
  if (up.dtype == DType::float16) throw std::invalid_argument("upscaling on the CPU takes float32 and bfloat16");
  if (up.count == 0) return;
  check_indices(up.selected, up.selected_count, up.prompts, up.index, up.count);
  // Sort masks by prompt: a prompt's image tokens are upscaled once for all of its masks.
  std::vector<int64_t> order(static_cast<size_t>(up.count));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return up.index[a] < up.index[b]; });
  const int64_t logits = 16 * up.height * up.width;
  std::vector<const float*> weights;
  std::vector<float*> outs;
  std::vector<size_t> begins;
  int64_t max_masks = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || up.index[order[i]] != up.index[order[i - 1]]) begins.push_back(i);
    weights.push_back(up.weights + order[i] * up.narrow);
    outs.push_back(up.out + order[i] * logits);
    max_masks = std::max(max_masks, static_cast<int64_t>(i - begins.back()) + 1);
  }
  const auto prompts = static_cast<int64_t>(begins.size());
  begins.push_back(order.size());

  const bool is_bfloat16 = up.dtype == DType::bfloat16;
  const UpscaleKernels& isa = is_bfloat16 ? kernels().upscale_bfloat16 : kernels().upscale;
  const int64_t conv1_channels = 4 * up.middle, conv2_size = 4 * up.narrow * up.middle;
  const Floats conv2(conv2_size);
  isa.pack(up.conv2, 4 * up.narrow, up.middle, conv2.data());

  const int64_t panels = num_panels(up.height * up.width), spans = count_spans(panels);
  fork_join(threads, prompts * spans, grain_size(panels), [&](int64_t begin, int64_t end) {
    const Floats factors(conv1_channels * up.rows), scratch(isa.scratch(up.rows, up.middle, up.narrow, max_masks));
    const DecoderUpscaling operands{up.middle, up.narrow, up.rows,      up.base,      factors.data(),
                                    up.bias,   up.norm,   conv2.data(), up.conv2_bias};
    int64_t prepared = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / spans, first = item % spans * kSpanPanels;
      const size_t at = begins[static_cast<size_t>(group)], next = begins[static_cast<size_t>(group) + 1];
      const int64_t selected = up.index[order[at]];
      if (group != prepared) {
        const int64_t bytes = selected * conv1_channels * up.rows * (is_bfloat16 ? 2 : 4);
        isa.pack(static_cast<const char*>(up.factors) + bytes, conv1_channels, up.rows, factors.data());
        prepared = group;
      }
      isa.run(operands, up.state + up.selected[selected] * panels * up.rows * kPanel, first,
              std::min(first + kSpanPanels, panels), up.height, up.width, weights.data() + at, outs.data() + at,
              static_cast<int64_t>(next - at), scratch.data());
    }
  });
}

}  // namespace fastsam::decoder
