/* Tables that are made of others when the weights are loaded: where a program reads for each of the columns that all
 * programs have in common. */
EXPORT void @prefix@_load_taps(char *weights) {
    static const struct { long to, columns, places; int count, wide; } tables[] = {
    @table@
    };
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
        int32_t *to = (int32_t *)(weights + tables[t].to);
        const int32_t *places = (const int32_t *)(weights + tables[t].places);
        const uint16_t *narrow = (const uint16_t *)(weights + tables[t].columns);
        const int32_t *wide = (const int32_t *)(weights + tables[t].columns);
        for (int i = 0; i < tables[t].count; i++) to[i] = places[tables[t].wide ? wide[i] : narrow[i]];
    }
}
