/* Runs every network of a file of cases twice, from memory that held NaN, and writes the answers down.
 *
 * driver CASES ANSWERS; NETS names the networks as NET(net0) NET(net1)... A case is, in little-endian int64: the number
 * of inputs, then of each its floats and the floats themselves; the number of outputs and the floats of each; the bytes
 * of the weights and the weights.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ABI, ARENA, WEIGHTS, INPUTS, OUTPUTS, STEPS, THREADS, FIELDS };

typedef struct {
    void (*describe)(int64_t *);
    void *(*team_new)(void);
    void (*team_free)(void *);
    void (*run)(void *, const char *, float *, const float *const *, float *const *, double *);
} network;

#define NET(p)                                                                                  \
    void p##_describe(int64_t *);                                                               \
    void *p##_team_new(void);                                                                   \
    void p##_team_free(void *);                                                                 \
    void p##_run(void *, const char *, float *, const float *const *, float *const *, double *);
NETS
#undef NET
#define NET(p) {p##_describe, p##_team_new, p##_team_free, p##_run},
static const network networks[] = {NETS};

static void fail(const char *what) {
    fprintf(stderr, "driver: %s\n", what);
    exit(1);
}

static void *memory(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!p) fail("no memory");
    memset(p, 0xff, (bytes + 127) / 64 * 64);
    return p;
}

static int64_t count(FILE *f) {
    int64_t n;
    if (fread(&n, sizeof n, 1, f) != 1) fail("the file of cases ends early");
    return n;
}

static void *block(FILE *f, size_t bytes) {
    void *p = memory(bytes);
    if (fread(p, 1, bytes, f) != bytes) fail("the file of cases ends early");
    return p;
}

static void run_twice(const network *net, FILE *cases, FILE *answers) {
    int64_t d[FIELDS], floats[64];
    float *in[64], *out[64];
    net->describe(d);
    if (count(cases) != d[INPUTS]) fail("another number of inputs");
    for (int i = 0; i < d[INPUTS]; i++) in[i] = block(cases, 4 * (size_t)count(cases));
    if (count(cases) != d[OUTPUTS]) fail("another number of outputs");
    for (int i = 0; i < d[OUTPUTS]; i++) floats[i] = count(cases);
    if (count(cases) != d[WEIGHTS]) fail("weights of another size");
    char *weights = block(cases, (size_t)d[WEIGHTS]);
    float *arena = memory(4 * (size_t)d[ARENA]);
    void *team = net->team_new();
    if (!team) fail("no threads");
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < d[OUTPUTS]; i++) out[i] = memory(4 * (size_t)floats[i]);
        net->run(team, weights, arena, (const float *const *)in, out, 0);
        for (int i = 0; i < d[OUTPUTS]; i++) {
            fwrite(out[i], 4, (size_t)floats[i], answers);
            free(out[i]);
        }
    }
    net->team_free(team);
    free(arena);
    free(weights);
    for (int i = 0; i < d[INPUTS]; i++) free(in[i]);
}

int main(int argc, char **argv) {
    FILE *cases = argc == 3 ? fopen(argv[1], "rb") : 0, *answers = argc == 3 ? fopen(argv[2], "wb") : 0;
    if (!cases || !answers) fail("usage: driver CASES ANSWERS");
    for (size_t i = 0; i < sizeof networks / sizeof *networks; i++) run_twice(&networks[i], cases, answers);
    return fclose(answers) ? 1 : 0;
}
