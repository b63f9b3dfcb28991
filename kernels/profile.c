#include "kernels/profile.h"
#include "kernels/ops.h"
#include "kernels/spec.h"

#include "runtime/base/clock.h"
#include "runtime/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MARKS = 1024 }; /* pairs: of more calls than a device runs behind */

/* --- Lines ---------------------------------------------------------------------- */

void lks_profile_init(lks_profile *profile, const lks_device_driver *driver, void *instance)
{
    *profile = (lks_profile){.driver = driver, .instance = instance};
    profile->lines.next = profile->lines.previous = &profile->lines;
}

void lks_profile_add(lks_profile *profile, lks_profile_line *line, const char *name)
{
    line->name = name;
    line->profile = profile;
    line->next = &profile->lines;
    line->previous = profile->lines.previous;
    line->previous->next = line->next->previous = line;
}

static bool is_product(const char *kernel)
{
    return !strncmp(kernel, "linear", 6) || !strcmp(kernel, "matmul");
}

void lks_profile_describe(lks_profile_line *line, const lks_kernel_spec *spec)
{
    const lks_kernel_tensor *in = spec->inputs, *out = spec->outputs;
    char *text = line->detail;
    if (!is_product(spec->kernel)) {
        lks_shape_text(&in->shape, text, sizeof line->detail);
        return;
    }
    double m = (double)lks_spec_rows(out), n = (double)lks_spec_columns(out);
    snprintf(text, sizeof line->detail, "%.0f x %.0f x %.0f", m,
             lks_kernel_cost(spec).flops / (2 * m * n), n);
    const lks_linear_attributes *linear = spec->attributes;
    if (!strcmp(spec->kernel, "linear") && linear->activation != LKS_IDENTITY)
        strncat(text, linear->activation == LKS_GELU ? " gelu" : " relu",
                sizeof line->detail - strlen(text) - 1);
}

/* --- Marks ------------------------------------------------------------------------ */

static lks_status take_oldest(lks_profile *profile)
{
    lks_profile_mark *mark = &profile->marks[profile->oldest];
    uint64_t ns = 0;
    LKS_TRY(profile->driver->mark_span(profile->instance, mark->from, mark->to, &ns));
    mark->line->ns += ns;
    profile->oldest = (profile->oldest + 1) % MARKS;
    --profile->pending;
    return LKS_OK;
}

static lks_status take_all(lks_profile *profile)
{
    while (profile->pending > 0)
        LKS_TRY(take_oldest(profile));
    return LKS_OK;
}

static lks_profile_mark *next_mark(const lks_profile *profile)
{
    return &profile->marks[(profile->oldest + profile->pending) % MARKS];
}

static lks_status open_marks(lks_profile *profile)
{
    if (profile->marks || profile->driver->is_host)
        return LKS_OK;
    LKS_TRY(LKS_NEW_ARRAY(&profile->marks, MARKS));
    for (int i = 0; i < MARKS; ++i) {
        LKS_TRY(profile->driver->mark_open(profile->instance, &profile->marks[i].from));
        LKS_TRY(profile->driver->mark_open(profile->instance, &profile->marks[i].to));
    }
    return LKS_OK;
}

void lks_profile_release(lks_profile *profile)
{
    for (int i = 0; profile->marks && i < MARKS; ++i) {
        profile->driver->mark_close(profile->instance, profile->marks[i].from);
        profile->driver->mark_close(profile->instance, profile->marks[i].to);
    }
    lks_memory_free(profile->marks);
    profile->marks = NULL;
}

void lks_profile_remove(lks_profile_line *line)
{
    lks_profile *profile = line->profile;
    if (take_all(profile) != LKS_OK)
        profile->pending = 0; /* a device that has failed says so elsewhere */
    line->next->previous = line->previous;
    line->previous->next = line->next;
}

/* --- Timing ----------------------------------------------------------------------- */

lks_status lks_profile_enter(lks_profile_line *line)
{
    lks_profile *profile = line->profile;
    profile->timing =
        profile->running && (!profile->marks || profile->driver->can_mark(profile->instance));
    if (!profile->timing)
        return LKS_OK;
    profile->began_ns = lks_clock_ns();
    if (!profile->marks)
        return LKS_OK;
    if (profile->pending == MARKS)
        LKS_TRY(take_oldest(profile));
    return profile->driver->mark(profile->instance, next_mark(profile)->from);
}

lks_status lks_profile_leave(lks_profile_line *line, double bytes, double flops)
{
    lks_profile *profile = line->profile;
    if (!profile->timing)
        return LKS_OK;
    ++line->calls;
    line->bytes += bytes;
    line->flops += flops;
    if (!profile->marks) {
        line->ns += lks_clock_ns() - profile->began_ns;
        return LKS_OK;
    }
    lks_profile_mark *mark = next_mark(profile);
    mark->line = line;
    LKS_TRY(profile->driver->mark(profile->instance, mark->to));
    ++profile->pending;
    return LKS_OK;
}

static lks_status settle(lks_profile *profile)
{
    return profile->driver->is_host ? LKS_OK : profile->driver->synchronize(profile->instance);
}

