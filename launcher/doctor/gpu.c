/* GPUs: one for each rank, and fit for use. */
#include "launcher/doctor/gpu.h"
#include "launcher/doctor/nvml.h"
#include "runtime/base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double free_share = 0.9;

static lks_status gpu_look(lks_doctor *d, json_t *facts)
{
    json_t *seen = lks_nvml_look();
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    json_object_update(facts, seen);
    json_decref(seen);
    if (visible)
        json_object_set_new(facts, "visible", lks_json_text(visible));
    json_object_set_new(facts, "local_rank", json_integer(lks_comm_local_rank(d->comm)));
    return LKS_OK;
}

static const json_t *gpus_of(const lks_doctor *d, int rank)
{
    return json_object_get(lks_doctor_facts(d, "gpu", rank), "gpus");
}

static const char *text_of(const json_t *gpu, const char *key)
{
    const char *text = json_string_value(json_object_get(gpu, key));
    return text ? text : "";
}

/* Word `index` of "0,2" or "GPU-1b2c,GPU-...", modulo how many there are; false: there is none. */
static bool visible_word(const char *visible, int index, char *out, size_t size)
{
    size_t count = 0, at = 0;
    for (const char *p = visible; *p; p += strcspn(p, ","), p += *p == ',')
        ++count;
    for (const char *p = visible; *p; p += strcspn(p, ","), p += *p == ',')
        if (count && at++ == (size_t)index % count) {
            snprintf(out, size, "%.*s", (int)strcspn(p, ","), p);
            return true;
        }
    return false;
}

/* The GPU that the rank will take: by local rank among those it sees; NULL: none. *index on its host. */
static const json_t *gpu_of(const lks_doctor *d, int rank, size_t *index)
{
    const json_t *facts = lks_doctor_facts(d, "gpu", rank), *gpus = gpus_of(d, rank);
    const char *visible = json_string_value(json_object_get(facts, "visible"));
    size_t count = json_array_size(gpus);
    int local = (int)json_integer_value(json_object_get(facts, "local_rank"));
    char word[96];
    int64_t number;
    if (!count)
        return NULL;
    *index = (size_t)local % count;
    if (!visible)
        return json_array_get(gpus, *index);
    if (!visible_word(visible, local, word, sizeof word))
        return NULL;
    for (size_t i = 0; i < count; ++i) {
        const char *uuid = text_of(json_array_get(gpus, i), "uuid");
        bool named = lks_text_parse_integer(word, &number) ? (size_t)number == i
                                                           : !strncmp(uuid, word, strlen(word));
        if (named) {
            *index = i;
            return json_array_get(gpus, i);
        }
    }
    return NULL;
}

double lks_doctor_gpu_free(const lks_doctor *d, int rank)
{
    size_t index;
    const json_t *value = json_object_get(gpu_of(d, rank, &index), "free");
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static void judge_shared(lks_doctor *d, int rank)
{
    size_t index, other_index;
    const char *uuid = text_of(gpu_of(d, rank, &index), "uuid");
    for (int s = 0; s < rank && *uuid; ++s) {
        if (strcmp(uuid, text_of(gpu_of(d, s, &other_index), "uuid")) != 0)
            continue;
        bool near = lks_comm_node_of(d->comm, s) == lks_comm_node_of(d->comm, rank);
        size_t count = json_array_size(gpus_of(d, rank));
        const char *mend = lks_doctor_has(d, rank, "visible") && near && count > 1
                               ? "unset CUDA_VISIBLE_DEVICES"
                               : lks_doctor_say(d, "mpirun --map-by ppr:%zu:node", count);
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, rank, mend,
                       "has the same GPU as rank %d of %s: %s; NCCL refuses that", s,
                       lks_doctor_host(d, s), uuid);
        return;
    }
}

