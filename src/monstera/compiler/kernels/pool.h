/* Pooling over windows cut at the edge, and means over whole dimensions. */
typedef struct {
    grid x, y;
    int kernel_d, kernel_h, kernel_w, stride_d, stride_h, stride_w, front, top, left;
    int dilation_d, dilation_h, dilation_w;
    const float *factor; /* [d, h, w] of the output: what a mean multiplies its sum with */
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

/* One slice to make: the first of the slices that its windows meet, how many they are and how far apart; where it goes,
 * and what a mean multiplies its sums with. */
typedef struct { const float *x; int slices; long step; float *out; const float *factor; } pooled;

/* `deep` is known when this is compiled: windows of one slice need no loop over them. */
INLINE pooled pooled_slice(const pool_args *a, int deep, const float *image, int z, float *out) {
    const int iz = z * a->stride_d - a->front, d = a->dilation_d;
    const float *factor = a->factor ? a->factor + (long)z * a->y.h * a->y.w : 0;
    if (!deep) return (pooled){image + iz * a->x.slice, 1, 0, out, factor};
    int from = 0, to = a->kernel_d;
    while (from < to && iz + from * d < 0) from++;
    while (to > from && iz + (to - 1) * d >= a->x.d) to--;
    return (pooled){image + (iz + (long)from * d) * a->x.slice, to - from, d * a->x.slice, out, factor};
}

/* `rows` rows of every slice, joined: a vector of them, of which the first `left` floats are there. */
INLINE vf join_rows(pooling kind, const pooled *s, const float *x, int rows, long step, long left) {
    vf sum = splat(start_of(kind));
    for (int z = 0; z < s->slices; z++, x += s->step)
        if (left >= VL) for (int k = 0; k < rows; k++) sum = join(kind, sum, load(x + k * step));
        else for (int k = 0; k < rows; k++) sum = join(kind, sum, load_some(x + k * step, left));
    return sum;
}

/* line[i] = pixel begin + i of `rows` joined rows; beyond the image what joins without a trace. */
INLINE void pool_line(pooling kind, const pooled *s, const float *x, int w, int rows, long step, float *line, long begin,
    long end) {
    const long first = begin < 0 ? 0 : begin, last = end < w ? end : w;
    const float outside = start_of(kind);
    for (long i = begin; i < first; i++) line[i - begin] = outside;
    for (long i = first; i < last; i += VL) store(line + i - begin, join_rows(kind, s, x + i, rows, step, last - i));
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

INLINE void pool_lines(pooling kind, const pool_args *a, const pooled *slice, stretch s, float *line, int kernel_w,
    int stride_w, int dilation_w) {
    const int d = a->dilation_h;
    const long iy = s.row * a->stride_h - a->top;
    int from = 0, to = a->kernel_h;
    while (from < to && iy + from * d < 0) from++;
    while (to > from && iy + (to - 1) * d >= a->x.h) to--;
    const float *x = slice->x + (iy + (long)from * d) * a->x.row;
    const long begin = s.begin * stride_w - a->left;
    const long length = (s.pixels - 1) * stride_w + (kernel_w - 1) * dilation_w + 1;
    pool_line(kind, slice, x, a->x.w, to - from, (long)d * a->x.row, line, begin, begin + length);
}

INLINE void pool_columns(pooling kind, const pool_args *a, const pooled *slice, stretch s, const float *line,
    int kernel_w, int stride_w, int dilation_w) {
    for (long q = 0; q < s.end - s.begin; q += VL) {
        vf v = load_step(line + q * stride_w, stride_w, 0);
        for (int k = 1; k < kernel_w; k++)
            v = join(kind, v, load_step(line + q * stride_w, stride_w, k * dilation_w));
        if (kind == SUM) v = v * load_some(slice->factor + s.row * a->y.w + s.begin + q, s.pixels - q);
        store_some(slice->out + s.row * a->y.row + s.begin + q, keep_first(v, s.pixels - q), s.end - s.begin - q);
    }
}

/* Every line is made while the one before is read: what was just stored cannot be loaded at other places at once. */
INLINE void pool_slice(pooling kind, const pool_args *a, const pooled *slice, range rows, float *lines, long room,
    int kernel_w, int stride_w, int dilation_w) {
    const long width = a->y.tail < 0 ? a->y.w : a->y.row;
    const long count = (rows.end - rows.begin) * ((width + POOL_COLUMNS - 1) / POOL_COLUMNS);
    for (long i = 0; i <= count; i++) {
        if (i < count)
            pool_lines(kind, a, slice, stretch_of(a, rows, i), lines + i % 2 * room, kernel_w, stride_w, dilation_w);
        if (i)
            pool_columns(kind, a, slice, stretch_of(a, rows, i - 1), lines + (i - 1) % 2 * room, kernel_w, stride_w,
                dilation_w);
    }
}

/* Windows of two columns, two apart, that begin in the first: a line of their own would only cost. */
INLINE void pool_pairs(pooling kind, const pool_args *a, const pooled *slice, long r) {
    const float *x = slice->x + r * a->stride_h * a->x.row;
    float *out = slice->out + r * a->y.row;
    const long step = (long)a->dilation_h * a->x.row, width = a->y.tail < 0 ? a->y.w : a->y.row;
    for (long q = 0; q < width; q += VL) {
        const long left = a->x.w - 2 * q;
        const vf u = join_rows(kind, slice, x + 2 * q, a->kernel_h, step, left);
        const vf v = join_rows(kind, slice, x + 2 * q + VL, a->kernel_h, step, left - VL);
        vf s = join(kind, even(u, v), odd(u, v));
        if (kind == SUM) s = s * load_some(slice->factor + r * a->y.w + q, a->y.w - q);
        store_some(out + q, keep_first(s, a->y.w - q), width - q);
    }
}

INLINE void pool(pooling kind, int deep, const pool_args *a, const float *x, float *y, part p) {
    const long columns = a->y.w < POOL_COLUMNS ? a->y.w : POOL_COLUMNS;
    const long room = (columns + 3 * VL) * a->stride_w + (long)a->kernel_w * a->dilation_w;
    float lines[2 * room];
    const piece mine = piece_of(&a->y, p);
    const int inside = a->top == 0 && a->left == 0 && 2 * a->y.w <= a->x.w
        && (a->y.h - 1) * a->stride_h + (a->kernel_h - 1) * a->dilation_h < a->x.h;
    const int pairs = inside && a->kernel_w == 2 && a->stride_w == 2 && a->dilation_w == 1;
    for (long c = mine.planes.begin; c < mine.planes.end; c++)
        for (int i = 0; i < a->y.n * a->y.d; i++) {
            const int n = i / a->y.d, z = i % a->y.d;
            float *out = y + c * a->y.plane + n * a->y.image + z * a->y.slice;
            const pooled s = pooled_slice(a, deep, x + c * a->x.plane + n * a->x.image, z, out);
            if (pairs)
                for (long r = mine.rows.begin; r < mine.rows.end; r++) pool_pairs(kind, a, &s, r);
            /* the most common window with its numbers compiled in */
            else if (a->stride_w == 2 && a->kernel_w == 3 && a->dilation_w == 1)
                pool_slice(kind, a, &s, mine.rows, lines, room, 3, 2, 1);
            else pool_slice(kind, a, &s, mine.rows, lines, room, a->kernel_w, a->stride_w, a->dilation_w);
            if (mine.rows.begin == 0) clear_below(out, &a->y, i);
        }
}

static void pool_max(const pool_args *a, const float *x, float *y, part p) { pool(MAX, 0, a, x, y, p); }
static void pool_mean(const pool_args *a, const float *x, float *y, part p) { pool(SUM, 0, a, x, y, p); }
static void pool_max_deep(const pool_args *a, const float *x, float *y, part p) { pool(MAX, 1, a, x, y, p); }
static void pool_mean_deep(const pool_args *a, const float *x, float *y, part p) { pool(SUM, 1, a, x, y, p); }

/* Adaptive windows: output i covers floor(i * in / out) .. ceil((i + 1) * in / out). */
INLINE range adaptive_window(int i, int in, int out) {
    return (range){(long)i * in / out, ((long)(i + 1) * in + out - 1) / out};
}

INLINE float adaptive_pixel(const grid *g, int take_max, const float *image, range depth, range rows, range columns) {
    float s = take_max ? -INFINITY : 0.0f;
    for (long k = depth.begin; k < depth.end; k++)
        for (long i = rows.begin; i < rows.end; i++)
            for (long j = columns.begin; j < columns.end; j++) {
                const float v = image[k * g->slice + i * g->row + j];
                s = take_max ? max1(s, v) : s + v;
            }
    const long pixels = (depth.end - depth.begin) * (rows.end - rows.begin) * (columns.end - columns.begin);
    return take_max ? s : s / (float)pixels;
}

INLINE void adaptive_slice(const pool_args *a, int take_max, const float *image, range depth, float *y) {
    for (int r = 0; r < a->y.h; r++)
        for (int q = 0; q < a->y.w; q++) {
            const range rows = adaptive_window(r, a->x.h, a->y.h), columns = adaptive_window(q, a->x.w, a->y.w);
            y[r * a->y.row + q] = adaptive_pixel(&a->x, take_max, image, depth, rows, columns);
        }
}

static void adaptive_pool(const pool_args *a, int take_max, const float *x, float *y, part p) {
    const range mine = share(a->y.c, p);
    for (long c = mine.begin; c < mine.end; c++) {
        for (int n = 0; n < a->y.n; n++)
            for (int z = 0; z < a->y.d; z++)
                adaptive_slice(a, take_max, x + c * a->x.plane + n * a->x.image, adaptive_window(z, a->x.d, a->y.d),
                    y + c * a->y.plane + n * a->y.image + z * a->y.slice);
        clear_gaps(y + c * a->y.plane, &a->y);
    }
}

/* The mean over space, [n, c] dense: gaps hold zeros, so a whole image is one run. */
static void mean(const grid *x_grid, const float *x, float *y, part p) {
    const range mine = share(x_grid->c, p);
    const long length = (x_grid->d - 1) * x_grid->slice + x_grid->h * x_grid->row;
    const float factor = 1.0f / ((float)x_grid->d * (float)(x_grid->h * x_grid->w));
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

/* The mean over some dimensions: bit i of `over` says whether the i-th of (n, c, d, h, w) is one. Dense in the others. */
static void mean_over(const grid *g, int over, const float *x, float *y, part p) {
    const int size[5] = {g->n, g->c, g->d, g->h, g->w};
    const long step[5] = {g->image, g->plane, g->slice, g->row, 1};
    int in[5]; /* extents of the sum, one where a dimension is kept */
    long kept = 1, summed = 1;
    for (int i = 0; i < 5; i++) {
        in[i] = over >> i & 1 ? size[i] : 1;
        summed *= in[i];
        kept *= size[i] / in[i];
    }
    const range mine = share(kept, p);
    for (long at = mine.begin; at < mine.end; at++) {
        const float *from = x;
        long rest = at;
        for (int i = 4; i >= 0; i--) {
            const long extent = size[i] / in[i];
            from += rest % extent * step[i];
            rest /= extent;
        }
        float s = 0.0f;
        for (int n = 0; n < in[0]; n++)
            for (int c = 0; c < in[1]; c++)
                for (int d = 0; d < in[2]; d++)
                    for (int h = 0; h < in[3]; h++) {
                        const float *row = from + n * step[0] + c * step[1] + d * step[2] + h * step[3];
                        for (int w = 0; w < in[4]; w++) s += row[w];
                    }
        y[at] = s / (float)summed;
    }
}
