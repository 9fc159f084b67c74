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
MatrixLayout row_major(const void* data, int64_t stride) {
  return {const_cast<void*>(data), stride, 0, 16, 1, false, nullptr, 0};
}

Product make_product(const TokenLayer& layer, MatrixLayout x, MatrixLayout out, int64_t rows, float factor = 1.0f) {
  return {x, out, row_major(nullptr, 0), layer.weight, layer.bias, rows, layer.n, layer.k, factor, false, 0};
}

// Set each product's first block, and return the total number of blocks of `rows` x `columns` results.
int64_t count_blocks(Products& batch, int64_t rows, int64_t columns) {
  int64_t blocks = 0;
  for (int i = 0; i < batch.count; ++i) {
    Product& product = batch.items[i];
    product.first_block = static_cast<unsigned>(blocks);
    blocks += (product.rows + rows - 1) / rows * ((product.n + columns - 1) / columns);
  }
  return blocks;
}

template <typename T, int kSide>
void launch_many_rows(const Products& batch, int64_t blocks, void* stream) {
  launch((many_rows_kernel<T, kSide>), blocks_for(blocks, 1), SquareTile<kSide>::kThreads, SquareTile<kSide>::kBytes,
         static_cast<cudaStream_t>(stream), batch);
}

// Launch independent products together, with the block size that suits their number of blocks.
template <typename T>
void launch_products(Products& batch, void* stream) {
  int64_t blocks = count_blocks(batch, 2 * kTile, 2 * kTile);
  if (blocks >= kLargeBlocksToFill) return launch_many_rows<T, 2>(batch, blocks, stream);
  blocks = count_blocks(batch, kTile, kTile);
  if (blocks >= kBlocksToFill) return launch_many_rows<T, 1>(batch, blocks, stream);
  launch((few_rows_kernel<T>), blocks_for(count_blocks(batch, kFewRows, kFewColumns), 1), kProductThreads, 0,
         static_cast<cudaStream_t>(stream), batch);
}

template <typename T>
class Decoding {
 public:
  Decoding(const Prompts& job, DType dtype, int64_t shared_memory, void* stream)
      : job_(job),
        memory_(job),
        input_tokens_(job.input_tokens == nullptr ? memory_.input_tokens : job.input_tokens),
        dtype_(dtype),
        shared_memory_(shared_memory),
        stream_(stream) {}

  void run() {
    pack_image_parts();
    assemble_tokens();
    // The first block, whose self-attention adds no position embedding to the tokens.
    multiply(self_products(job_.first, input_tokens_, input_tokens_));
    attend_self(job_.first, nullptr);
    multiply({make_product(job_.first.token_to_image_q, row_major(memory_.queries_with_pe, kWidth),
                           by_head(memory_.head_queries), memory_.rows, kScale)});
    first_token_to_image({memory_.head_queries, memory_.image[0], memory_.image[1], memory_.keys, memory_.rows,
                          memory_.panels, job_.length},
                         dtype_, stream_);
    update_tokens(job_.first, by_head(memory_.keys));
    // One launch together with the second block's self-attention products, which read the same tokens.
    std::vector<Product> products = image_to_token_products(job_.first, job_.first_token_values);
    for (const Product& product : self_products(job_.second, memory_.queries_with_pe, memory_.queries))
      products.push_back(product);
    multiply(products);
    attend_self(job_.second, memory_.queries);
    multiply({make_product(job_.second.token_to_image_q, row_major(memory_.queries_with_pe, kWidth),
                           by_prompt(memory_.head_queries, job_.tokens), memory_.rows, kScale)});
    compute_first_operands();
    Pass operands = make_pass(memory_.image[2], memory_.image[3], job_.norms1);
    pass(operands, dtype_, shared_memory_, stream_);
    merge_sums<false>();
    update_tokens(job_.second, row_major(memory_.attended, kInner));
    // Only the chosen tokens take part in the last attention.
    products = image_to_token_products(job_.second, job_.second_token_values);
    products.push_back(make_product(job_.final_q, chosen_rows(memory_.queries_with_pe),
                                    by_prompt(memory_.head_queries, job_.chosen_count), memory_.chosen_rows, kScale));
    multiply(products);
    compute_second_operands();
    operands = make_pass(memory_.image[4], memory_.image[5], job_.norms2);
    operands.second = true, operands.few_queries = memory_.few_queries;
    operands.keys_mix = memory_.keys_mix, operands.keys_bias = memory_.keys_bias;
    operands.first_cross = memory_.packed_first_cross, operands.first_gram = memory_.first_gram,
    operands.first_bias = memory_.first_bias;
    operands.cross_mix = memory_.cross_mix, operands.cross_bias = memory_.cross_bias,
    operands.queries_mix_last = memory_.queries_mix_last;
    pass(operands, dtype_, shared_memory_, stream_);
    merge_sums<true>();
    Product out = make_product(job_.final_out, row_major(memory_.attended, kInner), row_major(memory_.sum, kWidth),
                               memory_.chosen_rows);
    out.residual = chosen_rows(memory_.queries);
    multiply({out});
    normalise(job_.final_norm, memory_.sum, memory_.chosen_rows, job_.final_tokens, nullptr);
    predict_iou();
  }