lks_status lks_profile_begin(lks_profile *profile)
{
    LKS_TRY(open_marks(profile));
    LKS_TRY(settle(profile));
    profile->stretch_began_ns = lks_clock_ns();
    profile->running = true;
    return LKS_OK;
}

lks_status lks_profile_end(lks_profile *profile)
{
    if (!profile->running)
        return LKS_OK;
    profile->running = false;
    LKS_TRY(settle(profile));
    profile->stretch_ns += lks_clock_ns() - profile->stretch_began_ns;
    ++profile->stretches;
    return take_all(profile);
}

/* --- The table ---------------------------------------------------------------------- */

typedef struct row {
    const char *name, *detail; /* detail NULL: all of that name */
    double calls, ns, bytes, flops, name_ns;
} row;

static row *find_row(row *rows, size_t *count, const char *name, const char *detail)
{
    for (size_t i = 0; i < *count; ++i)
        if (!strcmp(rows[i].name, name) && !rows[i].detail == !detail &&
            (!detail || !strcmp(rows[i].detail, detail)))
            return &rows[i];
    rows[*count] = (row){.name = name, .detail = detail};
    return &rows[(*count)++];
}

static void add_to_row(row *out, const lks_profile_line *line)
{
    out->calls += (double)line->calls;
    out->ns += (double)line->ns;
    out->bytes += line->bytes;
    out->flops += line->flops;
}

/* The names by their time; after each name what it is made of, by time. */
static int compare_rows(const void *a, const void *b)
{
    const row *x = a, *y = b;
    if (x->name_ns != y->name_ns)
        return x->name_ns > y->name_ns ? -1 : 1;
    if (strcmp(x->name, y->name) != 0)
        return strcmp(x->name, y->name);
    if (!x->detail || !y->detail)
        return x->detail ? 1 : -1;
    if (x->ns != y->ns)
        return x->ns > y->ns ? -1 : 1;
    return strcmp(x->detail, y->detail);
}

static size_t collect(const lks_profile *profile, row *rows)
{
    size_t count = 0;
    for (const lks_profile_line *line = profile->lines.next; line != &profile->lines;
         line = line->next) {
        if (line->calls == 0)
            continue;
        add_to_row(find_row(rows, &count, line->name, NULL), line);
        if (line->detail[0])
            add_to_row(find_row(rows, &count, line->name, line->detail), line);
    }
    for (size_t i = 0; i < count; ++i)
        rows[i].name_ns = find_row(rows, &count, rows[i].name, NULL)->ns;
    qsort(rows, count, sizeof *rows, compare_rows);
    return count;
}

static void print_row(const lks_profile *profile, const row *r, lks_text *out)
{
    double steps = (double)profile->stretches;
    char name[80];
    snprintf(name, sizeof name, "%s%s", r->detail ? "  " : "", r->detail ? r->detail : r->name);
    lks_text_append(out, "%-34s %8.6g %10.3f %6.1f%%", name, r->calls / steps, r->ns * 1e-6 / steps,
                    100 * r->ns / (double)profile->stretch_ns);
    if (r->ns > 0 && r->bytes > 0)
        lks_text_append(out, " %9.1f", r->bytes / r->ns);
    if (r->ns > 0 && r->flops > 0)
        lks_text_append(out, " %9.3f", r->flops / r->ns * 1e-3);
    lks_text_append(out, "\n");
}

static void print_rows(const lks_profile *profile, row *rows, size_t count, lks_text *out)
{
    row all = {.name = "all of these"};
    lks_text_append(out, "%-34s %8s %10s %7s %9s %9s\n", "per step", "calls", "ms", "share", "GB/s",
                    "TFLOP/s");
    for (size_t i = 0; i < count; ++i) {
        bool alone = rows[i].detail && (i + 1 == count || strcmp(rows[i + 1].name, rows[i].name)) &&
                     !rows[i - 1].detail;
        if (!alone) /* it would say what the line above says */
            print_row(profile, &rows[i], out);
        if (rows[i].detail)
            continue;
        all.calls += rows[i].calls;
        all.ns += rows[i].ns;
        all.bytes += rows[i].bytes;
        all.flops += rows[i].flops;
    }
    print_row(profile, &all, out);
    row rest = {.name = "nothing of these",
                .ns = all.ns < (double)profile->stretch_ns ? (double)profile->stretch_ns - all.ns
                                                           : 0};
    print_row(profile, &rest, out);
    row step = {
        .name = "step", .calls = (double)profile->stretches, .ns = (double)profile->stretch_ns};
    print_row(profile, &step, out);
}

void lks_profile_print(const lks_profile *profile, lks_text *out)
{
    size_t lines = 1;
    row *rows;
    if (profile->stretches == 0)
        return;
    for (const lks_profile_line *line = profile->lines.next; line != &profile->lines;
         line = line->next)
        lines += 2;
    if (LKS_NEW_ARRAY(&rows, lines) != LKS_OK) {
        out->failed = true;
        return;
    }
    print_rows(profile, rows, collect(profile, rows), out);
    lks_memory_free(rows);
}
