#include "runtime/base/text.h"
#include "runtime/graph/executor_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct profile_line {
    const char *kernel;
    uint64_t total_ns, calls;
} profile_line;

void lks_executor_profile(lks_executor *executor, bool on)
{
    executor->profiling = on;
}

static int compare_lines(const void *a, const void *b)
{
    const profile_line *x = a, *y = b;
    if (x->total_ns != y->total_ns)
        return x->total_ns > y->total_ns ? -1 : 1;
    return strcmp(x->kernel, y->kernel);
}

static profile_line *find_line(profile_line *lines, size_t *count, const char *kernel)
{
    for (size_t i = 0; i < *count; ++i)
        if (strcmp(lines[i].kernel, kernel) == 0)
            return &lines[i];
    lines[*count] = (profile_line){.kernel = kernel};
    return &lines[(*count)++];
}

void lks_executor_profile_print(const lks_executor *executor, struct lks_text *out)
{
    size_t count = 0;
    uint64_t total_ns = 0;
    profile_line *lines;
    if (LKS_NEW_ARRAY(&lines, executor->plan.step_count) != LKS_OK) {
        out->failed = true;
        return;
    }
    for (size_t s = 0; s < executor->plan.step_count; ++s) {
        const lks_executor_step *step = &executor->steps[s];
        profile_line *line = find_line(lines, &count, executor->plan.steps[s].node->kernel);
        line->total_ns += step->total_ns;
        line->calls += step->calls;
        total_ns += step->total_ns;
    }
    qsort(lines, count, sizeof *lines, compare_lines);
    lks_text_append(out, "%-22s %10s %12s %7s\n", "kernel", "calls", "ms", "share");
    for (size_t i = 0; i < count; ++i)
        lks_text_append(out, "%-22s %10llu %12.3f %6.1f%%\n", lines[i].kernel,
                        (unsigned long long)lines[i].calls, (double)lines[i].total_ns * 1e-6,
                        total_ns > 0 ? 100.0 * (double)lines[i].total_ns / (double)total_ns : 0.0);
    lks_memory_free(lines);
}
