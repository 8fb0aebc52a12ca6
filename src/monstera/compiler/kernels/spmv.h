/* Sparse matrix times a few vectors: R rows share their columns, weights are streamed once for up to four images.
 *
 * x[image * x_image + offset[k]]: offsets reach into planes as well, so flattening costs nothing. The columns of single
 * rows are all over x; they come in groups, so that the part of x that a group reads stays in the first-level cache and
 * an offset within it takes two bytes. A later group starts from the sums that the earlier ones left in y.
 */
#include "row_vectors.h"

typedef struct {
    const float *x;
    float *y;            /* dense, y_image floats between images */
    long x_image, y_image;
    const void *offset;  /* int; uint16_t for single rows */
    const float *weight; /* [K, R] a block */
    const int *block;    /* (first offset, first weight / R, K, first float of what it reads) a group and block */
    const float *bias;   /* R a block */
    const int *row;      /* R output rows a block; NULL where blocks cover the rows in order, from first_row on */
    int blocks, groups, images, first_row; /* one group, but of single rows */
} spmv_args;

#define SPMV_OFFSET_16 int
#define SPMV_OFFSET_8 int
#define SPMV_OFFSET_4 int
#define SPMV_OFFSET_1 uint16_t

#define SPMV_SUM_16(N, U) SPMV_SUM(16, N, U)
#define SPMV_SUM_8(N, U) SPMV_SUM(8, N, U)
#define SPMV_SUM_4(N, U) SPMV_SUM(4, N, U)
#define SPMV_SUM_1(N, U) SPMV_ROW(N, U)

/* N images, U columns at a time: accumulators of their own hide the latency of the multiply-add. */
#define SPMV_SUM(R, N, U) \
    typedef rows_##R V; \
    enum { H = R * sizeof(float) / sizeof(V) }; \
    V s[N][U][H]; \
    for (int n = 0; n < N; n++) \
        for (int u = 0; u < U; u++) \
            for (int h = 0; h < H; h++) s[n][u][h] = u ? (V){0} : ((const V *)start)[h]; \
    long i = 0; \
    for (; i + U <= k; i += U) \
        for (int u = 0; u < U; u++) \
            for (int h = 0; h < H; h++) { \
                const V wu = ((const V *)w)[(i + u) * H + h]; \
                for (int n = 0; n < N; n++) s[n][u][h] += wu * x[n * x_image + offset[i + u]]; \
            } \
    for (; i < k; i++) \
        for (int h = 0; h < H; h++) \
            for (int n = 0; n < N; n++) s[n][0][h] += ((const V *)w)[i * H + h] * x[n * x_image + offset[i]]; \
    for (int n = 0; n < N; n++) \
        for (int h = 0; h < H; h++) { \
            for (int u = 1; u < U; u++) s[n][0][h] += s[n][u][h]; \
            ((V *)(y + n * y_image))[h] = s[n][0][h]; \
        }

/* A single row has its columns side by side in the vector; a vector of four is what gathering single floats fills best. */
#define SPMV_ROW(N, U) \
    v4 s[N][U]; \
    for (int n = 0; n < N; n++) \
        for (int u = 0; u < U; u++) s[n][u] = (v4){0}; \
    long i = 0; \
    for (; i + 4 * U <= k; i += 4 * U) \
        for (int u = 0; u < U; u++) { \
            const uint16_t *o = offset + i + 4 * u; \
            const v4 wu = *(const v4 *)(w + i + 4 * u); \
            for (int n = 0; n < N; n++) { \
                const float *xn = x + n * x_image; \
                s[n][u] += wu * (v4){xn[o[0]], xn[o[1]], xn[o[2]], xn[o[3]]}; \
            } \
        } \
    for (int n = 0; n < N; n++) { \
        for (int u = 1; u < U; u++) s[n][0] += s[n][u]; \
        float sum = start[n * start_image] + ((s[n][0][0] + s[n][0][1]) + (s[n][0][2] + s[n][0][3])); \
        for (long j = i; j < k; j++) sum += w[j] * x[n * x_image + offset[j]]; \
        y[n * y_image] = sum; \
    }

/* The rows of a thread's blocks, before any activation. Sums go right to y where rows are in order or alone, else over
 * the stack. */
#define SPMV_SUMS(NAME, R) \
    INLINE void NAME##_1(const float *x, long x_image, const SPMV_OFFSET_##R *offset, const float *w, long k, \
        const float *start, long start_image, float *y, long y_image) { (void)start_image; SPMV_SUM_##R(1, 4) } \
    INLINE void NAME##_4(const float *x, long x_image, const SPMV_OFFSET_##R *offset, const float *w, long k, \
        const float *start, long start_image, float *y, long y_image) { (void)start_image; SPMV_SUM_##R(4, 1) } \
    INLINE void NAME##_block(const spmv_args *a, int group, long b, long image, int images) { \
        const int *block = a->block + 4 * ((long)group * a->blocks + b), *row = a->row ? a->row + R * b : 0; \
        const SPMV_OFFSET_##R *offset = (const SPMV_OFFSET_##R *)a->offset + block[0]; \
        const float *x = a->x + block[3] + image * a->x_image; \
        const float *w = a->weight + (long)block[1] * R; \
        float sums[4 * R], *first = a->y + image * a->y_image; \
        const int over_stack = row && R > 1; \
        float *y = over_stack ? sums : first + (row ? row[0] : a->first_row + R * b); \
        const long y_image = over_stack ? R : a->y_image, start_image = group ? y_image : 0; \
        const float *start = group ? y : a->bias + R * b; \
        if (images == 4) NAME##_4(x, a->x_image, offset, w, block[2], start, start_image, y, y_image); \
        else NAME##_1(x, a->x_image, offset, w, block[2], start, start_image, y, y_image); \
        for (int n = 0; over_stack && n < images; n++) \
            for (int r = 0; r < R; r++) put(first + n * a->y_image + row[r], sums[n * R + r]); \
    } \
    static range NAME(const spmv_args *a, part p) { \
        const range mine = share(a->blocks, p); \
        for (int group = 0; group < a->groups; group++) \
            for (long b = mine.begin; b < mine.end; b++) { \
                int n = 0; \
                for (; n + 4 <= a->images; n += 4) NAME##_block(a, group, b, n, 4); \
                for (; n < a->images; n++) NAME##_block(a, group, b, n, 1); \
            } \
        return (range){R * mine.begin, R * mine.end}; \
    }

/* Sums are activated when all blocks are done: a vector at a time, which scattered rows are gathered into. */
#define SPMV(NAME, R, ACTIVATION) \
    SPMV_SUMS(NAME##_rows, R) \
    INLINE void NAME##_activate(float *y, const int *row, long rows) { \
        for (long i = 0; i < rows; i += VL) { \
            const long left = rows - i < VL ? rows - i : VL; \
            if (!row) { store_some(y + i, ACTIVATION(load_some(y + i, left)), left); continue; } \
            vf v; \
            for (int u = 0; u < VL; u++) v[u] = y[row[i + (u < left ? u : 0)]]; \
            v = ACTIVATION(v); \
            for (int u = 0; u < left; u++) put(y + row[i + u], v[u]); \
        } \
    } \
    static void NAME(const spmv_args *a, part p) { \
        const range rows = NAME##_rows(a, p); \
        for (int n = 0; n < a->images; n++) { \
            float *y = a->y + n * a->y_image; \
            if (a->row) NAME##_activate(y, a->row + rows.begin, rows.end - rows.begin); \
            else NAME##_activate(y + a->first_row + rows.begin, 0, rows.end - rows.begin); \
        } \
    }