static void judge_health(lks_doctor *d, int rank)
{
    size_t index;
    const json_t *gpu = gpu_of(d, rank, &index), *pid = json_object_get(gpu, "pid");
    double total = json_number_value(json_object_get(gpu, "total")),
           has = json_number_value(json_object_get(gpu, "free"));
    json_int_t errors = json_integer_value(json_object_get(gpu, "ecc_errors"));
    if (errors)
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, rank,
                       lks_doctor_on(d, rank, lks_doctor_say(d, "nvidia-smi -r -i %zu", index)),
                       "GPU %zu (%s) has %lld uncorrected memory errors", index,
                       text_of(gpu, "name"), (long long)errors);
    if (json_is_false(json_object_get(gpu, "ecc")))
        lks_doctor_row(d, NULL, LKS_DOCTOR_WARN, rank,
                       lks_doctor_on(d, rank, lks_doctor_say(d, "nvidia-smi -i %zu -e 1", index)),
                       "GPU %zu (%s) does not correct memory errors: ECC is off", index,
                       text_of(gpu, "name"));
    if (*text_of(gpu, "throttle"))
        lks_doctor_row(
            d, NULL, LKS_DOCTOR_WARN, rank,
            lks_doctor_on(
                d, rank,
                lks_doctor_say(d, "nvidia-smi -i %zu -q -d PERFORMANCE,TEMPERATURE,POWER", index)),
            "GPU %zu (%s) is throttled: %s", index, text_of(gpu, "name"), text_of(gpu, "throttle"));
    if (total > 0 && has < free_share * total)
        lks_doctor_row(
            d, NULL, LKS_DOCTOR_WARN, rank,
            lks_doctor_on(d, rank,
                          pid ? lks_doctor_say(d, "kill %lld", (long long)json_integer_value(pid))
                              : "nvidia-smi --query-compute-apps=pid,used_memory --format=csv"),
            "GPU %zu (%s) has %s of %s free%s", index, text_of(gpu, "name"),
            lks_doctor_bytes(d, has), lks_doctor_bytes(d, total),
            pid ? lks_doctor_say(d, ": process %lld is there", (long long)json_integer_value(pid))
                : "");
}

static bool is_any_there(const lks_doctor *d)
{
    for (int r = 0; r < d->size; ++r)
        if (json_array_size(gpus_of(d, r)))
            return true;
    return false;
}

static void judge_none(lks_doctor *d, int rank, bool any, bool wanted)
{
    bool hidden = json_array_size(gpus_of(d, rank)) && lks_doctor_has(d, rank, "visible");
    const char *problem =
        hidden
            ? lks_doctor_say(d, "CUDA_VISIBLE_DEVICES is \"%s\": no GPU of %zu is left",
                             lks_doctor_text(d, rank, "visible"), json_array_size(gpus_of(d, rank)))
            : lks_doctor_text(d, rank, "problem");
    if (!*problem)
        problem = "the NVIDIA driver has no GPU";
    if (wanted || any)
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, rank,
                       hidden ? "unset CUDA_VISIBLE_DEVICES" : "--set device.name=cpu", "%s%s",
                       problem,
                       wanted ? ", and device.name is cuda" : ", and other ranks have GPUs");
    else
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, rank, NULL, "%s; ranks are CPU cores", problem);
}

static void gpu_judge(lks_doctor *d)
{
    const char *device = lks_doctor_plan_text(d, "device");
    bool any = is_any_there(d), wanted = !strncmp(device, "cuda", 4);
    if (!strncmp(device, "cpu", 3)) {
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "device.name is %s: no GPU is used", device);
        return;
    }
    for (int r = 0; r < d->size; ++r) {
        size_t index;
        if (!lks_doctor_has(d, r, "gpus"))
            continue;
        if (!gpu_of(d, r, &index)) {
            judge_none(d, r, any, wanted);
            continue;
        }
        judge_shared(d, r);
        judge_health(d, r);
    }
    if (any && !lks_doctor_has_trouble(d))
        lks_doctor_row(
            d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL, "a GPU for each rank: %s, driver %s",
            text_of(json_array_get(gpus_of(d, 0), 0), "name"), lks_doctor_text(d, 0, "driver"));
}

const lks_doctor_check lks_doctor_check_gpu = {
    .name = "gpu",
    .about = "GPUs: one per rank, memory errors, throttling, free memory",
    .look = gpu_look,
    .judge = gpu_judge,
};
