/* Runs a network that `monstera export-c` wrote, without Python: reads its weights and an input, prints the top classes.
 *
 * classify WEIGHTS INPUT [TOP]
 *   WEIGHTS  the weights.safetensors of the export
 *   INPUT    all inputs of the network one after another, as raw little-endian fp32
 *   TOP      how many classes to print, 5 unless told
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "net.h"

/* A network of several shapes has tables made behind its weights; this program runs it at the first. */
#ifdef NET_TAP_BYTES
#define TAP_BYTES NET_TAP_BYTES
#else
#define TAP_BYTES 0
#endif

static void fail(const char *what, const char *whose) {
    fprintf(stderr, "classify: %s%s\n", what, whose);
    exit(1);
}

/* Starts on a 64-byte line, as net.c expects; large memory lies on pages of 2 MiB where Linux has them. */
static void *memory(size_t bytes) {
    const size_t line = bytes < (2u << 20) ? 64 : 2u << 20, whole = (bytes + line) / line * line;
    void *p = aligned_alloc(line, whole);
    if (!p) fail("no memory", "");
#ifdef MADV_HUGEPAGE
    if (line > 64) madvise(p, whole, MADV_HUGEPAGE);
#endif
    return p;
}

static FILE *opened(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail("cannot open ", path);
    return file;
}

static void *bytes_of(FILE *file, size_t bytes, size_t room, const char *path) {
    void *p = memory(bytes + room);
    if (fread(p, 1, bytes, file) != bytes) fail("too short for this network: ", path);
    return p;
}

static void finished(FILE *file, const char *path) {
    if (fgetc(file) != EOF) fail("too long for this network: ", path);
    fclose(file);
}

/* The data section of the safetensors file, whose header the offsets in net.c make superfluous. */
static const char *weights_of(const char *path) {
    FILE *file = opened(path);
    uint64_t header = 0;
    if (fread(&header, sizeof header, 1, file) != 1 || fseek(file, (long)header, SEEK_CUR)) fail("cannot read ", path);
    char *data = bytes_of(file, NET_WEIGHT_BYTES, TAP_BYTES, path);
    finished(file, path);
#ifdef NET_TAP_BYTES
    net_load_taps(data);
#endif
    return data;
}

/* A header and a net.c of different exports would crash, or worse. */
static void check_that_parts_fit(void) {
    const int64_t expected[] = {NET_ABI, NET_ARENA_FLOATS, NET_WEIGHT_BYTES, NET_INPUTS, NET_OUTPUTS, NET_STEPS, NET_THREADS};
    int64_t found[7];
    net_describe(found);
    if (memcmp(found, expected, sizeof found)) fail("net.h and net.c do not belong together; export again", "");
}

static void print_top(const float *scores, long classes, int top) {
    char *printed = calloc((size_t)classes, 1);
    if (!printed) fail("no memory", "");
    for (int i = 0; i < top && i < classes; i++) {
        long best = -1;
        for (long k = 0; k < classes; k++)
            if (!printed[k] && (best < 0 || scores[k] > scores[best])) best = k;
        printed[best] = 1;
        printf("%ld %.9g\n", best, scores[best]);
    }
    free(printed);
}

int main(int argc, char **argv) {
    static const long input_floats[] = NET_INPUT_FLOATS, output_floats[] = NET_OUTPUT_FLOATS;
    const float *inputs[NET_INPUTS];
    float *outputs[NET_OUTPUTS];
    if (argc != 3 && argc != 4) fail("usage: classify WEIGHTS INPUT [TOP]", "");
    check_that_parts_fit();

    const char *weights = weights_of(argv[1]);
    FILE *file = opened(argv[2]);
    for (int i = 0; i < NET_INPUTS; i++) inputs[i] = bytes_of(file, sizeof(float) * (size_t)input_floats[i], 0, argv[2]);
    finished(file, argv[2]);
    for (int i = 0; i < NET_OUTPUTS; i++) outputs[i] = memory(sizeof(float) * (size_t)output_floats[i]);

    float *arena = memory(sizeof(float) * NET_ARENA_FLOATS);
    void *team = net_team_new();
    if (!team) fail("no memory for the threads", "");
    net_run(team, weights, arena, inputs, outputs, NULL); /* as often as you like */
    print_top(outputs[0], output_floats[0], argc == 4 ? atoi(argv[3]) : 5);
    net_team_free(team);
    return 0; /* the memory goes with the process */
}
