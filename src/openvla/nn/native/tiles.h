// Tile registers, and what stands in memory as they want it.

#pragma once

#include <cstdlib>

#include "simd.h"

constexpr int64_t ROWS = 16;           // of a tile
constexpr int64_t LINE = 64;           // bytes of a row of a tile
constexpr int64_t TILE = ROWS * LINE;  // bytes

struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// What was stored before stands in memory for the tile loads behind: compilers do not know that they read it.
inline void stand() { asm volatile("" ::: "memory"); }

// Registers 0 to 3 hold sums, 4 and 5 W, 6 and 7 x.
inline void configure(int64_t column_bytes) {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) {
    shapes.rows[i] = ROWS;
    shapes.bytes[i] = uint16_t(i == 4 || i == 5 ? LINE : column_bytes);
  }
  stand();
  _tile_loadconfig(&shapes);
}

// Memory of a thread that stays until a call needs more.
struct Scratch {
  char* at = nullptr;
  size_t size = 0;
  char* of(size_t bytes) {
    if (size < bytes) {
      std::free(at);
      size = (bytes + 4095) / 4096 * 4096;
      at = static_cast<char*>(std::aligned_alloc(4096, size));
      if (at == nullptr) std::abort();
    }
    return at;
  }
  ~Scratch() { std::free(at); }
};

// Exchange rows and columns of 16 x 16 words: by pairs of words, of double words, then of quarters, twice.
inline void transpose(__m512i r[ROWS]) {
  __m512i t[ROWS];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int half = 0; half < 16; half += 8)
    for (int i = half; i < half + 4; ++i) {
      t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
      t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}
