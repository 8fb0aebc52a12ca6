/* Vectors of VL floats, written once with the compiler's vector extensions. VL is a macro of the target. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

/* aligned(4): a load may start at any float, because a convolution tap is any offset. */
typedef float vf __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

typedef struct { int id, count; } part; /* this thread, of so many */
typedef struct { long begin, end; } range;

typedef struct {
    const char *weights;
    float *arena;
    const float *const *in;
    float *const *out;
} call;
#define TABLE(bytes) ((const void *)(c->weights + (bytes)))
#define ARENA(floats) (c->arena + (floats))

/* Strides in floats. `tail` is where a plane's values end for good and zeros begin, -1 in a dense tensor. */
typedef struct { int n, c, h, w; long row, image, plane, tail; } grid;

INLINE range share(long total, part p) {
    return (range){total * p.id / p.count, total * (p.id + 1) / p.count};
}

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

/* The first lanes of a vector, for ends of rows that must not be overrun; a count may be negative. */
#if defined(__AVX512F__) && VL == 16
INLINE __mmask16 first_lanes(long count) {
    return (__mmask16)(count >= 16 ? 0xffff : count > 0 ? (1 << count) - 1 : 0);
}
INLINE void store_some(float *p, vf v, long count) { _mm512_mask_storeu_ps(p, first_lanes(count), (__m512)v); }
INLINE vf load_some(const float *p, long count) { return (vf)_mm512_maskz_loadu_ps(first_lanes(count), p); }
#else
INLINE void store_some(float *p, vf v, long count) {
    if (count >= VL) store(p, v);
    else if (count > 0) memcpy(p, &v, 4 * (size_t)count);
}
INLINE vf load_some(const float *p, long count) {
    vf v = {0};
    if (count >= VL) return load(p);
    if (count > 0) memcpy(&v, p, 4 * (size_t)count);
    return v;
}
#endif

/* Every other float of two vectors. */
#if VL == 16
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#elif VL == 8
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#else
#define EVEN 0, 2, 4, 6
#endif
INLINE vf even(vf low, vf high) { return __builtin_shufflevector(low, high, EVEN); }


/* Zero the lanes whose bit is clear. A select, not a product: pad columns may hold NaN or Inf before. */
#if defined(__AVX512F__) && VL == 16
INLINE vf keep(vf v, unsigned bits) { return (vf)_mm512_maskz_mov_ps((__mmask16)bits, (__m512)v); }
#else
#if VL == 16
#define LANE_BITS {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768}
#elif VL == 8
#define LANE_BITS {1, 2, 4, 8, 16, 32, 64, 128}
#else
#define LANE_BITS {1, 2, 4, 8}
#endif
INLINE vf keep(vf v, unsigned bits) {
    const vi lanes = LANE_BITS;
    return (vf)((vi)v & ((((int)bits - (vi){0}) & lanes) != 0));
}
#endif

INLINE void clear(float *p, long count) {
    if (count <= VL) store_some(p, (vf){0}, count); /* most gaps are a few floats */
    else memset(p, 0, 4 * (size_t)count);
}

/* Zeros wherever a plane holds no pixel: right of the rows, between images, behind the last. */
static void clear_gaps(float *plane, const grid *g) {
    if (g->tail < 0) return;
    for (int n = 0; n < g->n; n++) {
        float *image = plane + n * g->image;
        if (g->row > g->w)
            for (int y = 0; y < g->h; y++) clear(image + y * g->row + g->w, g->row - g->w);
        clear(image + g->h * g->row, g->image - g->h * g->row);
    }
    clear(plane + g->n * g->image, g->tail - g->n * g->image);
}
