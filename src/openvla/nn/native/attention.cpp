// softmax(Q K^T / sqrt(D)) V in bfloat16 with sums in float32; see ../amx.py.
//
// Scores of 16 queries stand with the queries side by side, so that largest score, exponentials and sum are those of 16
// queries at once. All scores of a query are there before its softmax: a query's result does not depend on the queries
// beside it, nor on keys that it may not look at.
//
// Shapes: T queries, S keys, D channels of a head; a line holds 32 channels, or 32 keys.
// Source: Vaswani et al. 2017, equation 1.

#include <cmath>
#include <limits>

#include "tiles.h"

namespace {

constexpr int64_t KEYS = 32;  // of a line of probabilities

struct Strided {
  const bf16* at;
  int64_t batch, head, token;  // elements from one to the next
};

struct Attention {
  int64_t batch, heads, groups, t, s, d;
  Strided q, k, v;
  const uint8_t* mask;  // (batch, T, S), or null
  bool causal;          // of the newest T of S tokens
  bf16* y;              // (batch, T, heads, D)
  int64_t pitch = s;    // keys of a row of the mask

  int64_t lines() const { return (2 * d + LINE - 1) / LINE; }
  int64_t slots() const { return (s + KEYS - 1) / KEYS * KEYS; }
  int64_t depth() const { return (d + ROWS - 1) / ROWS; }
  // Keys from the first on that are multiplied where they lie: few queries do not repay a copy.
  int64_t in_place() const { return t <= ROWS && 2 * d % LINE == 0 ? s / KEYS * KEYS : 0; }
};

// The keys up to the last one that any query of this row may look at.
int64_t looked_at(const Attention& a, int64_t row) {
  int64_t seen = a.mask == nullptr ? a.s : 1;
  for (int64_t t = 0; a.mask != nullptr && t < a.t; ++t)
    for (int64_t key = a.s; key > seen; --key)
      if (a.mask[(row * a.t + t) * a.pitch + key - 1]) seen = key;
  return seen;
}

// The lines of a row of D channels, zeros behind its end.
struct Lines {
  int64_t whole;
  __mmask64 rest;
  explicit Lines(int64_t d) : whole(2 * d / LINE), rest(first_bytes(2 * d % LINE)) {}
  __m512i at(const bf16* row, int64_t line) const {
    const char* from = reinterpret_cast<const char*>(row) + line * LINE;
    return line < whole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi8(rest, from);
  }
};

// The keys of a head as tiles of 16 keys, line after line.
void stage_keys(const Attention& a, const bf16* k, char* out) {
  const Lines lines(a.d);
  for (int64_t key = a.in_place(); key < a.slots(); ++key) {
    char* to = out + (key / ROWS * a.lines() * ROWS + key % ROWS) * LINE;
    const bf16* from = k + std::min(key, a.s - 1) * a.k.token;  // what stands behind the last key is never looked at
    for (int64_t line = 0; line < a.lines(); ++line) _mm512_store_si512(to + line * TILE, lines.at(from, line));
  }
}

// All values of a head as tiles of 16 pairs of keys and 16 channels.
void stage_values(const Attention& a, const bf16* v, char* out) {
  const __mmask16 rest = first_words(a.d - (a.depth() - 1) * ROWS);
  for (int64_t pair = 0; pair < a.slots() / 2; ++pair) {
    char* to = out + (pair / ROWS * a.depth() * ROWS + pair % ROWS) * LINE;
    const bf16* even = v + std::min(2 * pair, a.s - 1) * a.v.token;
    const bf16* odd = v + std::min(2 * pair + 1, a.s - 1) * a.v.token;
    for (int64_t part = 0; part < a.depth(); ++part) {
      const __mmask16 some = part + 1 < a.depth() ? 0xffff : rest;
      const __m256i first = _mm256_maskz_loadu_epi16(some, even + part * ROWS);
      const __m256i second = _mm256_maskz_loadu_epi16(some, odd + part * ROWS);
      const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
      _mm512_store_si512(to + part * TILE, by_turns(both));
    }
  }
}

// Which of the 16 queries from `first` on may look at each key; those behind the last query are not asked for.
void allowed(const Attention& a, int64_t batch, int64_t first, int64_t keys, uint16_t* out) {
  for (int64_t key = 0; key < keys; ++key) {
    const int64_t early = a.causal ? std::max<int64_t>(key - (a.s - a.t) - first, 0) : 0;  // queries before this key
    out[key] = key < a.s && early < ROWS ? uint16_t(0xffff << early) : 0;
  }
  if (a.mask == nullptr) return;
  for (int64_t i = 0; i < std::min(ROWS, a.t - first); ++i) {
    const uint8_t* row = a.mask + (batch * a.t + first + i) * a.pitch;
    for (int64_t key = 0; key < std::min(keys, a.s); ++key) out[key] &= uint16_t(~(uint32_t(row[key] == 0) << i));
  }
}

// Scores of 16 queries (keys, 16) in place to probabilities times their sum, as tiles of 16 queries and 32 keys.
__m512 soften(float* scores, int64_t keys, const uint16_t* may, float scale) {
  __m512 top = _mm512_set1_ps(-std::numeric_limits<float>::infinity()), sum = _mm512_setzero_ps();
  for (int64_t key = 0; key < keys; ++key) {
    const __m512 score = _mm512_load_ps(scores + key * ROWS);
    top = _mm512_mask_max_ps(top, may[key], top, score);
    sum = _mm512_mask3_fmadd_ps(score, _mm512_setzero_ps(), sum, may[key]);  // NaN where one is NaN or infinite, else 0
  }
  const __m512 factor = _mm512_set1_ps(scale);
  for (int64_t first = 0; first < keys; first += KEYS) {
    __m512i pairs[ROWS];
    for (int64_t pair = 0; pair < ROWS; ++pair) {
      __m512 p[2];
      for (int64_t i = 0; i < 2; ++i) {
        const int64_t key = first + 2 * pair + i;
        const __m512 below = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(scores + key * ROWS), top), factor);
        p[i] = _mm512_maskz_mov_ps(may[key], exponential(below));
        sum = _mm512_add_ps(sum, p[i]);
      }
      pairs[pair] = by_turns(reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(p[1], p[0])));
    }
    transpose(pairs);
    char* out = reinterpret_cast<char*>(scores) + first / KEYS * TILE;  // behind what is still to be read
    for (int64_t i = 0; i < ROWS; ++i) _mm512_store_si512(out + i * LINE, pairs[i]);
  }
  return sum;
}

