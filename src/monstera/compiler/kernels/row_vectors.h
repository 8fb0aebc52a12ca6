/* R rows of a block as vectors that the processor has: wider ones the compilers take apart through memory. */
#if VL >= 16
typedef v16 rows_16;
#elif VL >= 8
typedef v8 rows_16;
#else
typedef v4 rows_16;
#endif
#if VL >= 8
typedef v8 rows_8;
#else
typedef v4 rows_8;
#endif
typedef v4 rows_4;

/* A scattered float. Compilers must not make a vector scatter of several: no processor has a fast one. */
INLINE void put(float *p, float value) { memcpy(p, &value, sizeof value); }
