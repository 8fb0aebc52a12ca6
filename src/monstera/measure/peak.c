/* Fused multiply-adds out of registers, as fast as one core issues them, and as a kernel does them.
 *
 * Twelve chains hide the latency of two FMA units (4 cycles x 2 = 8 are needed) and fit the 16 registers of avx2. They
 * are twelve variables and not an array: compilers keep an array of accumulators in memory, which halves the figure.
 */
#if defined(__AVX512F__)
typedef float lanes __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef float lanes __attribute__((vector_size(32)));
#else
typedef float lanes __attribute__((vector_size(16)));
#endif

#if defined(__aarch64__)
#define IN_REGISTER "+w"
#else
#define IN_REGISTER "+x"
#endif

/* Runs `steps` times 12 vector FMAs; returns the floating-point operations done, 2 for each lane of each FMA. */
double monstera_fma_probe(long steps, float scale, float shift, float *sink)
{
    const lanes s = (lanes){0} + scale, t = (lanes){0} + shift;
    lanes a = s, b = s, c = s, d = s, e = s, f = s, g = s, h = s, i = s, j = s, k = s, l = s;
    for (long step = 0; step < steps; ++step) {
        a = a * s + t, b = b * s + t, c = c * s + t, d = d * s + t;
        e = e * s + t, f = f * s + t, g = g * s + t, h = h * s + t;
        i = i * s + t, j = j * s + t, k = k * s + t, l = l * s + t;
        /* The chains are equal; without this the compiler would run one and copy it. */
        __asm__ volatile("" : IN_REGISTER(a), IN_REGISTER(b), IN_REGISTER(c), IN_REGISTER(d));
        __asm__ volatile("" : IN_REGISTER(e), IN_REGISTER(f), IN_REGISTER(g), IN_REGISTER(h));
        __asm__ volatile("" : IN_REGISTER(i), IN_REGISTER(j), IN_REGISTER(k), IN_REGISTER(l));
    }
    *sink = (a + b + c + d + e + f + g + h + i + j + k + l)[0];
    return 2.0 * 12 * (sizeof(lanes) / sizeof(float)) * (double)steps;
}

enum { COLUMNS = 64, ROWS = 5, WIDE = 2 };

/* Weights and a plane, all zeros. Not static: who else could write to them is unknown, so that nothing is computed when
 * this is compiled.
 */
_Alignas(64) float monstera_kernel_weights[COLUMNS * ROWS];
_Alignas(64) float monstera_kernel_plane[COLUMNS * WIDE * sizeof(lanes) / sizeof(float)];

static lanes loaded(const float *from)
{
    lanes vector;
    __builtin_memcpy(&vector, from, sizeof vector);
    return vector;
}

/* Minus and not plus: x - 0 is x for every x, so that nothing is computed. */
static lanes spread(float weight) { return weight - (lanes){0}; }

/* Runs `steps` times over 64 columns: two vectors of a column are loaded, five weights spread, 10 vector FMAs. All of
 * it fits the nearest cache. Who shares the core and takes half of what it decodes slows this and hardly the other.
 */
double monstera_kernel_probe(long steps, float *sink)
{
    const long width = sizeof(lanes) / sizeof(float);
    lanes a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
    for (long step = 0; step < steps; ++step) {
        const float *w = monstera_kernel_weights, *x = monstera_kernel_plane;
        for (long column = 0; column < COLUMNS; ++column, w += ROWS, x += WIDE * width) {
            lanes p = loaded(x), q = loaded(x + width), s = spread(w[0]);
            /* Loaded once and kept, and not again with every multiply-add. */
            __asm__ volatile("" : IN_REGISTER(p), IN_REGISTER(q));
            a = a + s * p, b = b + s * q, s = spread(w[1]);
            c = c + s * p, d = d + s * q, s = spread(w[2]);
            e = e + s * p, f = f + s * q, s = spread(w[3]);
            g = g + s * p, h = h + s * q, s = spread(w[4]);
            i = i + s * p, j = j + s * q;
        }
    }
    *sink = (a + b + c + d + e + f + g + h + i + j)[0];
    return 2.0 * ROWS * WIDE * COLUMNS * (double)width * (double)steps;
}
