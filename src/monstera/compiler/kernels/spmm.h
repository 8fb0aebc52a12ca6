/* Offset SpMM: Y[row, p] = act(bias[row] + sum_k w[k, row] * X[offset[k] + p] (+ residual[row, p])).
 *
 * p runs over a whole plane as one flat run: the pad columns between rows are computed like pixels and zeroed at the
 * store. Rows come in blocks of R that share their offsets. The pixels are cut in chunks whose inputs stay in a cache
 * while all blocks pass over them; with several groups of columns, only the inputs of one group have to.
 */
typedef struct {
    const float *x;      /* pixel (0, 0) of the first input plane */
    float *y;            /* likewise of the output */
    const float *res;    /* likewise of the residual, or NULL; may be y itself */
    long y_plane;        /* floats between planes of output and residual */
    long y_tail;         /* zeros follow the run up to here */
    const int *offset;   /* K offsets a block, blocks may share them */
    const float *weight; /* [K, R] a block */
    const int *block;    /* (first offset, first weight / R, K, first float of its group's input) a group and block; a
                          * table of them for each range of taps in depth */
    const int *row;      /* R output planes a block */
    const float *bias;   /* R a block */
    const uint16_t *mask; /* valid lanes of each vector of the run */
    const int *stretch;  /* (x, y, tail, vectors, half, table of blocks) each; NULL if the run is all there is */
    int stretches;
    int far;             /* y is not in a cache */
    int abreast;         /* stretches pass a chunk of each in turn: what they read lies side by side */
    int blocks, groups, vectors, chunk, tile; /* chunk and tile in vectors */
    int half;            /* the run's last vector is a half */
    int by_blocks;       /* threads split the blocks, not the pixels */
} spmm_args;

/* A stretch as a run of its own, x and y floats behind the first pixels: slices that read the same taps in depth. */
INLINE spmm_args spmm_stretch(const spmm_args *a, int i) {
    spmm_args s = *a;
    if (!a->stretch) return s;
    const int *t = a->stretch + 6 * i;
    s.x += t[0];
    s.y += t[1];
    if (a->res) s.res += t[1];
    s.y_tail = t[2];
    s.vectors = t[3];
    s.half = t[4];
    s.block += 4L * t[5] * a->groups * a->blocks;
    return s;
}

/* Have the lines that a tile will be stored to brought in while its columns are summed up. */
INLINE void spmm_fetch(const spmm_args *a, const int *row, int rows, long at, long vectors) {
    for (int r = 0; r < rows; r++)
        for (long i = 0; i < vectors; i++) __builtin_prefetch(a->y + row[r] * a->y_plane + at + i * VL, 1);
}

/* What later groups of columns start from beside the sums of the earlier ones. */
static const float no_bias[16];

/* Blocks of this thread, balanced by their number of weights. */
static range spmm_blocks(const spmm_args *a, part p) {
    long total = a->blocks, before = 0;
    for (int i = 0; i < a->blocks * a->groups; i++) total += a->block[4 * i + 2];
    range mine = {0, 0};
    for (int b = 0; b < a->blocks; b++) {
        if (before * p.count < total * p.id) mine.begin = b + 1;
        if (before * p.count < total * (p.id + 1)) mine.end = b + 1;
        before++;
        for (int g = 0; g < a->groups; g++) before += a->block[4 * (g * a->blocks + b) + 2];
    }
    return mine;
}

/* Zeros from the end of the run to the end of the planes of a block: the pad above the next plane, so they come first. */
INLINE void spmm_tail(const spmm_args *a, const int *row, int rows) {
    const long end = a->vectors * VL - (a->half ? VL / 2 : 0);
    for (int r = 0; r < rows; r++) clear(a->y + row[r] * a->y_plane + end, a->y_tail - end);
}
