// The processing of prompt tokens between their attentions to the image. ops/_decoder/reference_tokens.py has the same
// steps in PyTorch.
#include "decoder/tokens.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "common/fork_join.h"
#include "common/isa.h"
#include "decoder/arena.h"
#include "linear/linear.h"

namespace fastsam::decoder {
namespace {

// Number of prompts per thread below which a thread costs more than it saves in their small products.
constexpr int64_t kPromptsPerThread = 8;

// Apply a layer to x (rows, k), rows `stride` floats apart: out (rows, n), optionally with ReLU and a residual.
void apply(const TokenLayer& layer, const float* x, int64_t stride, int64_t rows, bool relu, const float* residual,
           float* out, int64_t threads) {
  const LinearEpilogue finish{layer.bias, relu ? kLinearRelu : kLinearNone, residual, layer.n, out, layer.n};
  linear::linear({x, stride}, rows, linear::Norm{}, {layer.weight, layer.k, layer.n, layer.k}, finish, threads);
}

void normalise(const TokenNorm& norm, const float* x, int64_t rows, int64_t width, float eps, float* out) {
  kernels().linear.layer_norm(x, width, rows, width, norm.weight, norm.bias, eps, out, width);
}

// One call of decode_prompts, with its scratch memory.
class Decoding {
 public:
  Decoding(const Prompts& job, int64_t threads)
      : job_(job),
        isa_(kernels().decoder),
        threads_(threads),
        tokens_(job.prompts * job.tokens),
        rows_(job.heads * job.tokens),
        query_rows_(job.heads * job.chosen_count),
        inner_(job.heads * job.head_dim),
        scale_(1.0f / std::sqrt(static_cast<float>(job.head_dim))),
        memory_(size()) {
    queries_ = allocate(tokens_ * job.width), queries_with_pe_ = allocate(tokens_ * job.width);
    for (float** row : {&q_, &k_, &v_}) *row = allocate(tokens_ * max_row());
    hidden_ = allocate(tokens_ * hidden());
    for (float** vectors : {&keys_, &head_queries_, &value_sum_, &first_cross_, &cross_})
      *vectors = allocate(tokens_ * inner_);
    for (float** matrix : {&gram_, &keys_mix_, &first_gram_, &cross_mix_})
      *matrix = allocate(job.prompts * rows_ * rows_);
    queries_mix_ = allocate(job.prompts * queries_mix_size());
    coefficient_sum_ = allocate(job.prompts * queries_mix_size());
    for (float** bias : {&keys_bias_, &first_bias_, &cross_bias_}) *bias = allocate(job.prompts * rows_);
  }

  void run() {
    std::memcpy(queries_, job_.input_tokens, bytes(tokens_ * job_.width));
    first_block();
    second_block();
    final_attention();
  }

 private:
  static size_t bytes(int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); }
  // Floats of queries_mix_ and coefficient_sum_ per prompt: the larger of both passes.
  int64_t queries_mix_size() const { return std::max(rows_ * rows_, query_rows_ * (2 * rows_ + 2)); }
  // The largest row that q_, k_ and v_ must hold, and that hidden_ must hold.
  int64_t max_row() const { return std::max({job_.width, inner_, job_.iou1.n}); }
  int64_t hidden() const { return std::max({job_.width, job_.first.mlp1.n, job_.second.mlp1.n, job_.iou2.n}); }
  int64_t size() const {
    const int64_t token_floats = 2 * padded(tokens_ * job_.width) + 3 * padded(tokens_ * max_row()) +
                                 padded(tokens_ * hidden()) + 5 * padded(tokens_ * inner_);
    const int64_t prompt_floats = 4 * padded(job_.prompts * rows_ * rows_) +
                                  2 * padded(job_.prompts * queries_mix_size()) + 3 * padded(job_.prompts * rows_);
    return token_floats + prompt_floats;
  }
  float* allocate(int64_t floats) { return memory_.allocate(floats); }

  // Call work(prompt, scratch) for all prompts, in parallel. scratch: (rows, inner).
  template <typename Work>
  void for_prompts(const Work& work) {
    fork_join(threads_, job_.prompts, kPromptsPerThread, [&](int64_t begin, int64_t end) {
      const Floats scratch(rows_ * inner_);
      for (int64_t i = begin; i < end; ++i) work(i, scratch.data());
    });
  }

