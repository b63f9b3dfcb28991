/* Small graphs: every op by itself, and what goes wrong between ops. */
#ifndef LKS_TESTS_UNIT_GRAPH_CASES_H
#define LKS_TESTS_UNIT_GRAPH_CASES_H

#include "support.h"

typedef struct graph_case {
    const char *name;
    build_function build;
} graph_case;

/* The same small GPT, its blocks recomputed or kept. */
void build_gpt_recomputed(lks_graph *graph);
void build_gpt_kept(lks_graph *graph);
void build_cnn(lks_graph *graph);
void build_tied(lks_graph *graph);
void build_unused(lks_graph *graph);
void build_layers(lks_graph *graph);
void build_layers_recomputed(lks_graph *graph); /* each layer a region of its own */
void build_layers_read_twice(lks_graph *graph);

extern const graph_case graph_cases[];
extern const int graph_case_count;

#endif
