// The whole mask decoder on the GPU (tokens_cuda.h): the sequence of kernel launches, and checks of sizes.
#include "decoder/tokens_cuda.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <vector>

#include "common/cuda.h"
#include "decoder/tokens_cuda_linear.cuh"
#include "decoder/tokens_cuda_memory.cuh"
#include "decoder/tokens_cuda_mixes.cuh"
#include "decoder/tokens_cuda_steps.cuh"

namespace fastsam::decoder::cuda {
namespace {

// A launch uses blocks of one tile's side only if there are at least kBlocksToFill of them, and blocks of two tiles'
// side, of which a multiprocessor holds one at a time, only if there are at least kLargeBlocksToFill. Otherwise smaller
// blocks occupy the GPU better.
constexpr int64_t kBlocksToFill = 128, kLargeBlocksToFill = 96;

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

unsigned step_blocks(int64_t warps) { return blocks_for(warps, kStepWarps); }

// Plain rows, `stride` elements apart.
Place rows_of(const void* data, int64_t stride) {
  return {const_cast<void*>(data), stride, 0, 16, 1, false, nullptr, 0};
}

Product product(const TokenLayer& layer, Place x, Place out, int64_t rows, float factor = 1.0f) {
  return {x, out, rows_of(nullptr, 0), layer.weight, layer.bias, rows, layer.n, layer.k, factor, false, 0};
}

// Set each product's first block, and return the total number of blocks of `rows` x `columns` results.
int64_t count_blocks(Products& all, int64_t rows, int64_t columns) {
  int64_t blocks = 0;
  for (int i = 0; i < all.count; ++i) {
    Product& one = all.of[i];
    one.first_block = static_cast<unsigned>(blocks);
    blocks += (one.rows + rows - 1) / rows * ((one.n + columns - 1) / columns);
  }
  return blocks;
}

template <typename T, int kSide>
void start_many(const Products& all, int64_t blocks, void* stream) {
  launch((many_rows_kernel<T, kSide>), blocks_for(blocks, 1), Square<kSide>::kThreads, Square<kSide>::kBytes,
         static_cast<cudaStream_t>(stream), all);
}

// Launch independent products together, with the block size that suits their number of blocks.
template <typename T>
void start_products(Products& all, void* stream) {
  int64_t blocks = count_blocks(all, 2 * kTile, 2 * kTile);
  if (blocks >= kLargeBlocksToFill) return start_many<T, 2>(all, blocks, stream);
  blocks = count_blocks(all, kTile, kTile);
  if (blocks >= kBlocksToFill) return start_many<T, 1>(all, blocks, stream);
  launch((few_rows_kernel<T>), blocks_for(count_blocks(all, kFewRows, kFewColumns), 1), kProductThreads, 0,
         static_cast<cudaStream_t>(stream), all);
}

template <typename T>
class Decoding {
 public:
  Decoding(const Prompts& job, DType dtype, int64_t shared, void* stream)
      : job_(job),
        at_(job),
        given_(job.given == nullptr ? at_.given : job.given),
        dtype_(dtype),
        shared_(shared),
        stream_(stream) {}

  void run() {
    lay_out_image();
    put_together();
    // The first block, whose self-attention adds no position embedding to the tokens.
    multiply(self_products(job_.first, given_, given_));
    attend_self(job_.first, nullptr);
    multiply({product(job_.first.look_q, rows_of(at_.placed, kWidth), by_head(at_.look), at_.rows, kScale)});
    first_look({at_.look, at_.image[0], at_.image[1], at_.keys, at_.rows, at_.panels, job_.length}, dtype_, stream_);
    update(job_.first, by_head(at_.keys));
    // One launch together with the second block's self-attention products, which read the same tokens.
    std::vector<Product> products = answers(job_.first, job_.first_own);
    for (const Product& one : self_products(job_.second, at_.placed, at_.queries)) products.push_back(one);
    multiply(products);
    attend_self(job_.second, at_.queries);
    multiply(
        {product(job_.second.look_q, rows_of(at_.placed, kWidth), by_prompt(at_.look, job_.tokens), at_.rows, kScale)});
    pair_first();
    Pass look = pass_of(at_.image[2], at_.image[3], job_.norms1);
    pass(look, dtype_, shared_, stream_);
    gather<false>();
    update(job_.second, rows_of(at_.seen_rows, kInner));
    // Only the chosen tokens take part in the last look.
    products = answers(job_.second, job_.second_own);
    products.push_back(
        product(job_.final_q, chosen_of(at_.placed), by_prompt(at_.look, job_.chosen_count), at_.chosen, kScale));
    multiply(products);
    pair_second();
    look = pass_of(at_.image[4], at_.image[5], job_.norms2);
    look.second = true, look.narrow = at_.narrow;
    look.keys_mix = at_.keys_mix, look.keys_bias = at_.keys_bias;
    look.own = at_.own_laid, look.own_gram = at_.own_gram, look.own_bias = at_.own_bias;
    look.cross_mix = at_.cross_mix, look.cross_bias = at_.cross_bias, look.look_rest = at_.look_rest;
    pass(look, dtype_, shared_, stream_);
    gather<true>();
    Product out = product(job_.final_out, rows_of(at_.seen_rows, kInner), rows_of(at_.sum, kWidth), at_.chosen);
    out.residual = chosen_of(at_.queries);
    multiply({out});
    normalise(job_.final_norm, at_.sum, at_.chosen, job_.final_tokens, nullptr);
    predict_iou();
  }

