/* The lane tree: which partial sums a rank's lanes leave behind.
 *
 * tree(a, b) over lanes [a, b) is tree(a, m) + tree(m, b), m - a being the largest power
 * of two below b - a. A rank adds up its lanes one after another on a stack: before each
 * next lane the two topmost spans are added while together they are a node of
 * tree(0, lanes). After its last lane nothing is added: the owners of the blocks do the
 * rest in one pass.
 */
#ifndef LKS_COLLECTIVES_LANE_TREE_H
#define LKS_COLLECTIVES_LANE_TREE_H

#include <stdbool.h>

typedef struct lks_lane_span {
    int first, end;
} lks_lane_span;

/* A span rises through at most 31 levels on either side, and one lane is new. */
enum { LKS_LANE_SPANS_MAX = 63 };

typedef struct lks_lane_stack {
    int count;
    lks_lane_span spans[LKS_LANE_SPANS_MAX];
} lks_lane_stack;

/* Whether [first, end) is a node of tree(0, lanes). */
bool lks_lane_is_node(int lanes, int first, int end);

void lks_lane_push(lks_lane_stack *stack, int lane);
/* Merges the two topmost spans when that is a node; false: nothing to merge. */
bool lks_lane_fold(lks_lane_stack *stack, int lanes);

/* The stack when a rank with lanes [first, end) is done: its partials. */
void lks_lane_partials(int lanes, int first, int end, lks_lane_stack *out);
/* How high the stack is at its highest: the gradient arrays that the rank needs. */
int lks_lane_levels(int lanes, int first, int end);

#endif
