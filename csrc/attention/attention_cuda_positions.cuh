// Relative position terms: the products of a warp's queries with the position tables, rearranged from table index
// (query - key) to the key's row or column. All functions are warp-collective.
#pragma once

#include "attention/attention_cuda_window.cuh"

namespace fastsam::attention {

// Number of key rows whose terms a warp holds at a time.
constexpr int kTermRows = 16;

// Index into terms (16, kWidth). The columns are permuted by row because the lanes read adjacent rows at the same time,
// which would otherwise conflict in a bank.
template <int kWidth>
__device__ __forceinline__ int term_index(int row, int column) {
  return row * kWidth + (column ^ ((row & 3) << 3));
}

// Multiply the 16 queries from `row` on with table[t] for t in [first, last]; the table has `rows` rows. Calls
// emit(half, t, product) for query row + group() + 8 * half, also for up to 15 t beyond `last`, which `emit` must skip.
template <typename T, int kDim, typename Emit>
__device__ __forceinline__ void multiply_table(const T* queries, int row, const T* table, int rows, int first, int last,
                                               const Emit& emit) {
  for (int t = first; t <= last; t += 16) {
    float products[2][4] = {};
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      FragmentA<T> q;
      FragmentB<T> table_fragment;
      load_query_fragment<kDim>(q, queries, row, step);
      load_table_fragment<kDim>(table_fragment, table, t, rows - 1, step);
      multiply(products[0], products[1], q, table_fragment);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      emit(i / 2 % 2, t + 8 * (i / 4) + 2 * pair() + i % 2, products[i / 4][i % 4]);
    }
  }
}

// Compute terms (16, kWidth): the products of 16 queries with the columns' table, for the key columns [x0, x0 +
// strip_columns) of the window; minus infinity beyond, so that slots without a key get no weight. `row` is the first
// query's index in the block.
template <typename T, int kDim, int kWidth>
__device__ __forceinline__ void compute_column_terms(const Params<T>& params, const Window<T>& window, const T* queries,
                                                     int row, int x0, float* terms) {
  const int width = params.window_columns, end = min(x0 + params.strip_columns, width);
  const int query = opaque(window.first + row);
  const WindowPosition first = position_of(window, query), last = position_of(window, query + 15);
  const int from = first.y == last.y ? first.x : 0, to = first.y == last.y ? last.x : window.columns - 1;
  const int x[2] = {position_of(window, query + group()).x, position_of(window, query + group() + 8).x};
  for (int i = lane(); i < 16 * kWidth; i += kWarp) terms[i] = -INFINITY;
  __syncwarp();
  multiply_table<T, kDim>(queries, row, params.rel_pos_w, 2 * width - 1, from - end + width, to - x0 + width - 1,
                          [&](int half, int t, float product) {
                            const int key = x[half] + width - 1 - t;
                            if (key < x0 || key >= end) return;
                            terms[term_index<kWidth>(group() + 8 * half, key - x0)] = product * params.position_scale;
                          });
  __syncwarp();
}

// Compute terms (kTermRows, kRows): the products of kRows queries with the rows' table, times `factor`, for the key
// rows [y0, y0 + kTermRows); minus infinity for rows beyond the window.
template <typename T, int kDim, int kRows>
__device__ __forceinline__ void compute_row_terms(const Params<T>& params, const Window<T>& window, const T* queries,
                                                  int row, int y0, float factor, float* terms) {
  const int height = params.window_rows, end = min(y0 + kTermRows, height);
  __syncwarp();
  for (int i = (end - y0) * kRows + lane(); i < kTermRows * kRows; i += kWarp) terms[i] = -INFINITY;
#pragma unroll 1
  for (int tile = 0; tile < kRows; tile += 16) {
    const int query = opaque(window.first + row + tile);
    const int from = position_of(window, query).y, to = position_of(window, query + 15).y;
    const int y[2] = {position_of(window, query + group()).y, position_of(window, query + group() + 8).y};
    multiply_table<T, kDim>(queries, row + tile, params.rel_pos_h, 2 * height - 1, from - end + height,
                            to - y0 + height - 1, [&](int half, int t, float product) {
                              const int key = y[half] + height - 1 - t;
                              if (key < y0 || key >= end) return;
                              terms[(key - y0) * kRows + tile + group() + 8 * half] = product * factor;
                            });
  }
  __syncwarp();
}

}  // namespace fastsam::attention
