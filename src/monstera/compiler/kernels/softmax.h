/* Softmax over the middle of [outer, length, inner], dense. */
static void softmax(const float *x, float *y, long outer, long length, long inner, part p) {
    const range mine = share(outer * inner, p);
    for (long i = mine.begin; i < mine.end; i++) {
        const long base = i / inner * length * inner + i % inner;
        float largest = -INFINITY, sum = 0.0f;
        for (long j = 0; j < length; j++) largest = x[base + j * inner] > largest ? x[base + j * inner] : largest;
        for (long j = 0; j < length; j++) sum += y[base + j * inner] = expf(x[base + j * inner] - largest);
        for (long j = 0; j < length; j++) y[base + j * inner] /= sum;
    }
}
