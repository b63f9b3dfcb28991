#include "cases.h"

#include <math.h>
#include <string.h>

/* What a model may do wrong, and what the message must then name. */
typedef struct mistake {
    void (*make)(lks_graph *g);
    const char *names[3];
} mistake;

#define MISTAKE(name) static void name(lks_graph *g)

MISTAKE(linear_widths)
{
    lks_op_linear(g, lks_input(g, "features"), variable(g, "w", LKS_SHAPE(3, 5)), NULL, LKS_RELU);
}
MISTAKE(linear_bias)
{
    lks_op_linear(g, lks_input(g, "features"), variable(g, "w", LKS_SHAPE(3, 4)),
                  variable(g, "b", LKS_SHAPE(4)), LKS_RELU);
}
MISTAKE(linear_of_integers)
{
    lks_op_linear(g, lks_input(g, "ids"), variable(g, "w", LKS_SHAPE(3, 5)), NULL, LKS_RELU);
}
MISTAKE(linear_of_nothing)
{
    lks_op_linear(g, lks_input(g, "features"), NULL, NULL, LKS_RELU);
}
MISTAKE(attention_width)
{
    lks_op_attention(g, lks_input(g, "features"), 2, 2, true, 0);
}
MISTAKE(attention_heads)
{
    lks_op_attention(g, lks_input(g, "features"), 3, 2, true, 0);
}
MISTAKE(norm_gain)
{
    lks_op_norm(g, LKS_NORM_LAYER, lks_input(g, "features"), variable(g, "gain", LKS_SHAPE(5)),
                NULL, 1e-5);
}
MISTAKE(norm_residual_shape)
{
    lks_tensor *sum;
    lks_op_norm_residual(g, LKS_NORM_LAYER, lks_input(g, "features"), lks_input(g, "values"),
                         variable(g, "gain", LKS_SHAPE(4)), NULL, 1e-5, &sum);
    ck_assert_ptr_null(sum);
}
MISTAKE(embedding_place)
{
    lks_op_embedding(g, lks_input(g, "ids"), variable(g, "table", LKS_SHAPE(9, 4)),
                     variable(g, "place", LKS_SHAPE(6, 4)));
}
MISTAKE(cross_entropy_rows)
{
    lks_op_cross_entropy(g, variable(g, "logits", LKS_SHAPE(9, 4)), lks_input(g, "targets"), 4);
}
MISTAKE(cross_entropy_classes)
{
    lks_op_cross_entropy(g, variable(g, "logits", LKS_SHAPE(10, 4)), lks_input(g, "targets"), 5);
}
MISTAKE(squared_error_shape)
{
    lks_op_squared_error(g, variable(g, "p", LKS_SHAPE(BATCH, 4)), lks_input(g, "values"));
}
MISTAKE(conv2d_channels)
{
    lks_op_conv2d(g, variable(g, "x", LKS_SHAPE(BATCH, 6, 6, 3)),
                  variable(g, "w", LKS_SHAPE(4, 3, 3, 2)), NULL, 1, 1, 1);
}
MISTAKE(conv2d_too_large)
{
    lks_op_conv2d(g, variable(g, "x", LKS_SHAPE(BATCH, 2, 2, 3)),
                  variable(g, "w", LKS_SHAPE(4, 5, 5, 3)), NULL, 1, 1, 1);
}
MISTAKE(batch_norm_buffers)
{
    lks_shape c = LKS_SHAPE(3);
    lks_op_batch_norm(g, variable(g, "x", LKS_SHAPE(BATCH, 3)), variable(g, "a", c),
                      variable(g, "b", c), variable(g, "m", c), variable(g, "v", c), NULL, LKS_RELU,
                      1e-5);
}
MISTAKE(batch_norm_residual_shape)
{
    lks_shape c = LKS_SHAPE(3);
    lks_op_batch_norm(g, variable(g, "x", LKS_SHAPE(BATCH, 3)), variable(g, "a", c),
                      variable(g, "b", c), lks_buffer(g, "m", c, 0), lks_buffer(g, "v", c, 1),
                      variable(g, "r", LKS_SHAPE(BATCH, 4)), LKS_RELU, 1e-5);
}
MISTAKE(pool2d_padding)
{
    lks_op_pool2d(g, variable(g, "x", LKS_SHAPE(BATCH, 6, 6, 3)), LKS_POOL_MAX, 2, 2, 2);
}
MISTAKE(image_of_floats)
{
    lks_tensor *c = lks_constant(g, LKS_SHAPE(4), (float[]){1, 2, 3, 4});
    lks_op_image(g, lks_input(g, "features"), c, c);
}
MISTAKE(dropout_rate)
{
    lks_op_dropout(g, lks_input(g, "features"), 1.0);
}
MISTAKE(binary_shapes)
{
    lks_op_binary(g, LKS_BINARY_ADD, lks_input(g, "features"), lks_input(g, "values"));
}
MISTAKE(matmul_shapes)
{
    lks_op_matmul(g, variable(g, "a", LKS_SHAPE(3, 4)), variable(g, "b", LKS_SHAPE(5, 3)), false,
                  false);
}
MISTAKE(reduce_axis)
{
    lks_op_reduce_sum(g, lks_input(g, "features"), 3);
}
MISTAKE(reshape_count)
{
    lks_op_reshape(g, lks_input(g, "features"), LKS_SHAPE(BATCH, 21));
}
MISTAKE(permute_order)
{
    lks_op_permute(g, lks_input(g, "features"), (int[]){0, 1, 1});
}
MISTAKE(slice_range)
{
    lks_op_slice(g, lks_input(g, "features"), 1, 2, 6);
}
MISTAKE(concatenate_shapes)
{
    lks_op_concatenate(
        g, (lks_tensor *[]){lks_input(g, "features"), variable(g, "x", LKS_SHAPE(BATCH, 5, 3))}, 2,
        1);
}
MISTAKE(unknown_input)
{
    lks_input(g, "tokens");
}
MISTAKE(parameter_twice)
{
    variable(g, "weight", LKS_SHAPE(3));
    variable(g, "weight", LKS_SHAPE(3));
}
MISTAKE(empty_parameter)
{
    variable(g, "weight", LKS_SHAPE(3, 0));
}
MISTAKE(spread)
{
    lks_parameter(g, "weight", LKS_SHAPE(3), lks_init_normal(NAN));
}
MISTAKE(loss_of_logits)
{
    lks_graph_loss(g, lks_input(g, "features"));
}
MISTAKE(output_twice)
{
    lks_graph_output(g, "logits", lks_input(g, "features"));
    lks_graph_output(g, "logits", lks_input(g, "features"));
}
MISTAKE(nested_regions)
{
    lks_graph_recompute_begin(g);
    lks_graph_recompute_begin(g);
}
MISTAKE(complaint)
{
    lks_graph_refuse(g, "width %d must be even", 7);
    lks_graph_refuse(g, "this comes later");
}

