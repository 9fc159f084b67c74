// Threads, scratch memory and blocking of the fully connected layers in linear.h; the kernels of the instruction set do
// the arithmetic.
#include "linear/linear.h"

#include <algorithm>
#include <atomic>

#include "common/floats.h"
#include "common/fork_join.h"
#include "common/isa.h"
#include "common/panels.h"
#include "common/scratch.h"

namespace fastsam::linear {
namespace {

// Most rows in a block. 108 rows of 768 floats take 324 KB, which leaves room for the panels in an L2 cache of 512 KB.
constexpr int64_t kMaxBlockRows = 108;
// With at most this many rows the weights are not packed.
constexpr int64_t kMaxSkinnyRows = 32;
// Multiply-adds below which another thread costs more than it saves.
constexpr int64_t kWorkPerThread = int64_t{1} << 22;
// Fewer weights are packed by one thread in less time than it takes to start another.
constexpr int64_t kPackPerThread = int64_t{1} << 17;
// Floats by which rows of scratch are lengthened, so that rows of a power-of-two length don't compete for the same
// cache sets.
constexpr int64_t kPad = 16;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t packed_size(const Weight& weight) { return padded(weight.n) * weight.k; }
int64_t row_size(int64_t k) { return padded(k) + kPad; }

// At most `threads`, and only as many as rows * n * k multiply-adds are worth.
int64_t useful_threads(int64_t threads, int64_t rows, int64_t n, int64_t k) {
  const double work = static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k);
  return std::clamp<int64_t>(static_cast<int64_t>(std::min(work / kWorkPerThread, 1e6)), 1,
                             std::max<int64_t>(1, threads));
}

// Writes the packed weights, packed_size(weight) floats, to `panels`.
void pack(const Weight& weight, float* panels, int64_t threads) {
  const int64_t grain = ceil_div(kPackPerThread, kPanel * weight.k);
  fork_join(threads, num_panels(weight.n), grain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      kernels().linear.pack(weight.data + p * kPanel * weight.stride, weight.stride,
                            std::min(kPanel, weight.n - p * kPanel), weight.k, panels + p * kPanel * weight.k);
    }
  });
}

// Rows per block: among the multiples of the register tile's rows, the one that gives the busiest thread the fewest
// rows.
int64_t block_rows(int64_t rows, int64_t threads) {
  const int64_t step = kernels().linear.tile_rows;
  int64_t best_block = 0, min_rows = 0;
  for (int64_t block = kMaxBlockRows / step * step; block >= std::max<int64_t>(step, 12); block -= step) {
    const int64_t rows_per_thread = ceil_div(ceil_div(rows, block), threads) * block;
    // Larger blocks read the panels less often, so a smaller one must save more than 1 row in 33.
    if (best_block == 0 || rows_per_thread * 33 < min_rows * 32) best_block = block, min_rows = rows_per_thread;
  }
  return best_block;
}

// Calls work(first row, rows, scratch) for all blocks, each thread taking the next block when it has finished one.
// scratch: floats of working memory per thread.
template <typename Work>
void for_each_block(int64_t rows, int64_t block, int64_t threads, int64_t scratch, const Work& work) {
  const int64_t blocks = ceil_div(rows, block);
  std::atomic<int64_t> next{0};
  fork_join(threads, std::min(threads, blocks), 1, [&](int64_t, int64_t) {
    const Floats memory(scratch);
    for (int64_t i = next.fetch_add(1); i < blocks; i = next.fetch_add(1)) {
      work(i * block, std::min(block, rows - i * block), memory.data());
    }
  });
}

// `epilogue` with its output and residual moved down to `row`.
LinearEpilogue shift_rows(LinearEpilogue epilogue, int64_t row) {
  epilogue.out += row * epilogue.out_stride;
  if (epilogue.residual) epilogue.residual += row * epilogue.residual_stride;
  return epilogue;
}