 private:
  static constexpr float kScale = 0.25f;  // 1 / sqrt(kDim)
  static constexpr float kVarianceScale =
      2.0f / kWidth;  // factor of the cross terms in the variance, a mean over channels

  cudaStream_t stream() const { return static_cast<cudaStream_t>(stream_); }

  // (heads, rows, kDim)
  MatrixLayout by_head(void* data) const { return {data, kDim, 0, memory_.rows * kDim, 1, false, nullptr, 0}; }
  // (prompts, heads, count, kDim)
  static MatrixLayout by_prompt(void* data, int64_t count) {
    return {data, count * kInner, kDim, count * kDim, static_cast<int>(count), false, nullptr, 0};
  }
  MatrixLayout chosen_rows(void* data) const {
    return {data, job_.tokens * kWidth, kWidth, 16, job_.chosen_count, true, nullptr, 0};
  }

  void multiply(const std::vector<Product>& products) {
    Products batch{};
    std::copy(std::begin(job_.chosen), std::end(job_.chosen), batch.chosen);
    for (const Product& product : products) batch.items[batch.count++] = product;
    launch_products<T>(batch, stream_);
  }

  void pack_image_parts() {
    if (job_.packed) return;
    pack_image({job_.first_keys, job_.first_values, job_.image1, job_.values1, job_.image2, job_.values2},
               memory_.image, job_.length, stream_);
  }

  void assemble_tokens() {
    if (job_.input_tokens != nullptr) return;
    launch(gather_tokens_kernel, step_blocks(memory_.rows), kStepThreads, 0, stream(),
           (TokenGather{job_.output, job_.sparse, memory_.input_tokens, memory_.rows,
                        static_cast<unsigned>(job_.tokens), static_cast<unsigned>(job_.outputs)}));
  }

  void normalise(const TokenNorm& norm, const void* x, int64_t rows, void* out, void* queries_with_pe) {
    const void* const input_tokens = queries_with_pe == nullptr ? nullptr : input_tokens_;
    launch((normalise_kernel<T>), step_blocks(rows), kStepThreads, 0, stream(),
           (LayerNormArgs{x, norm.weight, norm.bias, input_tokens, out, queries_with_pe, rows, job_.eps}));
  }

  std::vector<Product> self_products(const TokenBlock& block, const void* queries_with_pe, const void* queries) const {
    const MatrixLayout with_pe_rows = row_major(queries_with_pe, kWidth), query_rows = row_major(queries, kWidth);
    return {make_product(block.self_q, with_pe_rows, row_major(memory_.q, kWidth), memory_.rows),
            make_product(block.self_k, with_pe_rows, row_major(memory_.k, kWidth), memory_.rows),
            make_product(block.self_v, query_rows, row_major(memory_.v, kWidth), memory_.rows)};
  }

  // Self-attention, an optional residual (may be null), then the norm: to `queries`, and plus the input tokens to
  // `queries_with_pe`.
  void attend_self(const TokenBlock& block, const void* residual) {
    launch((self_attention_kernel<T>), step_blocks(job_.prompts * kHeads), kStepThreads, 0, stream(),
           (SelfAttention{memory_.q, memory_.k, memory_.v, memory_.mlp, job_.prompts, static_cast<int>(job_.tokens)}));
    Product out =
        make_product(block.self_out, row_major(memory_.mlp, kWidth), row_major(memory_.sum, kWidth), memory_.rows);
    out.residual = row_major(residual, kWidth);
    multiply({out});
    normalise(block.norm1, memory_.sum, memory_.rows, memory_.queries, memory_.queries_with_pe);
  }

