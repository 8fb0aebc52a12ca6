/* Sparse matrix times a few vectors: R rows share their columns, weights are streamed once for up to four images.
 *
 * x[image * x_image + offset[k]]: offsets reach into planes as well, so flattening costs nothing.
 */
typedef struct {
    const float *x;
    float *y;            /* dense, y_image floats between images */
    long x_image, y_image;
    const int *offset;
    const float *weight; /* [K, R] a block */
    const int *block;    /* (first offset, first weight / R, K, first float of its group's input) a block */
    const float *bias;   /* R a block */
    const int *row;      /* R output rows a block; NULL where blocks cover the rows in order, from first_row on */
    int blocks, images, first_row;
} spmv_args;

/* Four accumulators an image hide the latency of the multiply-add. */
#define SPMV_BODY(V, N) \
    V s[N][4]; \
    for (int n = 0; n < N; n++) { s[n][0] = *(const V *)bias; s[n][1] = s[n][2] = s[n][3] = s[n][0] - s[n][0]; } \
    long i = 0; \
    for (; i + 4 <= k; i += 4) \
        for (int u = 0; u < 4; u++) { \
            const V wu = ((const V *)w)[i + u]; \
            for (int n = 0; n < N; n++) s[n][u] += wu * x[n * x_image + offset[i + u]]; \
        } \
    for (; i < k; i++) \
        for (int n = 0; n < N; n++) s[n][0] += ((const V *)w)[i] * x[n * x_image + offset[i]]; \
    for (int n = 0; n < N; n++) *(V *)(y + n * y_image) = (s[n][0] + s[n][1]) + (s[n][2] + s[n][3]);

/* Rows in order are summed right into y and activated together at the end; scattered ones block by block on the way. */
#define SPMV(NAME, V, R, ACTIVATION) \
    INLINE void NAME##_1(const float *x, long x_image, const int *offset, const float *w, long k, const float *bias, \
        float *y, long y_image) { SPMV_BODY(V, 1) } \
    INLINE void NAME##_4(const float *x, long x_image, const int *offset, const float *w, long k, const float *bias, \
        float *y, long y_image) { SPMV_BODY(V, 4) } \
    INLINE void NAME##_activate(float *y, long rows) { \
        for (long i = 0; i < rows; i += VL) store_some(y + i, ACTIVATION(load_some(y + i, rows - i)), rows - i); \
    } \
    INLINE void NAME##_block(const spmv_args *a, long b, long image, int images) { \
        const int *block = a->block + 4 * b, *row = a->row ? a->row + R * b : 0; \
        const float *x = a->x + block[3] + image * a->x_image, *bias = a->bias + R * b; \
        const float *w = a->weight + (long)block[1] * R; \
        const int *offset = a->offset + block[0]; \
        float sums[4 * R], *y = row ? sums : a->y + image * a->y_image + a->first_row + R * b; \
        const long y_image = row ? R : a->y_image; \
        if (images == 4) NAME##_4(x, a->x_image, offset, w, block[2], bias, y, y_image); \
        else NAME##_1(x, a->x_image, offset, w, block[2], bias, y, y_image); \
        for (int n = 0; row && n < images; n++) { \
            NAME##_activate(sums + n * R, R); \
            for (int r = 0; r < R; r++) a->y[(image + n) * a->y_image + row[r]] = sums[n * R + r]; \
        } \
    } \
    static void NAME(const spmv_args *a, part p) { \
        const range mine = share(a->blocks, p); \
        for (long b = mine.begin; b < mine.end; b++) { \
            int n = 0; \
            for (; n + 4 <= a->images; n += 4) NAME##_block(a, b, n, 4); \
            for (; n < a->images; n++) NAME##_block(a, b, n, 1); \
        } \
        for (int n = 0; !a->row && n < a->images; n++) \
            NAME##_activate(a->y + n * a->y_image + a->first_row + R * mine.begin, R * (mine.end - mine.begin)); \
    }
