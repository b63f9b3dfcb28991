/* Whether the cloud's notices can be had. */
#include "runtime/train/notice.h"
#include "launcher/doctor/check.h"
#include "launcher/doctor/host.h"
#include "launcher/notice_source.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"

#include <math.h>
#include <string.h>

static const lks_notice_source *const sources[] = {[LKS_NOTICE_AWS] = &lks_notice_aws,
                                                   [LKS_NOTICE_GCP] = &lks_notice_gcp,
                                                   [LKS_NOTICE_AZURE] = &lks_notice_azure};

/* By what the machine calls itself. */
static const char *cloud_here(void)
{
    char vendor[128] = "", product[128] = "", tag[128] = "";
    (void)lks_host_read_line("/sys/class/dmi/id/sys_vendor", vendor, sizeof vendor);
    (void)lks_host_read_line("/sys/class/dmi/id/product_name", product, sizeof product);
    (void)lks_host_read_line("/sys/class/dmi/id/chassis_asset_tag", tag, sizeof tag);
    if (!strcmp(vendor, "Amazon EC2"))
        return "aws";
    if (!strcmp(product, "Google Compute Engine"))
        return "gcp";
    return !strcmp(tag, "7783-7084-3265-9085-8269-3286-77") ? "azure" : "";
}

static lks_status ask(lks_doctor *d, const lks_notice_source *source, json_t *facts)
{
    lks_http *http;
    lks_notice_memory memory = {0};
    const char *url = lks_doctor_plan_text(d, "notice_url");
    char text[LKS_NOTICE_TEXT] = "";
    bool found = false;
    LKS_TRY(lks_http_open(&http));
    lks_notice_question question = {http, *url ? url : source->base, 1, &memory};
    bool answered = source->ask(&question, &found, text) == LKS_OK;
    json_object_set_new(facts, "asked", lks_json_text(question.base));
    json_object_set_new(facts, "answered", json_boolean(answered));
    json_object_set_new(facts, "problem", lks_json_text(answered ? "" : lks_status_message()));
    if (found)
        json_object_set_new(facts, "notice", lks_json_text(text));
    lks_http_close(http);
    return LKS_OK;
}

static lks_status notice_look(lks_doctor *d, json_t *facts)
{
    double source = lks_doctor_plan(d, d->rank, "notice_source");
    const char *file = lks_doctor_plan_text(d, "notice_file"), *slash = strrchr(file, '/');
    if (!lks_doctor_is_first(d, d->rank))
        return LKS_OK;
    json_object_set_new(facts, "cloud", json_string(cloud_here()));
    if (slash && slash > file) {
        const char *folder = lks_doctor_say(d, "%.*s", (int)(slash - file), file);
        json_object_set_new(facts, "folder", lks_json_text(folder));
        json_object_set_new(facts, "folder_there", json_boolean(lks_files_is_directory(folder)));
    }
    if (isfinite(source) && sources[(int)source])
        return ask(d, sources[(int)source], facts);
    return LKS_OK;
}

static const char *mend_line(const lks_doctor *d, int rank)
{
    const char *cloud = lks_doctor_text(d, rank, "cloud");
    double source = lks_doctor_plan(d, rank, "notice_source");
    if (*lks_doctor_plan_text(d, "notice_url") && *cloud)
        return "--set preemption.url=";
    if (*cloud && isfinite(source) && strcmp(cloud, sources[(int)source]->name) != 0)
        return lks_doctor_say(d, "--set preemption.source=%s", cloud);
    /* Answers to containers must be allowed one more hop. */
    if (!strcmp(cloud, "aws"))
        return "aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2 "
               "--instance-id ID";
    return "--set preemption.source=none";
}

static void judge_host(lks_doctor *d, int rank)
{
    const char *cloud = lks_doctor_text(d, rank, "cloud");
    if (lks_doctor_number(d, rank, "folder_there") == 0)
        lks_doctor_row(
            d, NULL, LKS_DOCTOR_WARN, rank,
            lks_doctor_on(d, rank,
                          lks_doctor_say(d, "mkdir -p %s", lks_doctor_text(d, rank, "folder"))),
            "%s, where preemption.file is to appear, is not there",
            lks_doctor_text(d, rank, "folder"));
    if (lks_doctor_number(d, rank, "answered") == 0)
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, rank, mend_line(d, rank),
                       "%s does not tell of notices: %s", lks_doctor_text(d, rank, "asked"),
                       lks_doctor_text(d, rank, "problem"));
    else if (lks_doctor_has(d, rank, "notice"))
        lks_doctor_row(d, NULL, LKS_DOCTOR_WARN, rank, NULL, "this machine will be taken away: %s",
                       lks_doctor_text(d, rank, "notice"));
    else if (lks_doctor_has(d, rank, "asked"))
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, rank, NULL, "%s answers: no notice",
                       lks_doctor_text(d, rank, "asked"));
    else if (*cloud && d->options->config && !*lks_doctor_plan_text(d, "notice_file"))
        lks_doctor_row(
            d, NULL, LKS_DOCTOR_WARN, rank, lks_doctor_say(d, "--set preemption.source=%s", cloud),
            "this machine is one of %s's, and the job does not ask for its notices", cloud);
}

static void notice_judge(lks_doctor *d)
{
    for (int r = 0; r < d->size; ++r)
        if (lks_doctor_is_first(d, r))
            judge_host(d, r);
    if (!lks_doctor_has_trouble(d) && !lks_doctor_has(d, 0, "asked"))
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "none are asked for over the network");
}

const lks_doctor_check lks_doctor_check_notice = {
    .name = "notice",
    .about = "the cloud's notices of a machine's end",
    .look = notice_look,
    .judge = notice_judge,
};
