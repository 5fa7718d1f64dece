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
