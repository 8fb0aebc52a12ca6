/* Elementwise functions of vectors. NaN stays NaN. */

INLINE vf act_none(vf x) { return x; }
INLINE vf act_relu(vf x) { return at_least((vf){0}, x); }
INLINE vf clamp(vf x, float low, float high) { return at_most(splat(high), at_least(splat(low), x)); }

/* exp: x = n ln2 + r, |r| <= ln2 / 2; a degree-6 fit of exp(r) (relative error below 1e-8), then 2^n by exponent bits. */
INLINE vf exp_(vf x) {
    x = clamp(x, -87.3f, 88.3f);
    const vf shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's last bits are the rounded integer */
    const vf n = shifted - 12582912.0f;
    const vf r = x - n * 0.693145752f - n * 1.42860677e-6f;
    vf p = splat(0.0013814318f);
    p = p * r + 0.008368852f;
    p = p * r + 0.0416684f;
    p = p * r + 0.1666652f;
    p = p * r + 0.49999994f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const vi power = ((vi)shifted - 0x4B400000 + 127) << 23;
    return p * (vf)power;
}

/* Squared, so that it reaches infinity and zero where the function does. */
INLINE vf act_exp(vf x) {
    const vf root = exp_(0.5f * x);
    return root * root;
}
INLINE vf act_sqrt(vf x) {
    for (int u = 0; u < VL; u++) x[u] = sqrtf(x[u]);
    return x;
}
/* One by one: arguments may be large, and rotary positions are all that asks for them. */
INLINE vf act_cos(vf x) {
    for (int u = 0; u < VL; u++) x[u] = cosf(x[u]);
    return x;
}
INLINE vf act_sin(vf x) {
    for (int u = 0; u < VL; u++) x[u] = sinf(x[u]);
    return x;
}
INLINE vf act_rsqrt(vf x) { return 1.0f / act_sqrt(x); }
INLINE vf act_reciprocal(vf x) { return 1.0f / x; }

/* 1 where it is so, else 0. */
INLINE vf truth(vi so) { return (vf)(so & (vi)splat(1.0f)); }
INLINE vf act_not_zero(vf x) { return truth(x != 0.0f); }
INLINE vf choose(vf condition, vf yes, vf no) {
    const vi so = condition != 0.0f;
    return (vf)(((vi)yes & so) | ((vi)no & ~so));
}

INLINE vf act_sigmoid(vf x) { return 1.0f / (1.0f + exp_(-x)); }
INLINE vf act_silu(vf x) { return x / (1.0f + exp_(-x)); }
INLINE vf act_tanh(vf x) { return 1.0f - 2.0f / (1.0f + exp_(2.0f * x)); }
INLINE vf act_hardsigmoid(vf x) { return clamp(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f); }
INLINE vf act_hardswish(vf x) { return x * act_hardsigmoid(x); }

/* erf(x) = x p(u), u = 2 (x / 3.85)^2 - 1: a minimax fit of degree 15, absolute error below 2e-7, never beyond 1.
 * Over u instead of x^2 the coefficients fall, so that nothing cancels; there is no division. */
INLINE vf erf_(vf x) {
    x = clamp(x, -3.85f, 3.85f);
    const vf u = x * x * 0.134930005f - 1.0f;
    vf p = splat(-0.000552752987f);
    p = p * u + 0.001500363f;
    p = p * u - 0.00134696974f;
    p = p * u + 0.00194860168f;
    p = p * u - 0.00620968547f;
    p = p * u + 0.0119657693f;
    p = p * u - 0.0181759261f;
    p = p * u + 0.0277697891f;
    p = p * u - 0.0411821939f;
    p = p * u + 0.0565851405f;
    p = p * u - 0.0731628761f;
    p = p * u + 0.0907921344f;
    p = p * u - 0.110387571f;
    p = p * u + 0.136213034f;
    p = p * u - 0.183301434f;
    p = p * u + 0.367284805f;
    return x * p;
}
INLINE vf act_erf(vf x) { return erf_(x); }
INLINE vf act_gelu(vf x) { return 0.5f * x * (1.0f + erf_(x * 0.70710678f)); }
INLINE vf act_gelu_tanh(vf x) { return x * act_sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }
