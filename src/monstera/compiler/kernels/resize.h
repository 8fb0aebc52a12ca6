/* Nearest and linear resizing by tables: for each output slice, row and column two sources and the weight of the second. */
typedef struct {
    grid x, y;
    const int *slice0, *slice1, *row0, *row1, *column0, *column1;
    const float *slice_weight, *row_weight, *column_weight;
} resize_args;

INLINE float between(float a, float b, float weight) { return (1.0f - weight) * a + weight * b; }

/* A weight of zero takes the first source alone: the second may be infinite. */
INLINE float resized_pixel(const resize_args *a, const float *slice, int r, int q) {
    const float *top = slice + a->row0[r] * a->x.row, *bottom = slice + a->row1[r] * a->x.row;
    const int i = a->column0[q], j = a->column1[q];
    const float u = a->column_weight[q], v = a->row_weight[r];
    if (u == 0.0f && v == 0.0f) return top[i];
    return between(between(top[i], top[j], u), between(bottom[i], bottom[j], u), v);
}

INLINE void resize_slice(const resize_args *a, const float *front, const float *back, float weight, float *y) {
    for (int r = 0; r < a->y.h; r++)
        for (int q = 0; q < a->y.w; q++) {
            const float v = resized_pixel(a, front, r, q);
            y[r * a->y.row + q] = weight == 0.0f ? v : between(v, resized_pixel(a, back, r, q), weight);
        }
}

static void resize(const resize_args *a, const float *x, float *y, part p) {
    const range mine = share(a->y.c, p);
    for (long c = mine.begin; c < mine.end; c++) {
        for (int n = 0; n < a->y.n; n++)
            for (int z = 0; z < a->y.d; z++) {
                const float *image = x + c * a->x.plane + n * a->x.image;
                const float *front = image + a->slice0[z] * a->x.slice, *back = image + a->slice1[z] * a->x.slice;
                float *to = y + c * a->y.plane + n * a->y.image + z * a->y.slice;
                resize_slice(a, front, back, a->slice_weight[z], to);
            }
        clear_gaps(y + c * a->y.plane, &a->y);
    }
}
