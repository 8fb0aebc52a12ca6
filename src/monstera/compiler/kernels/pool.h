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

INLINE vf load_step(const float *p, int step) {
    if (step == 1) return load(p);
    vf v;
    for (int i = 0; i < VL; i++) ((float *)&v)[i] = p[i * step];
    return v;
}
#define POOL_ROW(START, JOIN, JOIN1, FINISH, FINISH1) \
    /* columns [first, last) read whole windows; in vectors (the last overlaps), the rest one by one */ \
    for (int q = 0; q < a->y.w; q++) { \
        if (q < last && q + VL > last && last - VL >= first) q = last - VL; \
        if (q >= first && q + VL <= last) { \
            vf s = splat(START); \
            for (int ky = ky0; ky < ky1; ky++) \
                for (int kx = 0; kx < a->kernel_w; kx++) { \
                    const float *from = image + (iy + ky * a->dilation_h) * a->x.row + q * a->stride_w - a->left \
                        + kx * a->dilation_w; \
                    const vf v = a->stride_w == 2 ? even(load(from), load(from + VL)) : load_step(from, a->stride_w); \
                    s = JOIN; \
                } \
            store(out + q, FINISH); \
            q += VL - 1; \
            continue; \
        } \
        float s = START; \
        for (int ky = ky0; ky < ky1; ky++) \
            for (int kx = 0; kx < a->kernel_w; kx++) { \
                const int ix = q * a->stride_w - a->left + kx * a->dilation_w; \
                if (ix < 0 || ix >= a->x.w) continue; \
                const float v = image[(iy + ky * a->dilation_h) * a->x.row + ix]; \
                s = JOIN1; \
            } \
        out[q] = FINISH1; \
    }

#define POOL(NAME, START, JOIN, JOIN1, FINISH, FINISH1) \
    static void NAME(const pool_args *a, const float *x, float *y, part p) { \
        const range mine = share(a->y.c, p); \
        const int reach = (a->kernel_w - 1) * a->dilation_w; \
        const int first = (a->left + a->stride_w - 1) / a->stride_w; \
        /* stride 2 loads two whole vectors: one float more than the window needs */ \
        const int over = a->stride_w == 2 ? 1 : 0; \
        const int room = a->x.w + a->left - reach - over; \
        const int whole = room > 0 ? (room - 1) / a->stride_w + 1 : 0; \
        const int last = whole < a->y.w ? whole : a->y.w; \
        for (long c = mine.begin; c < mine.end; c++) { \
            for (int n = 0; n < a->y.n; n++) { \
                const float *image = x + c * a->x.plane + n * a->x.image; \
                for (int r = 0; r < a->y.h; r++) { \
                    float *out = y + c * a->y.plane + n * a->y.image + r * a->y.row; \
                    const int iy = r * a->stride_h - a->top; \
                    int ky0 = 0, ky1 = a->kernel_h; \
                    while (ky0 < ky1 && iy + ky0 * a->dilation_h < 0) ky0++; \
                    while (ky1 > ky0 && iy + (ky1 - 1) * a->dilation_h >= a->x.h) ky1--; \
                    POOL_ROW(START, JOIN, JOIN1, FINISH, FINISH1) \
                } \
            } \
            clear_gaps(y + c * a->y.plane, &a->y); \
        } \
    }

POOL(pool_max, -INFINITY, max_(s, v), max1(s, v), s, s)
POOL(pool_mean, 0.0f, s + v, s + v, s * load(a->factor + r * a->y.w + q), s * a->factor[r * a->y.w + q])

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