// Rows [first, first + rows) of x after LayerNorm, written to `scratch`; without a LayerNorm, those rows of x in place.
MatrixView apply_norm(const MatrixView& x, int64_t first, int64_t rows, int64_t k, const Norm& norm, float* scratch) {
  const MatrixView part{x.data + first * x.stride, x.stride};
  if (!norm.weight) return part;
  kernels().linear.layer_norm(part.data, part.stride, rows, k, norm.weight, norm.bias, norm.eps, scratch, row_size(k));
  return {scratch, row_size(k)};
}

// `linear` for at most kMaxSkinnyRows rows; the threads divide the columns of the output.
void skinny(const MatrixView& x, int64_t rows, const Norm& norm, const Weight& weight, const LinearEpilogue& epilogue,
            int64_t threads) {
  const Floats normalised(norm.weight ? rows * row_size(weight.k) : 0);
  const MatrixView a = apply_norm(x, 0, rows, weight.k, norm, normalised.data());
  fork_join(threads, num_panels(weight.n), 1, [&](int64_t begin, int64_t end) {
    const Floats partial(rows * kPanel);
    kernels().linear.skinny(a.data, a.stride, rows, weight.k, weight.data, weight.stride, begin * kPanel,
                            std::min(end * kPanel, weight.n), partial.data(), epilogue);
  });
}

}  // namespace

void linear(const MatrixView& x, int64_t rows, const Norm& norm, const Weight& weight, const LinearEpilogue& epilogue,
            int64_t threads) {
  if (rows <= 0 || weight.n <= 0) return;
  threads = useful_threads(threads, rows, weight.n, weight.k);
  if (rows <= kMaxSkinnyRows) {
    skinny(x, rows, norm, weight, epilogue, threads);
    return;
  }
  const Scratch panels(packed_size(weight));
  pack(weight, panels.data(), threads);
  const int64_t block = block_rows(rows, threads);
  const int64_t partial = block * kernels().linear.group_panels * kPanel;
  const int64_t normalised = norm.weight ? block * row_size(weight.k) : 0;
  for_each_block(rows, block, threads, partial + normalised, [&](int64_t first, int64_t count, float* scratch) {
    const MatrixView a = apply_norm(x, first, count, weight.k, norm, scratch + partial);
    kernels().linear.block(a.data, a.stride, count, weight.k, panels.data(), weight.n, scratch,
                           shift_rows(epilogue, first));
  });
}

void mlp(const MatrixView& x, int64_t rows, const Norm& norm, const Weight& first, const float* first_bias,
         const Weight& second, const float* second_bias, float* out, int64_t out_stride, int64_t threads) {
  if (rows <= 0 || second.n <= 0) return;
  const int64_t hidden_stride = row_size(first.n);
  const auto to_hidden = [&](float* hidden) {
    return LinearEpilogue{first_bias, kLinearGelu, nullptr, 0, hidden, hidden_stride};
  };
  const LinearEpilogue to_out{second_bias, kLinearNone, x.data, x.stride, out, out_stride};
  threads = useful_threads(threads, rows, first.n, first.k + second.n);
  if (rows <= kMaxSkinnyRows) {
    const Floats hidden(rows * hidden_stride);
    skinny(x, rows, norm, first, to_hidden(hidden.data()), threads);
    skinny({hidden.data(), hidden_stride}, rows, Norm{}, second, to_out, threads);
    return;
  }
  const Scratch memory(packed_size(first) + packed_size(second));
  float *first_panels = memory.data(), *second_panels = first_panels + packed_size(first);
  pack(first, first_panels, threads);
  pack(second, second_panels, threads);
  const int64_t block = block_rows(rows, threads);
  const int64_t partial = block * kernels().linear.group_panels * kPanel, normalised = block * row_size(first.k);
  const LinearKernels& isa = kernels().linear;
  for_each_block(rows, block, threads, partial + normalised + block * hidden_stride,
                 [&](int64_t from, int64_t count, float* scratch) {
                   float* hidden = scratch + partial + normalised;
                   const MatrixView a = apply_norm(x, from, count, first.k, norm, scratch + partial);
                   isa.block(a.data, a.stride, count, first.k, first_panels, first.n, scratch, to_hidden(hidden));
                   isa.block(hidden, hidden_stride, count, second.k, second_panels, second.n, scratch,
                             shift_rows(to_out, from));
                 });
}

}  // namespace fastsam::linear
