/* Plays libnvidia-ml.so.1. Each line of the file $LKS_NVML is a GPU: UUID, MiB in all, MiB free, whether ECC is on, uncorrected
 * errors, throttle reasons (a number), and a process that has half of the memory while it lives (0: none). */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct gpu {
    char uuid[64];
    unsigned long long total, free;
    unsigned ecc, pid;
    unsigned long long errors, reasons;
} gpu;

typedef struct memory {
    unsigned long long total, free, used;
} memory;

int nvmlInit_v2(void);
int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out);
int nvmlDeviceGetUUID(void *device, char *text, unsigned size);
int nvmlDeviceGetName(void *device, char *text, unsigned size);
int nvmlSystemGetDriverVersion(char *text, unsigned size);
int nvmlDeviceGetMemoryInfo(void *device, memory *out);
int nvmlDeviceGetEccMode(void *device, unsigned *now, unsigned *pending);
int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, unsigned long long *out);
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *out);
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, unsigned *pids);

static gpu gpus[16];
static unsigned gpu_count;

int nvmlInit_v2(void)
{
    const char *path = getenv("LKS_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file)
        return 9; /* NVML_ERROR_DRIVER_NOT_LOADED */
    for (gpu *g = gpus; gpu_count < 16 && fscanf(file, "%63s %llu %llu %u %llu %llu %u", g->uuid, &g->total,
                                                  &g->free, &g->ecc, &g->errors, &g->reasons, &g->pid) == 7;)
        g = &gpus[++gpu_count];
    fclose(file);
    return 0;
}

static int holds(const gpu *g)
{
    return g->pid && kill((pid_t)g->pid, 0) == 0;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = gpu_count;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out)
{
    *out = &gpus[index];
    return index < gpu_count ? 0 : 2;
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned size)
{
    snprintf(text, size, "%s", ((gpu *)device)->uuid);
    return 0;
}

int nvmlDeviceGetName(void *device, char *text, unsigned size)
{
    (void)device;
    snprintf(text, size, "Fake 9000");
    return 0;
}

int nvmlSystemGetDriverVersion(char *text, unsigned size)
{
    snprintf(text, size, "999.99");
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, memory *out)
{
    const gpu *g = device;
    unsigned long long has = holds(g) ? g->total / 2 : g->free;
    *out = (memory){g->total << 20, has << 20, (g->total - has) << 20};
    return 0;
}

int nvmlDeviceGetEccMode(void *device, unsigned *now, unsigned *pending)
{
    *now = *pending = ((gpu *)device)->ecc;
    return 0;
}

int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, unsigned long long *out)
{
    *out = type == 1 && counter == 0 ? ((gpu *)device)->errors : 0;
    return 0;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *out)
{
    *out = ((gpu *)device)->reasons;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, unsigned *pids)
{
    *count = holds(device) ? 1 : 0;
    if (*count)
        *pids = ((gpu *)device)->pid;
    return 0;
}
