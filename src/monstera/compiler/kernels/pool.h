/* Pooling over windows cut at the edge, and the mean over space. */
typedef struct {
    grid x, y;
    int kernel_h, kernel_w, stride_h, stride_w, top, left, dilation_h, dilation_w;
    const float *factor; /* [h, w] of the output: what a mean multiplies its sum with */
} pool_args;

/* NaN in either operand is kept. */
#if defined(__AVX512F__) && VL == 16
INLINE vf max_(vf a, vf b) { /* the instruction gives its second operand if either is NaN: a is safe, b is not yet */
    const __m512 x = (__m512)a, y = (__m512)b;
    return (vf)_mm512_mask_mov_ps(_mm512_max_ps(y, x), _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q), y);
}
#else
INLINE vf max_(vf a, vf b) {
    const vi take_b = (a < b) | (b != b);
    return (vf)(((vi)b & take_b) | ((vi)a & ~take_b));
}
#endif
INLINE float max1(float a, float b) { return a < b || b != b ? b : a; }

/* VL floats `step` apart, `tap` floats in. */
INLINE vf load_step(const float *p, int step, int tap) {
    if (step == 1) return load(p + tap);
    if (step == 2 && tap & 1) return odd(load(p + tap - 1), load(p + tap - 1 + VL));
    if (step == 2) return even(load(p + tap), load(p + tap + VL));
    vf v;
    for (int i = 0; i < VL; i++) ((float *)&v)[i] = p[i * step + tap];
    return v;
}

/* A window is joined in two goes: its rows into a line, then the columns of that line. */
typedef enum { SUM, MAX } pooling;
INLINE vf join(pooling kind, vf a, vf b) {
    if (kind == MAX) return max_(a, b);
    return a + b;
}
INLINE float start_of(pooling kind) { return kind == MAX ? -INFINITY : 0.0f; }

/* Output columns made from one line. */
#define POOL_COLUMNS 512

/* line[i] = pixel begin + i of `rows` joined rows; beyond the image what joins without a trace. */
INLINE void pool_line(pooling kind, const float *x, int w, int rows, long step, float *line, long begin, long end) {
    const long first = begin < 0 ? 0 : begin, last = end < w ? end : w;
    const float outside = start_of(kind);
    for (long i = begin; i < first; i++) line[i - begin] = outside;
    for (long i = first; i < last; i += VL) {
        vf s = splat(outside);
        if (last - i >= VL) for (int k = 0; k < rows; k++) s = join(kind, s, load(x + k * step + i));
        else for (int k = 0; k < rows; k++) s = join(kind, s, load_some(x + k * step + i, last - i));
        store(line + i - begin, s);
    }
    for (long i = last < first ? first : last; i < end; i++) line[i - begin] = outside;
}

/* A stretch of an output row: which, and its columns [begin, end), of which [begin, begin + pixels) are no gap. */
typedef struct { long row, begin, end, pixels; } stretch;

INLINE stretch stretch_of(const pool_args *a, range rows, long i) {
    const long width = a->y.tail < 0 ? a->y.w : a->y.row; /* the gap behind a row is written with it */
    const long count = (width + POOL_COLUMNS - 1) / POOL_COLUMNS, begin = i % count * POOL_COLUMNS;
    const long end = begin + POOL_COLUMNS < width ? begin + POOL_COLUMNS : width;
    return (stretch){rows.begin + i / count, begin, end, (end < a->y.w ? end : a->y.w) - begin};
}

INLINE void pool_lines(pooling kind, const pool_args *a, const float *image, stretch s, float *line, int kernel_w,
    int stride_w, int dilation_w) {
    const int d = a->dilation_h;
    const long iy = s.row * a->stride_h - a->top;
    int from = 0, to = a->kernel_h;
    while (from < to && iy + from * d < 0) from++;
    while (to > from && iy + (to - 1) * d >= a->x.h) to--;
    const float *x = image + (iy + (long)from * d) * a->x.row;
    const long begin = s.begin * stride_w - a->left;
    const long length = (s.pixels - 1) * stride_w + (kernel_w - 1) * dilation_w + 1;
    pool_line(kind, x, a->x.w, to - from, (long)d * a->x.row, line, begin, begin + length);
}

INLINE void pool_columns(pooling kind, const pool_args *a, stretch s, const float *line, float *out, int kernel_w,
    int stride_w, int dilation_w) {
    for (long q = 0; q < s.end - s.begin; q += VL) {
        vf v = load_step(line + q * stride_w, stride_w, 0);
        for (int k = 1; k < kernel_w; k++)
            v = join(kind, v, load_step(line + q * stride_w, stride_w, k * dilation_w));
        if (kind == SUM) v = v * load_some(a->factor + s.row * a->y.w + s.begin + q, s.pixels - q);
        store_some(out + s.row * a->y.row + s.begin + q, keep_first(v, s.pixels - q), s.end - s.begin - q);
    }
}

/* Every line is made while the one before is read: what was just stored cannot be loaded at other places at once. */
INLINE void pool_image(pooling kind, const pool_args *a, const float *image, float *out, range rows, float *lines,
    long room, int kernel_w, int stride_w, int dilation_w) {
    const long width = a->y.tail < 0 ? a->y.w : a->y.row;
    const long count = (rows.end - rows.begin) * ((width + POOL_COLUMNS - 1) / POOL_COLUMNS);
    for (long i = 0; i <= count; i++) {
        if (i < count)
            pool_lines(kind, a, image, stretch_of(a, rows, i), lines + i % 2 * room, kernel_w, stride_w, dilation_w);
        if (i)
            pool_columns(kind, a, stretch_of(a, rows, i - 1), lines + (i - 1) % 2 * room, out, kernel_w, stride_w,
                dilation_w);
    }
}

