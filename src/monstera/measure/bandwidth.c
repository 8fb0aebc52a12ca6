/* Reads memory as fast as one core takes it in, and does nothing with it. */
#if defined(__AVX512F__)
typedef float lanes __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef float lanes __attribute__((vector_size(32)));
#else
typedef float lanes __attribute__((vector_size(16)));
#endif

#if defined(__aarch64__)
#define INTO_REGISTER "w"
#else
#define INTO_REGISTER "x"
#endif

/* A load that the compiler may neither leave out nor fold into another instruction. */
#define TAKE(i) __asm__ volatile("" : : INTO_REGISTER(at[i]))

/* Reads `bytes` bytes (a multiple of 512) from `data` (aligned to 64) `passes` times; returns the bytes read. */
double monstera_read_probe(const float *data, long bytes, long passes)
{
    const lanes *end = (const lanes *)((const char *)data + bytes);
    for (long pass = 0; pass < passes; ++pass)
        for (const lanes *at = (const lanes *)data; at < end; at += 8) {
            TAKE(0); TAKE(1); TAKE(2); TAKE(3);
            TAKE(4); TAKE(5); TAKE(6); TAKE(7);
        }
    return (double)bytes * (double)passes;
}
