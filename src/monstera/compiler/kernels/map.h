/* Elementwise operators: y = act(f(a, b)) over runs of floats. f is compiled in.
 *
 * A run is a plane, an image of a plane or a stretch of a dense tensor; `mask` (if any) says which lanes hold pixels.
 */
typedef struct {
    int c, n;                  /* runs */
    long length;               /* floats of a run */
    long last;                 /* floats of a channel's last run: it also reaches over the plane's tail */
    long a_channel, a_image, y_channel, y_image, b_channel, b_image;
    const uint16_t *mask;
} map_args;

#define MAP(NAME, B_KIND, EXPRESSION) \
    static void NAME(const map_args *m, const float *a, const float *b, const float *b2, float *y, part p) { \
        const long all = (long)m->c * m->n, longest = (m->last + VL - 1) / VL; \
        /* long runs are cut, as the matrix kernels cut them; short ones are dealt out whole */ \
        const int cut = all == 1 || longest >= 4 * p.count || p.window.end < longest; \
        const range runs = cut ? (range){0, all} : share(all, p); \
        for (long i = runs.begin; i < runs.end; i++) { \
            const long c = i / m->n, n = i % m->n; \
            const float *pa = a + c * m->a_channel + n * m->a_image; \
            const float *pb = b + c * m->b_channel + n * m->b_image, *pb2 = b2 + c * m->b_channel; \
            float *py = y + c * m->y_channel + n * m->y_image; \
            const long length = n == m->n - 1 ? m->last : m->length; \
            const range vectors = cut ? share((length + VL - 1) / VL, p) : (range){0, (length + VL - 1) / VL}; \
            (void)pb2; (void)pb; \
            for (long v = vectors.begin; v < vectors.end; v++) { \
                const long at = v * VL, left = length - at; \
                const vf x = load_some(pa + at, left); \
                const vf z = B_KIND; \
                vf r = EXPRESSION; \
                if (m->mask) r = keep(r, m->mask[v]); \
                store_some(py + at, r, left); \
            } \
        } \
    }
