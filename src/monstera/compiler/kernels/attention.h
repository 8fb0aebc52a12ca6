/* Attention over planes, a strip of queries of one head at a time. Scores are stored keys by queries, so that all of the
 * softmax is vertical: each lane is a query. First keys are the weights and queries the vectors, S[j, i] = K[:, j] Q[:, i];
 * then values are the weights and the softmax the vectors, Y[c, i] = V[c, :] P[:, i] / sum[i].
 */
typedef struct {
    const float *q, *k, *v;
    const float *mask;      /* added to the scores, or NULL */
    float *y, *scratch;
    long q_channel, q_image, k_channel, k_image, v_channel, v_image;
    long mask_image, mask_head, mask_key, mask_query; /* floats between two, 0 repeats */
    const int *head;        /* (first channel of q, k, v and y, width of q and k, width of v) each */
    grid y_grid;
    int heads, keys, tile, causal;
    float scale;
    long scratch_floats;    /* for each thread */
} attention_args;

/* scores[j] += mask[j] for the vectors of a strip. */
static void attention_mask(const attention_args *a, const float *mask, float *scores, long keys, int width, long valid) {
    for (long j = 0; j < keys; j++)
        for (int p = 0; p < width; p++) {
            float *s = scores + (j * width + p) * VL;
            const float *m = mask + j * a->mask_key + p * VL * a->mask_query;
            vf add = splat(*mask);
            if (a->mask_query == 1) add = load_some(m, valid - p * VL);
            else if (a->mask_query == 0) add = splat(*m);
            else for (int u = 0; u < VL; u++) add[u] = m[(p * VL + u < valid ? u : 0) * a->mask_query];
            store(s, load(s) + add);
        }
}

/* Query `first + i` does not see the keys behind it. */
static void attention_causal(float *scores, long keys, int width, long first) {
    for (long j = first + 1; j < keys; j++)
        for (int p = 0; p < width; p++) {
            float *s = scores + (j * width + p) * VL;
            const long hidden = j - first - p * VL; /* lanes below this */
            for (int u = 0; u < VL && u < hidden; u++) s[u] = -INFINITY;
        }
}

/* Exponentials in place, and what their sums are divided by. What lies far below the largest score is nothing at all;
 * where all scores are minus infinity, the sum is 0 and so is the answer. */
static void attention_softmax(float *scores, float *factor, long keys, int width) {
    for (int p = 0; p < width; p++) {
        float *s = scores + p * VL;
        const long step = (long)width * VL;
        vf top = splat(-INFINITY), sum = {0};
        for (long j = 0; j < keys; j++) top = at_least(top, load(s + j * step));
        top = select_lt(splat(-INFINITY), top, top, (vf){0});
        for (long j = 0; j < keys; j++) {
            const vf x = load(s + j * step) - top;
            const vf e = select_lt(x, splat(-87.0f), (vf){0}, exp_(x));
            store(s + j * step, e);
            sum += e;
        }
        const vi none = sum == 0.0f;
        store(factor + p * VL, (vf)((vi)(1.0f / sum) & ~none));
    }
}

static void attention_strip(const attention_args *a, long image, const int *head, long number, range strip, float *scratch) {
    if (head[5] == 0) return; /* nobody reads this head */
    const grid *g = &a->y_grid;
    const int width = (int)(strip.end - strip.begin);
    const long first = strip.begin * VL, valid = g->w - first, whole = (long)width * VL;
    const long seen = a->causal && first + whole < a->keys ? first + whole : a->keys;
    const float *q = a->q + image * a->q_image + head[0] * a->q_channel + first;
    const float *k = a->k + image * a->k_image + head[1] * a->k_channel;
    const float *v = a->v + image * a->v_image + head[2] * a->v_channel;
    float *y = a->y + image * g->image + head[3] * g->plane;
    float *factor = scratch, *scores = scratch + whole;
    for (int p = 0; p < width; p++) store(factor + p * VL, splat(a->scale));
    gemm(seen, width, k, 1, a->k_channel, q, a->q_channel, head[4], factor, scores, whole, whole);
    if (a->mask)
        attention_mask(a, a->mask + image * a->mask_image + number * a->mask_head + first * a->mask_query, scores, seen,
                       width, valid);
    if (a->causal) attention_causal(scores, seen, width, first);
    attention_softmax(scores, factor, seen, width);
    gemm(head[5], width, v, a->v_channel, 1, scores, whole, seen, factor, y + first, g->plane, valid);
    for (int c = 0; valid <= whole && c < head[5]; c++) clear_behind(y + c * g->plane, g, (int)image);
}

static void attention(const attention_args *a, part p) {
    const grid *g = &a->y_grid;
    const long vectors = (g->w + VL - 1) / VL, strips = (vectors + a->tile - 1) / a->tile;
    const range mine = share((long)g->n * a->heads * strips, p);
    float *scratch = a->scratch + p.id * a->scratch_floats;
    for (long i = mine.begin; i < mine.end; i++) {
        const long s = i % strips, h = i / strips % a->heads, image = i / strips / a->heads;
        const range strip = {vectors * s / strips, vectors * (s + 1) / strips};
        attention_strip(a, image, a->head + 6 * h, h, strip, scratch);
    }
}
