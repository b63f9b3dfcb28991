/* A run of lockstep against the golden of its job.
 *
 *   compare_run GOLDEN RUN            the run must agree with the golden
 *   compare_run GOLDEN RUN mutants    it must disagree with every mutant of the golden
 *
 * Bounds. u = 2^-24 is f32's unit roundoff. A sum of n rounded terms has a relative error of about
 * sqrt(n) u when its roundings are independent (Higham and Mary, "A new approach to probabilistic
 * rounding error analysis", SIAM J. Sci. Comput. 2019); `terms` is the sum of n over all sums
 * on the way from an input to the loss, so one pass gives rho = sqrt(terms) u. The update of a
 * step carries the error of its gradient into all later steps: at step t it is t rho to first
 * order.
 *
 *   loss and gradient norm at step t       t rho, relative
 *   validation loss, after S steps         (S + 1) rho, relative
 *   a tensor after S steps, in the largest element:
 *       rho (sum over t of t max|update t|)     each update is wrong by t rho
 *       + S u max|p|                            each is added to a rounded p
 *   learning rate                          both are f64: 2^-48, relative
 *   sample ids                             equal
 */
#include "checkpoints/checkpoint.h"
#include "runtime/base/memory.h"
#include "tests/golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct run {
    json_t *metrics; /* array of the lines with a loss */
    double validation_loss;
    json_t *ledger;
    const lks_layout *layout;
    lks_checkpoint *checkpoint;
    float *parameters; /* flat */
} run;

/* --- Reading a run --------------------------------------------------------- */

static json_t *read_lines(const char *directory, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.jsonl", directory, name);
    FILE *file = fopen(path, "r");
    if (!file)
        golden_die("%s: cannot be read", path);
    json_t *lines = json_array(), *line;
    json_error_t error;
    while ((line = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error)))
        json_array_append_new(lines, line);
    fclose(file);
    return lines;
}

static void run_read_metrics(run *r, const char *directory)
{
    json_t *lines = read_lines(directory, "metrics"), *line;
    size_t i;
    r->metrics = json_array();
    r->validation_loss = NAN;
    json_array_foreach(lines, i, line)
    {
        const json_t *validation = json_object_get(line, "validation_loss");
        if (validation)
            r->validation_loss = json_number_value(validation);
        else
            json_array_append(r->metrics, line);
    }
    json_decref(lines);
}

static lks_status run_read_checkpoint(run *r, const char *directory)
{
    LKS_TRY(lks_checkpoint_find(&r->checkpoint, directory, LKS_CHECK_ALL, false, false));
    if (!r->checkpoint)
        golden_die("%s: no checkpoint", directory);
    r->layout = lks_checkpoint_layout(r->checkpoint);
    LKS_TRY(LKS_NEW_ARRAY(&r->parameters, r->layout->flat_elements));
    lks_state_array array = {.group = "model", .data = r->parameters};
    return lks_checkpoint_read(r->checkpoint, r->layout, &array, 0, r->layout->block_count);
}

static void run_open(run *r, const char *directory)
{
    *r = (run){0};
    run_read_metrics(r, directory);
    r->ledger = read_lines(directory, "ledger");
    if (run_read_checkpoint(r, directory) != LKS_OK)
        golden_die("%s", lks_status_message());
}

static void run_close(run *r)
{
    lks_memory_free(r->parameters);
    lks_checkpoint_close(r->checkpoint);
    json_decref(r->metrics);
    json_decref(r->ledger);
}

/* --- Comparing -------------------------------------------------------------- */

/* |found - wanted| / bound; more than 1 where one is not a number. */
static double ratio(double found, double wanted, double bound)
{
    double r = fabs(found - wanted) / bound;
    return isnan(r) ? INFINITY : r;
}

/* The worst step of a curve. `relative` gives the bound at step t as t relative |wanted|. */
static double compare_curve(const run *r, const char *key, const json_t *wanted, double relative)
{
    size_t steps = json_array_size(wanted);
    double worst = json_array_size(r->metrics) == steps && steps ? 0 : INFINITY;
    for (size_t i = 0; i < steps && i < json_array_size(r->metrics); ++i) {
        const json_t *found = json_object_get(json_array_get(r->metrics, i), key);
        double value = json_number_value(json_array_get(wanted, i));
        double bound = (double)(i + 1) * relative * fabs(value);
        worst = fmax(worst, found ? ratio(json_number_value(found), value, bound) : INFINITY);
    }
    return worst;
}

static const lks_layout_tensor *find_tensor(const run *r, const char *name)
{
    for (uint32_t i = 0; i < r->layout->tensor_count; ++i)
        if (!strcmp(r->layout->tensors[i].name, name))
            return &r->layout->tensors[i];
    return NULL;
}

