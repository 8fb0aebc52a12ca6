/* Products of computed matrices, dense: y[b] = a[b] @ b[b] for a batch that broadcasts. */
typedef struct {
    const float *a, *b;
    float *y;
    const int *batch;   /* (first float of a, of b) each */
    const float *ones;  /* a vector for each of a tile */
    int count, tile;
    long rows, columns, inner;
} matmul_args;

static void matmul(const matmul_args *m, part p) {
    const long vectors = (m->columns + VL - 1) / VL, strips = (vectors + m->tile - 1) / m->tile;
    const range mine = share(m->count * strips, p);
    for (long i = mine.begin; i < mine.end; i++) {
        const long s = i % strips, n = i / strips, from = vectors * s / strips, to = vectors * (s + 1) / strips;
        gemm(m->rows, (int)(to - from), m->a + m->batch[2 * n], m->inner, 1, m->b + m->batch[2 * n + 1] + from * VL,
             m->columns, m->inner, m->ones, m->y + n * m->rows * m->columns + from * VL, m->columns,
             m->columns - from * VL);
    }
}