// One block of 16 queries of a head. staged: keys and values of its group.
void attend(const Attention& a, int64_t batch, int64_t head, int64_t first, const char* keys, const char* values,
            char* queries, float* scores, uint16_t* may) {
  const bf16* q = a.q.at + batch * a.q.batch + head * a.q.head;
  const Lines lines(a.d);
  for (int64_t line = 0; line < a.lines(); ++line) {
    __m512i r[ROWS];
    for (int64_t i = 0; i < ROWS; ++i) {
      r[i] = first + i < a.t ? lines.at(q + (first + i) * a.q.token, line) : _mm512_setzero_si512();
    }
    transpose(r);
    for (int64_t i = 0; i < ROWS; ++i) _mm512_store_si512(queries + (line * ROWS + i) * LINE, r[i]);
  }
  stand();
  const int64_t seen = a.causal ? std::min(a.s, first + ROWS + a.s - a.t) : a.s;
  const int64_t count = (seen + KEYS - 1) / KEYS * KEYS;
  const bf16* k = a.k.at + batch * a.k.batch + head / (a.heads / a.groups) * a.k.head;
  for (int64_t key = 0; key < count; key += KEYS) {
    const bool there = key < a.in_place();
    const char* from = there ? reinterpret_cast<const char*>(k + key * a.k.token) : keys + key / ROWS * a.lines() * TILE;
    const int64_t row = there ? 2 * a.k.token : LINE, step = there ? LINE : TILE;
    const char* second = from + (there ? ROWS * row : a.lines() * TILE);
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t line = 0; line < a.lines(); ++line) {
      _tile_loadd(6, queries + line * TILE, LINE);
      _tile_loadd(4, from + line * step, row);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, second + line * step, row);
      _tile_dpbf16ps(1, 5, 6);
    }
    _tile_stored(0, scores + key * ROWS, LINE);
    _tile_stored(1, scores + (key + ROWS) * ROWS, LINE);
  }
  allowed(a, batch, first, count, may);
  alignas(64) float total[ROWS];
  _mm512_store_ps(total, soften(scores, count, may, 1 / std::sqrt(float(a.d))));
  stand();
  const char* probabilities = reinterpret_cast<const char*>(scores);
  for (int64_t part = 0; part < a.depth(); part += 2) {
    const bool two = part + 1 < a.depth();
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t line = 0; line < count / KEYS; ++line) {
      const char* from = values + (line * a.depth() + part) * TILE;
      _tile_loadd(4, probabilities + line * TILE, LINE);
      _tile_loadd(6, from, LINE);
      _tile_dpbf16ps(0, 4, 6);
      if (two) {
        _tile_loadd(7, from + TILE, LINE);
        _tile_dpbf16ps(1, 4, 7);
      }
    }
    alignas(64) float mixed[2 * ROWS * ROWS];
    _tile_stored(0, mixed, LINE);
    _tile_stored(1, mixed + ROWS * ROWS, LINE);
    for (int64_t half = 0; half < (two ? 2 : 1); ++half)
      for (int64_t i = 0; i < ROWS && first + i < a.t; ++i) {
        const __m512 y = _mm512_div_ps(_mm512_load_ps(mixed + (half * ROWS + i) * ROWS), _mm512_set1_ps(total[i]));
        bf16* to = a.y + ((batch * a.t + first + i) * a.heads + head) * a.d + (part + half) * ROWS;
        _mm256_mask_storeu_epi16(to, first_words(a.d - (part + half) * ROWS), narrowed(y));
      }
  }
}

}  // namespace

