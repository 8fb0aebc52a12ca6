/* Offset SpMM: Y[row, p] = act(bias[row] + sum_k w[k, row] * X[offset[k] + p] (+ residual[row, p])).
 *
 * p runs over a whole plane as one flat run: the pad columns between rows are computed like pixels and zeroed at the
 * store. Rows come in blocks of R that share their offsets. The pixels are cut in chunks whose inputs stay in the
 * second-level cache while all blocks pass over them.
 */
typedef struct {
    const float *x;      /* pixel (0, 0) of the first input plane */
    float *y;            /* likewise of the output */
    const float *res;    /* likewise of the residual, or NULL */
    long y_plane;        /* floats between planes of output and residual */
    long y_tail;         /* zeros follow the run up to here */
    const int *offset;   /* K offsets a block, blocks may share them */
    const float *weight; /* [K, R] a block */
    const int *block;    /* (first offset, first weight / R, K, first float of its group's input) a block */
    const int *row;      /* R output planes a block */
    const float *bias;   /* R a block */
    const uint16_t *mask; /* valid lanes of each vector of the run */
    int blocks, vectors, chunk;
    int by_blocks;       /* threads split the blocks, not the pixels */
} spmm_args;

/* Blocks of this thread, balanced by their number of weights. */
static range spmm_blocks(const spmm_args *a, part p) {
    const int *last = a->block + 4 * (a->blocks - 1);
    const long total = (long)last[1] + last[2] + a->blocks;
    range mine = {0, 0};
    for (int b = 0; b < a->blocks; b++) {
        const long before = (long)a->block[4 * b + 1] + b;
        if (before * p.count < total * p.id) mine.begin = b + 1;
        if (before * p.count < total * (p.id + 1)) mine.end = b + 1;
    }
    return mine;
}
