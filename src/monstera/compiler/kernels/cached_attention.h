/* Attention of one query a head to keys and values that lie token by token, those of earlier tokens where the caller
 * keeps them, its own behind. Each is read once; hidden keys, and values whose key weighs nothing, are not read.
 */
typedef struct {
    const float *q;
    const float *k[2], *v[2];   /* [images, groups, tokens, width] */
    const float *mask;          /* added to the scores, or NULL */
    float *y, *scratch;
    long mask_image, mask_head, mask_key; /* floats between two, 0 repeats */
    int images, heads, repeats, tokens[2], width, values;
    float scale;
    long scratch_floats;        /* for each thread */
} cached_attention_args;

/* Lane i of the result is the sum of the lanes of v[i]; the vectors are used up. */
INLINE vf sums_of(vf *v) {
    for (int half = VL / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] = low_pairs(v[i], v[i + half]) + high_pairs(v[i], v[i + half]);
    return v[0];
}

INLINE vf cached_mask(const float *mask, long step, long left) {
    if (step == 1) return load_some(mask, left);
    vf v = {0};
    for (int u = 0; u < VL && u < left; u++) v[u] = mask[u * step];
    return v;
}

/* A score for each key, and minus infinity up to the end of the last vector. */
static void cached_scores(const cached_attention_args *a, const float *q, const float *k, const float *mask, long keys,
                          float *scores) {
    for (long j = 0; j < keys; j += VL, k += VL * a->width) {
        const long left = keys - j < VL ? keys - j : VL;
        const vf add = mask ? cached_mask(mask + j * a->mask_key, a->mask_key, left) : (vf){0};
        const vi hidden = add == splat(-INFINITY);
        vf sums[VL];
        for (int u = 0; u < VL; u++) {
            sums[u] = (vf){0};
            if (u >= left || hidden[u]) continue;
            for (long i = 0; i < a->width; i += VL)
                sums[u] += load_some(q + i, a->width - i) * load_some(k + u * a->width + i, a->width - i);
        }
        vf s = a->scale * sums_of(sums) + add;
        for (long u = left; u < VL; u++) s[u] = -INFINITY;
        store(scores + j, s);
    }
}

/* Exponentials in place; what their sum is divided by. Where all scores are minus infinity, the answer is 0. */
static float cached_softmax(float *scores, long count) {
    vf top = splat(-INFINITY), sum = {0};
    for (long j = 0; j < count; j += VL) top = at_least(top, load(scores + j));
    float most = -INFINITY, total = 0.0f;
    for (int u = 0; u < VL; u++) most = top[u] > most ? top[u] : most;
    most = most == -INFINITY ? 0.0f : most;
    for (long j = 0; j < count; j += VL) {
        const vf x = load(scores + j) - most;
        const vf e = select_lt(x, splat(-87.0f), (vf){0}, exp_(x));
        store(scores + j, e);
        sum += e;
    }
    for (int u = 0; u < VL; u++) total += sum[u];
    return total == 0.0f ? 0.0f : 1.0f / total;
}

/* y += sum_j weights[j] v[j], for up to four vectors of a row. */
INLINE void cached_sum(const float *weights, const float *v, long keys, long row, long left, vf *y) {
    for (long j = 0; j < keys; j++, v += row) {
        if (weights[j] == 0.0f) continue;
        for (int i = 0; i < 4; i++) y[i] += weights[j] * load_some(v + i * VL, left - i * VL);
    }
}

static void cached_attention(const cached_attention_args *a, part p) {
    const range mine = share((long)a->images * a->heads, p);
    const long groups = a->heads / a->repeats, second = (a->tokens[0] + VL - 1) / VL * VL;
    const long count = second + (a->tokens[1] + VL - 1) / VL * VL;
    float *scores = a->scratch + p.id * a->scratch_floats;
    for (long n = mine.begin; n < mine.end; n++) {
        const long image = n / a->heads, head = n % a->heads, group = image * groups + head / a->repeats;
        const float *mask = a->mask ? a->mask + image * a->mask_image + head * a->mask_head : 0, *v[2];
        for (int i = 0; i < 2; i++) {
            const long first = group * a->tokens[i];
            v[i] = a->v[i] + first * a->values;
            cached_scores(a, a->q + n * a->width, a->k[i] + first * a->width, mask, a->tokens[i], scores + i * second);
            if (mask) mask += a->tokens[0] * a->mask_key;
        }
        const float factor = cached_softmax(scores, count);
        for (long c = 0; c < a->values; c += 4 * VL) {
            const long left = a->values - c;
            vf y[4] = {{0}};
            for (int i = 0; i < 2; i++)
                cached_sum(scores + i * second, v[i] + c, a->tokens[i], a->values, left, y);
            for (int i = 0; i < 4; i++) store_some(a->y + n * a->values + c + i * VL, y[i] * factor, left - i * VL);
        }
    }
}
