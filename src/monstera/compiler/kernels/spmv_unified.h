/* Blocks of R rows in whose columns the weights have one magnitude: it and R sign bits are streamed instead of R floats,
 * for products that wait for memory. Columns of a block that are not so come after the others, and are streamed whole.
 */
#include "row_vectors.h"

typedef struct {
    const float *x;
    float *y;                /* dense, y_image floats between images */
    long x_image, y_image;
    const uint16_t *offset;  /* of a block's unified columns, then of its plain ones */
    const float *magnitude;  /* a unified column */
    const void *sign;        /* a unified column: bit r is set where row r is negative; 16 bits for 16 rows, 8 for 8 */
    const float *weight;     /* [plain columns, R] a block */
    const int *block;        /* (first offset, first magnitude, unified columns, first weight / R, plain columns, first
                              * float of what it reads) a block */
    const float *bias;       /* R a block */
    const int *row;          /* R output rows a block; NULL where blocks cover the rows in order, from first_row on */
    int blocks, images, first_row;
} spmv_unified_args;

typedef uint32_t bits_16 __attribute__((vector_size(sizeof(rows_16)), aligned(4), may_alias));
typedef uint32_t bits_8 __attribute__((vector_size(sizeof(rows_8)), aligned(4), may_alias));

#define UNIFIED_SIGN_16 uint16_t
#define UNIFIED_SIGN_8 uint8_t

/* N images, C columns at a time, each with accumulators of its own. A lane's sign bit is shifted to where floats have
 * theirs and laid over the magnitude, which is what the weight was. */
#define UNIFIED_SUM(R, N, C) \
    typedef rows_##R V; \
    typedef bits_##R U; \
    enum { H = R * sizeof(float) / sizeof(V), L = sizeof(V) / sizeof(float) }; \
    const uint16_t *offset = a->offset + block[0]; \
    const float *magnitude = a->magnitude + block[1], *w = a->weight + (long)block[3] * R; \
    const UNIFIED_SIGN_##R *sign = (const UNIFIED_SIGN_##R *)a->sign + block[1]; \
    const long k = block[2], plain = block[4], x_image = a->x_image; \
    U up[H]; \
    V s[N][C][H]; \
    for (int h = 0; h < H; h++) \
        for (int l = 0; l < L; l++) up[h][l] = 31 - (uint32_t)(h * L + l); \
    for (int n = 0; n < N; n++) \
        for (int u = 0; u < C; u++) \
            for (int h = 0; h < H; h++) s[n][u][h] = u ? (V){0} : ((const V *)bias)[h]; \
    long i = 0; \
    for (; i + C <= k; i += C) \
        for (int u = 0; u < C; u++) UNIFIED_COLUMN(V, U, N, u, i + u) \
    for (; i < k; i++) UNIFIED_COLUMN(V, U, N, 0, i) \
    for (i = 0; i + C <= plain; i += C) \
        for (int u = 0; u < C; u++) \
            for (int h = 0; h < H; h++) { \
                const V wu = ((const V *)w)[(i + u) * H + h]; \
                for (int n = 0; n < N; n++) s[n][u][h] += wu * x[n * x_image + offset[k + i + u]]; \
            } \
    for (; i < plain; i++) \
        for (int h = 0; h < H; h++) \
            for (int n = 0; n < N; n++) s[n][0][h] += ((const V *)w)[i * H + h] * x[n * x_image + offset[k + i]]; \
    for (int n = 0; n < N; n++) \
        for (int h = 0; h < H; h++) { \
            for (int u = 1; u < C; u++) s[n][0][h] += s[n][u][h]; \
            ((V *)(sums + n * R))[h] = s[n][0][h]; \
        }

#define UNIFIED_COLUMN(V, U, N, u, i) { \
        const U bits = (uint32_t)sign[i] | (U){0}, m = (U)(magnitude[i] - (V){0}); \
        for (int h = 0; h < H; h++) { \
            const V wu = (V)(m | ((bits << up[h]) & 0x80000000u)); \
            for (int n = 0; n < N; n++) s[n][u][h] += wu * x[n * x_image + offset[i]]; \
        } \
    }

/* Sums go over the stack, where they are activated. */
#define SPMV_UNIFIED(NAME, R, ACTIVATION) \
    INLINE void NAME##_1(const spmv_unified_args *a, const int *block, const float *x, const float *bias, float *sums) \
        { UNIFIED_SUM(R, 1, 4) } \
    INLINE void NAME##_4(const spmv_unified_args *a, const int *block, const float *x, const float *bias, float *sums) \
        { UNIFIED_SUM(R, 4, 1) } \
    INLINE void NAME##_block(const spmv_unified_args *a, long b, long image, int images) { \
        const int *block = a->block + 6 * b, *row = a->row ? a->row + R * b : 0; \
        const float *x = a->x + block[5] + image * a->x_image; \
        float sums[4 * R]; \
        if (images == 4) NAME##_4(a, block, x, a->bias + R * b, sums); \
        else NAME##_1(a, block, x, a->bias + R * b, sums); \
        for (int n = 0; n < images; n++) { \
            float *s = sums + n * R, *y = a->y + (image + n) * a->y_image; \
            float *to = row ? s : y + a->first_row + R * b; \
            for (int r = 0; r < R; r += VL) store_some(to + r, ACTIVATION(load_some(s + r, R - r)), R - r); \
            for (int r = 0; row && r < R; r++) put(y + row[r], s[r]); \
        } \
    } \
    static void NAME(const spmv_unified_args *a, part p) { \
        const range mine = share(a->blocks, p); \
        for (long b = mine.begin; b < mine.end; b++) { \
            int n = 0; \
            for (; n + 4 <= a->images; n += 4) NAME##_block(a, b, n, 4); \
            for (; n < a->images; n++) NAME##_block(a, b, n, 1); \
        } \
    }
