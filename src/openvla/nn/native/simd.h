// What the kernels share: bfloat16 in registers, and masks for the ends of rows.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

using bf16 = uint16_t;

inline __m512 widened(__m256i values) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

inline __m256i narrowed(__m512 values) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)); }

inline __mmask64 first_bytes(int64_t count) {
  return count <= 0 ? 0 : count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
}

inline __mmask16 first_words(int64_t count) { return __mmask16(first_bytes(std::min<int64_t>(count, 16))); }

// exp(x) within 1e-7 of its size: 2^n times a polynomial (Taylor, degree 6) in the rest, which is within ln 2 / 2.
// It is 0 or infinite where a float is; a NaN is forgotten.
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(104)), _mm512_set1_ps(-104));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), rest);
  __m512 sum = _mm512_set1_ps(1.f / 720);
  for (const float term : {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f})
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(term));
  return _mm512_scalef_ps(sum, n);
}

// The 32 half words of a register, one of the first 16 and one of the last 16 by turns.
inline __m512i by_turns(__m512i halves) {
  alignas(64) static constexpr uint16_t ORDER[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(ORDER), halves);
}
