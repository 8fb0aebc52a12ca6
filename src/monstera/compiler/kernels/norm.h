/* Layer norm and RMS norm along the channels of planes, or along any dimension of a dense tensor: each lane is a pixel.
 * Two passes, the second over the distance to the mean, so that a large mean costs no digits.
 */
typedef struct {
    int c, n;               /* numbers that are normalised together; images */
    long length;            /* floats of a run: a plane, or what lies behind each other between two channels */
    long x_channel, x_image, y_channel, y_image;
    const uint16_t *mask;   /* lanes of a run that hold pixels, or NULL if all do */
    const float *scale, *shift;
    float eps;
    int centered;
} norm_args;

/* `count` neighbouring vectors, of which `left` floats exist. */
INLINE void norm_vectors(const norm_args *a, const float *x, float *y, const uint16_t *mask, const int count, long left) {
    const float share = 1.0f / (float)a->c;
    vf mean[4], factor[4];
    for (int u = 0; u < count; u++) mean[u] = factor[u] = (vf){0};
    for (int c = 0; c < a->c && a->centered; c++)
        for (int u = 0; u < count; u++) mean[u] += load_some(x + c * a->x_channel + u * VL, left - u * VL);
    for (int u = 0; u < count; u++) mean[u] *= share;
    for (int c = 0; c < a->c; c++)
        for (int u = 0; u < count; u++) {
            const vf d = load_some(x + c * a->x_channel + u * VL, left - u * VL) - mean[u];
            factor[u] += d * d;
        }
    for (int u = 0; u < count; u++) factor[u] = act_rsqrt(factor[u] * share + a->eps);
    for (int c = 0; c < a->c; c++)
        for (int u = 0; u < count; u++) {
            const vf d = load_some(x + c * a->x_channel + u * VL, left - u * VL) - mean[u];
            vf r = d * factor[u] * a->scale[c] + a->shift[c];
            if (mask) r = keep(r, mask[u]);
            store_some(y + c * a->y_channel + u * VL, r, left - u * VL);
        }
}

static void norm(const norm_args *a, const float *x, float *y, part p) {
    const long each = (a->length + VL - 1) / VL;
    const range mine = share(each * a->n, p);
    for (long i = mine.begin; i < mine.end;) {
        const long image = i / each, v = i % each, left = a->length - v * VL;
        const float *from = x + image * a->x_image + v * VL;
        float *to = y + image * a->y_image + v * VL;
        const uint16_t *mask = a->mask ? a->mask + v : 0;
        const int four = v + 4 <= each && i + 4 <= mine.end;
        if (four) norm_vectors(a, from, to, mask, 4, left);
        else norm_vectors(a, from, to, mask, 1, left);
        i += four ? 4 : 1;
    }
}

INLINE float sum_of(vf v) {
    float sum = 0.0f;
    for (int u = 0; u < VL; u++) sum += v[u];
    return sum;
}

/* Numbers that lie behind each other: a run is one of them, and lanes are neighbours in it. */
static void norm_rows(const norm_args *a, const float *x, float *y, part p) {
    const range mine = share(a->n, p);
    for (long n = mine.begin; n < mine.end; n++) {
        const float *from = x + n * a->x_image;
        float *to = y + n * a->y_image;
        vf sum = {0}, square = {0};
        for (long i = 0; i < a->c && a->centered; i += VL) sum += load_some(from + i, a->c - i);
        const float mean = sum_of(sum) / (float)a->c;
        for (long i = 0; i < a->c; i += VL) {
            const vf d = keep_first(load_some(from + i, a->c - i) - mean, a->c - i);
            square += d * d;
        }
        const vf factor = act_rsqrt(splat(sum_of(square) / (float)a->c + a->eps));
        for (long i = 0; i < a->c; i += VL) {
            const long left = a->c - i;
            const vf d = load_some(from + i, left) - mean;
            store_some(to + i, d * factor * load_some(a->scale + i, left) + load_some(a->shift + i, left), left);
        }
    }
}
