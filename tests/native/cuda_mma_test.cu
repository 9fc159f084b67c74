// Tests matrix loads, matrix products and asynchronous copies against plain loops, on the emulator and on a GPU (sm_80
// or newer): both must lay out fragments alike. Numbers are small integers, so that sums are exact.
#include "common/mma.h"

#include <vector>

#include "cuda_program.h"

namespace {

using namespace fastsam::cuda;

std::string at(const char* what, size_t i) { return std::string(what) + " at " + std::to_string(i); }

int test_value(int i) { return (i * 37 + i / 11 * 5) % 15 - 7; }

// ---- ldmatrix ----

__global__ void load_kernel(uint32_t* out) {
  __shared__ __align__(16) uint16_t tile[32][24];  // rows of 48 bytes: aligned, not contiguous
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 32 * 24; i += 32) tile[i / 24][i % 24] = static_cast<uint16_t>(i / 24 * 100 + i % 24);
  __syncwarp();
  uint32_t four[4];
  uint32_t* row = out + 8 * lane;
  ldmatrix_x4(four, tile[lane] + 16);
  for (int i = 0; i < 4; ++i) row[i] = four[i];
  ldmatrix_x4_trans(four, tile[lane] + 16);
  for (int i = 0; i < 4; ++i) row[4 + i] = four[i];
}

void loads() {
  ManagedArray<uint32_t> out(8 * 32);
  launch(load_kernel, 1, 32, 0, nullptr, out.data());
  synchronize();
  for (int lane = 0; lane < 32; ++lane) {
    for (int k = 0; k < 8; ++k) {
      const int g = lane / 4, t = lane % 4 * 2;
      const auto element = [&](int row, int column) {
        return static_cast<uint32_t>((k % 4 * 8 + row) * 100 + 16 + column);
      };
      const bool trans = k >= 4;
      const uint32_t low = trans ? element(t, g) : element(g, t);
      const uint32_t high = trans ? element(t + 1, g) : element(g, t + 1);
      require(out[8 * lane + k] == (low | high << 16), at("ldmatrix", 8 * lane + k));
    }
  }
}

// ---- products ----

// out (16, 8) = a (16, 16) b (16, 8), with b given by columns and, once more, by rows.
template <typename T>
__global__ void product_kernel(const float* a, const float* b, float* out) {
  __shared__ __align__(16) T a_rows[16][16];
  __shared__ __align__(16) T b_columns[8][16];
  __shared__ __align__(16) T b_rows[16][8];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) a_rows[i / 16][i % 16] = from_float<T>(a[i]);
  for (int i = lane; i < 128; i += 32) {
    b_rows[i / 8][i % 8] = from_float<T>(b[i]);
    b_columns[i % 8][i / 8] = from_float<T>(b[i]);
  }
  __syncwarp();
  uint32_t fragment[4], by_columns[4], by_rows[4];  // the last two hold each 8 x 8 matrix twice
  ldmatrix_x4(fragment, &a_rows[lane % 16][lane / 16 * 8]);
  ldmatrix_x4(by_columns, &b_columns[lane % 8][lane / 8 % 2 * 8]);
  ldmatrix_x4_trans(by_rows, b_rows[lane % 16]);
  float sums[4] = {0.5f, 0.5f, 0.5f, 0.5f}, sums_by_rows[4] = {0, 0, 0, 0};
  mma_m16n8k16<T>(sums, fragment, by_columns[0], by_columns[1]);
  mma_m16n8k16<T>(sums_by_rows, fragment, by_rows[0], by_rows[1]);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    out[row * 8 + column] = sums[i];
    out[128 + row * 8 + column] = sums_by_rows[i];
  }
}

// out (16, 8) = a (16, 8) b (8, 8) in tf32.
__global__ void tf32_kernel(const float* a, const float* b, float* out) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  uint32_t fragment[4];
  for (int i = 0; i < 4; ++i) fragment[i] = __float_as_uint(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
  float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  mma_m16n8k8_tf32(sums, fragment, __float_as_uint(b[t * 8 + g]), __float_as_uint(b[(t + 4) * 8 + g]));
  for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = sums[i];
}

template <typename T>
void products() {
  ManagedArray<float> a(256), b(128), out(256);
  for (int i = 0; i < 256; ++i) a[i] = static_cast<float>(test_value(i));
  for (int i = 0; i < 128; ++i) b[i] = static_cast<float>(test_value(3 * i + 1));
  launch(product_kernel<T>, 1, 32, 0, nullptr, a.data(), b.data(), out.data());
  synchronize();
  for (int i = 0; i < 128; ++i) {
    float sum = 0;
    for (int k = 0; k < 16; ++k) sum += a[i / 8 * 16 + k] * b[k * 8 + i % 8];
    require(out[i] == sum + 0.5f, at("product", i));
    require(out[128 + i] == sum, at("product with b by rows", i));
  }
}

void tf32_products() {
  ManagedArray<float> a(128), b(64), out(128);
  for (int i = 0; i < 128; ++i) a[i] = static_cast<float>(test_value(i));
  for (int i = 0; i < 64; ++i) b[i] = static_cast<float>(test_value(3 * i + 1));
  launch(tf32_kernel, 1, 32, 0, nullptr, a.data(), b.data(), out.data());
  synchronize();
  for (int i = 0; i < 128; ++i) {
    float sum = 1;
    for (int k = 0; k < 8; ++k) sum += a[i / 8 * 8 + k] * b[k * 8 + i % 8];
    require(out[i] == sum, at("tf32 product", i));
  }
}

// ---- asynchronous copies ----

__global__ void copy_kernel(const float4* in, float4* out, int count) {
  __shared__ float4 stages[2][32];
  const int lane = static_cast<int>(threadIdx.x);
  const auto fetch = [&](int tile) {
    cp_async_16(&stages[tile % 2][lane], in + tile * 32 + lane, tile * 32 + lane < count);
    cp_async_commit();
  };
  fetch(0);
  for (int tile = 0; tile < 3; ++tile) {
    if (tile < 2) fetch(tile + 1);
    if (tile < 2) cp_async_wait<1>();
    if (tile == 2) cp_async_wait<0>();
    __syncwarp();
    out[tile * 32 + lane] = stages[tile % 2][31 - lane];
    __syncwarp();
  }
}

void copies() {
  const int count = 75;  // of 96 elements; the rest must become zeros and must not be read, as it lies out of bounds
  ManagedArray<float4> in(count), out(96);
  for (int i = 0; i < count; ++i) in[i] = make_float4(i + 0.25f, i + 0.5f, i + 0.75f, i + 1.0f);
  launch(copy_kernel, 1, 32, 0, nullptr, in.data(), out.data(), count);
  synchronize();
  for (int i = 0; i < 96; ++i) {
    const int from = i / 32 * 32 + 31 - i % 32;
    const float4 actual = out[i], expected = from < count ? in[from] : make_float4(0, 0, 0, 0);
    require(actual.x == expected.x && actual.y == expected.y && actual.z == expected.z && actual.w == expected.w,
            at("copy", i));
  }
}

}  // namespace

int main() {
  loads();
  products<half>();
  products<bfloat16>();
  tf32_products();
  copies();
  std::printf("cuda mma: ok\n");
  return 0;
}