 private:
  static constexpr float kScale = 0.25f;          // 1 / sqrt(kDim)
  static constexpr float kShare = 2.0f / kWidth;  // factor of the cross terms in the variance, a mean over channels

  cudaStream_t stream() const { return static_cast<cudaStream_t>(stream_); }

  // (heads, rows, kDim)
  Place by_head(void* data) const { return {data, kDim, 0, at_.rows * kDim, 1, false, nullptr, 0}; }
  // (prompts, heads, count, kDim)
  static Place by_prompt(void* data, int64_t count) {
    return {data, count * kInner, kDim, count * kDim, static_cast<int>(count), false, nullptr, 0};
  }
  Place chosen_of(void* data) const {
    return {data, job_.tokens * kWidth, kWidth, 16, job_.chosen_count, true, nullptr, 0};
  }

  void multiply(const std::vector<Product>& products) {
    Products all{};
    std::copy(std::begin(job_.chosen), std::end(job_.chosen), all.chosen);
    for (const Product& one : products) all.of[all.count++] = one;
    start_products<T>(all, stream_);
  }

  void lay_out_image() {
    if (job_.laid_out) return;
    lay_out({job_.first_keys, job_.first_values, job_.image1, job_.values1, job_.image2, job_.values2}, at_.image,
            job_.length, stream_);
  }

  void put_together() {
    if (job_.given != nullptr) return;
    launch(tokens_kernel, step_blocks(at_.rows), kStepThreads, 0, stream(),
           (Tokens{job_.output, job_.sparse, at_.given, at_.rows, static_cast<unsigned>(job_.tokens),
                   static_cast<unsigned>(job_.outputs)}));
  }

  void normalise(const TokenNorm& norm, const void* x, int64_t rows, void* out, void* placed) {
    const void* const given = placed == nullptr ? nullptr : given_;
    launch((normalise_kernel<T>), step_blocks(rows), kStepThreads, 0, stream(),
           (Normalising{x, norm.weight, norm.bias, given, out, placed, rows, job_.eps}));
  }

  std::vector<Product> self_products(const TokenBlock& block, const void* placed, const void* queries) const {
    const Place of_placed = rows_of(placed, kWidth), of_queries = rows_of(queries, kWidth);
    return {product(block.self_q, of_placed, rows_of(at_.q, kWidth), at_.rows),
            product(block.self_k, of_placed, rows_of(at_.k, kWidth), at_.rows),
            product(block.self_v, of_queries, rows_of(at_.v, kWidth), at_.rows)};
  }

  // Self-attention, an optional residual (may be null), then the norm: to `queries`, and plus the input tokens to
  // `placed`.
  void attend_self(const TokenBlock& block, const void* residual) {
    launch((self_attention_kernel<T>), step_blocks(job_.prompts * kHeads), kStepThreads, 0, stream(),
           (SelfAttention{at_.q, at_.k, at_.v, at_.mlp, job_.prompts, static_cast<int>(job_.tokens)}));
    Product out = product(block.self_out, rows_of(at_.mlp, kWidth), rows_of(at_.sum, kWidth), at_.rows);
    out.residual = rows_of(residual, kWidth);
    multiply({out});
    normalise(block.norm1, at_.sum, at_.rows, at_.queries, at_.placed);
  }

