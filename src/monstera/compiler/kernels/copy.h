/* Strided copies between dense tensors and planes: packing inputs, phase planes, slices, padding, concatenation. */
typedef struct {
    long x_column, x_row, x_channel, x_image; /* strides of the source, 0 repeats */
    int n, c, h, w;                           /* what is copied */
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

static void copy(const copy_args *a, const float *x, float *y, long y_first, float *start, part p) {
    /* y is where x(0, 0, 0, 0) goes; start is where the plane that holds it begins, y_first floats earlier. */
    const range mine = share(a->c, p);
    for (long c = mine.begin; c < mine.end; c++) {
        float *plane = start + c * a->y_channel;
        if (a->whole) clear(plane, y_first);
        for (int n = 0; n < a->n; n++)
            for (int r = 0; r < a->h; r++) {
                const float *from = x + n * a->x_image + c * a->x_channel + r * a->x_row;
                float *to = y + c * a->y_channel + n * a->y.image + r * a->y.row;
                copy_row(from, a->x_column, to, a->w);
                if (!a->whole) continue;
                /* zeros up to the next row, the next image or the end of the plane */
                long next = r + 1 < a->h ? a->y.row : a->y.image - (long)(a->h - 1) * a->y.row;
                if (r + 1 == a->h && n + 1 == a->n) next = plane + a->y.tail - to;
                clear(to + a->w, next - a->w);
            }
        if (a->whole && (a->h == 0 || a->w == 0)) clear(plane, a->y.tail);
    }
}
