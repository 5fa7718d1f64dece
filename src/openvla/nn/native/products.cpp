// y = x W^T + b on processors with AMX, for weights in bfloat16, 8 or 4 bits; see ../amx.py.
//
// A tile register holds 16 rows of 64 bytes (a "line"). W is the left factor: 16 of its rows, one line of each. x is the
// right one, transposed by 32-bit words while it is packed, which is the form that the instruction wants: so W, which is
// large, is read in the order in which it is stored. Sums of one element run along K in one order however many rows x
// has: a row's result does not depend on the rows beside it.
//
// Few rows (16): bound by reading W, which goes straight into the registers. Many: a block of W is copied into the first
// cache, and multiplied with all of x while the next one is fetched.
//
// Shapes: M rows of x, N rows of W, K columns. Source: Intel 64 and IA-32 Architectures, Software Developer's Manual,
// volume 1, chapter 18 (tiles), volume 2 (TDPBF16PS, TDPBSSD).

#include <sys/syscall.h>
#include <unistd.h>

#include "tiles.h"

namespace {

enum Kind { BF16 = 0, INT8 = 1, INT4 = 2 };

constexpr int64_t SIDE = 2 * ROWS;      // rows of W that are multiplied together
constexpr int64_t DEPTH = 8;            // lines of a block of W: 16 kB, a third of the first cache
constexpr int64_t WIDE = 256;           // rows of W whose sums stay in the second cache, at most
constexpr int64_t MOST = 320;           // rows of x whose lines of a block stay there too
constexpr int64_t GROUP = 64;           // four-bit weights of a row that share step and offset
constexpr int64_t AHEAD = 4096;         // bytes that four-bit weights are fetched ahead

struct Product {
  Kind kind;
  bool wide;               // x and y are float32 (int8), not bfloat16
  int64_t m, n, k;
  const char* x;           // (M, K)
  const char* w;           // bfloat16 or int8 (N, K); four bits (N / 32, K / 64, 32 rows, 32 bytes)
  const float* scale;      // int8: (N)
  const uint32_t* steps;   // four bits: (N / 32, K / 64, 32 rows) pairs of bfloat16, step and offset
  const bf16* bias;        // (N) or null
  char* y;                 // (M, N)