  // The rest of a block after its token-to-image attention, with the result `attended`: projection, residual, norm,
  // MLP, residual, norm.
  void update_tokens(const TokenBlock& block, MatrixLayout attended) {
    Product out = make_product(block.token_to_image_out, attended, row_major(memory_.sum, kWidth), memory_.rows);
    out.residual = row_major(memory_.queries, kWidth);
    multiply({out});
    normalise(block.norm2, memory_.sum, memory_.rows, memory_.q, nullptr);
    Product hidden =
        make_product(block.mlp1, row_major(memory_.q, kWidth), row_major(memory_.mlp, block.mlp1.n), memory_.rows);
    hidden.relu = true;
    multiply({hidden});
    out = make_product(block.mlp2, row_major(memory_.mlp, block.mlp1.n), row_major(memory_.sum, kWidth), memory_.rows);
    out.residual = row_major(memory_.q, kWidth);
    multiply({out});
    normalise(block.norm3, memory_.sum, memory_.rows, memory_.queries, memory_.queries_with_pe);
  }

  // The products for keys and values in the attention of image tokens to these tokens.
  std::vector<Product> image_to_token_products(const TokenBlock& block, void* token_values) const {
    return {make_product(block.image_to_token_k, row_major(memory_.queries_with_pe, kWidth),
                         by_prompt(memory_.keys, job_.tokens), memory_.rows, kScale),
            make_product(block.image_to_token_v, row_major(memory_.queries, kWidth),
                         by_prompt(token_values, job_.tokens), memory_.rows)};
  }

  BilinearForm make_bilinear(const void* x, const void* mix, const void* values, void* matrix, void* vectors,
                             float factor) const {
    BilinearForm form{};
    form.x = x, form.mix = mix, form.values = values, form.matrix = matrix, form.vectors = vectors,
    form.factor = factor;
    form.count = static_cast<int>(job_.tokens), form.depth = 2;
    return form;
  }

  void compute_first_operands() {
    BilinearForms batch{};
    batch.items[batch.count++] = make_bilinear(memory_.keys, nullptr, nullptr, nullptr, memory_.packed_keys, 1.0f);
    batch.items[batch.count++] = make_bilinear(job_.first_token_values, job_.mixes.gram1, job_.first_token_values,
                                               memory_.gram, memory_.packed_cross, kVarianceScale);
    batch.items[batch.count++] = make_bilinear(memory_.head_queries, job_.mixes.queries1, job_.first_token_values,
                                               memory_.queries_mix, memory_.packed_queries, 1.0f);
    launch_bilinear(batch);
  }

  void compute_second_operands() {
    const TokenMixes& mixes = job_.mixes;
    const void *first = job_.first_token_values, *second = job_.second_token_values;
    BilinearForms batch{};
    BilinearForm* form = &(batch.items[batch.count++] = make_bilinear(memory_.keys, mixes.keys, first, memory_.keys_mix,
                                                                      memory_.packed_keys, 1.0f));
    form->dot_vector = mixes.keys_bias, form->bias = memory_.keys_bias;
    form = &(batch.items[batch.count++] = make_bilinear(first, mixes.gram2_first, first, memory_.first_gram,
                                                        memory_.packed_first_cross, kVarianceScale));
    form->dot_vector = mixes.gram2_first_bias, form->bias = memory_.first_bias;
    form = &(batch.items[batch.count++] =
                 make_bilinear(second, mixes.cross, first, memory_.cross_mix, memory_.packed_cross, kVarianceScale));
    // The softmax weights of each head sum to 1, so adding constant / heads to this bias adds the variance's constant.
    form->dot_vector = mixes.cross_bias, form->bias = memory_.cross_bias, form->constant = job_.constant;
    batch.items[batch.count++] = make_bilinear(second, mixes.gram2_second, second, memory_.gram, nullptr, 1.0f);
    form = &(batch.items[batch.count++] = make_bilinear(memory_.head_queries, mixes.queries2_first, first,
                                                        memory_.queries_mix, memory_.packed_queries, 1.0f));
    form->dot_vector = mixes.queries2_constant, form->bias = memory_.queries_mix_last;
    form->is_queries = true, form->count = job_.chosen_count, form->depth = 4;
    form = &(batch.items[batch.count++] = make_bilinear(memory_.head_queries, mixes.queries2_second, second,
                                                        memory_.queries_mix, nullptr, 1.0f));
    form->is_queries = true, form->count = job_.chosen_count, form->depth = 4, form->first_depth = 2;
    batch.few_queries = memory_.few_queries;
    launch_bilinear(batch);
  }

