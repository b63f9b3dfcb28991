/* The matrix products of one GPT step, alone: what oneDNN needs for them on this core.
 *
 *   products ROWS LAYERS WIDTH HIDDEN VOCABULARY PASSES
 *
 * ROWS is a rank's samples times context. Every linear layer and the head, forward and both
 * gradients, in the order of a step and each layer with memory of its own, as in training; attention's
 * own products are left out. oneDNN's matmul primitive and dnnl_sgemm are both timed, and the
 * better one of each shape counts, by its median. Prints a line per shape and the sum in seconds.
 */
#include <dnnl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { VARIANTS = 2, KINDS = 3, LINEARS = 5 };

/* c[m, n] = op(a) op(b), row-major; op transposes. */
typedef struct product {
    int64_t m, n, k;
    bool transpose_a, transpose_b;
    const float *a, *b;
    float *c;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[3];
    int shape; /* index into the table of shapes */
} product;

typedef struct shape_times {
    char name[40];
    int64_t m, n, k;
    double *seconds[VARIANTS];
    size_t count[VARIANTS];
    int per_step;
} shape_times;

typedef struct bench {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    product *products;
    size_t product_count;
    shape_times shapes[LINEARS * KINDS];
    int shape_count;
    int passes;
} bench;

static void check(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success)
        return;
    fprintf(stderr, "products: oneDNN: %s: %d\n", what, (int)status);
    exit(1);
}

static void *memory(size_t bytes)
{
    void *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!p) {
        fprintf(stderr, "products: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return p;
}

static float *matrix(int64_t rows, int64_t columns)
{
    size_t count = (size_t)(rows * columns);
    float *values = memory(count * sizeof *values);
    uint32_t state = 1;
    for (size_t i = 0; i < count; ++i) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(state >> 8) * 0x1p-24f - 0.5f;
    }
    return values;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- oneDNN --------------------------------------------------------------------- */

static dnnl_memory_desc_t describe(int64_t rows, int64_t columns, bool transposed)
{
    dnnl_dims_t sizes = {rows, columns};
    dnnl_dims_t strides = {transposed ? 1 : columns, transposed ? rows : 1};
    dnnl_memory_desc_t description;
    check(dnnl_memory_desc_init_by_strides(&description, 2, sizes, dnnl_f32, strides), "memory");
    return description;
}

static void prepare(bench *b, product *p)
{
    dnnl_memory_desc_t md[3] = {describe(p->m, p->k, p->transpose_a),
                                describe(p->k, p->n, p->transpose_b), describe(p->m, p->n, false)};
    void *data[3] = {(void *)(uintptr_t)p->a, (void *)(uintptr_t)p->b, p->c};
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t description;
    check(dnnl_matmul_desc_init(&matmul, &md[0], &md[1], NULL, &md[2]), "matmul");
    check(dnnl_primitive_desc_create(&description, &matmul, NULL, b->engine, NULL), "matmul");
    check(dnnl_primitive_create(&p->primitive, description), "matmul");
    check(dnnl_primitive_desc_destroy(description), "matmul");
    for (int i = 0; i < 3; ++i)
        check(dnnl_memory_create(&p->memory[i], &md[i], b->engine, data[i]), "memory");
}

static void run(bench *b, const product *p, int variant)
{
    if (variant == 0) {
        dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, p->memory[0]},
                                       {DNNL_ARG_WEIGHTS, p->memory[1]},
                                       {DNNL_ARG_DST, p->memory[2]}};
        check(dnnl_primitive_execute(p->primitive, b->stream, 3, arguments), "execute");
        check(dnnl_stream_wait(b->stream), "wait");
    } else {
        check(dnnl_sgemm(p->transpose_a ? 'T' : 'N', p->transpose_b ? 'T' : 'N', p->m, p->n, p->k,
                         1, p->a, p->transpose_a ? p->m : p->k, p->b, p->transpose_b ? p->k : p->n,
                         0, p->c, p->n),
              "sgemm");
    }
}

/* --- The products of a step -------------------------------------------------------- */

static int find_shape(bench *b, const char *name, const product *p)
{
    for (int i = 0; i < b->shape_count; ++i)
        if (!strcmp(b->shapes[i].name, name))
            return i;
    shape_times *s = &b->shapes[b->shape_count];
    *s = (shape_times){.m = p->m, .n = p->n, .k = p->k};
    snprintf(s->name, sizeof s->name, "%s", name);
    return b->shape_count++;
}

static void add(bench *b, const char *layer, const char *kind, product p)
{
    char name[40];
    snprintf(name, sizeof name, "%s %s", layer, kind);
    p.shape = find_shape(b, name, &p);
    ++b->shapes[p.shape].per_step;
    prepare(b, &p);
    b->products[b->product_count++] = p;
}

