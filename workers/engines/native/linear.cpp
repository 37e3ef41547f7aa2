// heliograph::linear: y = x W' * scale + bias in bfloat16, with weights of 16 or 8 bits that lie in
// the order in which they are read. Needs AVX512_BF16.
//
// A few rows run at the speed of memory, many at that of the processor: a panel of weights stays in
// the second-level cache while all rows pass over it, and the next one is fetched meanwhile.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "share.h"

namespace {

constexpr int kRows = 8;             // rows of a tile
constexpr int kBlocks = 3;           // blocks of 16 outputs of a tile and of a panel
constexpr int64_t kPanel = 16 * kBlocks;
constexpr int64_t kChunkRows = 128;  // rows that pass over a panel while it is in the cache
constexpr int64_t kBurst = 64;       // inputs from one burst of fetching to the next
constexpr int64_t kAhead = 8192;     // bytes that weights which are used once are fetched ahead

// Weights are packed as [panels][inputs / 2][kPanel][2]; zeros fill the last panel.
struct Job {
  const uint16_t* x;
  const float *scale, *bias;
  uint16_t* y;
  int64_t rows, outputs, inputs;
};

// Memory to fetch into the cache while something else is computed.
struct Ahead {
  const char *at, *stop;

  Ahead part(int64_t index, int64_t count) const {
    const int64_t size = stop - at;
    return {at + size * index / count, at + size * (index + 1) / count};
  }

  IN_PLACE void fetch(int64_t lines) {
    for (; lines > 0 && at < stop; --lines, at += 64) _mm_prefetch(at, _MM_HINT_T1);
  }
};

inline __m512bh read(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }

inline __m512bh read(const int8_t* p) {  // exact: 8 bits fit in a bfloat16
  const __m512i low = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
  const __m512i high = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(p + 16)));
  return _mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low));
}

// M rows and a panel of weights. Every loop over rows or blocks must unroll: sums in registers.
template <int M, class Weight>
void tile(const Job& job, int64_t row, int64_t panel, const Weight* weights, Ahead ahead) {
  const int64_t K = job.inputs, lines = ((ahead.stop - ahead.at) * kBurst / K + 63) / 64;
  const uint16_t* x = job.x + row * K;
  __m512 sums[M][kBlocks];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) sums[m][b] = _mm512_setzero_ps();
  for (int64_t begin = 0; begin < K; begin += kBurst) {
    ahead.fetch(lines);
    const int64_t end = std::min(begin + kBurst, K);
    for (int64_t k = begin; k < end; k += 2) {
      __m512bh some[kBlocks];
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) {
        const Weight* p = weights + k * kPanel + b * 32;
        some[b] = read(p);
        if (!lines) _mm_prefetch((const char*)p + kAhead, _MM_HINT_T0);
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        int32_t pair;
        std::memcpy(&pair, x + m * K + k, 4);
#pragma GCC unroll 8
        for (int b = 0; b < kBlocks; ++b)
          sums[m][b] = _mm512_dpbf16_ps(sums[m][b], some[b], (__m512bh)_mm512_set1_epi32(pair));
      }
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < kBlocks; ++b) {
    const int64_t at = panel * kPanel + b * 16, left = job.outputs - at;
    if (left <= 0) return;
    const __mmask16 mask = left >= 16 ? 0xffff : (1u << left) - 1;
    const __m512 scale = job.scale ? _mm512_maskz_loadu_ps(mask, job.scale + at) : _mm512_set1_ps(1);
    const __m512 bias = job.bias ? _mm512_maskz_loadu_ps(mask, job.bias + at) : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
      _mm256_mask_storeu_epi16(job.y + (row + m) * job.outputs + at, mask,
                               (__m256i)_mm512_cvtneps_pbh(_mm512_fmadd_ps(sums[m][b], scale, bias)));
  }
}

template <int M = kRows, class Weight>
void tiles(const Job& job, int64_t row, int64_t rows, int64_t panel, const Weight* weights, Ahead ahead) {
  if constexpr (M > 1) {
    if (rows < M) return tiles<M - 1>(job, row, rows, panel, weights, ahead);
  }
  tile<M>(job, row, panel, weights, ahead);
}

// Some rows and a panel; `goes_on` says that the next panel comes after it.
template <class Weight>
void pass(const Job& job, int64_t row, int64_t rows, int64_t panel, const Weight* weight, bool goes_on) {
  const int64_t size = kPanel * job.inputs, pieces = (rows + kRows - 1) / kRows;
  const Weight *weights = weight + panel * size, *next = weights + size;
  if (pieces == 1) return tiles(job, row, rows, panel, weights, Ahead{});
  const Ahead ahead{(const char*)next, (const char*)(goes_on ? next + size : next)};
  const auto all = [&](const uint16_t* wide) {
    for (int64_t p = 0; p < pieces; ++p) {
      const int64_t first = rows * p / pieces, last = rows * (p + 1) / pieces;
      tiles(job, row + first, last - first, panel, wide, ahead.part(p, pieces));
    }
  };
  if constexpr (std::is_same_v<Weight, uint16_t>) {
    all(weights);
  } else {
    static thread_local std::vector<uint16_t> wide;
    if (static_cast<int64_t>(wide.size()) < size) wide.resize(size);
    for (int64_t i = 0; i < size; i += 32)
      _mm512_storeu_si512(wide.data() + i, (__m512i)read(weights + i));
    all(wide.data());
  }
}

template <class Weight>
void compute(const Job& job, const Weight* weight) {
  const int64_t panels = (job.outputs + kPanel - 1) / kPanel;
  const int64_t chunks = (job.rows + kChunkRows - 1) / kChunkRows;
  share(panels * chunks, [&] {
    return [&](int64_t unit, int64_t next) {
      const int64_t chunk = unit / panels, row = job.rows * chunk / chunks;
      const int64_t rows = job.rows * (chunk + 1) / chunks - row;
      pass(job, row, rows, unit % panels, weight, next >= 0);
    };
  });
}

at::Tensor linear(const at::Tensor& x_, const at::Tensor& weight, const std::optional<at::Tensor>& scale,
                  const std::optional<at::Tensor>& bias, int64_t outputs) {
  const at::Tensor x = x_.to(at::kBFloat16).contiguous();
  const int64_t inputs = x.size(-1), panels = (outputs + kPanel - 1) / kPanel;
  TORCH_CHECK(weight.is_contiguous() && weight.size(0) == panels && weight.size(1) * 2 == inputs,
              "weights of another shape than the inputs");
  auto sizes = x.sizes().vec();
  sizes.back() = outputs;
  at::Tensor y = at::empty(sizes, x.options());
  const Job job{static_cast<const uint16_t*>(x.const_data_ptr()),
                scale ? scale->const_data_ptr<float>() : nullptr,
                bias ? bias->const_data_ptr<float>() : nullptr,
                static_cast<uint16_t*>(y.mutable_data_ptr()),
                x.numel() / inputs,
                outputs,
                inputs};
  if (weight.scalar_type() == at::kChar)
    compute(job, weight.const_data_ptr<int8_t>());
  else
    compute(job, static_cast<const uint16_t*>(weight.const_data_ptr()));
  return y.to(x_.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(heliograph, CPU, library) { library.impl("linear", &linear); }
