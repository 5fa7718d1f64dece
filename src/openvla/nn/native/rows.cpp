// The steps of a transformer between its products, each in one pass over rows in bfloat16; see ../amx.py.
//
// Every value is rounded to bfloat16 where the plain modules round it: the results are theirs, but for the order of sums
// and the last bit of an exponential.

#include "simd.h"

namespace {

__m512 load(const bf16* from, __mmask16 some) { return widened(_mm256_maskz_loadu_epi16(some, from)); }

void store(bf16* to, __mmask16 some, __m512 values) { _mm256_mask_storeu_epi16(to, some, narrowed(values)); }

__m512 rounded(__m512 values) { return widened(narrowed(values)); }

// x + add * factor of one row, rounded, to `sum`; nothing is written without `add`. Gives the values from i on.
struct Residual {
  const bf16 *x, *add, *factor;
  bf16* sum;
  __m512 at(int64_t i, __mmask16 some) const {
    const __m512 values = load(x + i, some);
    if (add == nullptr) return values;
    __m512 more = load(add + i, some);
    if (factor != nullptr) more = rounded(_mm512_mul_ps(more, load(factor + i, some)));
    const __m512 all = rounded(_mm512_add_ps(values, more));
    store(sum + i, some, all);
    return all;
  }
};

}  // namespace

extern "C" {

// y (rows, k): the sum x + add, or x where `add` is null, divided by its root mean square, times `weight`.
void openvla_rms_norm(int64_t rows, int64_t k, const bf16* x, const bf16* add, const bf16* weight, float eps, bf16* sum,
                      bf16* y, int threads) {
#pragma omp parallel for num_threads(threads) if (rows > 1)
  for (int64_t row = 0; row < rows; ++row) {
    const Residual residual{x + row * k, add ? add + row * k : nullptr, nullptr, sum + row * k};
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i += 16) {
      const __m512 values = residual.at(i, first_words(k - i));
      squares = _mm512_fmadd_ps(values, values, squares);
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(squares) / float(k) + eps);
    const __m512 scale = _mm512_div_ps(_mm512_set1_ps(1), _mm512_sqrt_ps(mean));
    const bf16* from = add ? residual.sum : residual.x;
    for (int64_t i = 0; i < k; i += 16) {
      const __mmask16 some = first_words(k - i);
      const __m512 quotient = rounded(_mm512_mul_ps(load(from + i, some), scale));
      store(y + row * k + i, some, _mm512_mul_ps(quotient, load(weight + i, some)));
    }
  }
}

// y (rows, k): the sum x + add * factor (k), or x, less its mean, divided by its deviation, times `weight`, plus `bias`.
void openvla_layer_norm(int64_t rows, int64_t k, const bf16* x, const bf16* add, const bf16* factor, const bf16* weight,
                        const bf16* bias, float eps, bf16* sum, bf16* y, int threads) {
#pragma omp parallel for num_threads(threads) if (rows > 1)
  for (int64_t row = 0; row < rows; ++row) {
    const Residual residual{x + row * k, add ? add + row * k : nullptr, factor, sum + row * k};
    __m512 total = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i += 16) total = _mm512_add_ps(total, residual.at(i, first_words(k - i)));
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / float(k));
    const bf16* from = add ? residual.sum : residual.x;
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i += 16) {
      const __mmask16 some = first_words(k - i);
      const __m512 apart = _mm512_maskz_sub_ps(some, load(from + i, some), mean);
      squares = _mm512_fmadd_ps(apart, apart, squares);
    }
    const __m512 variance = _mm512_set1_ps(_mm512_reduce_add_ps(squares) / float(k) + eps);
    const __m512 scale = _mm512_div_ps(_mm512_set1_ps(1), _mm512_sqrt_ps(variance));
    for (int64_t i = 0; i < k; i += 16) {
      const __mmask16 some = first_words(k - i);
      const __m512 normed = _mm512_mul_ps(_mm512_sub_ps(load(from + i, some), mean), scale);
      store(y + row * k + i, some, _mm512_fmadd_ps(normed, load(weight + i, some), load(bias + i, some)));
    }
  }
}

// y (rows, n): silu(gate) * up for gate and up side by side in x (rows, 2 n).
void openvla_swiglu(int64_t rows, int64_t n, const bf16* x, bf16* y, int threads) {
#pragma omp parallel for num_threads(threads) if (rows > 1)
  for (int64_t row = 0; row < rows; ++row) {
    const bf16 *gates = x + row * 2 * n, *ups = gates + n;
    for (int64_t i = 0; i < n; i += 16) {
      const __mmask16 some = first_words(n - i);
      const __m512 gate = load(gates + i, some);
      const __m512 one = _mm512_set1_ps(1), minus = _mm512_sub_ps(_mm512_setzero_ps(), gate);
      const __m512 silu = rounded(_mm512_div_ps(gate, _mm512_add_ps(one, exponential(minus))));
      store(y + row * n + i, some, _mm512_mul_ps(silu, load(ups + i, some)));
    }
  }
}

// y (rows, heads, tokens, d): the first heads of x (rows, tokens, pitch), the pairs (i, i + d / 2) of each turned by the
// angles of its token; cos, sin (angle_rows, tokens, d), of which angle_rows is 1 or `rows`.
void openvla_rotate(int64_t rows, int64_t tokens, int64_t heads, int64_t d, int64_t pitch, int64_t angle_rows,
                    const bf16* x, const bf16* cos, const bf16* sin, bf16* y, int threads) {
  const int64_t half = d / 2;
#pragma omp parallel for num_threads(threads) collapse(2) if (rows * tokens > 1)
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t token = 0; token < tokens; ++token) {
      const int64_t angles = ((angle_rows > 1 ? row : 0) * tokens + token) * d;
      for (int64_t head = 0; head < heads; ++head) {
        const bf16* from = x + (row * tokens + token) * pitch + head * d;
        bf16* to = y + ((row * heads + head) * tokens + token) * d;
        for (int64_t i = 0; i < half; i += 16) {
          const __mmask16 some = first_words(half - i);
          const __m512 first = load(from + i, some), second = load(from + half + i, some);
          const __m512 c = load(cos + angles + i, some), s = load(sin + angles + i, some);
          store(to + i, some, _mm512_sub_ps(rounded(_mm512_mul_ps(first, c)), rounded(_mm512_mul_ps(second, s))));
          store(to + half + i, some, _mm512_add_ps(rounded(_mm512_mul_ps(second, c)), rounded(_mm512_mul_ps(first, s))));
        }
      }
    }
}

}  // extern "C"
