/* What the graph's tests share: a graph that runs, and data for it. */
#ifndef LKS_TESTS_UNIT_GRAPH_SUPPORT_H
#define LKS_TESTS_UNIT_GRAPH_SUPPORT_H

#include "runtime/graph/executor.h"
#include "runtime/graph/plan.h"

#include <check.h>

enum { BATCH = 2, PLACES = 5, VOCABULARY = 7 };

#define OK(expression)                                                                             \
    do {                                                                                           \
        lks_status ok_status_ = (expression);                                                      \
        ck_assert_msg(ok_status_ == LKS_OK, "%s: %s", #expression, lks_status_message());          \
    } while (0)

/* Declares parameters and ops and calls lks_graph_loss. */
typedef void (*build_function)(lks_graph *graph);

/* A graph with the inputs of every test:
 *   ids i32 BATCH x PLACES, targets i32 BATCH x PLACES (one masked), image u8 BATCH x 6 x 5 x 3,
 *   features f32 BATCH x PLACES x 4, values f32 BATCH x 3 (one row has a NaN). */
typedef struct fixture {
    lks_device *device;
    lks_graph *graph;
    lks_executor *executor;
    float *parameters, *gradients; /* flat */
    uint64_t elements;             /* of a flat array */
    lks_executor_call call;
    double stats[3];
} fixture;

void fixture_open(fixture *f, lks_graph_mode mode, build_function build);
/* All that `build` makes stands in one recomputed region. */
void fixture_open_recomputed(fixture *f, build_function build);
void fixture_close(fixture *f);
/* Runs with the fixture's call; the arena holds NaNs at the start. */
void fixture_run(fixture *f);

lks_graph *test_graph(lks_graph_mode mode);
/* The test's inputs, in the order of test_graph. */
const void *const *test_inputs(void);
const void *const *other_inputs(void); /* of the same shapes */

/* A parameter of uniform values in [low, high). */
lks_tensor *variable(lks_graph *graph, const char *name, lks_shape shape);
/* The same behind an op, so that it is an activation. */
lks_tensor *activation(lks_graph *graph, const char *name, lks_shape shape);
/* squared_error against constants. */
void loss_of(lks_graph *graph, lks_tensor *y);

extern const uint64_t test_positions[BATCH];

#endif
