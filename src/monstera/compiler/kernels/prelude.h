/* Vectors of VL floats, written once with the compiler's vector extensions. VL is a macro of the target. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define TILE static __attribute__((noinline)) /* its registers are for its loop, not for constants of loops around it */
#define EXPORT __attribute__((visibility("default")))

/* aligned(4): a load may start at any float, because a convolution tap is any offset. */
typedef float vf __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

typedef struct { long begin, end; } range;
typedef struct team team;
typedef struct { int id, count; range window; team *team; } part; /* this thread, of so many in a team; the piece of a
                                                                   * step they share */

typedef struct {
    const char *weights;
    float *arena;
    const float *const *in;
    float *const *out;
} call;
#define TABLE(bytes) ((const void *)(c->weights + (bytes)))
#define ARENA(floats) (c->arena + (floats))

/* Strides in floats. `tail` is where a plane's values end for good and zeros begin, -1 in a dense tensor; in all others
 * the slices of an image and the images of a plane follow each other. */
typedef struct { int n, c, d, h, w; long row, slice, image, plane, tail; } grid;

INLINE range window_of(long total, part p) {
    return (range){p.window.begin, p.window.end < total ? p.window.end : total};
}
INLINE range share(long total, part p) {
    const range all = window_of(total, p);
    const long length = all.end - all.begin;
    return (range){all.begin + length * p.id / p.count, all.begin + length * (p.id + 1) / p.count};
}

/* A constant to be made here, not kept in a register through the loops around: tiles need them all. */
#if defined(__SSE__)
#define HERE(v) __asm__ volatile("" : "+x"(v))
#elif defined(__aarch64__)
#define HERE(v) __asm__ volatile("" : "+w"(v))
#else
#define HERE(v) (void)(v)
#endif

INLINE vf load(const float *p) { return *(const vf *)p; }
INLINE void store(float *p, vf v) { *(vf *)p = v; }
INLINE vf splat(float s) { return s - (vf){0}; } /* x - 0 is x for every x, -0 included; 0 + x is not */
INLINE float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
INLINE vf select_lt(vf a, vf b, vf yes, vf no) {
    const vi m = a < b;
    return (vf)(((vi)yes & m) | ((vi)no & ~m));
}

/* The larger and the smaller of two; x if it is NaN. */
#if defined(__AVX512F__) && VL == 16
INLINE vf at_least(vf bound, vf x) { return (vf)_mm512_max_ps((__m512)bound, (__m512)x); }
INLINE vf at_most(vf bound, vf x) { return (vf)_mm512_min_ps((__m512)bound, (__m512)x); }
#elif defined(__AVX__) && VL == 8
INLINE vf at_least(vf bound, vf x) { return (vf)_mm256_max_ps((__m256)bound, (__m256)x); }
INLINE vf at_most(vf bound, vf x) { return (vf)_mm256_min_ps((__m256)bound, (__m256)x); }
#else
INLINE vf at_least(vf bound, vf x) { return select_lt(x, bound, bound, x); }
INLINE vf at_most(vf bound, vf x) { return select_lt(bound, x, bound, x); }
#endif

/* Some lanes of a vector, the others neither read nor written: for the ends of rows. Counts may be negative. */
#if defined(__AVX512F__) && VL == 16
INLINE __mmask16 first_lanes(long count) {
    return (__mmask16)(count >= 16 ? 0xffff : count > 0 ? (1 << count) - 1 : 0);
}
INLINE void store_some(float *p, vf v, long count) { _mm512_mask_storeu_ps(p, first_lanes(count), (__m512)v); }
INLINE vf load_some(const float *p, long count) { return (vf)_mm512_maskz_loadu_ps(first_lanes(count), p); }
typedef __mmask16 lanes;
INLINE lanes lanes_between(long begin, long end) { return (lanes)(first_lanes(end) & ~first_lanes(begin)); }
INLINE vf load_lanes(const float *p, lanes m) { return (vf)_mm512_maskz_loadu_ps(m, p); }
#else
typedef float v2 __attribute__((vector_size(8), aligned(4), may_alias));
INLINE void store_some(float *p, vf v, long count) {
    if (count >= VL) return store(p, v);
    if (count <= 0) return;
#if VL == 8
    v4 rest = __builtin_shufflevector(v, v, 0, 1, 2, 3);
    if (count & 4) *(v4 *)p = rest, p += 4, rest = __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
    v4 rest = v;
#endif
    if (count & 2) *(v2 *)p = __builtin_shufflevector(rest, rest, 0, 1), p += 2;
    if (count & 1) *p = count & 2 ? rest[2] : rest[0];
}
#if defined(__AVX2__) && VL == 8
typedef vi lanes;
INLINE lanes lanes_between(long begin, long end) {
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7};
    const int from = begin < 0 ? 0 : begin > VL ? VL : (int)begin, to = end < 0 ? 0 : end > VL ? VL : (int)end;
    return (lane >= from) & (lane < to);
}
INLINE vf load_lanes(const float *p, lanes m) { return (vf)_mm256_maskload_ps(p, (__m256i)m); }
INLINE vf load_some(const float *p, long count) {
    return count >= VL ? load(p) : load_lanes(p, lanes_between(0, count));
}
#else
INLINE vf load_some(const float *p, long count) {
    vf v = {0};
    if (count >= VL) return load(p);
    if (count > 0) memcpy(&v, p, 4 * (size_t)count);
    return v;
}
typedef struct { long begin, end; } lanes;
INLINE lanes lanes_between(long begin, long end) { return (lanes){begin, end}; }
INLINE vf load_lanes(const float *p, lanes m) {
    vf v = {0};
    if (m.begin <= 0) return load_some(p, m.end);
    for (long i = m.begin; i < VL && i < m.end; i++) v[i] = p[i];
    return v;
}
#endif
#endif