  void first_block() {
    const TokenBlock& block = job_.first;
    attend_self(block, queries_, false);
    add_pe();
    // Order rows by head, then prompt: all prompts attend to the same image, as one matrix per head.
    apply(block.token_to_image_q, queries_with_pe_, job_.width, tokens_, false, nullptr, q_, threads_);
    const int64_t dim = job_.head_dim;
    for (int64_t head = 0; head < job_.heads; ++head) {
      for (int64_t row = 0; row < tokens_; ++row) {
        for (int64_t d = 0; d < dim; ++d) {
          head_queries_[(head * tokens_ + row) * dim + d] = q_[row * inner_ + head * dim + d] * scale_;
        }
      }
    }
    first_token_to_image(head_queries_, job_.first_keys, job_.first_values, job_.heads, tokens_, dim, job_.length,
                         value_sum_, threads_);
    for (int64_t head = 0; head < job_.heads; ++head) {
      for (int64_t row = 0; row < tokens_; ++row) {
        std::memcpy(q_ + row * inner_ + head * dim, value_sum_ + (head * tokens_ + row) * dim, bytes(dim));
      }
    }
    update_tokens(block);
    project_to_image(block, job_.first_token_values);
  }

  void second_block() {
    const TokenBlock& block = job_.second;
    const TokenMixes& mixes = job_.mixes;
    attend_self(block, queries_with_pe_, true);
    add_pe();
    apply(block.token_to_image_q, queries_with_pe_, job_.width, tokens_, false, nullptr, q_, threads_);
    to_heads(q_, job_.tokens, scale_, head_queries_);
    const int64_t vectors = job_.tokens * inner_, square = rows_ * rows_;
    scale_cross(job_.first_token_values, cross_);
    for_prompts([&](int64_t i, float* y) {
      const float* token_values = job_.first_token_values + i * vectors;
      bilinear(token_values, job_.tokens, mixes.gram1, token_values, gram_ + i * square, rows_, y);
      bilinear(head_queries_ + i * vectors, job_.tokens, mixes.queries1, token_values, queries_mix_ + i * square, rows_,
               y);
    });
    first_pass(
        {job_.prompts, job_.heads, job_.tokens, job_.head_dim, job_.length, job_.image1, job_.values1, job_.norms1,
         job_.eps, keys_, cross_, gram_, head_queries_, queries_mix_, job_.state, value_sum_, coefficient_sum_},
        threads_);
    for_prompts([&](int64_t i, float* y) {
      const float* token_values = job_.first_token_values + i * vectors;
      add_token_values(coefficient_sum_ + i * square, token_values, mixes.values1, job_.tokens,
                       value_sum_ + i * vectors, y);
    });
    to_rows(value_sum_, job_.tokens, mixes.values1_bias, q_);
    update_tokens(block);
    project_to_image(block, job_.second_token_values);
  }

