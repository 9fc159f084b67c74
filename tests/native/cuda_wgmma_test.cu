// Tests warpgroup matrix products against plain loops, and barriers in shared memory, on the emulator and on a Hopper
// GPU (compiled for sm_90a). The right factor is in each shared-memory layout that kernels use; the layouts are written
// independently here, from the tables of the PTX manual. Numbers are small integers, so that sums are exact.
#include "common/wgmma.h"

#include "cuda_program.h"

namespace {

using namespace fastsam::cuda;

std::string at(const char* what, size_t i) { return std::string(what) + " at " + std::to_string(i); }

__host__ __device__ float test_value(int i) { return static_cast<float>((i * 37 + i / 11 * 5) % 15 - 7); }

// The PTX manual's canonical layouts of B (16, N) with 16-bit elements. `element_offset` returns the offset in bytes of
// the element at depth k < 16 and column n. The swizzles assume a matrix that is aligned to the swizzle pattern.
enum class Layout { kKMajor128, kKMajor32, kKMajor, kMnMajor128, kMnMajor32, kMnMajor };

__host__ __device__ constexpr bool is_mn_major(Layout layout) { return layout >= Layout::kMnMajor128; }
constexpr int kDepthGroupStride = 4096,
              kColumnGroupStride = 2048;  // strides in bytes; arbitrary, as descriptors state them

template <Layout kLayout>
__device__ int element_offset(int k, int n) {
  int unswizzled = 0;
  switch (kLayout) {
    case Layout::kKMajor128:  // rows of 128 bytes, of which the depth of 16 takes the third quarter
      unswizzled = n % 8 * 128 + n / 8 * kColumnGroupStride + 64 + k * 2;
      return unswizzled ^ (n % 8) << 4;
    case Layout::kKMajor32:
      unswizzled = n % 8 * 32 + n / 8 * kColumnGroupStride + k * 2;
      return unswizzled ^ (n % 8 / 4) << 4;
    case Layout::kKMajor:
      return n % 8 * 16 + n / 8 * kColumnGroupStride + k % 8 * 2 + k / 8 * kDepthGroupStride * 8;
    case Layout::kMnMajor128:  // 64 columns side by side, then the next 64
      unswizzled = k % 8 * 128 + k / 8 * kDepthGroupStride + n % 64 * 2 + n / 64 * kColumnGroupStride;
      return unswizzled ^ (k % 8) << 4;
    case Layout::kMnMajor32:
      unswizzled = k % 8 * 32 + k / 8 * kDepthGroupStride * 4 + n % 16 * 2 + n / 16 * kColumnGroupStride;
      return unswizzled ^ (k % 8 / 4) << 4;
    case Layout::kMnMajor:
      return k % 8 * 16 + k / 8 * kDepthGroupStride * 8 + n % 8 * 2 + n / 8 * kColumnGroupStride;
  }
  return 0;
}

template <Layout kLayout>
__device__ uint64_t descriptor(uint32_t address) {
  switch (kLayout) {
    case Layout::kKMajor128:
      return wgmma_descriptor(address + 64, 16, kColumnGroupStride, Swizzle::k128Bytes);
    case Layout::kKMajor32:
      return wgmma_descriptor(address, 16, kColumnGroupStride, Swizzle::k32Bytes);
    case Layout::kKMajor:
      return wgmma_descriptor(address, kDepthGroupStride * 8, kColumnGroupStride, Swizzle::kNone);
    case Layout::kMnMajor128:
      return wgmma_descriptor(address, kColumnGroupStride, kDepthGroupStride, Swizzle::k128Bytes);
    case Layout::kMnMajor32:
      return wgmma_descriptor(address, kColumnGroupStride, kDepthGroupStride * 4, Swizzle::k32Bytes);
    case Layout::kMnMajor:  // without a swizzle the two strides swap their meaning
      return wgmma_descriptor(address, kDepthGroupStride * 8, kColumnGroupStride, Swizzle::kNone);
  }
  return 0;
}

constexpr int kBytes = 64 * 1024;

// out (64, 8 kGroups) = 0.5 + a (64, 16) b (16, 8 kGroups), twice over.
template <typename T, Layout kLayout, int kGroups>
__global__ void __launch_bounds__(128, 1) product_kernel(float* out) {
#ifdef FASTSAM_HAS_WGMMA
  DYNAMIC_SHARED(char, raw);
  char* const memory = raw + (-shared_address(raw) & 1023u);
  const int thread = static_cast<int>(threadIdx.x), row = thread / 32 * 16 + thread % 32 / 4;
  constexpr int kColumns = 8 * kGroups;
  for (int i = thread; i < kBytes / 2; i += 128) reinterpret_cast<uint16_t*>(memory)[i] = 0xffff;  // NaN
  __syncthreads();
  for (int i = thread; i < 16 * kColumns; i += 128) {
    const int k = i / kColumns, n = i % kColumns;
    *reinterpret_cast<T*>(memory + element_offset<kLayout>(k, n)) = from_float<T>(test_value(3 * i + 1));
  }
  fence_proxy_async();
  __syncthreads();
  uint32_t a[1][4];
  for (int i = 0; i < 4; ++i) {
    const int first = (row + i % 2 * 8) * 16 + thread % 4 * 2 + i / 2 * 8;
    a[0][i] = pack<T>(test_value(first), test_value(first + 1));
  }
  float d[kGroups][4];
  for (int n = 0; n < kGroups; ++n) {
    for (int j = 0; j < 4; ++j) d[n][j] = 0.5f;
  }
  wgmma_fence_operand(a);
  wgmma_fence_operand(d);
  wgmma_fence();
  wgmma<T, is_mn_major(kLayout)>(d, a[0], descriptor<kLayout>(shared_address(memory)));
  wgmma<T, is_mn_major(kLayout)>(d, a[0], descriptor<kLayout>(shared_address(memory)));
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_fence_operand(d);
  for (int n = 0; n < kGroups; ++n) {
    for (int j = 0; j < 4; ++j) out[(row + j / 2 * 8) * kColumns + 8 * n + thread % 4 * 2 + j % 2] = d[n][j];
  }
#else
  (void)out;
  __trap();
#endif
}

template <typename T, Layout kLayout, int kGroups>
void product(const char* name) {
  constexpr int kColumns = 8 * kGroups;
  ManagedArray<float> out(64 * kColumns);
  launch((product_kernel<T, kLayout, kGroups>), 1, 128, kBytes + 1024, nullptr, out.data());
  synchronize();
  for (int i = 0; i < 64 * kColumns; ++i) {
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      sum += test_value(i / kColumns * 16 + k) * test_value(3 * (k * kColumns + i % kColumns) + 1);
    }
    require(out[i] == 2 * sum + 0.5f, at(name, i));
  }
}

