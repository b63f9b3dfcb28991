/* One body of tests over every variant of the cpu device.
 *
 * A test is a loop test over harness_variants(): it opens device number _i,
 * describes one call of a kernel, and compares what came out with an f64 reference
 * that it wrote itself. harness_run does more than run:
 *   - outputs that are not accumulated into and the workspace start as NaN;
 *   - guard words around every buffer must survive, and inputs that no output
 *     shares must not change;
 *   - it runs twice more, at once and with all buffers moved to other 64-byte
 *     aligned addresses, and the bits must be the same each time.
 * Any failure fails the running Check test.
 */
#ifndef LKS_TESTS_CONFORMANCE_HARNESS_H
#define LKS_TESTS_CONFORMANCE_HARNESS_H

#include "kernels/device.h"
#include "kernels/ops.h"

#include <check.h>

int harness_variants(void); /* that this processor can run */
lks_device *harness_open(int variant);

/* A tensor of a call. Data is host memory (the cpu device's too). */
typedef struct harness_tensor {
    lks_kernel_tensor spec;
    void *data;
    void *before; /* outputs: contents before the run, once it ran */
    bool accumulate;
    int shares; /* outputs: index of the input whose memory it has, or -1 */
} harness_tensor;

harness_tensor harness_absent(void);
harness_tensor harness_zeros(lks_dtype dtype, lks_shape shape);
/* f32 uniform in [low, high); a pure function of `seed`. */
harness_tensor harness_random(lks_shape shape, uint64_t seed, double low, double high);
/* i32 uniform in [low, high). */
harness_tensor harness_random_integers(lks_shape shape, uint64_t seed, int low, int high);
/* f32, NaN; random when it is to be accumulated into. */
harness_tensor harness_output(lks_shape shape, bool accumulate);
harness_tensor harness_output_of(lks_dtype dtype, lks_shape shape); /* not accumulated */
/* The output has the memory of inputs[shares]. */
harness_tensor harness_shared(const harness_tensor *inputs, int shares);

static inline float *harness_f32(const harness_tensor *tensor)
{
    return tensor->data;
}
static inline int32_t *harness_i32(const harness_tensor *tensor)
{
    return tensor->data;
}
static inline size_t harness_count(const harness_tensor *tensor)
{
    return lks_shape_elements(&tensor->spec.shape);
}

typedef struct harness_call {
    const char *kernel;
    const void *attributes;
    harness_tensor *inputs;
    int input_count;
    harness_tensor *outputs;
    int output_count;
    const lks_kernel_context *context; /* or NULL */
} harness_call;

/* Afterwards outputs hold the results; inputs are as they were before. */
void harness_run(lks_device *device, const harness_call *call);
/* The status of prepare or, if that is LKS_OK, of one execution. For errors. */
lks_status harness_try(lks_device *device, const harness_call *call);
void harness_release(harness_call *call); /* frees all its tensors' data */

/* Each element y of an f32 output: |y - wanted| <= c 2^-24 scale + 2^-126, where wanted is
 * reference[i] (+ what was there before, if accumulated, which adds to scale too and
 * allows one more rounding). c and scale are the test's to justify. */
void harness_check(const harness_tensor *output, const char *name, const double *reference,
                   const double *scale, double c);

/* |found - wanted| <= tolerance. For loops: Check's own assertions write to a pipe each
 * time, also when they hold. */
void harness_expect(const char *name, size_t i, double found, double wanted, double tolerance);

/* The gradient of `loss` at x by a five-point difference (error O(h^4)): x is
 * changed and put back, element by element. */
void harness_differentiate(double (*loss)(void *user), void *user, double *x, size_t count,
                           double step, double *gradient);

/* f32 to f64, freed with free(). */
double *harness_to_f64(const harness_tensor *tensor);
double *harness_f64(size_t count); /* zeros */

/* Adds `body` to the suite as a loop over the variants. */
#define HARNESS_ADD(tcase, body) tcase_add_loop_test(tcase, body, 0, harness_variants())

#endif