  // The rest of a block after its look, whose result is `seen`: projection, residual, norm, MLP, residual, norm.
  void update(const TokenBlock& block, Place seen) {
    Product out = product(block.look_out, seen, rows_of(at_.sum, kWidth), at_.rows);
    out.residual = rows_of(at_.queries, kWidth);
    multiply({out});
    normalise(block.norm2, at_.sum, at_.rows, at_.q, nullptr);
    Product hidden = product(block.mlp1, rows_of(at_.q, kWidth), rows_of(at_.mlp, block.mlp1.n), at_.rows);
    hidden.relu = true;
    multiply({hidden});
    out = product(block.mlp2, rows_of(at_.mlp, block.mlp1.n), rows_of(at_.sum, kWidth), at_.rows);
    out.residual = rows_of(at_.q, kWidth);
    multiply({out});
    normalise(block.norm3, at_.sum, at_.rows, at_.queries, at_.placed);
  }

  // The products for keys and values in the attention of image tokens to these tokens.
  std::vector<Product> answers(const TokenBlock& block, void* own) const {
    return {product(block.answer_k, rows_of(at_.placed, kWidth), by_prompt(at_.keys, job_.tokens), at_.rows, kScale),
            product(block.answer_v, rows_of(at_.queries, kWidth), by_prompt(own, job_.tokens), at_.rows)};
  }

  Pairing pairing(const void* x, const void* mix, const void* own, void* matrix, void* vectors, float factor) const {
    Pairing one{};
    one.x = x, one.mix = mix, one.own = own, one.matrix = matrix, one.vectors = vectors, one.factor = factor;
    one.count = static_cast<int>(job_.tokens), one.depth = 2;
    return one;
  }

  void pair_first() {
    Pairings all{};
    all.of[all.count++] = pairing(at_.keys, nullptr, nullptr, nullptr, at_.keys_laid, 1.0f);
    all.of[all.count++] = pairing(job_.first_own, job_.mixes.gram1, job_.first_own, at_.gram, at_.cross_laid, kShare);
    all.of[all.count++] = pairing(at_.look, job_.mixes.look1, job_.first_own, at_.look_mix, at_.look_laid, 1.0f);
    start(all);
  }

  void pair_second() {
    const TokenMixes& mixes = job_.mixes;
    const void *first = job_.first_own, *second = job_.second_own;
    Pairings all{};
    Pairing* one = &(all.of[all.count++] = pairing(at_.keys, mixes.keys, first, at_.keys_mix, at_.keys_laid, 1.0f));
    one->along = mixes.keys_bias, one->bias = at_.keys_bias;
    one = &(all.of[all.count++] = pairing(first, mixes.own, first, at_.own_gram, at_.own_laid, kShare));
    one->along = mixes.own_bias, one->bias = at_.own_bias;
    one = &(all.of[all.count++] = pairing(second, mixes.cross, first, at_.cross_mix, at_.cross_laid, kShare));
    // The softmax weights of each head sum to 1, so adding constant / heads to this bias adds the variance's constant.
    one->along = mixes.cross_bias, one->bias = at_.cross_bias, one->constant = job_.constant;
    all.of[all.count++] = pairing(second, mixes.gram2, second, at_.gram, nullptr, 1.0f);
    one = &(all.of[all.count++] = pairing(at_.look, mixes.look2_first, first, at_.look_mix, at_.look_laid, 1.0f));
    one->along = mixes.look2_rest, one->bias = at_.look_rest;
    one->look = true, one->count = job_.chosen_count, one->depth = 4;
    one = &(all.of[all.count++] = pairing(at_.look, mixes.look2_second, second, at_.look_mix, nullptr, 1.0f));
    one->look = true, one->count = job_.chosen_count, one->depth = 4, one->first_depth = 2;
    all.narrow = at_.narrow;
    start(all);
  }

  void start(Pairings& all) {
    all.prompts = job_.prompts, all.tokens = static_cast<int>(job_.tokens);
    const unsigned blocks = blocks_for(int64_t{step_blocks(job_.prompts)} * kHeads * all.count, 1);
    launch((pairs_kernel<T>), blocks, kStepThreads, 0, stream(), all);
  }

  Pass pass_of(const void* image, const void* values, const float* norms) const {
    Pass pass{};
    pass.image = image, pass.values = values, pass.norms = norms;
    pass.keys = at_.keys_laid, pass.cross = at_.cross_laid, pass.gram = at_.gram;
    pass.look = at_.look_laid, pass.look_mix = at_.look_mix, pass.state = job_.state;
    pass.tops = at_.tops, pass.totals = at_.totals, pass.seen = at_.seen, pass.mixed = at_.mixed;
    pass.eps = job_.eps;
    pass.prompts = job_.prompts, pass.tokens = job_.tokens, pass.panels = at_.panels, pass.length = job_.length;
    return pass;
  }