  void launch_bilinear(BilinearForms& batch) {
    batch.prompts = job_.prompts, batch.tokens = static_cast<int>(job_.tokens);
    const unsigned blocks = blocks_for(int64_t{step_blocks(job_.prompts)} * kHeads * batch.count, 1);
    launch((bilinear_kernel<T>), blocks, kStepThreads, 0, stream(), batch);
  }

  Pass make_pass(const void* image, const void* values, const float* norms) const {
    Pass pass{};
    pass.image = image, pass.values = values, pass.norms = norms;
    pass.keys = memory_.packed_keys, pass.cross = memory_.packed_cross, pass.gram = memory_.gram;
    pass.queries = memory_.packed_queries, pass.queries_mix = memory_.queries_mix, pass.state = job_.state;
    pass.max_scores = memory_.max_scores, pass.weight_sums = memory_.weight_sums, pass.value_sums = memory_.value_sums,
    pass.coefficient_sums = memory_.coefficient_sums;
    pass.eps = job_.eps;
    pass.prompts = job_.prompts, pass.tokens = job_.tokens, pass.panels = memory_.panels, pass.length = job_.length;
    return pass;
  }

  template <bool kSecond>
  void merge_sums() {
    const TokenMixes& mixes = job_.mixes;
    AttentionMerge job{};
    job.max_scores = memory_.max_scores, job.weight_sums = memory_.weight_sums, job.value_sums = memory_.value_sums,
    job.coefficient_sums = memory_.coefficient_sums;
    job.token_values[0] = job_.first_token_values, job.token_values[1] = job_.second_token_values;
    job.mix[0] = kSecond ? mixes.values2_first : mixes.values1, job.mix[1] = mixes.values2_second;
    job.constant = mixes.values2_constant, job.bias = kSecond ? mixes.values2_bias : mixes.values1_bias;
    job.out = memory_.attended, job.prompts = job_.prompts, job.parts = memory_.parts;
    job.tokens = static_cast<int>(job_.tokens);
    job.count = kSecond ? job_.chosen_count : job.tokens, job.few_queries = kSecond && memory_.few_queries;
    const unsigned blocks = blocks_for((job_.prompts + 1) / 2 * (kHeads / 2), 1);
    launch((merge_attention_kernel<T, kSecond>), blocks, kStepThreads, 0, stream(), job);
  }

  void predict_iou() {
    const MatrixLayout tokens = row_major(job_.final_tokens, int64_t{job_.chosen_count} * kWidth);
    Product product = make_product(job_.iou1, tokens, row_major(memory_.iou1, job_.iou1.n), job_.prompts);
    product.relu = true;
    multiply({product});
    product = make_product(job_.iou2, row_major(memory_.iou1, job_.iou1.n), row_major(memory_.iou2, job_.iou2.n),
                           job_.prompts);
    product.relu = true;
    multiply({product});
    multiply({make_product(job_.iou3, row_major(memory_.iou2, job_.iou2.n), row_major(job_.iou, job_.iou3.n),
                           job_.prompts)});
  }

