/* The cpu device: host memory, the calling thread, the best instruction set
 * that both this build and this processor have. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/onednn.h"
#include "runtime/base/text.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

bool lks_cpu_isa_supported(const lks_cpu_isa *isa)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    if (!strcmp(isa->name, "x86-64-v4"))
        return __builtin_cpu_supports("x86-64-v4");
    if (!strcmp(isa->name, "x86-64-v3"))
        return __builtin_cpu_supports("x86-64-v3");
#endif
    return !strcmp(isa->name, "baseline");
}

static lks_status cpu_choose(const char *variant, const lks_cpu_isa **out)
{
    lks_text known = {0};
    for (const lks_cpu_isa *const *isa = lks_cpu_isas; *isa; ++isa) {
        if (!lks_cpu_isa_supported(*isa))
            continue;
        if (!variant || !strcmp(variant, (*isa)->name)) {
            *out = *isa;
            lks_text_release(&known);
            return LKS_OK;
        }
        lks_text_append(&known, "%scpu:%s", known.length ? ", " : "", (*isa)->name);
    }
    lks_status status = LKS_FAIL(LKS_ERR_USAGE, "device cpu:%s: not here; this processor has %s",
                                 variant ? variant : "", known.data ? known.data : "none");
    lks_text_release(&known);
    return status;
}

/* The processor's name from /proc/cpuinfo, "unknown processor" without one. */
static void cpu_model(char *out, size_t size)
{
    char line[512];
    snprintf(out, size, "unknown processor");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !value)
            continue;
        value += 1 + strspn(value + 1, " \t");
        value[strcspn(value, "\n")] = 0;
        snprintf(out, size, "%s", value);
        break;
    }
    fclose(file);
}

static lks_status cpu_describe(lks_cpu_device *cpu)
{
    char model[256];
    cpu_model(model, sizeof model);
    const dnnl_version_t *version = dnnl_version();
    lks_text text = {0};
    lks_text_append(&text, "cpu %s %s onednn-%d.%d.%d", cpu->isa->name, model, version->major,
                    version->minor, version->patch);
    if (text.failed)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the device's description");
    cpu->arithmetic = text.data;
    return LKS_OK;
}

static void cpu_close(void *instance)
{
    lks_cpu_device *cpu = instance;
    dnnl_stream_destroy(cpu->stream);
    dnnl_engine_destroy(cpu->engine);
    lks_text description = {.data = cpu->arithmetic};
    lks_text_release(&description);
    lks_memory_free(cpu);
}

static lks_status cpu_set_up(lks_cpu_device *cpu, const char *variant)
{
    LKS_TRY(cpu_choose(variant, &cpu->isa));
    omp_set_num_threads(1); /* oneDNN would take all cores */
    LKS_ONEDNN(dnnl_engine_create(&cpu->engine, dnnl_cpu, 0));
    LKS_ONEDNN(dnnl_stream_create(&cpu->stream, cpu->engine, dnnl_stream_default_flags));
    return cpu_describe(cpu);
}

static lks_status cpu_open(void **instance, const char *variant, int local_rank)
{
    (void)local_rank;
    lks_cpu_device *cpu;
    *instance = NULL;
    LKS_TRY(LKS_NEW(&cpu));
    lks_status status = cpu_set_up(cpu, variant);
    if (status != LKS_OK) {
        cpu_close(cpu);
        return status;
    }
    *instance = cpu;
    return LKS_OK;
}

static const char *cpu_arithmetic(void *instance)
{
    return ((lks_cpu_device *)instance)->arithmetic;
}

/* From 1 MiB on, pages of their own with huge-page advice. */
enum { MAP_FROM_BYTES = 1 << 20 };

static lks_status cpu_allocate(void *instance, size_t bytes, void **out)
{
    (void)instance;
    if (bytes >= MAP_FROM_BYTES)
        return lks_memory_map(out, bytes);
    return lks_memory_allocate(out, bytes, 1);
}

static void cpu_free(void *instance, void *memory, size_t bytes)
{
    (void)instance;
    if (bytes >= MAP_FROM_BYTES)
        lks_memory_unmap(memory, bytes);
    else
        lks_memory_free(memory);
}

static lks_status cpu_copy(void *instance, void *to, const void *from, size_t bytes)
{
    (void)instance;
    if (bytes)
        memcpy(to, from, bytes);
    return LKS_OK;
}

/* Whether the next partials are the nodes of tree(first, end) in order; *next
 * is left after them. */
static bool cpu_covers(const lks_partial **next, const lks_partial *end_partial, int first, int end)
{
    if (*next == end_partial)
        return false;
    if ((*next)->first_lane == first && (*next)->end_lane == end) {
        ++*next;
        return true;
    }
    if (end - first < 2)
        return false;
    int middle = lks_cpu_tree_split(first, end);
    return cpu_covers(next, end_partial, first, middle) &&
           cpu_covers(next, end_partial, middle, end);
}

static lks_status cpu_sum_partials(void *instance, const lks_partial *partials, int partial_count,
                                   int lanes, uint64_t elements, float *out, double *square_sum)
{
    const lks_partial *next = partials, *end = partials + partial_count;
    if (!cpu_covers(&next, end, 0, lanes) || next != end) {
        if (next == end)
            return LKS_FAIL(LKS_ERR_INTERNAL, "%d partial sums do not cover %d lanes",
                            partial_count, lanes);
        return LKS_FAIL(LKS_ERR_INTERNAL,
                        "partial sum %d, of lanes [%d, %d), is not the next node of the tree over "
                        "%d lanes",
                        (int)(next - partials), next->first_lane, next->end_lane, lanes);
    }
    ((lks_cpu_device *)instance)
        ->isa->flat->sum_partials(partials, partial_count, lanes, elements, out, square_sum);
    return LKS_OK;
}

static lks_status cpu_add(void *instance, uint64_t elements, const float *from, float *into)
{
    ((lks_cpu_device *)instance)->isa->flat->add(elements, from, into);
    return LKS_OK;
}

static lks_status cpu_update(void *instance, const lks_update *update, uint64_t elements,
                             const float *gradient, float *parameter, float *state0, float *state1)
{
    bool adam = update->rule == LKS_UPDATE_ADAM;
    bool state0_wanted = adam || (update->rule == LKS_UPDATE_SGD && update->momentum != 0);
    if ((state0_wanted && !state0) || (adam && !state1))
        return LKS_FAIL(LKS_ERR_INTERNAL, "update rule %d: its state is missing",
                        (int)update->rule);
    ((lks_cpu_device *)instance)
        ->isa->flat->update(update, elements, gradient, parameter, state0, state1);
    return LKS_OK;
}

static const lks_kernel_driver *const *cpu_kernels(void *instance)
{
    return ((lks_cpu_device *)instance)->isa->kernels;
}

extern const lks_device_driver lks_cpu_device_driver;
const lks_device_driver lks_cpu_device_driver = {
    .name = "cpu",
    .about = "one core: oneDNN's products and own kernels",
    .open = cpu_open,
    .close = cpu_close,
    .arithmetic = cpu_arithmetic,
    .allocate = cpu_allocate,
    .free = cpu_free,
    .copy_in = cpu_copy,
    .copy_out = cpu_copy,
    .sum_partials = cpu_sum_partials,
    .add = cpu_add,
    .update = cpu_update,
    .kernels = cpu_kernels,
};
