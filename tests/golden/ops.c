/* Every op of the graph by itself against ops.json: outputs, loss and gradients.
 *
 * Bound, relative to the largest element of each array: (4 sqrt(terms) + 4) u, u = 2^-24. `terms` is
 * the longest sum in the op or its gradients, by the argument of compare_run.c; 4 stands for the two
 * or three such sums in a row (scores, softmax, values) and for elementary functions, which
 * are right to 4 u, and for the golden's own rounding to f32. Each comparison is made again with
 * one element wrong by 2^-14 of the largest, and must then fail.
 */
#include "runtime/graph/executor.h"
#include "tests/golden/golden.h"
#include "tests/golden/ops_cases.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 2 };
static const uint64_t seed = 11, positions[BATCH] = {5, 1234567890123};

static golden ops;

#define OK(expression)                                                                             \
    do {                                                                                           \
        lks_status ok_status_ = (expression);                                                      \
        ck_assert_msg(ok_status_ == LKS_OK, "%s: %s", #expression, lks_status_message());          \
    } while (0)

/* --- A case as a graph ------------------------------------------------------- */

typedef struct fixture {
    op_case c;
    lks_graph *graph;
    lks_device *device;
    lks_executor *executor;
    const void *fields[2];
    float *parameters, *gradients; /* flat */
    double stats[3];
} fixture;

static lks_shape shape_of(const golden_tensor *t)
{
    lks_shape shape = {.axes = t->axes};
    for (int i = 0; i < t->axes; ++i)
        shape.size[i] = t->size[i];
    return shape;
}

static golden_tensor part(const op_case *c, const char *kind, const char *name)
{
    const json_t *entry = json_object_get(json_object_get(c->entry, kind), name);
    ck_assert_msg(entry != NULL, "%s: the golden has no %s %s", c->name, kind, name);
    return golden_read(&ops, entry);
}

lks_tensor *op_parameter(const op_case *c, const char *name)
{
    golden_tensor t = part(c, "inputs", name);
    return lks_parameter(c->graph, name, shape_of(&t), lks_init_constant(0));
}

lks_tensor *op_input(const op_case *c, const char *name)
{
    return lks_op_affine(c->graph, op_parameter(c, name), 1, 0);
}

lks_tensor *op_constant(const op_case *c, const char *name)
{
    golden_tensor t = part(c, "constants", name);
    return lks_constant(c->graph, shape_of(&t), t.data);
}

lks_tensor *op_buffer(const op_case *c, const char *name)
{
    golden_tensor t = part(c, "buffers", name);
    return lks_buffer(c->graph, name, shape_of(&t), 0);
}

static lks_dtype dtype_of(const char *name)
{
    return !strcmp(name, "i32") ? LKS_I32 : !strcmp(name, "u8") ? LKS_U8 : LKS_F32;
}

static void create_graph(fixture *f, lks_graph_mode mode)
{
    lks_graph_input inputs[2];
    const char *name;
    json_t *entry;
    int count = 0;
    json_object_foreach(json_object_get(f->c.entry, "fields"), name, entry)
    {
        golden_tensor t = golden_read(&ops, entry);
        inputs[count] = (lks_graph_input){name, dtype_of(t.dtype), shape_of(&t)};
        f->fields[count++] = t.data;
    }
    OK(lks_graph_create(&f->graph, mode, BATCH, inputs, count));
    f->c.graph = f->graph;
}

/* The case's output, or the stats of its loss. */
static void finish_graph(const fixture *f, lks_tensor *y)
{
    const json_t *target = json_object_get(f->c.entry, "target");
    OK(lks_graph_status(f->graph));
    if (lks_graph_get_mode(f->graph) == LKS_GRAPH_PREDICT) {
        lks_graph_output(f->graph, "y", y);
    } else if (target) {
        golden_tensor t = golden_read(&ops, target);
        lks_tensor *constant = lks_constant(f->graph, shape_of(&t), t.data);
        lks_graph_loss(f->graph, lks_op_squared_error(f->graph, y, constant));
    } else {
        lks_graph_loss(f->graph, y);
    }
}

static void fill_parameters(fixture *f, const char *kind)
{
    const lks_layout *layout = lks_graph_layout(f->graph);
    const char *name;
    json_t *entry;
    json_object_foreach(json_object_get(f->c.entry, kind), name, entry)
    {
        golden_tensor t = golden_read(&ops, entry);
        for (uint32_t i = 0; i < layout->tensor_count; ++i)
            if (!strcmp(layout->tensors[i].name, name))
                memcpy(f->parameters + layout->tensors[i].offset, t.data,
                       t.elements * sizeof(float));
    }
}

static void run_case(fixture *f, const op_builder *builder, lks_graph_mode mode)
{
    *f = (fixture){.c = {.name = builder->name}};
    f->c.entry = json_object_get(ops.index, builder->name);
    ck_assert_msg(f->c.entry != NULL, "the golden has no %s", builder->name);
    create_graph(f, mode);
    finish_graph(f, builder->build(&f->c));
    OK(lks_device_open(&f->device, "cpu", 0));
    OK(lks_executor_open(&f->executor, f->graph, f->device));
    size_t elements = lks_graph_layout(f->graph)->flat_elements;
    f->parameters = calloc(elements, sizeof *f->parameters);
    f->gradients = calloc(elements, sizeof *f->gradients);
    fill_parameters(f, "inputs");
    fill_parameters(f, "buffers");
    lks_executor_call call = {.seed = seed,
                              .positions = positions,
                              .inputs = f->fields,
                              .parameters = f->parameters,
                              .gradients = f->gradients};
    OK(lks_executor_run(f->executor, &call, f->stats));
}

static void end_case(fixture *f)
{
    lks_executor_close(f->executor);
    lks_device_close(f->device);
    lks_graph_destroy(f->graph);
    free(f->parameters);
    free(f->gradients);
}

/* --- Comparing ---------------------------------------------------------------- */

static double largest_of(const golden_tensor *wanted)
{
    double largest = 0;
    for (size_t i = 0; i < wanted->elements; ++i)
        largest = fmax(largest, fabs(golden_at(wanted, i)));
    return largest;
}

/* The largest difference, relative to the largest element; `mistake` is added to the last. */
static double difference_of(const float *found, const golden_tensor *wanted, double mistake)
{
    double largest = largest_of(wanted), difference = 0;
    for (size_t i = 0; i < wanted->elements; ++i) {
        double value = (double)found[i] + (i + 1 == wanted->elements ? mistake * largest : 0);
        double error = fabs(value - golden_at(wanted, i));
        difference = isfinite(error) ? fmax(difference, error) : INFINITY;
    }
    return difference / largest;
}

static void check_array(const op_case *c, const char *what, const float *found,
                        const golden_tensor *wanted)
{
    double terms = json_number_value(json_object_get(c->entry, "terms"));
    double bound = (4 * sqrt(terms) + 4) * GOLDEN_UNIT;
    double difference = difference_of(found, wanted, 0);
    ck_assert_msg(difference <= bound, "%s: %s differs by %.3g, %.3g times the bound", c->name,
                  what, difference, difference / bound);
    ck_assert_msg(difference_of(found, wanted, 0x1p-14) > bound, "%s: %s: the bound says nothing",
                  c->name, what);
    if (getenv("GOLDEN_HEADROOM"))
        printf("%.3f %s %s\n", difference / bound, c->name, what);
}

static void check_gradients(const fixture *f)
{
    const lks_layout *layout = lks_graph_layout(f->graph);
    for (uint32_t i = 0; i < layout->tensor_count; ++i) {
        const lks_layout_tensor *tensor = &layout->tensors[i];
        golden_tensor wanted = part(&f->c, "gradients", tensor->name);
        ck_assert_uint_eq(wanted.elements, tensor->elements);
        check_array(&f->c, tensor->name, f->gradients + tensor->offset, &wanted);
    }
}

static void check_loss(const fixture *f)
{
    double wanted = json_number_value(json_object_get(f->c.entry, "loss"));
    double terms = json_number_value(json_object_get(f->c.entry, "terms"));
    double bound = (4 * sqrt(terms) + 4) * GOLDEN_UNIT * fabs(wanted);
    ck_assert_msg(fabs(f->stats[0] - wanted) <= bound, "%s: the loss is %.17g, want %.17g",
                  f->c.name, f->stats[0], wanted);
}

START_TEST(op_learns_as_the_golden)
{
    const op_builder *builder = &op_builders[_i];
    bool evaluate =
        json_is_true(json_object_get(json_object_get(ops.index, builder->name), "eval"));
    fixture f;
    run_case(&f, builder, evaluate ? LKS_GRAPH_EVALUATE : LKS_GRAPH_TRAIN);
    check_loss(&f);
    if (!evaluate)
        check_gradients(&f);
    end_case(&f);
}
END_TEST

/* In mode predict batch norm uses the running statistics and dropout is off: their outputs in training
 * show in the loss, and in the gradient of batch norm's residual. */
START_TEST(op_computes_as_the_golden)
{
    const op_builder *builder = &op_builders[_i];
    const json_t *entry = json_object_get(ops.index, builder->name);
    bool evaluate = json_is_true(json_object_get(entry, "eval"));
    bool trains = json_object_size(json_object_get(entry, "buffers")) > 0 && !evaluate;
    if (!json_object_get(entry, "output") || trains || !strcmp(builder->name, "dropout"))
        return;
    fixture f;
    const void *found;
    lks_shape shape;
    run_case(&f, builder, LKS_GRAPH_PREDICT);
    golden_tensor wanted = golden_read(&ops, json_object_get(entry, "output"));
    lks_shape wanted_shape = shape_of(&wanted);
    OK(lks_executor_output(f.executor, "y", &found, &shape));
    ck_assert(lks_shape_equal(&shape, &wanted_shape));
    check_array(&f.c, "y", found, &wanted);
    end_case(&f);
}
END_TEST

START_TEST(every_golden_has_a_test)
{
    ck_assert_uint_eq(json_object_size(ops.index), op_builder_count);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc != 2)
        golden_die("usage: test_golden_ops GOLDEN");
    golden_open(&ops, argv[1]);
    Suite *suite = suite_create("golden ops");
    TCase *cases = tcase_create("ops");
    tcase_add_loop_test(cases, op_learns_as_the_golden, 0, (int)op_builder_count);
    tcase_add_loop_test(cases, op_computes_as_the_golden, 0, (int)op_builder_count);
    tcase_add_test(cases, every_golden_has_a_test);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    golden_close(&ops);
    return failed != 0;
}
