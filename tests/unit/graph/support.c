#include "support.h"

#include "runtime/base/rng.h"
#include "runtime/graph/executor_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const uint64_t test_positions[BATCH] = {5, 1234567890123};

static const int32_t ids[BATCH][PLACES] = {{0, 6, 3, 3, 1}, {2, 2, 5, 0, 4}};
static const int32_t targets[BATCH][PLACES] = {{6, 3, -1, 1, 2}, {2, 5, 0, 4, 0}};
static uint8_t image[BATCH][6][5][3];
static float features[BATCH][PLACES][4];
static const float values[BATCH][3] = {{0.5f, -1.0f, 2.0f}, {1.0f, NAN, 0.0f}};

static const int32_t other_ids[BATCH][PLACES] = {{1, 1, 1, 4, 0}, {5, 3, 6, 6, 2}};
static const int32_t other_targets[BATCH][PLACES] = {{-1, -1, 4, 0, 2}, {3, 6, 6, 2, 1}};
static uint8_t other_image[BATCH][6][5][3];
static const float other_values[BATCH][3] = {{NAN, NAN, NAN}, {1.5f, -2.5f, 0.25f}};

const void *const *test_inputs(void)
{
    static const void *const inputs[] = {ids, targets, image, features, values};
    for (size_t i = 0; i < sizeof image; ++i)
        ((uint8_t *)image)[i] = (uint8_t)(i * 37 + i / 7 * 11);
    lks_rng_normal(lks_rng_key(1, LKS_RNG_TEST, 1), 0, sizeof features / sizeof(float),
                   &features[0][0][0]);
    return inputs;
}

const void *const *other_inputs(void)
{
    static const void *const inputs[] = {other_ids, other_targets, other_image, features,
                                         other_values};
    for (size_t i = 0; i < sizeof other_image; ++i)
        ((uint8_t *)other_image)[i] = (uint8_t)(i * 91 + i / 5 * 3);
    return inputs;
}

lks_graph *test_graph(lks_graph_mode mode)
{
    static const lks_graph_input inputs[] = {
        {"ids", LKS_I32, {2, {BATCH, PLACES}}},   {"targets", LKS_I32, {2, {BATCH, PLACES}}},
        {"image", LKS_U8, {4, {BATCH, 6, 5, 3}}}, {"features", LKS_F32, {3, {BATCH, PLACES, 4}}},
        {"values", LKS_F32, {2, {BATCH, 3}}},
    };
    lks_graph *graph;
    OK(lks_graph_create(&graph, mode, BATCH, inputs, 5));
    return graph;
}

lks_tensor *variable(lks_graph *graph, const char *name, lks_shape shape)
{
    return lks_parameter(graph, name, shape, lks_init_uniform(1.0));
}

lks_tensor *activation(lks_graph *graph, const char *name, lks_shape shape)
{
    return lks_op_affine(graph, variable(graph, name, shape), 1.0, 0.0);
}

void loss_of(lks_graph *graph, lks_tensor *y)
{
    if (y == NULL)
        return;
    size_t count = lks_shape_elements(lks_tensor_shape(y));
    float *constants = malloc(count * sizeof *constants);
    lks_rng_normal(lks_rng_key(7, LKS_RNG_TEST, 2), 0, count, constants);
    lks_tensor *target = lks_constant(graph, *lks_tensor_shape(y), constants);
    free(constants);
    lks_graph_loss(graph, lks_op_squared_error(graph, y, target));
}

static void open_with(fixture *f, lks_graph_mode mode, build_function build, bool recomputed)
{
    *f = (fixture){0};
    OK(lks_device_open(&f->device, "cpu", 0));
    f->graph = test_graph(mode);
    if (recomputed)
        lks_graph_recompute_begin(f->graph);
    build(f->graph);
    if (recomputed)
        lks_graph_recompute_end(f->graph);
    OK(lks_graph_status(f->graph));
    OK(lks_executor_open(&f->executor, f->graph, f->device));
    f->elements = lks_graph_layout(f->graph)->flat_elements;
    void *memory;
    OK(lks_device_allocate(f->device, f->elements * sizeof(float), &memory));
    f->parameters = memory;
    OK(lks_device_allocate(f->device, f->elements * sizeof(float), &memory));
    f->gradients = memory;
    OK(lks_graph_initialize(f->graph, 3, f->parameters));
    f->call = (lks_executor_call){.seed = 11,
                                  .positions = test_positions,
                                  .inputs = test_inputs(),
                                  .parameters = f->parameters,
                                  .gradients = f->gradients};
}

void fixture_open(fixture *f, lks_graph_mode mode, build_function build)
{
    open_with(f, mode, build, false);
}

void fixture_open_recomputed(fixture *f, build_function build)
{
    open_with(f, LKS_GRAPH_TRAIN, build, true);
}

void fixture_close(fixture *f)
{
    lks_executor_close(f->executor);
    lks_graph_destroy(f->graph);
    lks_device_free(f->device, f->parameters, f->elements * sizeof(float));
    lks_device_free(f->device, f->gradients, f->elements * sizeof(float));
    lks_device_close(f->device);
}

void fixture_run(fixture *f)
{
    memset(f->executor->activations, 0xff, f->executor->memory.activations_bytes);
    OK(lks_executor_run(f->executor, &f->call, f->stats));
}