  int64_t bytes() const { return wide ? 4 : 2; }  // of an element of x and y
  int64_t row_bytes() const { return kind == INT8 ? k : 2 * k; }
  int64_t lines() const { return kind == INT4 ? k / GROUP * 2 : (row_bytes() + LINE - 1) / LINE; }
  int64_t tiles() const { return (m + ROWS - 1) / ROWS; }
  int64_t column_bytes() const { return m < ROWS ? 4 * m : LINE; }  // of a row of a tile of x
};

// 16 elements of x from i on, zeros behind its end.
__m512 elements(const Product& p, const char* row, int64_t i) {
  const __mmask16 some = first_words(p.k - i);
  return p.wide ? _mm512_maskz_loadu_ps(some, row + 4 * i) : widened(_mm256_maskz_loadu_epi16(some, row + 2 * i));
}

// Levels -127..127 of a row of x and their step, rounded to the type of x before levels are counted in it.
float quantize(const Product& p, int64_t m, int8_t* levels) {
  const char* row = p.x + m * p.k * p.bytes();
  __m512 top = _mm512_setzero_ps(), none = _mm512_setzero_ps();
  for (int64_t i = 0; i < p.k; i += 16) {
    const __m512 values = elements(p, row, i);
    top = _mm512_max_ps(top, _mm512_abs_ps(values));
    none = _mm512_fmadd_ps(values, _mm512_setzero_ps(), none);  // NaN where one of them is NaN or infinite, else 0
  }
  const float exact = std::max(_mm512_reduce_max_ps(top), 1e-12f) / 127 + _mm512_reduce_add_ps(none);
  const __m512 step = p.wide ? _mm512_set1_ps(exact) : widened(narrowed(_mm512_set1_ps(exact)));
  for (int64_t i = 0; i < p.k; i += 16) {
    const __m512i counted = _mm512_cvtps_epi32(_mm512_div_ps(elements(p, row, i), step));
    _mm_mask_storeu_epi8(levels + i, first_words(p.k - i), _mm512_cvtsepi32_epi8(counted));
  }
  return _mm512_cvtss_f32(step);
}

// Where the line `line` of the 16 rows `tile` of x lies: those of one block of W, for all rows, together.
int64_t place(const Product& p, int64_t tile, int64_t line) {
  return ((line / DEPTH * p.tiles() + tile) * DEPTH + line % DEPTH) * ROWS * p.column_bytes();
}

// One line of 16 rows of x, transposed. Columns of four bits are taken as d, 16 + d, which is how they share a word.
void pack(const Product& p, const char* rows, int64_t tile, int64_t line, char* out) {
  const __mmask64 some = first_bytes(p.row_bytes() - line * LINE);
  __m512i r[ROWS];
  for (int64_t i = 0; i < ROWS; ++i) {
    const int64_t row = tile * ROWS + i;
    r[i] = row < p.m ? _mm512_maskz_loadu_epi8(some, rows + row * p.row_bytes() + line * LINE) : _mm512_setzero_si512();
    if (p.kind == INT4) r[i] = by_turns(r[i]);
  }
  transpose(r);
  const int64_t bytes = p.column_bytes();
  for (int64_t i = 0; i < ROWS; ++i) _mm512_mask_storeu_epi8(out + i * bytes, first_bytes(bytes), r[i]);
}

// `count` lines of 32 rows of W as tiles: line after line, 16 rows and 16 rows. What lies outside of W is zero.
void copy(const Product& p, int64_t n, int64_t line, int64_t count, char* out) {
  const int64_t whole = std::min(count, p.row_bytes() / LINE - line);
  for (int64_t i = 0; i < SIDE; ++i, out += LINE) {
    const char* row = p.w + (n + i) * p.row_bytes() + line * LINE;
    int64_t l = 0;
    if (n + i < p.n) {
      for (; l < whole; ++l) _mm512_store_si512(out + l * 2 * TILE, _mm512_loadu_si512(row + l * LINE));
      if (l < count) {
        const __mmask64 some = first_bytes(p.row_bytes() - (line + l) * LINE);
        _mm512_store_si512(out + l * 2 * TILE, _mm512_maskz_loadu_epi8(some, row + l * LINE));
        ++l;
      }
    }
    for (; l < count; ++l) _mm512_store_si512(out + l * 2 * TILE, _mm512_setzero_si512());
  }
}

// The same of four-bit weights, in bfloat16. The 16 values that a group's levels stand for are a table, in which levels
// are looked up: 16 bytes hold 32 of them, which are shifted to the low ends of 32 half words.
void unpack(const Product& p, int64_t n, int64_t line, int64_t count, char* out) {
  alignas(64) static constexpr uint16_t SHIFTS[32] = {0, 0, 0, 0, 0, 0, 0, 0, 4,  4,  4,  4,  4,  4,  4,  4,
                                                      8, 8, 8, 8, 8, 8, 8, 8, 12, 12, 12, 12, 12, 12, 12, 12};
  // Pairs of bfloat16, a level less eight and one: their product with a pair of steps is level * step + offset.
  const __m512 less_eight = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i one = _mm512_set1_epi32(0x3f800000);
  const __m512bh levels = (__m512bh)_mm512_or_si512(one, _mm512_cvtepu16_epi32(narrowed(less_eight)));
  const __m512i shifts = _mm512_load_si512(SHIFTS);
  for (int64_t l = 0; l < count; l += 2) {
    const int64_t group = n / SIDE * (p.k / GROUP) + (line + l) / 2;
    const char* from = p.w + group * SIDE * GROUP / 2;
    const uint32_t* steps = p.steps + group * SIDE;
    for (int64_t i = 0; i < SIDE; ++i, from += GROUP / 2) {
      if (i % 2 == 0) _mm_prefetch(from + AHEAD, _MM_HINT_T0);
      if (i % 16 == 0) _mm_prefetch(reinterpret_cast<const char*>(steps + i) + AHEAD / 8, _MM_HINT_T0);
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(int(steps[i]));
      const __m512 values = _mm512_dpbf16_ps(_mm512_setzero_ps(), levels, pair);
      const __m512i table = _mm512_broadcast_i64x4(narrowed(values));
      for (int64_t h = 0; h < 2; ++h) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + h * 16));
        const __m512i shifted = _mm512_srlv_epi16(_mm512_broadcast_i32x4(bytes), shifts);
        _mm512_store_si512(out + (l + h) * 2 * TILE + i * LINE, _mm512_permutexvar_epi16(shifted, table));
      }
    }
  }
}

