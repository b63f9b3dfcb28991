/* The gradient of every case against differences of its loss.
 *
 * Along a direction d, with D(h) = (L(p + h d) - L(p - h d)) / 2h, Richardson's (4 D(h/2) - D(h))
 * / 3 is right up to O(h^4); |D(h/2) - D(h)| is O(h^2) and stands for that error. The loss comes
 * from f32 values of relative error about ROUNDINGS u, u = 2^-24, summed in f64; divided by 2h and
 * weighed by Richardson's 4 h/(h/2)/3 + 1/3 this gives 3 ROUNDINGS u (1 + |L|) / h. The gradient
 * itself is f32: ROUNDINGS u of its norm.
 */
#include "cases.h"

#include "runtime/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double STEP = 1.0 / 64, ROUNDINGS = 16, UNIT = 1.0 / (1 << 24);

static double loss_at(fixture *f, const float *origin, const float *direction, double step)
{
    for (uint64_t i = 0; i < f->elements; ++i)
        f->parameters[i] = (float)(origin[i] + step * direction[i]);
    fixture_run(f);
    return f->stats[0];
}

static void check_direction(fixture *f, const char *name, const float *gradient,
                            const float *direction, double scale)
{
    float *origin = malloc(f->elements * sizeof *origin);
    memcpy(origin, f->parameters, f->elements * sizeof *origin);
    double slope = 0, norm = 0;
    for (uint64_t i = 0; i < f->elements; ++i) {
        slope += (double)gradient[i] * direction[i];
        norm += pow((double)gradient[i] * direction[i], 2);
    }
    double coarse =
        (loss_at(f, origin, direction, STEP) - loss_at(f, origin, direction, -STEP)) / (2 * STEP);
    double fine =
        (loss_at(f, origin, direction, STEP / 2) - loss_at(f, origin, direction, -STEP / 2)) / STEP;
    double expected = (4 * fine - coarse) / 3;
    double tolerance = fabs(fine - coarse) + 3 * ROUNDINGS * UNIT * (1 + f->stats[0]) / STEP +
                       ROUNDINGS * UNIT * sqrt(norm);
    ck_assert_msg(fabs(slope - expected) <= tolerance,
                  "%s: slope %.9g, by differences %.9g +- %.2g", name, slope, expected, tolerance);
    ck_assert_msg(tolerance <= 0.05 * scale, "%s: a tolerance of %.3g says nothing about %.3g",
                  name, tolerance, scale);
    memcpy(f->parameters, origin, f->elements * sizeof *origin);
    free(origin);
}

/* Random signs over all parameters; 0 elsewhere. */
static void fill_signs(const lks_layout *layout, uint32_t number, float *direction)
{
    for (uint32_t t = 0; t < layout->tensor_count; ++t)
        for (uint64_t i = 0; i < layout->tensors[t].elements; ++i) {
            uint64_t at = layout->tensors[t].offset + i;
            lks_rng_block words = lks_rng_words(lks_rng_key(9, LKS_RNG_TEST, number), 0, at);
            if (layout->tensors[t].role == LKS_ROLE_PARAMETER)
                direction[at] = words.word[0] & 1 ? 1.0f : -1.0f;
        }
}

static double norm_of(const lks_layout *layout, const float *gradient)
{
    double squares = 0;
    for (uint32_t t = 0; t < layout->tensor_count; ++t)
        for (uint64_t i = 0; i < layout->tensors[t].elements; ++i)
            if (layout->tensors[t].role == LKS_ROLE_PARAMETER)
                squares += pow((double)gradient[layout->tensors[t].offset + i], 2);
    return sqrt(squares);
}

START_TEST(gradients_match_differences)
{
    const graph_case *test = &graph_cases[_i];
    fixture f;
    fixture_open(&f, LKS_GRAPH_TRAIN, test->build);
    const lks_layout *layout = lks_graph_layout(f.graph);
    size_t bytes = f.elements * sizeof(float);
    float *gradient = calloc(1, bytes), *direction = calloc(1, bytes);
    memset(f.gradients, 0xff, bytes); /* what is not overwritten is not finite */
    fixture_run(&f);
    for (uint32_t t = 0; t < layout->tensor_count; ++t)
        for (uint64_t i = 0; i < layout->tensors[t].elements; ++i) {
            uint64_t at = layout->tensors[t].offset + i;
            ck_assert_msg(isfinite(f.gradients[at]), "%s: %s is not finite", test->name,
                          layout->tensors[t].name);
            gradient[at] = f.gradients[at];
        }
    double norm = norm_of(layout, gradient);
    for (uint32_t number = 0; number < 3; ++number) {
        fill_signs(layout, number, direction);
        check_direction(&f, test->name, gradient, direction, norm);
    }
    memset(direction, 0, bytes);
    for (uint32_t t = 0; t < layout->tensor_count; ++t) {
        const lks_layout_tensor *tensor = &layout->tensors[t];
        uint64_t places[] = {0, tensor->elements / 2, tensor->elements - 1};
        for (int i = 0; i < 3 && tensor->role == LKS_ROLE_PARAMETER; ++i) {
            direction[tensor->offset + places[i]] = 1;
            check_direction(&f, tensor->name, gradient, direction, norm);
            direction[tensor->offset + places[i]] = 0;
        }
    }
    free(gradient);
    free(direction);
    fixture_close(&f);
}
END_TEST

Suite *gradients_suite(void);
Suite *gradients_suite(void)
{
    Suite *suite = suite_create("gradients");
    TCase *cases = tcase_create("differences");
    tcase_add_loop_test(cases, gradients_match_differences, 0, graph_case_count);
    suite_add_tcase(suite, cases);
    return suite;
}