static const mistake mistakes[] = {
    {linear_widths, {"linear", "2x5x4", "3x5"}},
    {linear_bias, {"linear: bias", "is 4", "3x4"}},
    {linear_of_integers, {"linear: x", "i32", "f32"}},
    {linear_of_nothing, {"linear", "NULL", "2 of 2"}},
    {attention_width, {"attention", "2x5x4", "(2 + 2 x 2)"}},
    {attention_heads, {"attention", "3 heads", "2 key-value"}},
    {norm_gain, {"norm: gain", "is 5", "2x5x4"}},
    {norm_residual_shape, {"norm: residual", "2x3", "2x5x4"}},
    {embedding_place, {"embedding: place", "6x4", "5x4"}},
    {cross_entropy_rows, {"cross_entropy", "9x4", "2x5"}},
    {cross_entropy_classes, {"cross_entropy", "5 classes", "10x4"}},
    {squared_error_shape, {"squared_error", "2x4", "2x3"}},
    {conv2d_channels, {"conv2d", "2x6x6x3", "4x3x3x2"}},
    {conv2d_too_large, {"conv2d", "2x2x2x3", "4x5x5x3"}},
    {batch_norm_buffers, {"batch_norm", "lks_buffer", "mean"}},
    {batch_norm_residual_shape, {"batch_norm: residual", "2x4", "2x3"}},
    {pool2d_padding, {"pool2d", "padding 2", "size 2"}},
    {image_of_floats, {"image: x", "f32", "u8"}},
    {dropout_rate, {"dropout", "rate of 1", "[0, 1)"}},
    {binary_shapes, {"binary", "2x5x4", "2x3"}},
    {matmul_shapes, {"matmul", "3x4", "5x3"}},
    {reduce_axis, {"reduce", "2x5x4", "axis 3"}},
    {reshape_count, {"reshape", "2x5x4", "2x21"}},
    {permute_order, {"permute", "axis 1", "2x5x4"}},
    {slice_range, {"slice", "[2, 6)", "2x5x4"}},
    {concatenate_shapes, {"concatenate", "2x5x4", "2x5x3"}},
    {unknown_input, {"tokens", "ids, targets", "values"}},
    {parameter_twice, {"weight", "", ""}},
    {empty_parameter, {"weight", "3x0", "at least 1"}},
    {spread, {"weight", "nan", ""}},
    {loss_of_logits, {"loss", "2x5x4", "f32"}},
    {output_twice, {"logits", "twice", ""}},
    {nested_regions, {"recompute", "", ""}},
    {complaint, {"width 7 must be even", "", ""}},
};
enum { MISTAKES = sizeof mistakes / sizeof *mistakes };