  template <bool kSecond>
  void gather() {
    const TokenMixes& mixes = job_.mixes;
    Gathering job{};
    job.tops = at_.tops, job.totals = at_.totals, job.seen = at_.seen, job.mixed = at_.mixed;
    job.own[0] = job_.first_own, job.own[1] = job_.second_own;
    job.mix[0] = kSecond ? mixes.seen2_first : mixes.seen1, job.mix[1] = mixes.seen2_second;
    job.rest = mixes.seen2_rest, job.bias = kSecond ? mixes.seen2_bias : mixes.seen1_bias;
    job.out = at_.seen_rows, job.prompts = job_.prompts, job.parts = at_.parts;
    job.tokens = static_cast<int>(job_.tokens);
    job.count = kSecond ? job_.chosen_count : job.tokens, job.narrow = kSecond && at_.narrow;
    const unsigned blocks = blocks_for((job_.prompts + 1) / 2 * (kHeads / 2), 1);
    launch((gather_kernel<T, kSecond>), blocks, kStepThreads, 0, stream(), job);
  }

  void predict_iou() {
    const Place tokens = rows_of(job_.final_tokens, int64_t{job_.chosen_count} * kWidth);
    Product one = product(job_.iou1, tokens, rows_of(at_.iou1, job_.iou1.n), job_.prompts);
    one.relu = true;
    multiply({one});
    one = product(job_.iou2, rows_of(at_.iou1, job_.iou1.n), rows_of(at_.iou2, job_.iou2.n), job_.prompts);
    one.relu = true;
    multiply({one});
    multiply({product(job_.iou3, rows_of(at_.iou2, job_.iou2.n), rows_of(job_.iou, job_.iou3.n), job_.prompts)});
  }