typedef struct linear {
    const char *name;
    int64_t inputs, outputs;
    float *x, *w, *y, *dx, *dw; /* y is dy in the backward pass */
} linear;

static linear linear_make(const char *name, int64_t rows, int64_t inputs, int64_t outputs)
{
    return (linear){name,
                    inputs,
                    outputs,
                    matrix(rows, inputs),
                    matrix(outputs, inputs),
                    matrix(rows, outputs),
                    matrix(rows, inputs),
                    matrix(outputs, inputs)};
}

static void add_forward(bench *b, const linear *l, int64_t rows)
{
    add(b, l->name, "forward",
        (product){.m = rows,
                  .n = l->outputs,
                  .k = l->inputs,
                  .transpose_b = true,
                  .a = l->x,
                  .b = l->w,
                  .c = l->y});
}

static void add_backward(bench *b, const linear *l, int64_t rows)
{
    add(b, l->name, "grad_input",
        (product){.m = rows, .n = l->inputs, .k = l->outputs, .a = l->y, .b = l->w, .c = l->dx});
    add(b, l->name, "grad_weight",
        (product){.m = l->outputs,
                  .n = l->inputs,
                  .k = rows,
                  .transpose_a = true,
                  .a = l->y,
                  .b = l->x,
                  .c = l->dw});
}

static void make_step(bench *b, int64_t rows, int64_t layers, int64_t width, int64_t hidden,
                      int64_t vocabulary)
{
    size_t count = (size_t)(4 * layers + 1), at = 0;
    linear *linears = memory(count * sizeof *linears);
    b->products = memory(KINDS * count * sizeof *b->products);
    for (int64_t i = 0; i < layers; ++i) {
        linears[at++] = linear_make("qkv", rows, width, 3 * width);
        linears[at++] = linear_make("proj", rows, width, width);
        linears[at++] = linear_make("mlp.fc", rows, width, hidden);
        linears[at++] = linear_make("mlp.proj", rows, hidden, width);
    }
    linears[at++] = linear_make("head", rows, width, vocabulary);
    for (size_t i = 0; i < count; ++i)
        add_forward(b, &linears[i], rows);
    for (size_t i = count; i-- > 0;)
        add_backward(b, &linears[i], rows);
    free(linears);
}

/* --- Timing -------------------------------------------------------------------------- */

static void measure(bench *b)
{
    for (int i = 0; i < b->shape_count; ++i)
        for (int v = 0; v < VARIANTS; ++v)
            b->shapes[i].seconds[v] =
                memory((size_t)(b->passes * b->shapes[i].per_step) * sizeof(double));
    for (int pass = -1; pass < b->passes; ++pass) /* the first one warms up */
        for (int v = 0; v < VARIANTS; ++v)
            for (size_t i = 0; i < b->product_count; ++i) {
                shape_times *s = &b->shapes[b->products[i].shape];
                double start = now();
                run(b, &b->products[i], v);
                if (pass >= 0)
                    s->seconds[v][s->count[v]++] = now() - start;
            }
}

static int compare_numbers(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare_numbers);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static void report(bench *b)
{
    static const char *const names[VARIANTS] = {"matmul", "sgemm"};
    double total = 0;
    for (int i = 0; i < b->shape_count; ++i) {
        shape_times *s = &b->shapes[i];
        double times[VARIANTS];
        for (int v = 0; v < VARIANTS; ++v)
            times[v] = median(s->seconds[v], s->count[v]);
        int best = times[1] < times[0];
        double flops = 2.0 * (double)s->m * (double)s->n * (double)s->k;
        printf("%-22s %6lld x %5lld x %5lld  %-6s %9.3f ms x %2d  %7.1f GFLOP/s\n", s->name,
               (long long)s->m, (long long)s->n, (long long)s->k, names[best], times[best] * 1e3,
               s->per_step, flops / times[best] * 1e-9);
        total += times[best] * s->per_step;
    }
    printf("total %.4f\n", total);
}

int main(int argc, char **argv)
{
    int64_t number[7];
    bench b = {0};
    if (argc != 7) {
        fprintf(stderr, "usage: products ROWS LAYERS WIDTH HIDDEN VOCABULARY PASSES\n");
        return 2;
    }
    for (int i = 1; i < 7; ++i) {
        number[i] = atoll(argv[i]);
        if (number[i] < 1) {
            fprintf(stderr, "products: %s is not a number above 0\n", argv[i]);
            return 2;
        }
    }
    b.passes = (int)number[6];
    check(dnnl_engine_create(&b.engine, dnnl_cpu, 0), "engine");
    check(dnnl_stream_create(&b.stream, b.engine, dnnl_stream_default_flags), "stream");
    make_step(&b, number[1], number[2], number[3], number[4], number[5]);
    measure(&b);
    report(&b);
    return 0;
}
