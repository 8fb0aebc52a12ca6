/* Depthwise convolution: every channel with its own small kernel, straight from the plane it lies in.
 *
 * A few output rows at a time, a vector of columns wide, so that a loaded vector serves all rows it touches; steps of two
 * columns are taken by shuffles. The input's pads hold zeros, so no edge is special.
 */
typedef struct {
    const float *x;      /* where the window of output pixel (0, 0) of channel 0 begins */
    float *y;
    const float *res;    /* laid out like y, or NULL */
    long x_row, x_image, x_plane;
    grid y_grid;
    const float *weight; /* [channels, taps] */
    const float *bias;   /* a channel */
} depthwise_args;