// strides: of q, k and v in elements, each from one batch row, head and token to the next.
extern "C" void openvla_attention(int64_t batch, int64_t heads, int64_t groups, int64_t t, int64_t s, int64_t d,
                                  int causal, const bf16* q, const bf16* k, const bf16* v, const int64_t* strides,
                                  const uint8_t* mask, bf16* y, int threads) {
  const Attention a{batch, heads, groups, t, s, d,
                    {q, strides[0], strides[1], strides[2]},
                    {k, strides[3], strides[4], strides[5]},
                    {v, strides[6], strides[7], strides[8]},
                    mask, causal != 0, y};
#pragma omp parallel num_threads(threads)
  {
    static thread_local Scratch for_keys, for_values, for_queries, for_scores, for_may;
    char* keys = for_keys.of(size_t(a.slots() * a.lines() * LINE));
    char* values = for_values.of(size_t(a.slots() / 2 * a.depth() * LINE));
    char* queries = for_queries.of(size_t(a.lines() * TILE));
    float* scores = reinterpret_cast<float*>(for_scores.of(size_t(a.slots() * LINE)));
    uint16_t* may = reinterpret_cast<uint16_t*>(for_may.of(size_t(a.slots()) * sizeof(uint16_t)));
    configure(LINE);
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t row = 0; row < a.batch; ++row)
      for (int64_t group = 0; group < a.groups; ++group) {
        Attention part = a;
        part.s = looked_at(a, row);
        stage_keys(part, a.k.at + row * a.k.batch + group * a.k.head, keys);
        stage_values(part, a.v.at + row * a.v.batch + group * a.v.head, values);
        const int64_t share = a.heads / a.groups;
        for (int64_t head = group * share; head < (group + 1) * share; ++head)
          for (int64_t first = 0; first < a.t; first += ROWS)
            attend(part, row, head, first, keys, values, queries, scores, may);
      }
    _tile_release();
  }
}