static double compare_tensor(const run *r, const char *name, const golden_tensor *wanted,
                             double from_updates, size_t steps)
{
    const lks_layout_tensor *tensor = find_tensor(r, name);
    double largest = 0, difference = 0;
    if (!tensor || tensor->elements != wanted->elements)
        return INFINITY;
    for (size_t i = 0; i < wanted->elements; ++i) {
        double value = golden_at(wanted, i), found = r->parameters[tensor->offset + i];
        largest = fmax(largest, fabs(value));
        difference = isfinite(found) ? fmax(difference, fabs(found - value)) : INFINITY;
    }
    return ratio(difference, 0, from_updates + (double)steps * GOLDEN_UNIT * largest);
}

/* The worst tensor of `claim`, which may have some of the golden's alone. */
static double compare_final(const golden *g, const run *r, const json_t *claim, double rho,
                            const char **which)
{
    const json_t *final = json_object_get(g->index, "final");
    size_t steps = json_array_size(json_object_get(g->index, "loss"));
    const char *name;
    json_t *entry;
    double worst = 0;
    json_object_foreach((json_t *)claim, name, entry)
    {
        golden_tensor wanted = golden_read(g, entry);
        double travel = json_number_value(json_object_get(json_object_get(final, name), "travel"));
        double now = compare_tensor(r, name, &wanted, rho * travel, steps);
        if (now >= worst) {
            worst = now;
            *which = name;
        }
    }
    return worst;
}

typedef struct verdict {
    double loss, grad_norm, validation_loss, final; /* times the bound */
    const char *tensor;                             /* the worst in `final` */
} verdict;

static verdict compare_claim(const golden *g, const run *r, const json_t *claim)
{
    double rho = sqrt(json_number_value(json_object_get(g->index, "terms"))) * GOLDEN_UNIT;
    const json_t *loss = json_object_get(claim, "loss");
    double validation = json_number_value(json_object_get(claim, "validation_loss"));
    double steps = (double)json_array_size(loss);
    verdict v = {.tensor = "none"};
    v.loss = compare_curve(r, "loss", loss, rho);
    v.grad_norm = compare_curve(r, "grad_norm", json_object_get(claim, "grad_norm"), rho);
    v.validation_loss = ratio(r->validation_loss, validation, (steps + 1) * rho * validation);
    v.final = compare_final(g, r, json_object_get(claim, "final"), rho, &v.tensor);
    return v;
}

static double verdict_worst(const verdict *v)
{
    return fmax(fmax(v->loss, v->grad_norm), fmax(v->validation_loss, v->final));
}

static void verdict_print(const char *name, const verdict *v)
{
    printf("%-34s loss %.3g, gradient norm %.3g, validation %.3g, final %.3g (%s)\n", name, v->loss,
           v->grad_norm, v->validation_loss, v->final, v->tensor);
}

/* --- The two tests ---------------------------------------------------------- */

static bool agrees_with_golden(const golden *g, const run *r)
{
    verdict v = compare_claim(g, r, g->index);
    verdict_print("times the bound:", &v);
    double lr = compare_curve(r, "lr", json_object_get(g->index, "lr"), 0x1p-48);
    const json_t *ids = json_object_get(g->index, "samples");
    bool same_ids = json_array_size(ids) == json_array_size(r->ledger);
    for (size_t i = 0; same_ids && i < json_array_size(ids); ++i)
        same_ids = json_equal(json_array_get(ids, i),
                              json_object_get(json_array_get(r->ledger, i), "samples"));
    bool whole = json_object_size(json_object_get(g->index, "final")) == r->layout->tensor_count;
    if (!same_ids)
        printf("other sample ids\n");
    if (lr > 1)
        printf("other learning rates: %g times the bound\n", lr);
    if (!whole)
        printf("%u tensors, want %zu\n", r->layout->tensor_count,
               json_object_size(json_object_get(g->index, "final")));
    return verdict_worst(&v) <= 1 && lr <= 1 && same_ids && whole;
}

static bool differs_from_mutants(const golden *g, const run *r)
{
    const char *name;
    json_t *claim, *mutants = json_object_get(g->index, "mutants");
    bool all = json_object_size(mutants) > 0;
    json_object_foreach(mutants, name, claim)
    {
        verdict v = compare_claim(g, r, claim);
        verdict_print(name, &v);
        if (!(verdict_worst(&v) > 1))
            all = false;
    }
    return all;
}

int main(int argc, char **argv)
{
    golden g;
    run r;
    bool mutants = argc == 4 && !strcmp(argv[3], "mutants");
    if (argc != 3 && !mutants)
        golden_die("usage: compare_run GOLDEN RUN [mutants]");
    golden_open(&g, argv[1]);
    run_open(&r, argv[2]);
    bool good = mutants ? differs_from_mutants(&g, &r) : agrees_with_golden(&g, &r);
    run_close(&r);
    golden_close(&g);
    return !good;
}