void stage(const Product& p, int64_t n, int64_t line, int64_t count, char* out) {
  if (p.kind == INT4) unpack(p, n, line, count, out);
  else copy(p, n, line, count, out);
  stand();
}

// Sums of 32 rows of W (two tiles) and 16 rows of x to y.
void finish(const Product& p, const char* sums, int64_t n, int64_t m, const float* x_steps) {
  const int64_t bytes = p.column_bytes();
  const __mmask64 columns = first_bytes(bytes);
  __m512i half[2][ROWS];
  __m512 scale[2], bias[2];
  __mmask16 some[2];
  for (int h = 0; h < 2; ++h) {
    for (int64_t i = 0; i < ROWS; ++i) half[h][i] = _mm512_maskz_loadu_epi8(columns, sums + h * TILE + i * bytes);
    transpose(half[h]);
    const int64_t first = n + h * ROWS;
    some[h] = first_words(p.n - first);
    scale[h] = p.kind == INT8 ? _mm512_maskz_loadu_ps(some[h], p.scale + first) : _mm512_setzero_ps();
    bias[h] = p.bias ? widened(_mm256_maskz_loadu_epi16(some[h], p.bias + first)) : _mm512_setzero_ps();
  }
  for (int64_t i = 0; i < ROWS && m + i < p.m; ++i) {
    __m512 y[2];
    for (int h = 0; h < 2; ++h) {
      y[h] = _mm512_castsi512_ps(half[h][i]);
      if (p.kind == INT8) {
        y[h] = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(half[h][i]), scale[h]), _mm512_set1_ps(x_steps[m + i]));
      }
      if (p.bias) y[h] = _mm512_add_ps(y[h], bias[h]);
    }
    char* to = p.y + ((m + i) * p.n + n) * p.bytes();
    if (p.wide) {
      _mm512_mask_storeu_ps(to, some[0], y[0]);
      _mm512_mask_storeu_ps(to + LINE, some[1], y[1]);
    } else {
      _mm512_mask_storeu_epi16(to, some[0] | __mmask32(some[1]) << 16, (__m512i)_mm512_cvtne2ps_pbh(y[1], y[0]));
    }
  }
}

#define MULTIPLY(sums, left, right)                     \
  do {                                                  \
    if (INTEGER) _tile_dpbssd(sums, left, right);       \
    else _tile_dpbf16ps(sums, left, right);             \
  } while (0)

// Rows n to n + 31 of W with at most 16 rows of x.
template <bool INTEGER>
void few(const Product& p, const char* packed, const float* x_steps, int64_t n, char* staged) {
  const int64_t lines = p.lines(), bytes = p.row_bytes(), columns = p.column_bytes();
  const int64_t whole = p.kind == INT4 || n + SIDE > p.n ? 0 : bytes / LINE;  // lines that need no copy
  _tile_zero(0);
  _tile_zero(1);
  for (int64_t line = 0; line < whole; ++line) {
    const char* w = p.w + n * bytes + line * LINE;
    _tile_loadd(6, packed + line * ROWS * columns, columns);
    _tile_loadd(4, w, bytes);
    MULTIPLY(0, 4, 6);
    _tile_loadd(5, w + ROWS * bytes, bytes);
    MULTIPLY(1, 5, 6);
  }
  for (int64_t line = whole; line < lines; line += 2) {
    const int64_t count = std::min<int64_t>(2, lines - line);
    char* tiles = staged + line / 2 % 2 * 4 * TILE;  // by turns, so that the one is filled while the other is read
    stage(p, n, line, count, tiles);
    for (int64_t l = 0; l < count; ++l, tiles += 2 * TILE) {
      _tile_loadd(6, packed + (line + l) * ROWS * columns, columns);
      _tile_loadd(4, tiles, LINE);
      MULTIPLY(0, 4, 6);
      _tile_loadd(5, tiles + TILE, LINE);
      MULTIPLY(1, 5, 6);
    }
  }
  alignas(64) char sums[2 * TILE];
  _tile_stored(0, sums, columns);
  _tile_stored(1, sums + TILE, columns);
  finish(p, sums, n, 0, x_steps);
}

