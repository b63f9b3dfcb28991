#include "runtime/graph/op_driver.h"

static void embedding_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_tensor *table = node->inputs[1], *place = node->inputs[2];
    lks_node_append(graph, NULL, "embedding_grad", NULL, 0,
                    LKS_TENSORS(node->inputs[0], lks_gradient_of(graph, node->outputs[0])),
                    LKS_TENSORS(lks_gradient_target_or_scratch(graph, table),
                                lks_gradient_target(graph, place)));
}

static const lks_op embedding_op = {"embedding", "rows of a table by id, plus a row per place",
                                    embedding_differentiate};

static bool embedding_check(lks_graph *graph, const lks_tensor *ids, const lks_tensor *table,
                            const lks_tensor *place)
{
    if (!lks_op_wants(graph, &embedding_op, "ids", ids, LKS_I32) ||
        !lks_op_wants_number(graph, &embedding_op, "table", table))
        return false;
    if (ids->shape.axes < 1 || ids->shape.axes >= LKS_AXES_MAX || table->shape.axes != 2)
        lks_graph_refuse(graph,
                         "embedding: ids are %s and the table is %s; ids need an axis and "
                         "the table must be V x C",
                         LKS_SHAPE_OF(ids), LKS_SHAPE_OF(table));
    else if (place == table)
        lks_graph_refuse(graph, "embedding: table and place are one tensor; they must be two");
    lks_shape wanted = LKS_SHAPE(lks_tensor_last(ids), lks_tensor_last(table));
    return lks_op_wants_shape(graph, &embedding_op, "place", place, wanted, ids, "ids");
}

lks_tensor *lks_op_embedding(lks_graph *graph, lks_tensor *ids, lks_tensor *table,
                             lks_tensor *place)
{
    if (!lks_op_ready(graph, &embedding_op, LKS_TENSORS(ids, table)) ||
        !embedding_check(graph, ids, table, place))
        return NULL;
    lks_shape shape = ids->shape;
    shape.size[shape.axes++] = table->shape.size[1];
    lks_tensor *rows = lks_tensor_rows(graph, ids);
    lks_tensor *y = lks_tensor_number(graph, shape);
    if (rows == NULL)
        return NULL;
    lks_tensor *y3 = lks_tensor_view(
        graph, y, LKS_SHAPE(rows->shape.size[0], rows->shape.size[1], table->shape.size[1]));
    lks_node_append(graph, &embedding_op, "embedding", NULL, 0, LKS_TENSORS(rows, table, place),
                    LKS_TENSORS(y3));
    return y;
}