  const Prompts& job_;
  const Memory memory_;
  const void* const input_tokens_;
  DType dtype_;
  int64_t shared_memory_;
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
  for (const TokenLayer* layer : {&block.token_to_image_q, &block.image_to_token_k, &block.image_to_token_v}) {
    check_layer(*layer, kWidth);
    require(layer->n == kInner, "decoder: there are kernels for cross-attention of 128 channels");
  }
  check_layer(block.token_to_image_out, kInner), check_layer(block.mlp1, kWidth), check_layer(block.mlp2, block.mlp1.n);
  require(block.token_to_image_out.n == kWidth && block.mlp2.n == kWidth,
          "decoder: there are kernels for 256 channels");
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
void run_mask_factors(const MaskFactors& job, void* stream) {
  const MaskMemory memory(job);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const unsigned blocks = step_blocks(job.selected_count * (job.conv1_channels / 16));
  if (job.packed) {
    launch((factors_kernel<T, true>), blocks, kStepThreads, 0, cuda_stream, job);
  } else {
    launch((factors_kernel<T, false>), blocks, kStepThreads, 0, cuda_stream, job);
  }
  if (job.count == 0) return;
  for (int begin = 0; begin < memory.masks; begin += kMaxProducts) {
    for (int i = 0; i < 3; ++i) {
      Products batch{};
      for (int mask = begin; mask < std::min(begin + kMaxProducts, memory.masks); ++mask) {
        const TokenLayer& layer = job.layers[mask][i];
        // The mask token of each prompt in `selected`.
        MatrixLayout x =
            row_major(static_cast<const T*>(job.final_tokens) + (1 + mask) * kWidth, job.chosen_count * kWidth);
        x.row_index = job.selected, x.num_groups = job.prompts;
        if (i > 0) x = row_major(memory.output(i - 1, mask), layer.k);
        Product& product = batch.items[batch.count++] =
            make_product(layer, x, row_major(memory.output(i, mask), layer.n), job.selected_count);
        product.relu = i < 2;
      }
      launch_products<T>(batch, stream);
    }
  }
  const int narrow = job.layers[0][2].n;
  launch(select_weights_kernel, blocks_for(job.count * narrow, kStepThreads), kStepThreads, 0, cuda_stream, job,
         static_cast<const uint16_t*>(memory.outputs[2]), narrow);
}

void check(const MaskFactors& job) {
  require(job.prompts >= 1 && job.tokens >= 1 && job.tokens <= kTokens, "decoder: there are kernels for 1 to 8 tokens");
  require(job.selected_count >= 1 && job.selected_count <= int64_t{1} << 24 && job.count >= 0,
          "decoder: there must be 1 to 2^24 prompts");
  require(job.conv1_channels >= 16 && job.conv1_channels % 16 == 0, "decoder: 4 * middle must be a multiple of 16");
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

int64_t mask_factors_scratch_bytes(const MaskFactors& job) {
  check(job);
  MaskFactors without_scratch = job;
  without_scratch.scratch = nullptr;
  return MaskMemory(without_scratch).bytes;
}

void mask_factors(const MaskFactors& job, DType dtype, void* stream) {
  check(job);
  if (dtype == DType::float16) return run_mask_factors<half>(job, stream);
  if (dtype == DType::bfloat16) return run_mask_factors<bfloat16>(job, stream);
  throw std::invalid_argument("decoder: there are no kernels for this dtype");
}

void pack_image(const void* const (&from)[kImageParts], void* const (&to)[kImageParts], int64_t length, void* stream) {
  Fragments parts{};
  for (int i = 0; i < kImageParts; ++i) {
    parts.from[i] = from[i], parts.to[i] = to[i];
    parts.first[i + 1] = parts.first[i] + (length + 15) / 16 * kBlocksOfPanel[i];
  }
  launch(fragments_kernel, step_blocks(parts.first[kImageParts]), kStepThreads, 0, static_cast<cudaStream_t>(stream),
         parts);
}

int64_t prompts_scratch_bytes(const Prompts& job) {
  check(job);
  Prompts without_scratch = job;
  without_scratch.scratch = nullptr;
  return Memory(without_scratch).bytes();
}

void decode_prompts(const Prompts& job, DType dtype, int64_t shared_memory, void* stream) {
  check(job);
  if (job.prompts == 0) return;
  if (dtype == DType::float16) return Decoding<half>(job, dtype, shared_memory, stream).run();
  if (dtype == DType::bfloat16) return Decoding<bfloat16>(job, dtype, shared_memory, stream).run();
  throw std::invalid_argument("decoder: there are no kernels for this dtype");
}

}  // namespace fastsam::decoder::cuda
