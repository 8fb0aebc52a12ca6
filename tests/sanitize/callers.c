/* Several threads call one exported network at once, each with a team and an arena of its own; ThreadSanitizer watches.
 *
 * callers WEIGHTS CALLERS RUNS [shared]
 *   shared  all use one arena, which is wrong: the sanitizer has to see it
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

static const long in[] = NET_INPUT_FLOATS, out[] = NET_OUTPUT_FLOATS;
static char *weights;
static float *inputs[NET_INPUTS], *expected[NET_OUTPUTS], *one_arena;
static int runs;

static void *memory(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

static void call(void *team, float *arena, float **outputs, int times) {
    for (int i = 0; i < times; i++) net_run(team, weights, arena, (const float *const *)inputs, outputs, NULL);
}

static void *caller(void *wrong) {
    float *outputs[NET_OUTPUTS], *arena = one_arena ? one_arena : memory(4 * NET_ARENA_FLOATS);
    void *team = net_team_new();
    for (int i = 0; i < NET_OUTPUTS; i++) outputs[i] = memory(4 * (size_t)out[i]);
    call(team, arena, outputs, runs);
    for (int i = 0; i < NET_OUTPUTS; i++) *(int *)wrong |= memcmp(outputs[i], expected[i], 4 * (size_t)out[i]) != 0;
    net_team_free(team);
    return NULL;
}

int main(int argc, char **argv) {
    uint64_t header = 0;
    pthread_t threads[16];
    int wrong[16] = {0}, count = argc > 3 ? atoi(argv[2]) : 0;
    FILE *file = argc > 3 ? fopen(argv[1], "rb") : NULL;
    if (!file || count > 16 || fread(&header, 8, 1, file) != 1 || fseek(file, (long)header, SEEK_CUR)) return 2;
    weights = memory(NET_WEIGHT_BYTES);
    if (fread(weights, 1, NET_WEIGHT_BYTES, file) != NET_WEIGHT_BYTES) return 2;
    fclose(file);
    runs = atoi(argv[3]);

    for (int i = 0; i < NET_INPUTS; i++) {
        inputs[i] = memory(4 * (size_t)in[i]);
        for (long k = 0; k < in[i]; k++) inputs[i][k] = (float)(k % 17) - 8.0f;
    }
    for (int i = 0; i < NET_OUTPUTS; i++) expected[i] = memory(4 * (size_t)out[i]);
    void *team = net_team_new();
    float *arena = memory(4 * NET_ARENA_FLOATS);
    call(team, arena, expected, 1);
    net_team_free(team);
    if (argc > 4) one_arena = arena;

    for (int i = 0; i < count; i++) pthread_create(&threads[i], NULL, caller, &wrong[i]);
    int any = 0;
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        any |= wrong[i];
    }
    printf("%d callers, %d runs each: %s\n", count, runs, any ? "WRONG" : "right");
    return any;
}
