/* What is done in which order: a step, its number, and which of its rows or vectors. */
static const turn @prefix@_turns[] = {
    @table@
};

/* ABI version, floats of the arena, bytes of the weights, inputs, outputs, steps, threads: compared with the manifest. */
EXPORT void @prefix@_describe(int64_t *d) {
    const int64_t values[] = {@abi@, @arena@, @weights@, @inputs@, @outputs@, @count@, @threads@};
    memcpy(d, values, sizeof values);
}

/* SHA-256 of the manifest and of the weights file that this was made with, empty where it was made for itself alone. */
EXPORT const char *@prefix@_seal(void) { return "@seal@"; }

EXPORT void *@prefix@_team_new(void) { return team_new(@threads@); }
EXPORT void @prefix@_team_free(void *t) { team_free(t); }

/* One run. `seconds` (one a step) may be NULL; the arena is this call's alone. */
EXPORT void @prefix@_run(void *t, const char *weights, float *arena, const float *const *in, float *const *out,
                         double *seconds) {
    const call c = {weights, arena, in, out};
    for (int i = 0; seconds && i < @count@; i++) seconds[i] = 0.0;
    team_run(t, &c, @prefix@_turns, @turns@, seconds);
}
