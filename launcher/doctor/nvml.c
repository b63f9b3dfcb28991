#include "launcher/doctor/nvml.h"
#include "runtime/base/text.h"

#include <dlfcn.h>
#include <string.h>

/* Declared here as nvml.h of the CUDA toolkit does: the headers need not be there. */
typedef struct nvml_memory {
    unsigned long long total, free, used;
} nvml_memory;

typedef struct nvml_process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} nvml_process;

typedef union nvml_function {
    void *address;
    int (*init)(void);
    int (*count)(unsigned *);
    int (*handle)(unsigned, void **);
    int (*text)(void *, char *, unsigned);
    int (*driver)(char *, unsigned);
    int (*memory)(void *, nvml_memory *);
    int (*ecc_mode)(void *, unsigned *, unsigned *);
    int (*ecc_errors)(void *, int, int, unsigned long long *);
    int (*reasons)(void *, unsigned long long *);
    int (*processes)(void *, unsigned *, nvml_process *);
    const char *(*error)(int);
} nvml_function;

enum { UNCORRECTED = 1, VOLATILE = 0, PROCESSES = 64 };

static nvml_function find(void *library, const char *name)
{
    return (nvml_function){.address = dlsym(library, name)};
}

static void look_at_memory(void *library, void *gpu, json_t *out)
{
    nvml_memory memory;
    nvml_process processes[PROCESSES];
    unsigned count = PROCESSES;
    nvml_function of = find(library, "nvmlDeviceGetMemoryInfo");
    if (of.address && of.memory(gpu, &memory) == 0) {
        json_object_set_new(out, "total", json_real((double)memory.total));
        json_object_set_new(out, "free", json_real((double)memory.free));
    }
    of = find(library, "nvmlDeviceGetComputeRunningProcesses_v3");
    if (of.address && of.processes(gpu, &count, processes) == 0 && count > 0)
        json_object_set_new(out, "pid", json_integer(processes[0].pid));
}

static void look_at_ecc(void *library, void *gpu, json_t *out)
{
    unsigned now = 0, pending = 0;
    unsigned long long errors = 0;
    nvml_function of = find(library, "nvmlDeviceGetEccMode");
    if (of.address && of.ecc_mode(gpu, &now, &pending) == 0)
        json_object_set_new(out, "ecc", json_boolean(now));
    of = find(library, "nvmlDeviceGetTotalEccErrors");
    if (of.address && of.ecc_errors(gpu, UNCORRECTED, VOLATILE, &errors) == 0)
        json_object_set_new(out, "ecc_errors", json_integer((json_int_t)errors));
}

/* Idle, chosen clocks and the power cap are in order. */
static void look_at_clocks(void *library, void *gpu, json_t *out)
{
    static const struct {
        unsigned long long bit;
        const char *word;
    } words[] = {{0x8, "hardware slowdown"},
                 {0x20, "too hot (software)"},
                 {0x40, "too hot (hardware)"},
                 {0x80, "external power brake"}};
    unsigned long long reasons = 0;
    lks_text text = {0};
    nvml_function of = find(library, "nvmlDeviceGetCurrentClocksThrottleReasons");
    if (!of.address || of.reasons(gpu, &reasons) != 0)
        return;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i)
        if (reasons & words[i].bit)
            lks_text_append(&text, "%s%s", text.length ? ", " : "", words[i].word);
    if (text.length)
        json_object_set_new(out, "throttle", json_string(text.data));
    lks_text_release(&text);
}

static void put_text(void *library, const char *function, void *gpu, json_t *out, const char *key)
{
    char text[128] = "";
    nvml_function of = find(library, function);
    if (of.address && of.text(gpu, text, sizeof text) == 0)
        json_object_set_new(out, key, json_string(text));
}

static json_t *look_at_gpu(void *library, void *gpu)
{
    json_t *out = json_object();
    put_text(library, "nvmlDeviceGetUUID", gpu, out, "uuid");
    put_text(library, "nvmlDeviceGetName", gpu, out, "name");
    look_at_memory(library, gpu, out);
    look_at_ecc(library, gpu, out);
    look_at_clocks(library, gpu, out);
    return out;
}

static const char *error_of(void *library, int code)
{
    nvml_function of = find(library, "nvmlErrorString");
    return of.address ? of.error(code) : "it fails";
}

json_t *lks_nvml_look(void)
{
    char driver[96] = "";
    unsigned count = 0;
    json_t *gpus = json_array();
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return json_pack("{s:s, s:o}", "problem",
                         "no NVIDIA driver: libnvidia-ml.so.1 is not there", "gpus", gpus);
    nvml_function init = find(library, "nvmlInit_v2"),
                  counts = find(library, "nvmlDeviceGetCount_v2"),
                  handle = find(library, "nvmlDeviceGetHandleByIndex_v2"),
                  version = find(library, "nvmlSystemGetDriverVersion");
    int code = init.address && counts.address && handle.address ? init.init() : -1;
    if (code == 0)
        code = counts.count(&count);
    if (code != 0)
        return json_pack("{s:s, s:o}", "problem", error_of(library, code), "gpus", gpus);
    for (unsigned i = 0; i < count; ++i) {
        void *gpu = NULL;
        if (handle.handle(i, &gpu) == 0)
            json_array_append_new(gpus, look_at_gpu(library, gpu));
    }
    if (version.address)
        (void)version.driver(driver, sizeof driver);
    return json_pack("{s:s, s:o}", "driver", driver, "gpus", gpus);
}