template <typename T>
void products() {
  product<T, Layout::kKMajor128, 8>("a product with the depth along rows of 128 bytes");
  product<T, Layout::kKMajor32, 8>("a product with the depth along rows of 32 bytes");
  product<T, Layout::kKMajor, 8>("a product with the depth along rows of 16 bytes");
  product<T, Layout::kMnMajor128, 8>("a product with the depth down rows of 128 bytes");
  product<T, Layout::kMnMajor32, 8>("a product with the depth down rows of 32 bytes");
  product<T, Layout::kMnMajor32, 10>("a product with the depth down rows of 32 bytes, 80 columns");
  product<T, Layout::kMnMajor, 10>("a product with the depth down rows of 16 bytes, 80 columns");
}

// ---- barriers ----

// One warpgroup copies numbers through two stages of shared memory, the other adds them up; they wait for each other.
__global__ void __launch_bounds__(256, 1) stages_kernel(const float4* in, float* out, int tiles) {
  __shared__ float4 stages[2][128];
  __shared__ uint64_t full[2], empty[2];
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(&full[i], 128);
      mbarrier_init(&empty[i], 4);
    }
  }
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x % 128);
  if (threadIdx.x >= 128) {
    for (int tile = 0; tile < tiles; ++tile) {
      mbarrier_wait(&empty[tile % 2], (tile / 2 & 1) ^ 1);
      cp_async_16(&stages[tile % 2][thread], in + tile * 128 + thread);
      cp_async_commit();
      cp_async_wait<0>();
      mbarrier_arrive(&full[tile % 2]);
    }
  } else {
    float sum = 0;
    for (int tile = 0; tile < tiles; ++tile) {
      mbarrier_wait(&full[tile % 2], tile / 2 & 1);
      const float4 other = stages[tile % 2][127 - thread];
      sum = 2 * sum + other.x + other.y + other.z + other.w;
      __syncwarp();
      if (thread % 32 == 0) mbarrier_arrive(&empty[tile % 2]);
    }
    out[thread] = sum;
  }
}

void stages() {
  constexpr int kTiles = 7;
  ManagedArray<float4> in(128 * kTiles);
  ManagedArray<float> out(128);
  for (int i = 0; i < 128 * kTiles; ++i)
    in[i] = make_float4(test_value(i), test_value(i + 1), test_value(i + 2), test_value(i + 3));
  launch(stages_kernel, 1, 256, 0, nullptr, in.data(), out.data(), kTiles);
  synchronize();
  for (int i = 0; i < 128; ++i) {
    float sum = 0;
    for (int tile = 0; tile < kTiles; ++tile) {
      sum *= 2;
      for (int j = 0; j < 4; ++j) sum += test_value(tile * 128 + 127 - i + j);
    }
    require(out[i] == sum, at("numbers through stages", i));
  }
}

}  // namespace

int main() {
  products<half>();
  products<bfloat16>();
  stages();
  std::printf("cuda wgmma: ok\n");
  return 0;
}