  void final_attention() {
    const TokenMixes& mixes = job_.mixes;
    const int64_t count = job_.chosen_count, chosen_rows = job_.prompts * count, width = job_.width;
    float *queries = v_, *with_pe = k_;  // the rows of the chosen tokens
    for (int64_t i = 0; i < chosen_rows; ++i) {
      const int64_t from = (i / count * job_.tokens + job_.chosen[i % count]) * width;
      std::memcpy(queries + i * width, queries_ + from, bytes(width));
      std::memcpy(with_pe + i * width, queries_with_pe_ + from, bytes(width));
    }
    apply(job_.final_q, with_pe, width, chosen_rows, false, nullptr, q_, threads_);
    to_heads(q_, count, scale_, head_queries_);
    scale_cross(job_.first_token_values, first_cross_);
    scale_cross(job_.second_token_values, cross_);
    const int64_t vectors = job_.tokens * inner_, square = rows_ * rows_, query_vectors = count * inner_;
    const int64_t num_coefficients = 2 * rows_ + 2;
    for_prompts([&](int64_t i, float* y) {
      const float *first = job_.first_token_values + i * vectors, *second = job_.second_token_values + i * vectors;
      const float *keys = keys_ + i * vectors, *queries = head_queries_ + i * query_vectors;
      bilinear(keys, job_.tokens, mixes.keys, first, keys_mix_ + i * square, rows_, y);
      bilinear(first, job_.tokens, mixes.gram2_first, first, first_gram_ + i * square, rows_, y);
      bilinear(second, job_.tokens, mixes.cross, first, cross_mix_ + i * square, rows_, y);
      bilinear(second, job_.tokens, mixes.gram2_second, second, gram_ + i * square, rows_, y);
      head_dots(keys, job_.tokens, mixes.keys_bias, keys_bias_ + i * rows_, 1);
      head_dots(first, job_.tokens, mixes.gram2_first_bias, first_bias_ + i * rows_, 1);
      head_dots(second, job_.tokens, mixes.cross_bias, cross_bias_ + i * rows_, 1);
      float* mix = queries_mix_ + i * query_rows_ * num_coefficients;
      bilinear(queries, count, mixes.queries2_first, first, mix, num_coefficients, y);
      bilinear(queries, count, mixes.queries2_second, second, mix + rows_, num_coefficients, y);
      for (int64_t row = 0; row < query_rows_; ++row) mix[row * num_coefficients + 2 * rows_] = 0.0f;
      head_dots(queries, count, mixes.queries2_constant, mix + 2 * rows_ + 1, num_coefficients);
    });
    SecondPass pass{};
    static_cast<Pass&>(pass) = {job_.prompts,  job_.heads,   job_.tokens, job_.head_dim, job_.length,     job_.image2,
                                job_.values2,  job_.norms2,  job_.eps,    keys_,         cross_,          gram_,
                                head_queries_, queries_mix_, job_.state,  value_sum_,    coefficient_sum_};
    pass.query_tokens = count, pass.constant = job_.constant;
    pass.keys_mix = keys_mix_, pass.keys_bias = keys_bias_;
    pass.first_cross = first_cross_, pass.first_gram = first_gram_, pass.first_bias = first_bias_;
    pass.cross_mix = cross_mix_, pass.cross_bias = cross_bias_;
    second_pass(pass, threads_);
    for_prompts([&](int64_t i, float* y) {
      const float *first = job_.first_token_values + i * vectors, *second = job_.second_token_values + i * vectors;
      const float* coefficient_sum = coefficient_sum_ + i * num_coefficients * query_rows_;
      float* value_sum = value_sum_ + i * query_vectors;
      add_token_values(coefficient_sum, first, mixes.values2_first, count, value_sum, y);
      add_token_values(coefficient_sum + rows_ * query_rows_, second, mixes.values2_second, count, value_sum, y);
      const float* constant_sum = coefficient_sum + (2 * rows_ + 1) * query_rows_;
      for (int64_t row = 0; row < query_rows_; ++row) {
        const float* add = mixes.values2_constant + row / count * job_.head_dim;
        for (int64_t d = 0; d < job_.head_dim; ++d) value_sum[row * job_.head_dim + d] += constant_sum[row] * add[d];
      }
    });
    to_rows(value_sum_, count, mixes.values2_bias, q_);
    apply(job_.final_out, q_, inner_, chosen_rows, false, queries, with_pe, threads_);
    normalise(job_.final_norm, with_pe, chosen_rows, width, job_.eps, job_.final_tokens);
    apply(job_.iou1, job_.final_tokens, count * width, job_.prompts, true, nullptr, q_, threads_);
    apply(job_.iou2, q_, job_.iou1.n, job_.prompts, true, nullptr, hidden_, threads_);
    apply(job_.iou3, hidden_, job_.iou2.n, job_.prompts, false, nullptr, job_.iou, threads_);
  }

  // Self-attention of each prompt's tokens, an optional residual, then the norm: updates queries_. `with_pe` are the
  // inputs of queries and keys.
  void attend_self(const TokenBlock& block, const float* with_pe, bool residual) {
    const int64_t width = job_.width, dim = width / job_.heads, count = job_.tokens;
    apply(block.self_q, with_pe, width, tokens_, false, nullptr, q_, threads_);
    apply(block.self_k, with_pe, width, tokens_, false, nullptr, k_, threads_);
    apply(block.self_v, queries_, width, tokens_, false, nullptr, v_, threads_);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    float* attended = hidden_;
    for_prompts([&](int64_t i, float*) {
      const Floats scratch(count * count);
      float* scores = scratch.data();
      for (int64_t at = i * count * width, head = 0; head < job_.heads; ++head, at += dim) {
        isa_.token_dots(q_ + at, width, count, dim, k_ + at, width, count, false, scores, count);
        for (int64_t s = 0; s < count * count; ++s) scores[s] *= scale;
        isa_.token_softmax(scores, count, count, count);
        isa_.token_products(scores, count, 1, count, count, v_ + at, width, dim, false, attended + at, width);
      }
    });
    apply(block.self_out, attended, width, tokens_, false, residual ? queries_ : nullptr, q_, threads_);
    normalise(block.norm1, q_, tokens_, width, job_.eps, queries_);
  }

  // The rest of a block after its attention to the image, whose result is (tokens, inner) in q_: projection, residual,
  // norm, MLP, residual, norm.
  void update_tokens(const TokenBlock& block) {
    const int64_t width = job_.width;
    apply(block.token_to_image_out, q_, inner_, tokens_, false, queries_, k_, threads_);
    normalise(block.norm2, k_, tokens_, width, job_.eps, queries_);
    apply(block.mlp1, queries_, width, tokens_, true, nullptr, hidden_, threads_);
    apply(block.mlp2, hidden_, block.mlp1.n, tokens_, false, queries_, k_, threads_);
    normalise(block.norm3, k_, tokens_, width, job_.eps, queries_);
    add_pe();
  }