/* Windows of two columns, two apart, that begin in the first: a line of their own would only cost. */
INLINE void pool_pairs(pooling kind, const pool_args *a, const float *image, int r, float *out) {
    const float *x = image + (long)r * a->stride_h * a->x.row;
    const long width = a->y.tail < 0 ? a->y.w : a->y.row;
    for (long q = 0; q < width; q += VL) {
        const long left = a->x.w - 2 * q;
        vf u = load_some(x + 2 * q, left), v = load_some(x + 2 * q + VL, left - VL);
        for (int k = 1; k < a->kernel_h; k++) {
            const float *row = x + (long)k * a->dilation_h * a->x.row + 2 * q;
            u = join(kind, u, load_some(row, left));
            v = join(kind, v, load_some(row + VL, left - VL));
        }
        vf s = join(kind, even(u, v), odd(u, v));
        if (kind == SUM) s = s * load_some(a->factor + (long)r * a->y.w + q, a->y.w - q);
        store_some(out + q, keep_first(s, a->y.w - q), width - q);
    }
}

INLINE void pool(pooling kind, const pool_args *a, const float *x, float *y, part p) {
    const long columns = a->y.w < POOL_COLUMNS ? a->y.w : POOL_COLUMNS;
    const long room = (columns + 3 * VL) * a->stride_w + (long)a->kernel_w * a->dilation_w;
    float lines[2 * room];
    const piece mine = piece_of(&a->y, p);
    const int inside = a->top == 0 && a->left == 0 && 2 * a->y.w <= a->x.w
        && (a->y.h - 1) * a->stride_h + (a->kernel_h - 1) * a->dilation_h < a->x.h;
    const int pairs = inside && a->kernel_w == 2 && a->stride_w == 2 && a->dilation_w == 1;
    for (long c = mine.planes.begin; c < mine.planes.end; c++)
        for (int n = 0; n < a->y.n; n++) {
            const float *image = x + c * a->x.plane + n * a->x.image;
            float *out = y + c * a->y.plane + n * a->y.image;
            if (pairs)
                for (long r = mine.rows.begin; r < mine.rows.end; r++) pool_pairs(kind, a, image, r, out + r * a->y.row);
            /* the most common window with its numbers compiled in */
            else if (a->stride_w == 2 && a->kernel_w == 3 && a->dilation_w == 1)
                pool_image(kind, a, image, out, mine.rows, lines, room, 3, 2, 1);
            else pool_image(kind, a, image, out, mine.rows, lines, room, a->kernel_w, a->stride_w, a->dilation_w);
            if (mine.rows.begin == 0) clear_below(out, &a->y, n);
        }
}

static void pool_max(const pool_args *a, const float *x, float *y, part p) { pool(MAX, a, x, y, p); }
static void pool_mean(const pool_args *a, const float *x, float *y, part p) { pool(SUM, a, x, y, p); }

/* Adaptive windows: output i covers floor(i * in / out) .. ceil((i + 1) * in / out). */
static void adaptive_pool(const pool_args *a, int take_max, const float *x, float *y, part p) {
    const range mine = share(a->y.c, p);
    for (long c = mine.begin; c < mine.end; c++) {
        for (int n = 0; n < a->y.n; n++)
            for (int r = 0; r < a->y.h; r++)
                for (int q = 0; q < a->y.w; q++) {
                    const int y0 = r * a->x.h / a->y.h, y1 = ((r + 1) * a->x.h + a->y.h - 1) / a->y.h;
                    const int x0 = q * a->x.w / a->y.w, x1 = ((q + 1) * a->x.w + a->y.w - 1) / a->y.w;
                    const float *image = x + c * a->x.plane + n * a->x.image;
                    float s = take_max ? -INFINITY : 0.0f;
                    for (int i = y0; i < y1; i++)
                        for (int j = x0; j < x1; j++) {
                            const float v = image[i * a->x.row + j];
                            s = take_max ? max1(s, v) : s + v;
                        }
                    y[c * a->y.plane + n * a->y.image + r * a->y.row + q] =
                        take_max ? s : s / (float)((y1 - y0) * (x1 - x0));
                }
        clear_gaps(y + c * a->y.plane, &a->y);
    }
}

/* The mean over space, [n, c] dense: gaps hold zeros, so a whole image is one run. */
static void mean(const grid *x_grid, const float *x, float *y, part p) {
    const range mine = share(x_grid->c, p);
    const long length = x_grid->h * x_grid->row;
    const float factor = 1.0f / (float)(x_grid->h * x_grid->w);
    for (long c = mine.begin; c < mine.end; c++)
        for (int n = 0; n < x_grid->n; n++) {
            const float *image = x + c * x_grid->plane + n * x_grid->image;
            vf s = {0};
            for (long i = 0; i < length; i += VL) s += load_some(image + i, length - i);
            float total = 0;
            for (int i = 0; i < VL; i++) total += s[i];
            y[n * x_grid->c + c] = total * factor;
        }
}