/* Every other float of two vectors. */
#if VL == 16
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif VL == 8
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#endif
#if defined(__AVX2__) && VL == 8 /* gcc takes two shuffles across the halves and a blend */
INLINE vf in_order(__m256 pairs) { return (vf)_mm256_permute4x64_pd((__m256d)pairs, 0xd8); }
INLINE vf even(vf low, vf high) { return in_order(_mm256_shuffle_ps((__m256)low, (__m256)high, 0x88)); }
INLINE vf odd(vf low, vf high) { return in_order(_mm256_shuffle_ps((__m256)low, (__m256)high, 0xdd)); }
#else
INLINE vf even(vf low, vf high) { return __builtin_shufflevector(low, high, EVEN); }
INLINE vf odd(vf low, vf high) { return __builtin_shufflevector(low, high, ODD); }
#endif

/* The floats of two vectors in turn: the first halves, and the second. */
#if VL == 16
#define LOW_PAIRS 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_PAIRS 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VL == 8
#define LOW_PAIRS 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_PAIRS 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOW_PAIRS 0, 4, 1, 5
#define HIGH_PAIRS 2, 6, 3, 7
#endif
INLINE vf low_pairs(vf a, vf b) { return __builtin_shufflevector(a, b, LOW_PAIRS); }
INLINE vf high_pairs(vf a, vf b) { return __builtin_shufflevector(a, b, HIGH_PAIRS); }

/* Zero the lanes whose bit is clear. A select, not a product: pad columns may hold NaN or Inf before. */
#if defined(__AVX512F__) && VL == 16
typedef __mmask16 valid;
INLINE valid valid_lanes(unsigned bits) { return (valid)bits; }
INLINE vf keep_lanes(vf v, valid m) { return (vf)_mm512_maskz_mov_ps(m, (__m512)v); }
INLINE vf keep(vf v, unsigned bits) { return keep_lanes(v, valid_lanes(bits)); }
INLINE vf keep_first(vf v, long count) { return keep(v, first_lanes(count)); }
#else
#if VL == 16
#define LANE_BITS {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768}
#elif VL == 8
#define LANE_BITS {1, 2, 4, 8, 16, 32, 64, 128}
#else
#define LANE_BITS {1, 2, 4, 8}
#endif
typedef vi valid;
INLINE valid valid_lanes(unsigned bits) {
    vi lanes = LANE_BITS;
    HERE(lanes);
    return (((int)bits - (vi){0}) & lanes) == lanes;
}
INLINE vf keep_lanes(vf v, valid m) { return (vf)((vi)v & m); }
INLINE vf keep(vf v, unsigned bits) { return keep_lanes(v, valid_lanes(bits)); }
INLINE vf keep_first(vf v, long count) {
    return count >= VL ? v : keep(v, count > 0 ? (1u << count) - 1 : 0);
}
#endif

/* Half vectors, for the ends of runs. */
typedef float hf __attribute__((vector_size(2 * VL), aligned(4), may_alias));
INLINE hf load_half(const float *p) { return *(const hf *)p; }
INLINE void store_half(float *p, hf v) { *(hf *)p = v; }
INLINE hf splat_half(float s) { return s - (hf){0}; }
#if defined(__AVX512F__) && VL == 16
INLINE vf widen(hf v) { return (vf)_mm512_zextps256_ps512((__m256)v); }
INLINE hf narrow(vf v) { return (hf)_mm512_castps512_ps256((__m512)v); }
#else
INLINE vf widen(hf v) {
    vf r = {0};
    memcpy(&r, &v, sizeof v);
    return r;
}
INLINE hf narrow(vf v) {
    hf r;
    memcpy(&r, &v, sizeof r);
    return r;
}
#endif

INLINE void clear(float *p, long count) {
    if (count <= VL) store_some(p, (vf){0}, count); /* most gaps are a few floats */
    else memset(p, 0, 4 * (size_t)count);
}

/* Zeros below slice s of a plane, counted through its images, and behind the last one up to the end of the plane. */
INLINE void clear_below(float *slice, const grid *g, int s) {
    if (g->tail < 0) return;
    const long end = s + 1 < g->n * g->d ? g->slice : g->tail - s * g->slice;
    clear(slice + g->h * g->row, end - g->h * g->row);
}

/* Zeros behind each row of slice s, and below it. */
INLINE void clear_behind(float *slice, const grid *g, int s) {
    if (g->tail < 0) return;
    for (int y = 0; y < g->h && g->row > g->w; y++) clear(slice + y * g->row + g->w, g->row - g->w);
    clear_below(slice, g, s);
}

/* Zeros wherever a plane holds no pixel: right of the rows, between slices, behind the last. */
static void clear_gaps(float *plane, const grid *g) {
    for (int s = 0; s < g->n * g->d; s++) clear_behind(plane + s * g->slice, g, s);
}

/* A thread's piece of a tensor: rows, as the matrix kernels cut pixels, so that lines stay in the cache that holds
 * them; planes where rows are few. */
typedef struct { range planes, rows; } piece;
INLINE piece piece_of(const grid *g, part p) {
    const range rows = window_of(g->h, p);
    if (rows.end - rows.begin >= 12 * p.count) return (piece){{0, g->c}, share(g->h, p)};
    p.window = (range){0, g->c};
    return (piece){share(g->c, p), rows};
}
