/* Pixels from channels: channels [groups, *block, c] of a pixel fill its block. What lies beyond the output is left out. */
typedef struct {
    grid x, y;
    int groups, block_d, block_h, block_w;
} weave_args;

/* out[i] = phase i % block of pixel i / block; the phases of a pixel lie `step` floats apart. */
INLINE void weave_row(const float *x, long step, int block, float *out, long count) {
    if (block == 1) memcpy(out, x, 4 * (size_t)count);
    else if (block == 2)
        for (long i = 0; i < count; i += 2 * VL) {
            const long pixels = (count - i + 1) / 2;
            const vf u = load_some(x + i / 2, pixels), v = load_some(x + step + i / 2, pixels - (count & 1));
            store_some(out + i, low_pairs(u, v), count - i);
            store_some(out + i + VL, high_pairs(u, v), count - i - VL);
        }
    else for (long i = 0; i < count; i++) out[i] = x[i % block * step + i / block];
}

static void weave(const weave_args *a, const float *x, float *y, part p) {
    const grid *g = &a->y;
    const long each = g->c / a->groups, phases = (long)a->block_d * a->block_h * a->block_w;
    const long step = each * a->x.plane; /* between two phases of a channel */
    const piece mine = piece_of(g, p);
    for (long c = mine.planes.begin; c < mine.planes.end; c++)
        for (int s = 0; s < g->n * g->d; s++) {
            const int n = s / g->d, z = s % g->d;
            const float *from = x + (c / each * phases * each + c % each) * a->x.plane + n * a->x.image
                + z / a->block_d * a->x.slice + (long)(z % a->block_d) * a->block_h * a->block_w * step;
            float *to = y + c * g->plane + n * g->image + z * g->slice;
            for (long r = mine.rows.begin; r < mine.rows.end; r++) {
                const float *row = from + r / a->block_h * a->x.row + r % a->block_h * a->block_w * step;
                weave_row(row, step, a->block_w, to + r * g->row, g->w);
                if (g->tail >= 0) clear(to + r * g->row + g->w, g->row - g->w);
            }
            if (mine.rows.begin == 0) clear_below(to, g, s);
        }
}
