/* The cpu device: host memory, the calling thread, the best instruction set
 * that both this build and this processor have. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/onednn.h"
#include "kernels/totals.h"
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
    cpu->native_bf16 = !strcmp(cpu->isa->name, "x86-64-v4") &&
                       dnnl_get_effective_cpu_isa() >= dnnl_cpu_isa_avx512_core_bf16;
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

static lks_status cpu_sum_blocks(void *instance, const lks_sum *sum)
{
    ((lks_cpu_device *)instance)->isa->flat->sum_blocks(sum);
    return LKS_OK;
}

static lks_status cpu_add(void *instance, uint64_t elements, const float *from, float *into)
{
    ((lks_cpu_device *)instance)->isa->flat->add(elements, from, into);
    return LKS_OK;
}

static lks_status cpu_round(void *instance, uint64_t elements, const float *from, uint16_t *to)
{
    ((lks_cpu_device *)instance)->isa->flat->round(elements, from, to);
    return LKS_OK;
}

static float *cpu_state(const lks_update_blocks *what, int state, const lks_layout_block *block)
{
    return what->states[state] ? what->states[state] + (block->offset - what->origin) : NULL;
}

static lks_status cpu_update(void *instance, const lks_update *update,
                             const lks_update_blocks *what)
{
    lks_update now = *update;
    if (update->totals && !lks_totals_are_finite(update->totals))
        return LKS_OK;
    if (update->totals && update->rule != LKS_UPDATE_AVERAGE)
        now.gradient_scale = update->totals->gradient_scale;
    for (uint32_t i = 0; i < what->count; ++i) {
        const lks_layout_block *block = &what->blocks[i];
        ((lks_cpu_device *)instance)
            ->isa->flat->update(&now, block->elements, what->gradient + block->offset,
                                what->parameter + block->offset, cpu_state(what, 0, block),
                                cpu_state(what, 1, block));
    }
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
    .is_host = true,
    .open = cpu_open,
    .close = cpu_close,
    .arithmetic = cpu_arithmetic,
    .allocate = cpu_allocate,
    .free = cpu_free,
    .copy_in = cpu_copy,
    .copy_out = cpu_copy,
    .copy = cpu_copy,
    .sum_blocks = cpu_sum_blocks,
    .add = cpu_add,
    .round = cpu_round,
    .update = cpu_update,
    .kernels = cpu_kernels,
    .bf16 = &lks_cpu_bf16,
};
