/* A recurrent layer in one direction: for each step the product of the state with the stacked gates, which streams the
 * weights once, then the gates of all units.
 *
 * The gates of a unit lie `hidden` floats apart, so that neighbouring units make a vector. The state of a step is read
 * where the step before left it: in y.
 */
typedef struct {
    const float *x;      /* products of the input, [steps, images, gates, hidden] */
    const float *h, *c;  /* the state before the first step, [images, hidden], and the cell of an LSTM */
    float *y;            /* the state after each step, [steps, images, hidden] */
    float *cell;         /* an LSTM's cell, [images, hidden] */
    float *sums;         /* products of the state, [images, gates, hidden] */
    int steps, images, hidden, gates, reverse;
    spmv_args product[4]; /* the rows in blocks of each size; x is the state */
} recurrent_args;

/* A vector of units of one image. */
typedef struct { const float *x, *u, *h, *c; float *y, *cell; long hidden, left; } units;

INLINE vf gate(const units *v, long g) {
    return load_some(v->x + g * v->hidden, v->left) + load_some(v->u + g * v->hidden, v->left);
}

INLINE void gru(const units *v) {
    const vf r = act_sigmoid(gate(v, 0)), z = act_sigmoid(gate(v, 1));
    const float *x = v->x + 2 * v->hidden, *u = v->u + 2 * v->hidden;
    const vf n = act_tanh(load_some(x, v->left) + r * load_some(u, v->left));
    store_some(v->y, n + z * (load_some(v->h, v->left) - n), v->left);
}
INLINE void lstm(const units *v) {
    const vf kept = act_sigmoid(gate(v, 1)) * load_some(v->c, v->left);
    const vf c = kept + act_sigmoid(gate(v, 0)) * act_tanh(gate(v, 2));
    store_some(v->cell, c, v->left);
    store_some(v->y, act_sigmoid(gate(v, 3)) * act_tanh(c), v->left);
}
INLINE void rnn_tanh(const units *v) { store_some(v->y, act_tanh(gate(v, 0)), v->left); }
INLINE void rnn_relu(const units *v) { store_some(v->y, act_relu(gate(v, 0)), v->left); }

/* Threads share rows, then units: all rows of a step are there before any gate, all units before the next step. */
static void barrier(team *t);

#define STATE_PRODUCT(I, KERNEL) { spmv_args m = a->product[I]; m.x = h; KERNEL(&m, p); }

#define RECURRENT(NAME, KIND, PRODUCTS) \
    static void NAME(const recurrent_args *a, part p) { \
        const long hidden = a->hidden, stacked = a->gates * hidden, vectors = (hidden + VL - 1) / VL; \
        const range mine = share(a->images * vectors, p); \
        const float *h = a->h, *c = a->c; \
        for (int s = 0; s < a->steps; s++) { \
            const long t = a->reverse ? a->steps - 1 - s : s; \
            const float *x = a->x + t * a->images * stacked; \
            float *y = a->y + t * a->images * hidden; \
            PRODUCTS \
            barrier(p.team); \
            for (long i = mine.begin; i < mine.end; i++) { \
                const long n = i / vectors, at = i % vectors * VL, in = n * stacked + at, out = n * hidden + at; \
                const units v = {x + in, a->sums + in, h + out, c + out, y + out, a->cell + out, hidden, hidden - at}; \
                KIND(&v); \
            } \
            barrier(p.team); \
            h = y; \
            c = a->cell; \
        } \
    }
