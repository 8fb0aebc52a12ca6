/* Nearest and bilinear resizing by tables: for each output row and column two sources and the weight of the second. */
typedef struct {
    grid x, y;
    const int *row0, *row1, *column0, *column1;
    const float *row_weight, *column_weight;
} resize_args;

static void resize(const resize_args *a, const float *x, float *y, part p) {
    const range mine = share(a->y.c, p);
    for (long c = mine.begin; c < mine.end; c++) {
        for (int n = 0; n < a->y.n; n++) {
            const float *image = x + c * a->x.plane + n * a->x.image;
            for (int r = 0; r < a->y.h; r++) {
                const float *top = image + a->row0[r] * a->x.row, *bottom = image + a->row1[r] * a->x.row;
                const float v = a->row_weight[r];
                float *out = y + c * a->y.plane + n * a->y.image + r * a->y.row;
                for (int q = 0; q < a->y.w; q++) {
                    const int i = a->column0[q], j = a->column1[q];
                    const float u = a->column_weight[q];
                    if (u == 0.0f && v == 0.0f) { out[q] = top[i]; continue; }
                    const float upper = (1.0f - u) * top[i] + u * top[j];
                    const float lower = (1.0f - u) * bottom[i] + u * bottom[j];
                    out[q] = (1.0f - v) * upper + v * lower;
                }
            }
        }
        clear_gaps(y + c * a->y.plane, &a->y);
    }
}
