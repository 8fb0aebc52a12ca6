/* Rows of a table. Numbers come as floats; one that is no row of the table gives NaN and reads nothing. */
typedef struct {
    const float *table, *none; /* `none` is a row of NaN */
    long rows, width;
    grid y;
} embedding_args;

INLINE const float *row_of(const embedding_args *a, float number) {
    return number >= 0.0f && number < (float)a->rows ? a->table + (long)number * a->width : a->none;
}

/* Rows behind each other. */
static void embedding_rows(const embedding_args *a, const float *x, float *y, long count, part p) {
    const range mine = share(count, p);
    for (long i = mine.begin; i < mine.end; i++) memcpy(y + i * a->width, row_of(a, x[i]), 4 * (size_t)a->width);
}

/* A plane for each feature: as many rows as a vector has lanes are walked through together. */
static void embedding_planes(const embedding_args *a, const float *x, float *y, part p) {
    const grid *g = &a->y;
    const long each = (g->w + VL - 1) / VL;
    const range mine = share(each * g->n, p);
    for (long i = mine.begin; i < mine.end; i++) {
        const long image = i / each, at = i % each * VL, left = g->w - at;
        const float *row[VL];
        float *to = y + image * g->image + at;
        for (int u = 0; u < VL; u++) row[u] = row_of(a, x[image * g->w + at + (u < left ? u : 0)]);
        for (long c = 0; c < a->width; c++, to += g->plane) {
            vf v;
            for (int u = 0; u < VL; u++) v[u] = row[u][c];
            store_some(to, v, left);
            if (left <= VL) clear_behind(to - at, g, (int)image);
        }
    }
}