START_TEST(mistakes_are_named)
{
    lks_graph *g = test_graph(LKS_GRAPH_TRAIN);
    mistakes[_i].make(g);
    ck_assert_int_eq(lks_graph_status(g), LKS_ERR_USAGE);
    const char *message = lks_status_message();
    for (int n = 0; n < 3; ++n)
        ck_assert_msg(mistakes[_i].names[n] == NULL ||
                          strstr(message, mistakes[_i].names[n]) != NULL,
                      "\"%s\" does not name \"%s\"", message, mistakes[_i].names[n]);
    ck_assert_ptr_null(strchr(message, '\n'));
    /* The first error stays, and nothing can be built after it. */
    ck_assert_ptr_null(lks_input(g, "features"));
    ck_assert_ptr_null(variable(g, "another", LKS_SHAPE(3)));
    lks_graph_refuse(g, "this comes later");
    ck_assert_int_eq(lks_graph_status(g), LKS_ERR_USAGE);
    ck_assert_ptr_null(strstr(lks_status_message(), "later"));
    lks_device *device;
    lks_executor *executor;
    OK(lks_device_open(&device, "cpu", 0));
    ck_assert_int_eq(lks_executor_open(&executor, g, device), LKS_ERR_USAGE);
    ck_assert_ptr_null(executor);
    lks_device_close(device);
    lks_graph_destroy(g);
}
END_TEST

START_TEST(incomplete_graphs_are_refused)
{
    lks_device *device;
    lks_executor *executor;
    OK(lks_device_open(&device, "cpu", 0));
    lks_graph *g = test_graph(LKS_GRAPH_TRAIN);
    ck_assert_int_eq(lks_executor_open(&executor, g, device), LKS_ERR_USAGE);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "lks_graph_loss"));
    lks_graph_recompute_begin(g);
    loss_of(g, variable(g, "x", LKS_SHAPE(3, 2)));
    ck_assert_int_eq(lks_executor_open(&executor, g, device), LKS_ERR_USAGE);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "recompute"));
    lks_graph_destroy(g);
    g = test_graph(LKS_GRAPH_PREDICT);
    lks_graph_loss(g, NULL); /* left out when predicting */
    ck_assert_int_eq(lks_executor_open(&executor, g, device), LKS_ERR_USAGE);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "lks_graph_output"));
    lks_graph_destroy(g);
    lks_device_close(device);
}
END_TEST

START_TEST(inputs_start_with_the_micro_batch)
{
    lks_graph *g;
    lks_graph_input input = {"x", LKS_F32, {2, {3, 4}}};
    ck_assert_int_eq(lks_graph_create(&g, LKS_GRAPH_TRAIN, 2, &input, 1), LKS_ERR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "3x4"));
    OK(lks_graph_create(&g, LKS_GRAPH_TRAIN, 3, &input, 1));
    ck_assert(lks_has_input(g, "x") && !lks_has_input(g, "y"));
    ck_assert_ptr_eq(lks_input(g, "x"), lks_input(g, "x"));
    ck_assert_int_eq(lks_tensor_dtype(lks_input(g, "x")), LKS_F32);
    ck_assert_int_eq(lks_graph_micro_batch(g), 3);
    ck_assert_int_eq(lks_tensor_shape(NULL)->axes, 0);
    lks_graph_destroy(g);
}
END_TEST

/* The layout is what a model declares, in any mode. */
START_TEST(the_layout_does_not_depend_on_the_mode)
{
    char first[65], hex[65];
    for (int mode = LKS_GRAPH_TRAIN; mode <= LKS_GRAPH_PREDICT; ++mode) {
        lks_graph *g = test_graph((lks_graph_mode)mode);
        build_gpt_kept(g);
        OK(lks_graph_status(g));
        OK(lks_layout_fingerprint(lks_graph_layout(g), mode == LKS_GRAPH_TRAIN ? first : hex));
        if (mode != LKS_GRAPH_TRAIN)
            ck_assert_str_eq(first, hex);
        lks_graph_destroy(g);
    }
}
END_TEST

Suite *builder_suite(void);
Suite *builder_suite(void)
{
    Suite *suite = suite_create("builder");
    TCase *cases = tcase_create("builder");
    tcase_add_loop_test(cases, mistakes_are_named, 0, MISTAKES);
    tcase_add_test(cases, incomplete_graphs_are_refused);
    tcase_add_test(cases, inputs_start_with_the_micro_batch);
    tcase_add_test(cases, the_layout_does_not_depend_on_the_mode);
    suite_add_tcase(suite, cases);
    return suite;
}