// What is fetched into the second cache while something else is multiplied: `rows` pieces of `lines` lines.
struct Fetch {
  const char* from;
  int64_t stride, lines, left, share;
  int64_t line = 0;
  void some() {
    for (int64_t i = 0; i < share && left > 0; ++i, --left) {
      _mm_prefetch(from + line * LINE, _MM_HINT_T1);
      if (++line == lines) {
        line = 0;
        from += stride;
      }
    }
  }
};

// The block of W at (n, line) shared out among `turns` steps; nothing where it is not wholly there.
Fetch fetch(const Product& p, int64_t n, int64_t line, int64_t turns) {
  if (n + SIDE > p.n || line + DEPTH > p.lines() || (line + DEPTH) * LINE > p.row_bytes()) return {nullptr, 0, 1, 0, 0};
  if (p.kind == INT4) {
    const int64_t count = DEPTH / 2 * SIDE * GROUP / 2 / LINE;
    const char* from = p.w + (n / SIDE * (p.k / GROUP) + line / 2) * SIDE * GROUP / 2;
    return {from, count * LINE, count, count, (count + turns - 1) / turns};
  }
  return {p.w + n * p.row_bytes() + line * LINE, p.row_bytes(), DEPTH, SIDE * DEPTH, (SIDE * DEPTH + turns - 1) / turns};
}

// A block of W with one or two tiles of x, added to their sums.
template <bool INTEGER, bool TWO>
void block(const char* w, const char* x, int64_t count, bool first, char* sums, Fetch& next) {
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    if (TWO) {
      _tile_zero(2);
      _tile_zero(3);
    }
  } else {
    _tile_loadd(0, sums, LINE);
    _tile_loadd(1, sums + TILE, LINE);
    if (TWO) {
      _tile_loadd(2, sums + 2 * TILE, LINE);
      _tile_loadd(3, sums + 3 * TILE, LINE);
    }
  }
  for (int64_t line = 0; line < count; ++line, w += 2 * TILE, x += TILE) {
    _tile_loadd(4, w, LINE);
    _tile_loadd(6, x, LINE);
    MULTIPLY(0, 4, 6);
    next.some();
    _tile_loadd(5, w + TILE, LINE);
    MULTIPLY(1, 5, 6);
    if (TWO) {
      _tile_loadd(7, x + DEPTH * TILE, LINE);
      MULTIPLY(2, 4, 7);
      MULTIPLY(3, 5, 7);
    }
  }
  _tile_stored(0, sums, LINE);
  _tile_stored(1, sums + TILE, LINE);
  if (TWO) {
    _tile_stored(2, sums + 2 * TILE, LINE);
    _tile_stored(3, sums + 3 * TILE, LINE);
  }
}