  const Prompts& job_;
  const Memory at_;
  const void* const given_;
  DType dtype_;
  int64_t shared_;
  void* stream_;
};

void check_layer(const TokenLayer& layer, int k) {
  require(layer.k == k && layer.k >= 8 && layer.k % 8 == 0 && layer.n >= 2 && layer.n % 2 == 0,
          "decoder: there are no kernels for a layer of this size");
}

void check_block(const TokenBlock& block) {
  for (const TokenLayer* layer : {&block.self_q, &block.self_k, &block.self_v, &block.self_out}) {
    check_layer(*layer, kWidth);
    require(layer->n == kWidth, "decoder: there are kernels for 256 channels");
  }
  for (const TokenLayer* layer : {&block.look_q, &block.answer_k, &block.answer_v}) {
    check_layer(*layer, kWidth);
    require(layer->n == kInner, "decoder: there are kernels for cross-attention of 128 channels");
  }
  check_layer(block.look_out, kInner), check_layer(block.mlp1, kWidth), check_layer(block.mlp2, block.mlp1.n);
  require(block.look_out.n == kWidth && block.mlp2.n == kWidth, "decoder: there are kernels for 256 channels");
}

void check(const Prompts& job) {
  require(job.prompts >= 0 && job.tokens >= 1 && job.tokens <= kTokens, "decoder: there are kernels for 1 to 8 tokens");
  require(job.prompts <= int64_t{1} << 24, "decoder: there must be at most 2^24 prompts");
  require(job.length >= 1 && job.length <= int64_t{1} << 28, "decoder: there must be 1 to 2^28 image tokens");
  require(job.outputs >= 0 && job.outputs <= job.tokens, "decoder: outputs must be from 0 to the number of tokens");
  require(job.chosen_count >= 1 && job.chosen_count <= job.tokens,
          "decoder: chosen must be indices of a prompt's tokens");
  for (int i = 0; i < job.chosen_count; ++i) {
    require(job.chosen[i] >= 0 && job.chosen[i] < job.tokens, "decoder: chosen must be indices of a prompt's tokens");
  }
  check_block(job.first), check_block(job.second);
  check_layer(job.final_q, kWidth), check_layer(job.final_out, kInner);
  require(job.final_q.n == kInner && job.final_out.n == kWidth,
          "decoder: the final attention must have the sizes of the other attentions");
  check_layer(job.iou1, kWidth), check_layer(job.iou2, job.iou1.n), check_layer(job.iou3, job.iou2.n);
}

template <typename T>
void factors_of(const MaskFactors& job, void* stream) {
  const MaskMemory at(job);
  const auto on = static_cast<cudaStream_t>(stream);
  const unsigned blocks = step_blocks(job.asked_count * (job.wide / 16));
  if (job.laid_out) {
    launch((factors_kernel<T, true>), blocks, kStepThreads, 0, on, job);
  } else {
    launch((factors_kernel<T, false>), blocks, kStepThreads, 0, on, job);
  }
  if (job.count == 0) return;
  for (int begin = 0; begin < at.masks; begin += kMostProducts) {
    for (int i = 0; i < 3; ++i) {
      Products all{};
      for (int mask = begin; mask < std::min(begin + kMostProducts, at.masks); ++mask) {
        const TokenLayer& layer = job.layers[mask][i];
        // The mask token of each prompt in `asked`.
        Place x = rows_of(static_cast<const T*>(job.final_tokens) + (1 + mask) * kWidth, job.chosen_count * kWidth);
        x.index = job.asked, x.groups = job.prompts;
        if (i > 0) x = rows_of(at.of(i - 1, mask), layer.k);
        Product& one = all.of[all.count++] = product(layer, x, rows_of(at.of(i, mask), layer.n), job.asked_count);
        one.relu = i < 2;
      }
      start_products<T>(all, stream);
    }
  }
  const int narrow = job.layers[0][2].n;
  launch(choose_kernel, blocks_for(job.count * narrow, kStepThreads), kStepThreads, 0, on, job,
         static_cast<const uint16_t*>(at.made[2]), narrow);
}

void check(const MaskFactors& job) {
  require(job.prompts >= 1 && job.tokens >= 1 && job.tokens <= kTokens, "decoder: there are kernels for 1 to 8 tokens");
  require(job.asked_count >= 1 && job.asked_count <= int64_t{1} << 24 && job.count >= 0,
          "decoder: there must be 1 to 2^24 prompts");
  require(job.wide >= 16 && job.wide % 16 == 0, "decoder: 4 * middle must be a multiple of 16");
  require(job.chosen_count >= 1 && job.chosen_count <= kTokens && (job.chosen_count > 1 || job.count == 0),
          "decoder: there must be a token for each mask");
  for (int mask = 0; mask + 1 < job.chosen_count; ++mask) {
    const TokenLayer(&layers)[3] = job.layers[mask];
    check_layer(layers[0], kWidth), check_layer(layers[1], layers[0].n), check_layer(layers[2], layers[1].n);
    for (int i = 0; i < 3; ++i)
      require(layers[i].n == job.layers[0][i].n, "decoder: the layers of all masks must have the same sizes");
  }
}

}  // namespace

int64_t mask_factors_scratch(const MaskFactors& job) {
  check(job);
  MaskFactors sized = job;
  sized.scratch = nullptr;
  return MaskMemory(sized).bytes;
}

void mask_factors(const MaskFactors& job, DType dtype, void* stream) {
  check(job);
  if (dtype == DType::float16) return factors_of<half>(job, stream);
  if (dtype == DType::bfloat16) return factors_of<bfloat16>(job, stream);
  throw std::invalid_argument("decoder: there are no kernels for this dtype");
}

void lay_out(const void* const (&from)[kImageParts], void* const (&to)[kImageParts], int64_t length, void* stream) {
  Fragments parts{};
  for (int i = 0; i < kImageParts; ++i) {
    parts.from[i] = from[i], parts.to[i] = to[i];
    parts.first[i + 1] = parts.first[i] + (length + 15) / 16 * kBlocksOfPanel[i];
  }
  launch(fragments_kernel, step_blocks(parts.first[kImageParts]), kStepThreads, 0, static_cast<cudaStream_t>(stream),
         parts);
}

int64_t prompts_scratch(const Prompts& job) {
  check(job);
  Prompts sized = job;
  sized.scratch = nullptr;
  return Memory(sized).bytes();
}

void decode_prompts(const Prompts& job, DType dtype, int64_t shared_memory, void* stream) {
  check(job);
  if (job.prompts == 0) return;
  if (dtype == DType::float16) return Decoding<half>(job, dtype, shared_memory, stream).run();
  if (dtype == DType::bfloat16) return Decoding<bfloat16>(job, dtype, shared_memory, stream).run();
  throw std::invalid_argument("decoder: there are no kernels for this dtype");
}

}  // namespace fastsam::decoder::cuda
