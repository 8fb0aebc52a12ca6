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
    const float *bias;   /* R a block, blocks cover the rows in order */
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

#define SPMV(NAME, V, R, ACTIVATION) \
    INLINE void NAME##_1(const float *x, long x_image, const int *offset, const float *w, long k, const float *bias, \
        float *y, long y_image) { SPMV_BODY(V, 1) } \
    INLINE void NAME##_4(const float *x, long x_image, const int *offset, const float *w, long k, const float *bias, \
        float *y, long y_image) { SPMV_BODY(V, 4) } \
    static void NAME(const spmv_args *a, part p) { \
        const range mine = share(a->blocks, p); \
        const long row = a->first_row + R * mine.begin, rows = R * (mine.end - mine.begin); \
        for (long b = mine.begin; b < mine.end; b++) { \
            const int *block = a->block + 4 * b; \
            const float *w = a->weight + (long)block[1] * R, *bias = a->bias + R * b; \
            float *y = a->y + a->first_row + R * b; \
            int n = 0; \
            for (; n + 4 <= a->images; n += 4) \
                NAME##_4(a->x + block[3] + n * a->x_image, a->x_image, a->offset + block[0], w, block[2], bias, \
                    y + n * a->y_image, a->y_image); \
            for (; n < a->images; n++) \
                NAME##_1(a->x + block[3] + n * a->x_image, a->x_image, a->offset + block[0], w, block[2], bias, \
                    y + n * a->y_image, a->y_image); \
        } \
        for (int n = 0; n < a->images; n++) \
            for (long i = 0; i < rows; i += VL) { \
                float *at = a->y + n * a->y_image + row + i; \
                store_some(at, ACTIVATION(load_some(at, rows - i)), rows - i); \
            } \
    }
