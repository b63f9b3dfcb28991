/* Whether all ranks compute the same bits. */
#include "kernels/device.h"
#include "launcher/doctor/check.h"

#include <stdlib.h>
#include <string.h>

static const char *const dispatch[] = {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"};

static lks_status arithmetic_look(lks_doctor *d, json_t *facts)
{
    lks_device *device;
    uint64_t hash;
    char text[24];
    const char *name = lks_doctor_plan_text(d, "device");
    LKS_TRY(lks_device_open(&device, *name ? name : "auto", lks_comm_local_rank(d->comm)));
    LKS_TRY(lks_device_probe(device, &hash));
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
    json_object_set_new(facts, "hash", json_string(text));
    json_object_set_new(facts, "arithmetic", json_string(lks_device_arithmetic(device)));
    for (int i = 0; i < 2; ++i)
        if (getenv(dispatch[i]))
            json_object_set_new(facts, "dispatch", json_string(dispatch[i]));
    lks_device_close(device);
    return LKS_OK;
}

static int usual_rank(const lks_doctor *d)
{
    int best = 0, best_count = 0;
    for (int r = 0; r < d->size; ++r) {
        int count = 0;
        for (int s = 0; s < d->size; ++s)
            count += !strcmp(lks_doctor_text(d, r, "hash"), lks_doctor_text(d, s, "hash"));
        if (count > best_count) {
            best = r;
            best_count = count;
        }
    }
    return best;
}

/* A start on the hosts that agree. */
static const char *drop_line(const lks_doctor *d, int usual)
{
    lks_text hosts = {0};
    int ranks = 0;
    for (int r = 0; r < d->size; ++r) {
        if (strcmp(lks_doctor_text(d, r, "hash"), lks_doctor_text(d, usual, "hash")) != 0)
            continue;
        lks_text_append(&hosts, "%s%s", hosts.length ? "," : "", lks_doctor_host(d, r));
        ++ranks;
    }
    const char *line = lks_doctor_say(d, "mpirun --host %s -n %d lockstep doctor",
                                      hosts.data ? hosts.data : "", ranks);
    lks_text_release(&hosts);
    return line;
}

static void arithmetic_judge(lks_doctor *d)
{
    int usual = usual_rank(d);
    for (int r = 0; r < d->size; ++r) {
        const char *variable = lks_doctor_text(d, r, "dispatch");
        if (!lks_doctor_has(d, r, "hash") ||
            !strcmp(lks_doctor_text(d, r, "hash"), lks_doctor_text(d, usual, "hash")))
            continue;
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, r,
                       *variable ? lks_doctor_say(d, "unset %s", variable) : drop_line(d, usual),
                       "computes other bits (%s) than rank %d of %s (%s)%s%s",
                       lks_doctor_text(d, r, "arithmetic"), usual, lks_doctor_host(d, usual),
                       lks_doctor_text(d, usual, "arithmetic"), *variable ? "; set here: " : "",
                       variable);
    }
    if (!lks_doctor_has_trouble(d))
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL, "%s%s",
                       lks_doctor_text(d, 0, "arithmetic"),
                       d->size > 1 ? ", the same bits on all ranks" : "");
}

const lks_doctor_check lks_doctor_check_arithmetic = {
    .name = "arithmetic",
    .about = "processors and instruction sets that compute other bits",
    .look = arithmetic_look,
    .judge = arithmetic_judge,
};
