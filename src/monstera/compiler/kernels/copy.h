/* Strided copies between dense tensors and planes: packing inputs, phase planes, slices, padding, concatenation. */
typedef struct {
    long x_column, x_row, x_slice, x_channel, x_image; /* strides of the source, 0 repeats */
    int n, c, d, h, w;                        /* what is copied */
    grid y;                                   /* where it goes: x is laid into rows of y */
    long y_channel;                           /* planes of y between two channels, in floats */
    int whole;                                /* also zero the rest of every plane of y */
} copy_args;

INLINE void copy_row(const float *x, long step, float *y, long count) {
    if (step == 1) memcpy(y, x, 4 * (size_t)count);
    else if (step == 2)
        for (long i = 0; i < count; i += VL) {
            const long left = 2 * (count - i) - 1; /* not a float more is read: the source may be the caller's own */
            store_some(y + i, even(load_some(x + 2 * i, left), load_some(x + 2 * i + VL, left - VL)), count - i);
        }
    else for (long i = 0; i < count; i++) y[i] = x[i * step];
}

/* The rows of one slice. With `whole`, zeros follow each of them, and the last one up to `end`. */
INLINE void copy_slice(const copy_args *a, const float *x, float *y, const float *end) {
    for (int r = 0; r < a->h; r++, x += a->x_row, y += a->y.row) {
        copy_row(x, a->x_column, y, a->w);
        if (a->whole) clear(y + a->w, (r + 1 < a->h ? a->y.row : end - y) - a->w);
    }
}

static void copy(const copy_args *a, const float *x, float *y, long y_first, float *start, part p) {
    /* y is where x(0, 0, 0, 0, 0) goes; start is where the plane that holds it begins, y_first floats earlier. */
    const range mine = share(a->c, p);
    for (long c = mine.begin; c < mine.end; c++) {
        float *plane = start + c * a->y_channel;
        if (a->whole) clear(plane, y_first);
        for (int n = 0; n < a->n; n++)
            for (int z = 0; z < a->d; z++) {
                const float *from = x + n * a->x_image + c * a->x_channel + z * a->x_slice;
                float *to = y + c * a->y_channel + n * a->y.image + z * a->y.slice;
                const int last = n + 1 == a->n && z + 1 == a->d;
                copy_slice(a, from, to, last ? plane + a->y.tail : to + a->y.slice);
            }
        if (a->whole && (a->h == 0 || a->w == 0)) clear(plane, a->y.tail);
    }
}

/* VL vectors as the rows of a square, turned into its columns: each round deals out the floats of two vectors in turn. */
INLINE void turn_square(vf *v) {
    for (int round = 1; round < VL; round *= 2) {
        vf w[VL];
        for (int i = 0; i < VL / 2; i++) {
            w[2 * i] = low_pairs(v[i], v[i + VL / 2]);
            w[2 * i + 1] = high_pairs(v[i], v[i + VL / 2]);
        }
        memcpy(v, w, sizeof w);
    }
}

/* A copy of one row a channel whose channels are neighbours in the source (x_channel is 1): tokens with their features
 * side by side into planes of features, or back. */
static void transpose(const copy_args *a, const float *x, float *y, long y_first, float *start, part p) {
    const range mine = share((a->c + VL - 1) / VL, p);
    (void)y_first, (void)start;
    for (long c = mine.begin * VL; c < mine.end * VL && c < a->c; c += VL) {
        const long channels = a->c - c < VL ? a->c - c : VL;
        for (int n = 0; n < a->n; n++) {
            const float *from = x + n * a->x_image + c;
            float *to = y + n * a->y.image + c * a->y_channel;
            for (long w = 0; w < a->w; w += VL) {
                const long columns = a->w - w < VL ? a->w - w : VL;
                vf v[VL];
                for (int i = 0; i < VL; i++)
                    v[i] = i < columns ? load_some(from + (w + i) * a->x_column, channels) : (vf){0};
                turn_square(v);
                for (int i = 0; i < channels; i++) store_some(to + i * a->y_channel + w, v[i], columns);
            }
        }
        for (int i = 0; a->whole && i < channels; i++) clear_gaps(y + (c + i) * a->y_channel, &a->y);
    }
}