  // Compute keys_ and the values `token_values` for the attention of image tokens to these tokens.
  void project_to_image(const TokenBlock& block, float* token_values) {
    apply(block.image_to_token_k, queries_with_pe_, job_.width, tokens_, false, nullptr, q_, threads_);
    to_heads(q_, job_.tokens, scale_, keys_);
    apply(block.image_to_token_v, queries_, job_.width, tokens_, false, nullptr, q_, threads_);
    to_heads(q_, job_.tokens, 1.0f, token_values);
  }

  // Add the position embedding of tokens, i.e. the input tokens.
  void add_pe() {
    for (int64_t i = 0; i < tokens_ * job_.width; ++i) queries_with_pe_[i] = queries_[i] + job_.input_tokens[i];
  }

  // out = token_values * 2 / width: the factor of the cross terms in the variance, which is a mean over channels.
  void scale_cross(const float* token_values, float* out) const {
    const float factor = 2.0f / static_cast<float>(job_.width);
    for (int64_t i = 0; i < tokens_ * inner_; ++i) out[i] = token_values[i] * factor;
  }

  // to_heads: rearrange (prompts * count, inner) to (prompts, heads, count, head_dim), times `factor`. to_rows: the
  // reverse, plus a bias.
  void to_heads(const float* x, int64_t count, float factor, float* out) const {
    for_each_vector(count, [&](int64_t row, int64_t vector, int64_t) {
      for (int64_t d = 0; d < job_.head_dim; ++d) out[vector + d] = x[row + d] * factor;
    });
  }
  void to_rows(const float* x, int64_t count, const float* bias, float* out) const {
    for_each_vector(count, [&](int64_t row, int64_t vector, int64_t channel) {
      for (int64_t d = 0; d < job_.head_dim; ++d) out[row + d] = x[vector + d] + bias[channel + d];
    });
  }
  // Call work(offset in rows, offset in heads, channel) for each vector of head_dim floats of both layouts.
  template <typename Work>
  void for_each_vector(int64_t count, const Work& work) const {
    for (int64_t i = 0; i < job_.prompts; ++i) {
      for (int64_t head = 0; head < job_.heads; ++head) {
        for (int64_t t = 0; t < count; ++t) {
          work((i * count + t) * inner_ + head * job_.head_dim, ((i * job_.heads + head) * count + t) * job_.head_dim,
               head * job_.head_dim);
        }
      }
    }
  }

  // out (rows of x, rows) = x mix values^T for one prompt, where row (head, token) of x and of `values` is zero outside
  // its head's channels. x has `count` rows per head; mix is (inner, inner); y is scratch memory.
  void bilinear(const float* x, int64_t count, const float* mix, const float* values, float* out, int64_t stride,
                float* y) const {
    const int64_t dim = job_.head_dim, other = job_.tokens;
    for (int64_t head = 0; head < job_.heads; ++head) {
      isa_.token_products(x + head * count * dim, dim, 1, count, dim, mix + head * dim * inner_, inner_, inner_, false,
                          y + head * count * inner_, inner_);
    }
    for (int64_t head = 0; head < job_.heads; ++head) {
      isa_.token_dots(y + head * dim, inner_, job_.heads * count, dim, values + head * other * dim, dim, other, false,
                      out + head * other, stride);
    }
  }

  // out = products of x's rows with their head's part of `vector` (inner); outputs are `stride` floats apart.
  void head_dots(const float* x, int64_t count, const float* vector, float* out, int64_t stride) const {
    for (int64_t head = 0; head < job_.heads; ++head) {
      isa_.token_dots(x + head * count * job_.head_dim, job_.head_dim, count, job_.head_dim,
                      vector + head * job_.head_dim, 0, 1, false, out + head * count * stride, stride);
    }
  }

  // Add the prompt's part of the attended values: value_sum (heads, count, head_dim) += coefficient_sum^T token_values
  // mix^T, where coefficient_sum is (rows, query rows). Each head takes its own rows of mix (inner, inner).
  void add_token_values(const float* coefficient_sum, const float* token_values, const float* mix, int64_t count,
                        float* value_sum, float* y) const {
    const int64_t dim = job_.head_dim, query_rows = job_.heads * count;
    for (int64_t head = 0; head < job_.heads; ++head) {
      isa_.token_products(coefficient_sum + head * job_.tokens * query_rows, 1, query_rows, query_rows, job_.tokens,
                          token_values + head * job_.tokens * dim, dim, dim, false, y + head * dim, inner_);
    }
    for (int64_t head = 0; head < job_.heads; ++head) {
      isa_.token_dots(y + head * count * inner_, inner_, count, inner_, mix + head * dim * inner_, inner_, dim, true,
                      value_sum + head * count * dim, dim);
    }
  }

