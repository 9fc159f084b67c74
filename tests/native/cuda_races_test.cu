// Which accesses the emulator takes for races: each kernel is right, and wrong where `bug` says so. Emulator only.
#include <string>

#include "common/mma.h"
#include "common/wgmma.h"
#include "cuda_program.h"

namespace {

using namespace fastsam::cuda;

__device__ int thread() { return static_cast<int>(threadIdx.x); }

// ---- barriers of a block, and of a warp ----

__global__ void read_kernel(int* out, bool bug) {
  __shared__ int memory[64];
  memory[thread()] = thread();
  if (!bug) __syncthreads();
  out[thread()] = memory[63 - thread()];
}

__global__ void overwrite_kernel(int* out, bool bug) {
  DYNAMIC_SHARED(int, memory);
  memory[thread()] = thread();
  __syncthreads();
  const int other = memory[63 - thread()];
  if (!bug) __syncthreads();
  memory[thread()] = other;
  out[thread()] = other;
}

__global__ void both_write_kernel(int* out, bool bug) {
  __shared__ int memory[64];
  memory[thread()] = 1;
  if (!bug) __syncthreads();
  memory[63 - thread()] = 2;
  __syncthreads();
  out[thread()] = memory[thread()];
}

// A shuffle brings what it brings, and no more.
__global__ void warp_kernel(int* out, bool bug) {
  __shared__ int memory[64];
  memory[thread()] = thread();
  __shfl_xor_sync(kAllLanes, 1, 1);
  if (!bug) __syncwarp();
  out[thread()] = memory[thread() ^ 1];
}

// Half a warp meets; the other half is on its own.
__global__ void half_warp_kernel(int* out, bool bug) {
  __shared__ int memory[32];
  memory[thread()] = thread();
  if (thread() < 16) {
    __syncwarp(0xffffu);
    out[thread()] = memory[bug ? 31 - thread() : 15 - thread()];
  }
}

// What a thread learns of another warp's at a barrier in memory, its warp learns from it.
__global__ void passed_on_kernel(int* out, bool bug) {
  __shared__ uint64_t barrier;
  __shared__ int memory[1];
  if (thread() == 0) mbarrier_init(&barrier, 1);
  __syncthreads();
  if (thread() == 0) {
    memory[0] = 7;
    mbarrier_arrive(&barrier);
  }
  if (thread() < 32) return;
  if (thread() == 32) mbarrier_wait(&barrier, 0);
  if (!bug) __syncwarp();
  // Whoever hasn't waited looks later here; on a GPU it need not.
  if (thread() != 32) __nanosleep(100);
  if (!bug || thread() == 40) out[thread()] = memory[0];
}

__global__ void bytes_kernel(int* out, bool bug) {
  __shared__ __align__(4) unsigned char memory[64];
  memory[thread()] = static_cast<unsigned char>(thread());
  if (!bug || thread() != 1) return;
  out[0] = static_cast<int>(*reinterpret_cast<const unsigned*>(memory));
}

__global__ void matrix_kernel(int* out, bool bug) {
  __shared__ __align__(16) uint32_t memory[32];
  memory[thread()] = 1;
  if (!bug) __syncwarp();
  uint32_t r[4];
  ldmatrix_x4(r, memory + thread() % 8 * 4);
  out[thread()] = static_cast<int>(r[0]);
}

// ---- atomics ----

__global__ void atomic_kernel(int* out, bool bug) {
  __shared__ int sum;
  if (thread() == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, 1);
  if (!bug) __syncthreads();
  if (thread() == 0) out[0] = sum;
}

// ---- what is deferred ----

enum class Bug { kNone, kTouch, kEarly, kOthers };

__global__ void copy_kernel(const float4* in, float* out, Bug bug) {
  __shared__ float4 memory[64];
  cp_async_16(memory + thread(), in);
  cp_async_commit();
  if (bug == Bug::kTouch) memory[thread()].x = 1;
  if (bug != Bug::kEarly) cp_async_wait<0>();
  if (bug != Bug::kOthers) __syncthreads();
  out[thread()] = memory[63 - thread()].x;
  __syncthreads();
  cp_async_wait<0>();
}

// Copies over what others may still read.
__global__ void copy_over_kernel(const float4* in, float* out, bool bug) {
  __shared__ float4 memory[64];
  memory[thread()] = in[0];
  __syncthreads();
  out[thread()] = memory[63 - thread()].x;
  if (!bug) __syncthreads();
  cp_async_16(memory + thread(), in);
  cp_async_commit();
  cp_async_wait<0>();
}

// One lane of each warp leaves word that the warp's products are done; another warpgroup then writes to the tile.
__global__ void products_kernel(const float4* in, float* out, Bug bug) {
  DYNAMIC_SHARED(char, raw);
  __shared__ uint64_t done;
  char* const memory = raw + (-shared_address(raw) & 1023u);
  if (thread() == 0) mbarrier_init(&done, 4);
  for (int i = thread(); i < 16 * 128 / 16; i += static_cast<int>(blockDim.x)) cp_async_16(memory + 16 * i, in);
  cp_async_commit();
  cp_async_wait<0>();
  fence_proxy_async();
  __syncthreads();
  if (thread() >= 128) {
    if (bug != Bug::kOthers) mbarrier_wait(&done, 0);
    __nanosleep(100);
    reinterpret_cast<float4*>(memory)[thread() - 128] = in[0];
    return;
  }
  const uint32_t a[4] = {};
  float d[8][4] = {};
  wgmma_fence();
  wgmma<half, true>(d, a, wgmma_descriptor(shared_address(memory), 16, 1024, Swizzle::k128Bytes));
  wgmma_commit();
  if (bug == Bug::kEarly && thread() % 32 == 0) mbarrier_arrive(&done);
  if (bug == Bug::kEarly) __nanosleep(100);
  if (bug == Bug::kTouch) reinterpret_cast<float4*>(memory)[thread()] = in[0];
  wgmma_wait<0>();
  if (bug != Bug::kEarly && thread() % 32 == 0) mbarrier_arrive(&done);
  out[thread()] = d[0][0];
}

// ---- global memory ----

__global__ void blocks_kernel(int* out, bool bug) { out[bug ? 0 : blockIdx.x] = 1; }

// Block 1 reads what block 0 has written.
__global__ void read_others_kernel(int* data, bool bug) {
  if (blockIdx.x == 0) data[0] = 1;
  if (blockIdx.x == 1) data[1] = bug ? data[0] : 1;
}

__global__ void counted_kernel(int* out) { atomicAdd(out, 1); }

__global__ void threads_kernel(int* data, bool bug) {
  data[thread()] = thread();
  if (!bug) __syncthreads();
  const int other = data[63 - thread()];
  __syncthreads();
  data[thread()] = other;
}

// ---- what is expected ----

void within_a_block() {
  ManagedArray<int> out(64);
  ManagedArray<float4> in(1);
  ManagedArray<float> floats(256);
  // Which of two accesses comes first is the emulator's choice.
  const std::string unordered = "with no synchronisation in between";
  launch(read_kernel, 1, 64, 0, nullptr, out.data(), false);
  expect_error([&] { launch(read_kernel, 1, 64, 0, nullptr, out.data(), true); },
               {"of block (0, 0, 0) of the CUDA kernel read_kernel ", " 4 bytes at ",
                "of the static shared memory, which thread (", unordered, "; addr2line -ie "});
  launch(overwrite_kernel, 1, 64, 256, nullptr, out.data(), false);
  expect_error([&] { launch(overwrite_kernel, 1, 64, 256, nullptr, out.data(), true); },
               {"4 bytes at ", "of the dynamic shared memory", unordered});
  launch(both_write_kernel, 1, 64, 0, nullptr, out.data(), false);
  expect_error([&] { launch(both_write_kernel, 1, 64, 0, nullptr, out.data(), true); }, {"writes", unordered});
  launch(warp_kernel, 1, 64, 0, nullptr, out.data(), false);
  expect_error([&] { launch(warp_kernel, 1, 64, 0, nullptr, out.data(), true); }, {"4 bytes", unordered});
  launch(half_warp_kernel, 1, 32, 0, nullptr, out.data(), false);
  expect_error([&] { launch(half_warp_kernel, 1, 32, 0, nullptr, out.data(), true); }, {"4 bytes", unordered});
  launch(passed_on_kernel, 1, 64, 0, nullptr, out.data(), false);
  expect_error([&] { launch(passed_on_kernel, 1, 64, 0, nullptr, out.data(), true); },
               {"thread (40, 0, 0)", "which thread (0, 0, 0)", unordered});
  launch(bytes_kernel, 1, 64, 0, nullptr, out.data(), false);
  expect_error([&] { launch(bytes_kernel, 1, 64, 0, nullptr, out.data(), true); },
               {"thread (1, 0, 0)", "reads 4 bytes"});
  launch(matrix_kernel, 1, 32, 0, nullptr, out.data(), false);
  expect_error([&] { launch(matrix_kernel, 1, 32, 0, nullptr, out.data(), true); }, {"static shared", unordered});
  launch(atomic_kernel, 1, 64, 0, nullptr, out.data(), false);
  require(out[0] == 64, "all threads are counted");
  expect_error([&] { launch(atomic_kernel, 1, 64, 0, nullptr, out.data(), true); }, {"4 bytes", unordered});

  const auto copies = [&](Bug bug) { launch(copy_kernel, 1, 64, 0, nullptr, in.data(), floats.data(), bug); };
  copies(Bug::kNone);
  expect_error([&] { copies(Bug::kTouch); }, {"writes 4 bytes", "is still copying to"});
  expect_error([&] { copies(Bug::kEarly); }, {"reads 4 bytes", "is still copying to"});
  expect_error([&] { copies(Bug::kOthers); }, {"copy_kernel", unordered});
  copies(Bug::kNone);  // an error leaves nothing behind
  launch(copy_over_kernel, 1, 64, 0, nullptr, in.data(), floats.data(), false);
  expect_error([&] { launch(copy_over_kernel, 1, 64, 0, nullptr, in.data(), floats.data(), true); },
               {"static shared", unordered});

  const auto products = [&](Bug bug) {
    launch(products_kernel, 1, 256, 4 * 1024, nullptr, in.data(), floats.data(), bug);
  };
  products(Bug::kNone);
  expect_error([&] { products(Bug::kTouch); }, {"writes 16 bytes", "which warp ", "is still multiplying with"});
  expect_error([&] { products(Bug::kEarly); }, {"writes 16 bytes", "which warp "});
  expect_error([&] { products(Bug::kOthers); }, {"of the dynamic shared memory"});
  products(Bug::kNone);
}

void between_blocks() {
  ManagedArray<int> data(64);
  launch(blocks_kernel, 4, 1, 0, nullptr, data.data(), false);
  expect_error([&] { launch(blocks_kernel, 4, 1, 0, nullptr, data.data(), true); },
               {"of block (1, 0, 0)", "writes 4 bytes of global memory, which another block has written"});
  launch(read_others_kernel, 2, 1, 0, nullptr, data.data(), false);
  expect_error([&] { launch(read_others_kernel, 2, 1, 0, nullptr, data.data(), true); },
               {"reads 4 bytes of global memory"});
  launch(blocks_kernel, 4, 1, 0, nullptr, data.data(), false);  // of another launch nothing is kept
  data[0] = 0;
  launch(counted_kernel, 3, 64, 0, nullptr, data.data());
  require(data[0] == 192, "atomics of all blocks");
  launch(threads_kernel, 1, 64, 0, nullptr, data.data(), false);
  expect_error([&] { launch(threads_kernel, 1, 64, 0, nullptr, data.data(), true); },
               {"reads 4 bytes of global memory, which thread ("});
}

}  // namespace

int main() {
  for (const bool backward : {false, true}) {
    fastsam::emulator::set_order(backward);
    within_a_block();
    between_blocks();
  }
  std::printf("cuda races: ok\n");
  return 0;
}