// Rows `begin` to `end` of W with all rows of x. sums: for 32 rows of W and 32 of x, 4 tiles, pair of rows by pair.
template <bool INTEGER>
void many(const Product& p, const char* packed, const float* x_steps, int64_t begin, int64_t end, char* staged,
          char* sums) {
  const int64_t lines = p.lines(), tiles = p.tiles(), pairs = (tiles + 1) / 2;
  for (int64_t line = 0; line < lines; line += DEPTH) {
    const int64_t count = std::min(DEPTH, lines - line);
    for (int64_t n = begin; n < end; n += SIDE) {
      stage(p, n, line, count, staged);
      const bool last = n + SIDE >= end;
      Fetch next = fetch(p, last ? begin : n + SIDE, last ? line + DEPTH : line, pairs * count);
      char* to = sums + (n - begin) / SIDE * pairs * 4 * TILE;
      for (int64_t tile = 0; tile < tiles; tile += 2, to += 4 * TILE) {
        const char* x = packed + place(p, tile, line);
        if (tile + 1 < tiles) block<INTEGER, true>(staged, x, count, line == 0, to, next);
        else block<INTEGER, false>(staged, x, count, line == 0, to, next);
      }
    }
  }
  for (int64_t n = begin; n < end; n += SIDE, sums += pairs * 4 * TILE)
    for (int64_t tile = 0; tile < tiles; ++tile) finish(p, sums + tile * 2 * TILE, n, tile * ROWS, x_steps);
}

template <bool INTEGER>
void multiply(const Product& p, int threads) {
  static thread_local Scratch for_packed, for_levels, for_steps;
  const int64_t lines = p.lines(), tiles = p.tiles();
  char* packed = for_packed.of(size_t(place(p, tiles, (lines + DEPTH - 1) / DEPTH * DEPTH)));
  int8_t* levels = INTEGER ? reinterpret_cast<int8_t*>(for_levels.of(size_t(p.m * p.k))) : nullptr;
  float* x_steps = INTEGER ? reinterpret_cast<float*>(for_steps.of(size_t(p.m) * sizeof(float))) : nullptr;
  const char* rows = INTEGER ? reinterpret_cast<const char*>(levels) : p.x;
  const int64_t share = (p.n / (4 * threads) + SIDE - 1) / SIDE * SIDE;
  const int64_t part = std::min(WIDE, std::max(SIDE, share));
#pragma omp parallel num_threads(threads)
  {
    static thread_local Scratch for_staged, for_sums;
    if (INTEGER) {
#pragma omp for
      for (int64_t m = 0; m < p.m; ++m) x_steps[m] = quantize(p, m, levels + m * p.k);
    }
#pragma omp for
    for (int64_t at = 0; at < tiles * lines; ++at)
      pack(p, rows, at % tiles, at / tiles, packed + place(p, at % tiles, at / tiles));
    char* staged = for_staged.of(SIDE * LINE * DEPTH);
    char* sums = for_sums.of(size_t(part / SIDE * ((tiles + 1) / 2) * 4 * TILE));
    configure(p.column_bytes());
    if (tiles == 1) {  // each thread reads W in one stream
#pragma omp for schedule(static)
      for (int64_t n = 0; n < p.n; n += SIDE) few<INTEGER>(p, packed, x_steps, n, staged);
    } else {
#pragma omp for schedule(dynamic)
      for (int64_t n = 0; n < p.n; n += part)
        many<INTEGER>(p, packed, x_steps, n, std::min(p.n, n + part), staged, sums);
    }
    _tile_release();
  }
}

}  // namespace

// Ask Linux for the tile registers. 0 on success.
extern "C" int openvla_ask_for_tiles() {
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return int(syscall(SYS_arch_prctl, REQUEST, TILE_DATA));
}

// See Product for the arguments, of which a kind takes what it needs.
extern "C" void openvla_linear(int kind, int wide, int64_t m, int64_t n, int64_t k, const char* x, const char* w,
                                   const float* scale, const uint32_t* steps, const bf16* bias, char* y, int threads) {
  const int64_t parts = std::max<int64_t>(1, (m + MOST - 1) / MOST), bytes = wide ? 4 : 2;
  const int64_t rows = ((m + parts - 1) / parts + ROWS - 1) / ROWS * ROWS;
  for (int64_t at = 0; at < m; at += rows) {
    const Product p{Kind(kind), wide != 0, std::min(rows, m - at),   n,     k,    x + at * k * bytes,
                    w,          scale,     steps,                    bias,  y + at * n * bytes};
    if (kind == INT8) multiply<true>(p, threads);
    else multiply<false>(p, threads);
  }
}