  const Prompts& job_;
  const DecoderKernels& isa_;
  int64_t threads_, tokens_, rows_, query_rows_, inner_;
  float scale_;
  Arena memory_;
  float *queries_, *queries_with_pe_;  // (tokens, width)
  float *q_, *k_, *v_;                 // (tokens, width or inner), general-purpose
  float* hidden_;                      // (tokens, hidden layer), also the output of self-attention
  float *keys_, *head_queries_, *value_sum_, *first_cross_, *cross_;  // (prompts, heads, tokens, head_dim)
  float *gram_, *keys_mix_, *first_gram_, *cross_mix_;
  float *queries_mix_, *coefficient_sum_;
  float *keys_bias_, *first_bias_, *cross_bias_;
};

}  // namespace

void decode_prompts(const Prompts& job, int64_t threads) {
  if (job.prompts == 0) return;
  Decoding(job, std::max<int64_t>(1, threads)).run();
}

void mask_factors(const MaskFactors& job, int64_t threads) {
  check_indices(job.selected, job.selected_count, job.prompts, job.index, job.count);
  for (int64_t i = 0; i < job.count; ++i) {
    if (job.column[i] < 0 || job.column[i] >= job.chosen_count - 1) {
      throw std::invalid_argument("column must be indices of the mask tokens that were decoded");
    }
  }
  const DecoderKernels& isa = kernels().decoder;
  const int64_t rows = job.heads * job.tokens, inner = job.heads * job.head_dim, columns = 2 * rows + 2;
  const int64_t vectors = rows * job.head_dim;
  fork_join(threads, job.selected_count, kPromptsPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* out = job.factors + i * job.conv1_channels * columns;
      for (int64_t head = 0; head < job.heads; ++head) {
        const int64_t at = job.selected[i] * vectors + head * job.tokens * job.head_dim, part = head * job.head_dim;
        isa.token_dots(job.first_mix + part, inner, job.conv1_channels, job.head_dim, job.first_token_values + at,
                       job.head_dim, job.tokens, false, out + head * job.tokens, columns);
        isa.token_dots(job.second_mix + part, inner, job.conv1_channels, job.head_dim, job.second_token_values + at,
                       job.head_dim, job.tokens, false, out + rows + head * job.tokens, columns);
      }
      for (int64_t c = 0; c < job.conv1_channels; ++c) {
        out[c * columns + 2 * rows] = 0.0f;
        out[c * columns + 2 * rows + 1] = job.constant_mix[c];
      }
    }
  });
  if (job.count == 0) return;

  // Each mask token has three layers of its own: process the masks of one token together.
  const int64_t narrow = job.layers[2].n;
  const int64_t max_hidden = std::max(job.layers[0].n, job.layers[1].n);
  Arena memory(padded(job.count * job.width) + 2 * padded(job.count * max_hidden) + padded(job.count * narrow));
  float *tokens = memory.allocate(job.count * job.width), *first = memory.allocate(job.count * max_hidden);
  float *second = memory.allocate(job.count * max_hidden), *third = memory.allocate(job.count * narrow);
  for (int64_t column = 0; column + 1 < job.chosen_count; ++column) {
    int64_t count = 0;
    for (int64_t i = 0; i < job.count; ++i) {
      if (job.column[i] != column) continue;
      const int64_t token = job.selected[job.index[i]] * job.chosen_count + 1 + column;
      std::memcpy(tokens + count++ * job.width, job.final_tokens + token * job.width,
                  static_cast<size_t>(job.width) * sizeof(float));
    }
    const TokenLayer* layers = job.layers + 3 * column;
    apply(layers[0], tokens, job.width, count, true, nullptr, first, threads);
    apply(layers[1], first, layers[0].n, count, true, nullptr, second, threads);
    apply(layers[2], second, layers[1].n, count, false, nullptr, third, threads);
    for (int64_t i = 0, copied = 0; i < job.count; ++i) {
      if (job.column[i] != column) continue;
      std::memcpy(job.weights + i * narrow, third + copied++ * narrow, static_cast<size_t>(narrow) * sizeof(float));
    }
  }
}

}  // namespace fastsam::decoder
