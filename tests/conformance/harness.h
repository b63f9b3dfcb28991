/* One body of tests over every device, its variants and its compute types.
 *
 * LKS_CONFORMANCE_DEVICE names the device ("cpu" if unset); the cpu's variants are the instruction sets that this
 * processor can run. A test is a loop test over harness_variants(): it opens variant number _i,
 * describes one call of a kernel, and compares what came out with an f64 reference
 * that it wrote itself. harness_run does more than run:
 *   - outputs that are not accumulated into and the workspace start as NaN;
 *   - guard words around every buffer must survive, and inputs that no output
 *     shares must not change;
 *   - it runs twice more, at once and with all buffers moved to other 64-byte
 *     aligned addresses, and the bits must be the same each time.
 * Any failure fails the running Check test.
 *
 * Types: a tensor has the compute type of the variant, f32 or bf16, unless it was made as one of
 * fixed type. A test sees floats either way: in bf16 those that it gives are rounded to bf16 when they are made
 * (harness_round where the test writes them itself), so that its reference starts from what the kernel reads, and
 * those that it gets are exact.
 */
#ifndef LKS_TESTS_CONFORMANCE_HARNESS_H
#define LKS_TESTS_CONFORMANCE_HARNESS_H

#include "kernels/device.h"
#include "kernels/ops.h"

#include <check.h>

bool harness_on_cpu(void);
/* True for two of three `case_number`s where LKS_CONFORMANCE_QUICK is set: for a device that is emulated. */
bool harness_skips(int case_number);
int harness_variants(void);
lks_device *harness_open(int variant); /* and what follows has its compute type */
bool harness_is_bf16(void);

/* A tensor of a call. Data is host memory. */
typedef struct harness_tensor {
    lks_kernel_tensor spec; /* f32 where it has the compute type: what `data` holds */
    bool computes;          /* has the compute type */
    void *data;
    void *before; /* outputs: contents before the run, once it ran */
    bool accumulate;
    int shares; /* outputs: index of the input whose memory it has, or -1 */
} harness_tensor;

harness_tensor harness_absent(void);
/* Of the type named. */
harness_tensor harness_zeros(lks_dtype dtype, lks_shape shape);
/* Of the compute type: zeros; uniform in [low, high), a pure function of `seed`. */
harness_tensor harness_values(lks_shape shape);
harness_tensor harness_random(lks_shape shape, uint64_t seed, double low, double high);
harness_tensor harness_random_f32(lks_shape shape, uint64_t seed, double low, double high);
/* i32 uniform in [low, high). */
harness_tensor harness_random_integers(lks_shape shape, uint64_t seed, int low, int high);
/* NaN; random when it is to be accumulated into. Of the compute type; f32. */
harness_tensor harness_output(lks_shape shape, bool accumulate);
harness_tensor harness_output_f32(lks_shape shape, bool accumulate);
harness_tensor harness_output_of(lks_dtype dtype, lks_shape shape); /* not accumulated */
/* The output has the memory of inputs[shares]. */
harness_tensor harness_shared(const harness_tensor *inputs, int shares);

/* To the compute type: a number, all of a tensor that has it. */
double harness_rounded(double value);
void harness_round(harness_tensor *tensor);

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
    const lks_kernel_context
        *context; /* or NULL; positions in host memory, one for each of input 0's first axis */
} harness_call;

/* Afterwards outputs hold the results; inputs are as they were before. */
void harness_run(lks_device *device, const harness_call *call);
/* The status of prepare or, if that is LKS_OK, of one execution. For errors. */
lks_status harness_try(lks_device *device, const harness_call *call);
void harness_release(harness_call *call); /* frees all its tensors' data */

/* Each element y of an output: |y - wanted| <= c 2^-24 scale + 2^-126, where wanted is
 * reference[i] (+ what was there before, if accumulated, which adds to scale too and
 * allows one more rounding). c and scale are the test's to justify. An output in bf16 is rounded once more: with
 * e the bound above, |y - wanted| <= e + 2^-8 (|wanted| + e). */
void harness_check(const harness_tensor *output, const char *name, const double *reference,
                   const double *scale, double c);
/* The same for a kernel that, when it computes in bf16, rounds terms within to bf16: 2^-8 inner[i] more. */
void harness_check_inner(const harness_tensor *output, const char *name, const double *reference,
                         const double *scale, double c, const double *inner);

/* |found - wanted| <= tolerance. For loops: Check's own assertions write to a pipe each
 * time, also when they hold. */
void harness_expect(const char *name, size_t i, double found, double wanted, double tolerance);

/* The gradient of `loss` at x by a five-point difference (error O(h^4)): x is
 * changed and put back, element by element. */
void harness_differentiate(double (*loss)(void *user), void *user, double *x, size_t count,
                           double step, double *gradient);

/* Memory of the device: a copy of the host's; back. */
void *harness_to_device(lks_device *device, const void *host, size_t bytes);
void harness_from_device(lks_device *device, void *host, const void *memory, size_t bytes);

/* f32 to f64, freed with free(). */
double *harness_to_f64(const harness_tensor *tensor);
double *harness_f64(size_t count); /* zeros */

/* Adds `body` to the suite as a loop over the variants. */
#define HARNESS_ADD(tcase, body) tcase_add_loop_test(tcase, body, 0, harness_variants())

#endif
