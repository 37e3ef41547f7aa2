// Attention over a slot cache for a flat list of tokens: `heliograph::attend` on a CPU.
//
// A single token (decoding) streams its row's keys and values once, in the cache's own number
// format. Tokens of one row in order (a prompt) are taken in panels that share what they read.
// Neither looks further than a token's own position, and both add up the same numbers in the same
// order: a token's result is the same to the last bit, whatever is computed beside it or before.

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "share.h"

namespace {

constexpr int64_t kLanes = 16;                // floats in a register
constexpr int64_t kParts = 3;                 // registers across a panel
constexpr int64_t kPanel = kParts * kLanes;   // queries of a prompt that are computed together
constexpr int64_t kKeys = 4, kValues = 8;     // what is kept in registers beside a panel's sums
constexpr int64_t kAhead = 48;  // positions; measured with a cache larger than the processor's
constexpr float kNever = -1e30f;  // a score that takes no weight

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef int Ints __attribute__((vector_size(kLanes * sizeof(int))));

inline float widen(float x) { return x; }
inline float widen(at::BFloat16 x) { return std::bit_cast<float>(uint32_t{x.x} << 16); }
inline float widen(at::Half x) { return static_cast<float>(x); }

inline Lanes load(const float* p) {
  Lanes x;
  __builtin_memcpy(&x, p, sizeof(x));
  return x;
}
inline Lanes load(const at::BFloat16* p) {
#ifdef __AVX512F__
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return std::bit_cast<Lanes>(_mm512_slli_epi32(words, 16));
#else
  Lanes x;
  for (int64_t i = 0; i < kLanes; ++i) x[i] = widen(p[i]);
  return x;
#endif
}
inline Lanes load(const at::Half* p) {
  Lanes x;
  for (int64_t i = 0; i < kLanes; ++i) x[i] = widen(p[i]);
  return x;
}

inline void store(float* p, const Lanes& x) { __builtin_memcpy(p, &x, sizeof(x)); }

// Products of queries and keys are added up in kLanes sums, each over every kLanes-th element, and
// those by halves. An element is what one lane multiplies at once.
template <typename T>
struct Elements {
  using Element = float;
  static constexpr int64_t kWidth = 1;
  static Element get(const T* p) { return widen(*p); }
  static Lanes load(const T* p) { return ::load(p); }
  static Lanes add(const Lanes& sums, const Lanes& a, const Lanes& b) { return sums + a * b; }
};
#ifdef __AVX512BF16__
template <>
struct Elements<at::BFloat16> {
  using Element = float;  // two numbers
  static constexpr int64_t kWidth = 2;
  static Element get(const at::BFloat16* p) {
    Element x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  static Lanes load(const at::BFloat16* p) { return _mm512_loadu_ps(p); }
  static Lanes add(const Lanes& sums, const Lanes& a, const Lanes& b) {
    return _mm512_dpbf16_ps(sums, std::bit_cast<__m512bh>(a), std::bit_cast<__m512bh>(b));
  }
};
#endif

// Products of two rows in kLanes sums.
template <int64_t DIM, typename T>
inline Lanes multiply(const T* a, const T* b) {
  using E = Elements<T>;
  Lanes sums = {};
  for (int64_t d = 0; d < DIM; d += kLanes * E::kWidth) sums = E::add(sums, E::load(a + d), E::load(b + d));
  return sums;
}

// Asks for memory that is needed soon: rows are too short for the processor to see them coming.
template <typename T>
IN_PLACE void prefetch(const T* start, int64_t count) {
  for (const T* line = start; line < start + count; line += 64 / sizeof(T)) __builtin_prefetch(line);
}

// Tokens of one row at consecutive positions, the first of them at `position`.
struct Run {
  int64_t first, count, slot, position;
};

struct Task {
  int64_t heads, kv_heads, groups, dim, value_dim;
  int64_t query_head, query_token;
  int64_t key_row, key_head, key_place, value_row, value_head, value_place;
  int64_t mask_token;  // 0: every token sees all positions up to its own
  float scale, softcap;
  const bool* mask;
  const float* sinks;
};

// e to the power of numbers that are not positive, to float's precision.
inline Lanes exp_lanes(Lanes x) {
  const Lanes power = x * 1.44269504f;
  const Lanes bounded = power > -126.0f ? power : power * 0.0f - 126.0f;
  const Ints whole = __builtin_convertvector(bounded - 0.5f, Ints);
  const Lanes f = bounded - __builtin_convertvector(whole, Lanes);
  const Lanes fraction =
      ((((1.33335581e-3f * f + 9.61812911e-3f) * f + 5.55041087e-2f) * f + 2.40226507e-1f) * f +
       6.93147181e-1f) * f + 1.0f;
  return fraction * std::bit_cast<Lanes>((whole + 127) << 23);
}

// softcap * tanh(scores / softcap).
inline Lanes cap(const Lanes& scores, float softcap) {
  const Lanes power = exp_lanes((scores > 0.0f ? scores : -scores) * (-2 / softcap));
  const Lanes size = (1.0f - power) / (1.0f + power) * softcap;
  return scores > 0.0f ? size : -size;
}

// Sums of weights, one for each position modulo kLanes, to the factor that makes all of them one.
template <typename X>
inline X normalize(X sum, const X* sums) {
  for (int64_t i = 0; i < kLanes; ++i) sum += sums[i];
  return 1.0f / sum;
}

// Products of a query and keys, from a position that is a multiple of kLanes on, to weights; returns
// their factor. There is room for a multiple of kLanes.
float soften(const Task& task, const bool* seen, const float* sink, int64_t count, float* scores) {
  Lanes tops = {};
  tops += sink ? *sink : kNever;
  for (int64_t j = 0; j < count; j += kLanes) {
    Lanes score = load(scores + j) * task.scale;
    if (task.softcap > 0) score = cap(score, task.softcap);
    if (seen || j + kLanes > count)
      for (int64_t i = 0; i < kLanes; ++i)
        if (j + i >= count || (seen && !seen[j + i])) score[i] = kNever;
    tops = score > tops ? score : tops;
    store(scores + j, score);
  }
  float top = tops[0];
  for (int64_t i = 1; i < kLanes; ++i) top = std::max(top, tops[i]);
  Lanes sums = {};
  for (int64_t j = 0; j < count; j += kLanes) {
    const Lanes weights = exp_lanes(load(scores + j) - top);
    store(scores + j, weights);
    sums += weights;
  }
  const Lanes own = exp_lanes(Lanes{} + (sink ? *sink - top : 0));
  return normalize<float>(sink ? own[0] : 0, reinterpret_cast<const float*>(&sums));
}

inline const bool* mask_of(const Task& task, int64_t token) {
  return task.mask_token ? task.mask + token * task.mask_token : nullptr;
}

// The first position to look at, a multiple of kLanes.
inline int64_t first_seen(const bool* seen, int64_t length) {
  int64_t first = 0;
  if (seen)
    while (first < length - 1 && !seen[first]) ++first;
  return first / kLanes * kLanes;
}

// Adds up each of 16 registers; a register holds the sums.
inline Lanes add_up(const Lanes (&x)[kLanes]) {
  Lanes a[8], b[4];
  for (int i = 0; i < 8; ++i)
    a[i] = __builtin_shufflevector(x[i], x[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(x[i], x[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  for (int i = 0; i < 4; ++i)
    b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
           __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  for (int i = 0; i < 2; ++i)
    a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           __builtin_shufflevector(b[i], b[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  return __builtin_shufflevector(a[0], a[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
         __builtin_shufflevector(a[0], a[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
}

// Rows of a cache that are read one after the other, and what is read after them.
template <typename T>
struct Rows {
  const T *at, *after;
  int64_t place, place_after, count;

  const T* row(int64_t j) const { return at + j * place; }

  IN_PLACE void fetch(int64_t j, int64_t dim) const {
    j += kAhead;
    if (j < count)
      prefetch(row(j), dim);
    else if (after)
      prefetch(after + (j - count) * place_after, dim);
  }
};

// Adds up values by the weights `[G][padded]` and factors of up to G heads, all of them in registers.
template <typename T, int64_t DIM, int64_t G = std::max<int64_t>(1, 16 * kLanes / DIM)>
void add_values(const Rows<T>& values, const float* weights, const float* factors, int64_t padded,
                int64_t heads, T* output) {
  if constexpr (G > 1) {
    if (heads < G) return add_values<T, DIM, G - 1>(values, weights, factors, padded, heads, output);
  }
  constexpr int64_t kRegisters = DIM / kLanes;
  Lanes sums[G][kRegisters] = {};
  for (int64_t j = 0; j < values.count; ++j) {
    values.fetch(j, DIM);
    for (int64_t r = 0; r < kRegisters; ++r) {
      const Lanes value = load(values.row(j) + r * kLanes);
      for (int64_t g = 0; g < G; ++g) sums[g][r] += value * weights[g * padded + j];
    }
  }
  for (int64_t g = 0; g < G; ++g)
    for (int64_t r = 0; r < kRegisters; ++r)
      for (int64_t i = 0; i < kLanes; ++i)
        output[g * DIM + r * kLanes + i] = static_cast<T>(sums[g][r][i] * factors[g]);
  if (heads > G)
    add_values<T, DIM, G>(values, weights + G * padded, factors + G, padded, heads - G, output + G * DIM);
}

// One token, one key head; `after` is the beginning of what is read next, or nullptr.
template <typename T, int64_t DIM>
void attend_token(const Task& task, const Run& run, int64_t token, int64_t head, const T* query,
                  const T* keys, const T* values, const T* after, std::vector<float>& scratch,
                  T* output) {
  const int64_t length = run.position + token - run.first + 1, groups = task.groups;
  const bool* seen = mask_of(task, token);
  const int64_t first = first_seen(seen, length), count = length - first;
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  scratch.resize(groups * padded + groups);
  float *scores = scratch.data(), *factors = scores + groups * padded;
  query += token * task.query_token + head * groups * task.query_head;
  keys += run.slot * task.key_row + head * task.key_head + first * task.key_place;
  values += run.slot * task.value_row + head * task.value_head + first * task.value_place;
  const Rows<T> key_rows{keys, values, task.key_place, task.value_place, count};
  for (int64_t j = 0; j < count; j += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) key_rows.fetch(j + i, DIM);
    for (int64_t g = 0; g < groups; ++g) {
      Lanes products[kLanes];
      for (int64_t i = 0; i < kLanes; ++i)
        products[i] = multiply<DIM>(query + g * task.query_head, key_rows.row(std::min(j + i, count - 1)));
      store(scores + g * padded + j, add_up(products));
    }
  }
  for (int64_t g = 0; g < groups; ++g) {
    const float* sink = task.sinks ? task.sinks + head * groups + g : nullptr;
    factors[g] = soften(task, seen ? seen + first : nullptr, sink, count, scores + g * padded);
  }
  const Rows<T> value_rows{values, after, task.value_place, task.key_place, count};
  output += (token * task.heads + head * groups) * DIM;
  add_values<T, DIM>(value_rows, scores, factors, padded, groups, output);
}

// The same for heads of any size.
template <typename T>
void attend_slowly(const Task& task, const Run& run, int64_t token, int64_t head, const T* query,
                   const T* keys, const T* values, std::vector<float>& scratch, T* output) {
  const int64_t length = run.position + token - run.first + 1;
  const bool* seen = mask_of(task, token);
  scratch.resize(task.value_dim + length + kLanes);
  float *sums = scratch.data(), *scores = sums + task.value_dim;
  keys += run.slot * task.key_row + head * task.key_head;
  values += run.slot * task.value_row + head * task.value_head;
  for (int64_t h = head * task.groups; h < (head + 1) * task.groups; ++h) {
    const T* own = query + token * task.query_token + h * task.query_head;
    for (int64_t j = 0; j < length; ++j) {
      float sum = 0;
      for (int64_t d = 0; d < task.dim; ++d) sum += widen(own[d]) * widen(keys[j * task.key_place + d]);
      scores[j] = sum;
    }
    const float factor = soften(task, seen, task.sinks ? task.sinks + h : nullptr, length, scores);
    std::fill_n(sums, task.value_dim, 0.0f);
    for (int64_t j = 0; j < length; ++j)
      for (int64_t d = 0; d < task.value_dim; ++d)
        sums[d] += scores[j] * widen(values[j * task.value_place + d]);
    for (int64_t d = 0; d < task.value_dim; ++d)
      output[(token * task.heads + h) * task.value_dim + d] = static_cast<T>(sums[d] * factor);
  }
}

// What a panel of a run's queries needs; a lane is one head of one token.
template <typename T, int64_t DIM>
struct Panel {
  using E = Elements<T>;
  static constexpr int64_t kSteps = DIM / (kLanes * E::kWidth);

  Lanes query[kLanes][kSteps][kParts];
  Lanes output[DIM][kParts];
  typename E::Element keys[kKeys][kSteps][kLanes];
  Lanes factor[kParts], sinks[kParts];
  Ints own[kParts];  // how many positions the lane's token may see
  int64_t token[kPanel];
  const bool* seen[kPanel];

  // Products with kKeys keys, added up as `multiply` and `add_up` do: the sums of the elements from
  // `FROM` on, every `EACH`-th.
  template <int64_t FROM = 0, int64_t EACH = 1>
  IN_PLACE void multiply(int64_t part, Lanes (&sums)[kKeys]) const {
    if constexpr (EACH == kLanes) {
      for (int64_t i = 0; i < kKeys; ++i) sums[i] = Lanes{};
      for (int64_t s = 0; s < kSteps; ++s)
        for (int64_t i = 0; i < kKeys; ++i)
          sums[i] = E::add(sums[i], query[FROM][s][part], Lanes{} + keys[i][s][FROM]);
    } else {
      Lanes others[kKeys];
      multiply<FROM, 2 * EACH>(part, sums);
      multiply<FROM + EACH, 2 * EACH>(part, others);
      for (int64_t i = 0; i < kKeys; ++i) sums[i] += others[i];
    }
  }
};

// Scores of lanes `[position]` to weights; returns their factors.
template <typename T, int64_t DIM>
Lanes soften(const Task& task, const Panel<T, DIM>& panel, int64_t part, int64_t first, int64_t length,
             Lanes (*scores)[kParts]) {
  const Ints own = panel.own[part];
  int64_t least = length;
  for (int64_t i = 0; i < kLanes; ++i) least = std::min<int64_t>(least, own[i]);
  Lanes top = panel.sinks[part];
  for (int64_t j = first; j < length; ++j) {
    Lanes score = scores[j][part] * task.scale;
    if (task.softcap > 0) score = cap(score, task.softcap);
    if (task.mask_token)
      for (int64_t i = 0; i < kLanes; ++i)
        score[i] = j < own[i] && panel.seen[part * kLanes + i][j] ? score[i] : kNever;
    else if (j >= least)
      score = own > static_cast<int>(j) ? score : score * 0.0f + kNever;
    top = score > top ? score : top;
    scores[j][part] = score;
  }
  Lanes sums[kLanes] = {};
  for (int64_t j = first; j < length; ++j)
    sums[j % kLanes] += scores[j][part] = exp_lanes(scores[j][part] - top);
  return normalize(task.sinks ? exp_lanes(panel.sinks[part] - top) : Lanes{}, sums);
}

// Up to kPanel queries of a run, counted through its tokens and their heads, and one key head.
template <typename T, int64_t DIM>
void attend_panel(const Task& task, const Run& run, int64_t start, int64_t head, const T* query,
                  const T* keys, const T* values, std::vector<float>& scratch, T* output) {
  using P = Panel<T, DIM>;
  using E = Elements<T>;
  const int64_t groups = task.groups, lanes = std::min(kPanel, run.count * groups - start);
  const int64_t length = run.position + (start + lanes - 1) / groups + 1;
  const int64_t padded = (length + kKeys - 1) / kKeys * kKeys;
  constexpr int64_t kPanelFloats = (sizeof(P) + sizeof(Lanes)) / sizeof(float);
  scratch.resize(kPanelFloats + padded * kPanel + kLanes);
  const auto base = reinterpret_cast<uintptr_t>(scratch.data());
  float* scores = scratch.data() + (-base % sizeof(Lanes)) / sizeof(float);
  auto& panel = *reinterpret_cast<P*>(scores + padded * kPanel);
  query += head * groups * task.query_head;
  keys += run.slot * task.key_row + head * task.key_head;
  values += run.slot * task.value_row + head * task.value_head;
  int64_t first = length - 1;
  for (int64_t i = 0; i < kPanel; ++i) {
    const int64_t row = start + std::min(i, lanes - 1), place = row / groups, g = row % groups;
    panel.token[i] = run.first + place;
    const int64_t own = run.position + place + 1;
    panel.own[i / kLanes][i % kLanes] = static_cast<int>(own);
    panel.seen[i] = mask_of(task, panel.token[i]);
    first = std::min(first, first_seen(panel.seen[i], own));
    panel.sinks[i / kLanes][i % kLanes] = task.sinks ? task.sinks[head * groups + g] : kNever;
    const T* narrow = query + panel.token[i] * task.query_token + g * task.query_head;
    for (int64_t s = 0; s < P::kSteps; ++s)
      for (int64_t l = 0; l < kLanes; ++l)
        panel.query[l][s][i / kLanes][i % kLanes] = E::get(narrow + (s * kLanes + l) * E::kWidth);
  }
  for (int64_t j = first; j < length; j += kKeys) {
    for (int64_t i = 0; i < kKeys; ++i) {
      const T* key = keys + std::min(j + i, length - 1) * task.key_place;
      for (int64_t s = 0; s < P::kSteps; ++s)
        for (int64_t l = 0; l < kLanes; ++l) panel.keys[i][s][l] = E::get(key + (s * kLanes + l) * E::kWidth);
    }
    for (int64_t part = 0; part < kParts; ++part) {
      Lanes sums[kKeys];
      panel.multiply(part, sums);
      for (int64_t i = 0; i < kKeys; ++i) store(scores + (j + i) * kPanel + part * kLanes, sums[i]);
    }
  }
  auto* weights = reinterpret_cast<Lanes(*)[kParts]>(scores);
  for (int64_t part = 0; part < kParts; ++part)
    panel.factor[part] = soften(task, panel, part, first, length, weights);
  for (int64_t d = 0; d < DIM; d += kValues) {
    Lanes sums[kValues][kParts] = {};
    for (int64_t j = first; j < length; ++j) {
      const T* narrow = values + j * task.value_place + d;
      float value[kValues];
      for (int64_t i = 0; i < kValues; ++i) value[i] = widen(narrow[i]);
      for (int64_t i = 0; i < kValues; ++i)
        for (int64_t part = 0; part < kParts; ++part) sums[i][part] += weights[j][part] * value[i];
    }
    __builtin_memcpy(panel.output[d], sums, sizeof(sums));
  }
  for (int64_t i = 0; i < lanes; ++i) {
    T* out = output + (panel.token[i] * task.heads + head * groups + (start + i) % groups) * DIM;
    for (int64_t d = 0; d < DIM; ++d)
      out[d] = static_cast<T>(panel.output[d][i / kLanes][i % kLanes] *
                              panel.factor[i / kLanes][i % kLanes]);
  }
}

struct Item {
  const Run* run;
  int64_t start, head;
};

template <typename T, int64_t DIM>
void attend_all(const Task& task, const std::vector<Run>& runs, const T* query, const T* keys,
                const T* values, T* output) {
  std::vector<Item> items;
  for (const Run& run : runs) {
    const bool panels = DIM != 0 && run.count > 1;
    const int64_t rows = panels ? run.count * task.groups : run.count;
    for (int64_t start = 0; start < rows; start += panels ? kPanel : 1)
      for (int64_t head = 0; head < task.kv_heads; ++head) items.push_back({&run, start, head});
  }
  share(items.size(), [&] {
    return [&, scratch = std::vector<float>()](int64_t i, int64_t next) mutable {
      const auto& [run, start, head] = items[i];
      if constexpr (DIM == 0) {
        attend_slowly(task, *run, run->first + start, head, query, keys, values, scratch, output);
      } else if (run->count > 1) {
        attend_panel<T, DIM>(task, *run, start, head, query, keys, values, scratch, output);
      } else {
        const Item* after = next < 0 ? nullptr : &items[next];
        const T* keys_after =
            after ? keys + after->run->slot * task.key_row + after->head * task.key_head : nullptr;
        attend_token<T, DIM>(task, *run, run->first, head, query, keys, values, keys_after, scratch, output);
      }
    };
  });
}

std::vector<Run> find_runs(const int64_t* slots, const int64_t* positions, int64_t tokens) {
  std::vector<Run> runs;
  for (int64_t n = 0; n < tokens; ++n) {
    if (!runs.empty()) {
      Run& last = runs.back();
      if (slots[n] == last.slot && positions[n] == last.position + last.count) {
        ++last.count;
        continue;
      }
    }
    runs.push_back({n, 1, slots[n], positions[n]});
  }
  return runs;
}

at::Tensor attend(const at::Tensor& query_, const at::Tensor& keys, const at::Tensor& values,
                  const at::Tensor& mask_, const at::Tensor& slots_, const at::Tensor& positions_,
                  double scale, double softcap, const std::optional<at::Tensor>& sinks_) {
  const at::Tensor query = query_.stride(3) == 1 ? query_ : query_.contiguous();
  const at::Tensor mask = mask_.contiguous(), slots = slots_.contiguous();
  const at::Tensor positions = positions_.contiguous();
  const at::Tensor sinks = sinks_ ? sinks_->to(at::kFloat).contiguous() : at::Tensor();
  const int64_t heads = query.size(1), tokens = query.size(2), kv_heads = keys.size(1);
  const Task task{
      .heads = heads,
      .kv_heads = kv_heads,
      .groups = heads / kv_heads,
      .dim = query.size(3),
      .value_dim = values.size(3),
      .query_head = query.stride(1),
      .query_token = query.stride(2),
      .key_row = keys.stride(0),
      .key_head = keys.stride(1),
      .key_place = keys.stride(2),
      .value_row = values.stride(0),
      .value_head = values.stride(1),
      .value_place = values.stride(2),
      .mask_token = mask.size(2) == tokens && mask.size(3) > 1 ? mask.size(3) : 0,
      .scale = static_cast<float>(scale),
      .softcap = static_cast<float>(softcap),
      .mask = mask.const_data_ptr<bool>(),
      .sinks = sinks.defined() ? sinks.const_data_ptr<float>() : nullptr,
  };
  const auto runs =
      find_runs(slots.const_data_ptr<int64_t>(), positions.const_data_ptr<int64_t>(), tokens);
  at::Tensor output = at::empty({1, tokens, heads, task.value_dim}, query.options());
  const auto run_all = [&]<typename T>(const T*) {
    const auto call = [&]<int64_t DIM>(std::integral_constant<int64_t, DIM>) {
      attend_all<T, DIM>(task, runs, query.const_data_ptr<T>(), keys.const_data_ptr<T>(),
                         values.const_data_ptr<T>(), output.mutable_data_ptr<T>());
    };
    switch (task.dim == task.value_dim ? task.dim : 0) {
      case 32: return call(std::integral_constant<int64_t, 32>());
      case 64: return call(std::integral_constant<int64_t, 64>());
      case 96: return call(std::integral_constant<int64_t, 96>());
      case 128: return call(std::integral_constant<int64_t, 128>());
      case 256: return call(std::integral_constant<int64_t, 256>());
      default: return call(std::integral_constant<int64_t, 0>());
    }
  };
  switch (query.scalar_type()) {
    case at::kBFloat16: run_all(static_cast<at::BFloat16*>(nullptr)); break;
    case at::kHalf: run_all(static_cast<at::Half*>(nullptr)); break;
    case at::kFloat: run_all(static_cast<float*>(nullptr)); break;
    default: TORCH_CHECK(false, "attend: no such number format: ", query.scalar_type());
  }
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(heliograph, CPU, library) { library.impl("attend", &attend); }
