/* Splits images into phase planes: input (Y * step - origin) lies in phase (Y % step), so that strides become offsets. */
typedef struct {
    const float *x;
    float *y;                        /* the first phase plane of channel 0 */
    long x_row, x_slice, x_channel, x_image;
    int h, w;                        /* of an input slice */
    grid y_grid;                     /* of one phase plane: all its rows and columns are written */
    long y_channel;                  /* floats between channels: all phases of one */
    int step_h, step_w, origin_h, origin_w;
    const int *phase;                /* [step_h, step_w]: which plane of the channel, -1 if nobody reads it */
} split_args;

/* Both phases of rows split in two, row by row: what is read and written lies in order, as it may come from memory. */
static void split_in_two(const split_args *a, const float *x, long x_step, float *const *to, long rows) {
    const long width = a->y_grid.row;
    for (long r = 0; r < rows; r++, x += x_step)
        for (long i = 0; i < width; i += VL) {
            const long begin = a->origin_w - 2 * i;
            const float *from = x - begin;
            vf u, v;
            if (begin <= 0 && begin + a->w >= 2 * VL) u = load(from), v = load(from + VL);
            else {
                u = load_lanes(from, lanes_between(begin, begin + a->w));
                v = load_lanes(from + VL, lanes_between(begin - VL, begin + a->w - VL));
            }
            if (to[0]) store_some(to[0] + r * width + i, even(u, v), width - i);
            if (to[1]) store_some(to[1] + r * width + i, odd(u, v), width - i);
        }
}

static void split_in_many(const split_args *a, const float *x, long x_step, float *const *to, long rows) {
    const long width = a->y_grid.row;
    for (int phase = 0; phase < a->step_w; phase++)
        for (long r = 0; to[phase] && r < rows; r++)
            for (long i = 0; i < width; i++) {
                const long at = i * a->step_w + phase - a->origin_w;
                to[phase][r * width + i] = at >= 0 && at < a->w ? x[r * x_step + at] : 0.0f;
            }
}

/* The first row of a phase whose input row is `at` or later. */
INLINE long phase_row(const split_args *a, int phase, long at, range rows) {
    const long r = (at + a->origin_h - phase + a->step_h - 1) / a->step_h; /* never negative: phase < step */
    return r < rows.begin ? rows.begin : r > rows.end ? rows.end : r;
}

static void split_slice(const split_args *a, const float *x, float *y, range rows) {
    const grid *g = &a->y_grid;
    for (int p = 0; p < a->step_h; p++) {
        const long begin = phase_row(a, p, 0, rows), end = phase_row(a, p, a->h, rows);
        float *to[a->step_w];
        int wanted = 0;
        for (int q = 0; q < a->step_w; q++) {
            const int plane = a->phase[p * a->step_w + q];
            to[q] = 0;
            if (plane < 0) continue;
            wanted = 1;
            float *first = y + plane * g->plane;
            clear(first + rows.begin * g->row, (begin - rows.begin) * g->row);
            clear(first + end * g->row, (rows.end - end) * g->row);
            to[q] = first + begin * g->row;
        }
        if (!wanted) continue;
        const float *from = x + (begin * a->step_h + p - a->origin_h) * a->x_row;
        if (a->step_w == 2) split_in_two(a, from, a->step_h * a->x_row, to, end - begin);
        else split_in_many(a, from, a->step_h * a->x_row, to, end - begin);
    }
}

static void split(const split_args *a, part p) {
    const grid *g = &a->y_grid;
    const piece mine = piece_of(g, p);
    for (long c = mine.planes.begin; c < mine.planes.end; c++)
        for (int s = 0; s < g->n * g->d; s++) {
            const int n = s / g->d, z = s % g->d;
            float *y = a->y + c * a->y_channel + s * g->slice;
            split_slice(a, a->x + c * a->x_channel + n * a->x_image + z * a->x_slice, y, mine.rows);
            if (mine.rows.begin) continue;
            for (long plane = 0; plane < a->y_channel; plane += g->plane) clear_below(y + plane, g, s);
        }
}
