#include "collectives/lane_tree.h"

#include "collectives/reducer.h"

void lks_lanes_of(int lanes, int rank, int world_size, int *first, int *end)
{
    *first = (int)((int64_t)rank * lanes / world_size);
    *end = (int)((int64_t)(rank + 1) * lanes / world_size);
}

bool lks_lane_is_node(int lanes, int first, int end)
{
    int a = 0, b = lanes;
    while (b - a > end - first) {
        int half = 1;
        while (half < b - a - half)
            half *= 2;
        if (first < a + half)
            b = a + half;
        else
            a += half;
    }
    return a == first && b == end;
}

void lks_lane_push(lks_lane_stack *stack, int lane)
{
    stack->spans[stack->count++] = (lks_lane_span){lane, lane + 1};
}

bool lks_lane_fold(lks_lane_stack *stack, int lanes)
{
    if (stack->count < 2)
        return false;
    lks_lane_span *into = &stack->spans[stack->count - 2], *from = into + 1;
    if (!lks_lane_is_node(lanes, into->first, from->end))
        return false;
    into->end = from->end;
    --stack->count;
    return true;
}

/* Runs through the lanes, returns the greatest height. */
static int run_stack(int lanes, int first, int end, lks_lane_stack *stack)
{
    int highest = 0;
    stack->count = 0;
    for (int lane = first; lane < end; ++lane) {
        while (lks_lane_fold(stack, lanes))
            ;
        lks_lane_push(stack, lane);
        highest = stack->count > highest ? stack->count : highest;
    }
    return highest;
}

void lks_lane_partials(int lanes, int first, int end, lks_lane_stack *out)
{
    (void)run_stack(lanes, first, end, out);
}

int lks_lane_levels(int lanes, int first, int end)
{
    lks_lane_stack stack;
    return run_stack(lanes, first, end, &stack);
}
