// heliograph::linear_int8: y = x W' * scale + bias with 8-bit weights, for a few rows at memory speed
// and for many rows as fast as oneDNN in bfloat16. Needs AVX512_BF16.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <immintrin.h>
#include <omp.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t kRows = 8;     // rows that one tile computes
constexpr int64_t kFew = 32;     // up to as many rows, weights are widened on the fly
constexpr int64_t kPanel = 6;    // blocks of 16 outputs that are widened at once

// Weights are packed as [blocks of 16 outputs][inputs / 2][16][2]; zeros fill the last block.
struct Job {
  const uint16_t* x;
  const int8_t* weight;
  const float *scale, *bias;
  uint16_t* y;
  int64_t rows, outputs, inputs;
};

inline __m512bh widen(const int8_t* p) {  // exact: 8 bits fit in a bfloat16
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(p + 16))));
  return _mm512_cvtne2ps_pbh(high, low);
}

// M rows from `row` on, B blocks from `block` on. Every loop over M or B must unroll: sums in registers.
template <int M, int B>
void tile(const Job& job, int64_t row, int64_t block, const uint16_t* wide) {
  const int64_t K = job.inputs;
  const uint16_t* x = job.x + row * K;
  const int8_t* weight = job.weight + block * 16 * K;
  __m512 sums[M][B];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) sums[m][b] = _mm512_setzero_ps();
  for (int64_t k = 0; k < K; k += 2) {
    __m512bh w[B];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
      const int64_t at = (b * K + k) * 16;
      if (wide) {
        w[b] = (__m512bh)_mm512_loadu_si512(wide + at);
      } else {
        w[b] = widen(weight + at);
        _mm_prefetch((const char*)weight + at + 1024, _MM_HINT_T0);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      int32_t pair;
      std::memcpy(&pair, x + m * K + k, 4);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) sums[m][b] = _mm512_dpbf16_ps(sums[m][b], w[b], (__m512bh)_mm512_set1_epi32(pair));
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
    const int64_t at = (block + b) * 16, left = job.outputs - at;
    const __mmask16 mask = left >= 16 ? 0xffff : (1u << left) - 1;
    const __m512 scale = _mm512_maskz_loadu_ps(mask, job.scale + at);
    const __m512 bias = job.bias ? _mm512_maskz_loadu_ps(mask, job.bias + at) : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
      _mm256_mask_storeu_epi16(job.y + (row + m) * job.outputs + at, mask,
                               (__m256i)_mm512_cvtneps_pbh(_mm512_fmadd_ps(sums[m][b], scale, bias)));
  }
}

template <int M = kRows>
void rows(const Job& job, int64_t row, int64_t count, int64_t block, int64_t stop, const uint16_t* wide) {
  if constexpr (M > 1) {
    if (count < M) return rows<M - 1>(job, row, count, block, stop, wide);
  }
  constexpr int B = M <= 6 ? 4 : 3;  // 24 registers of sums
  const int64_t step = wide ? 16 * job.inputs : 0;
  for (; block + B <= stop; block += B, wide += B * step) tile<M, B>(job, row, block, wide);
  for (; block < stop; ++block, wide += step) tile<M, 1>(job, row, block, wide);
}

void blocks(const Job& job, int64_t block, int64_t stop) {  // what one thread does
  static thread_local std::vector<uint16_t> panel;
  const int64_t size = 16 * job.inputs, pieces = (job.rows + kRows - 1) / kRows;
  const bool few = job.rows <= kFew;
  if (!few && static_cast<int64_t>(panel.size()) < kPanel * size) panel.resize(kPanel * size);
  for (int64_t next; block < stop; block = next) {
    next = pieces == 1 ? stop : std::min(block + kPanel, stop);
    if (!few)
      for (int64_t i = 0; i < (next - block) * size; i += 32)
        _mm512_storeu_si512(panel.data() + i, (__m512i)widen(job.weight + block * size + i));
    for (int64_t p = 0; p < pieces; ++p) {
      const int64_t row = job.rows * p / pieces;
      rows(job, row, job.rows * (p + 1) / pieces - row, block, next, few ? nullptr : panel.data());
    }
  }
}

at::Tensor linear_int8(const at::Tensor& x_, const at::Tensor& weight, const at::Tensor& scale,
                       const std::optional<at::Tensor>& bias) {
  const at::Tensor x = x_.to(at::kBFloat16).contiguous();
  const int64_t outputs = scale.size(0), inputs = x.size(-1), total = (outputs + 15) / 16;
  TORCH_CHECK(weight.is_contiguous() && weight.size(0) == total && weight.size(1) * 2 == inputs,
              "weights of another shape than the inputs");
  auto sizes = x.sizes().vec();
  sizes.back() = outputs;
  at::Tensor y = at::empty(sizes, x.options());
  const Job job{static_cast<const uint16_t*>(x.const_data_ptr()), weight.const_data_ptr<int8_t>(),
                scale.const_data_ptr<float>(), bias ? bias->const_data_ptr<float>() : nullptr,
                static_cast<uint16_t*>(y.mutable_data_ptr()), x.numel() / inputs, outputs, inputs};
#pragma omp parallel
  {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    blocks(job, total * thread / threads, total * (thread + 1) / threads);
  }
  return y.to(x_.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(heliograph, CPU, library) { library.impl("linear_int8", &linear_int8); }
