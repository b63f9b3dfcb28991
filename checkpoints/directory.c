#include "checkpoints/directory.h"

#include "checkpoints/manifest.h"
#include "runtime/base/files.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static const char partial_mark[] = ".partial";

/* --- Names ---------------------------------------------------------------------- */

const char *lks_step_name(char out[LKS_STEP_NAME], uint64_t step)
{
    snprintf(out, LKS_STEP_NAME, "step-%08" PRIu64, step);
    return out;
}

const char *lks_step_partial_name(char out[LKS_STEP_NAME], uint64_t step, uint64_t nonce)
{
    snprintf(out, LKS_STEP_NAME, "step-%08" PRIu64 "%s-%016" PRIx64, step, partial_mark, nonce);
    return out;
}

bool lks_step_parse(const char *name, uint64_t *step)
{
    char again[LKS_STEP_NAME];
    if (sscanf(name, "step-%20" SCNu64, step) != 1)
        return false;
    return strcmp(lks_step_name(again, *step), name) == 0;
}

uint64_t lks_step_nonce(void)
{
    uint64_t nonce;
    if (getrandom(&nonce, sizeof nonce, GRND_NONBLOCK) != (ssize_t)sizeof nonce)
        nonce = (uint64_t)getpid() << 32 ^ (uint64_t)(uintptr_t)&nonce;
    return nonce;
}

static lks_status join(char **out, const char *directory, const char *name)
{
    *out = lks_files_join(directory, name);
    return *out != NULL ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
}

static lks_status rename_in(const char *directory, const char *from, const char *to)
{
    char *a = lks_files_join(directory, from), *b = lks_files_join(directory, to);
    lks_status status = LKS_OK;
    if (a == NULL || b == NULL)
        status = LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    else if (rename(a, b) != 0)
        status = LKS_FAIL(LKS_ERR_IO, "cannot rename %s to %s: %s", a, to, strerror(errno));
    free(a);
    free(b);
    return status;
}

/* --- Listing -------------------------------------------------------------------- */

static int step_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

lks_status lks_directory_steps(const char *directory, uint64_t **steps, size_t *count)
{
    lks_file_list list;
    LKS_TRY(lks_files_list(directory, &list));
    *count = 0;
    *steps = malloc((list.count + 1) * sizeof **steps);
    for (size_t i = 0; *steps != NULL && i < list.count; ++i)
        *count += lks_step_parse(list.names[i], &(*steps)[*count]);
    lks_file_list_release(&list);
    if (*steps == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory to list %s", directory);
    qsort(*steps, *count, sizeof **steps, step_compare);
    return LKS_OK;
}

/* --- Removing ------------------------------------------------------------------- */

static lks_status remove_in(const char *directory, const char *name)
{
    char *path;
    LKS_TRY(join(&path, directory, name));
    lks_status status = lks_files_remove_tree(path);
    free(path);
    return status;
}

static bool is_leftover(const char *name)
{
    return strstr(name, partial_mark) != NULL || strncmp(name, "LATEST.tmp-", 11) == 0;
}

lks_status lks_directory_clean(const char *directory)
{
    lks_file_list list;
    LKS_TRY(lks_files_list(directory, &list));
    lks_status status = LKS_OK;
    for (size_t i = 0; status == LKS_OK && i < list.count; ++i) {
        if (is_leftover(list.names[i]))
            status = remove_in(directory, list.names[i]);
    }
    lks_file_list_release(&list);
    return status;
}

lks_status lks_directory_remove(const char *directory, uint64_t step)
{
    char name[LKS_STEP_NAME], partial[LKS_STEP_NAME];
    lks_step_partial_name(partial, step, lks_step_nonce());
    LKS_TRY(rename_in(directory, lks_step_name(name, step), partial));
    return remove_in(directory, partial);
}

lks_status lks_directory_set_aside(const char *path)
{
    char *aside;
    for (int i = 1;; ++i) {
        int length =
            i == 1 ? asprintf(&aside, "%s.bad", path) : asprintf(&aside, "%s.bad-%d", path, i);
        if (length < 0)
            return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
        if (!lks_files_exists(aside))
            break;
        free(aside);
    }
    lks_status status = LKS_OK;
    if (rename(path, aside) != 0)
        status = LKS_FAIL(LKS_ERR_IO, "cannot rename %s to %s: %s", path, aside, strerror(errno));
    else
        lks_log_warn("renamed %s to %s", path, aside);
    free(aside);
    return status;
}

/* --- Commit and retention --------------------------------------------------------- */

static lks_status exists_in(const char *directory, const char *name, bool *exists)
{
    char *path;
    LKS_TRY(join(&path, directory, name));
    *exists = lks_files_exists(path);
    free(path);
    return LKS_OK;
}

lks_status lks_directory_commit(const char *directory, const char *partial, uint64_t step)
{
    char name[LKS_STEP_NAME];
    bool exists;
    LKS_TRY(exists_in(directory, lks_step_name(name, step), &exists));
    if (exists)
        LKS_TRY(lks_directory_remove(directory, step));
    LKS_TRY(rename_in(directory, partial, name));
    lks_status status = lks_files_sync_directory(directory);
    if (status == LKS_OK)
        return LKS_OK;
    char message[1024];
    snprintf(message, sizeof message, "%s", lks_status_message());
    lks_status back = rename_in(directory, name, partial);
    return LKS_FAIL(status, "%s%s", message, back == LKS_OK ? "" : "; it may not be durable");
}

/* The step of the lowest validation loss, the earliest of equals. False: none has one. */
static lks_status find_best(const char *directory, const uint64_t *steps, size_t count,
                            uint64_t *best, bool *found)
{
    double lowest = INFINITY;
    *found = false;
    for (size_t i = 0; i < count; ++i) {
        char name[LKS_STEP_NAME], file[LKS_STEP_NAME + 32];
        snprintf(file, sizeof file, "%s/%s", lks_step_name(name, steps[i]), LKS_MANIFEST_NAME);
        char *path;
        LKS_TRY(join(&path, directory, file));
        double loss = lks_checkpoint_manifest_validation_loss(path);
        free(path);
        if (loss < lowest) { /* false for NaN */
            lowest = loss;
            *best = steps[i];
            *found = true;
        }
    }
    return LKS_OK;
}

/* steps[0..count) are at most `committed`, which is the last. */
static lks_status retain(const char *directory, const uint64_t *steps, size_t count, int keep,
                         bool keep_best)
{
    uint64_t best = 0;
    bool has_best = false;
    if (count <= (size_t)keep)
        return LKS_OK;
    if (keep_best)
        LKS_TRY(find_best(directory, steps, count, &best, &has_best));
    for (size_t i = 0; i + (size_t)keep < count; ++i) {
        if (!has_best || steps[i] != best)
            LKS_TRY(lks_directory_remove(directory, steps[i]));
    }
    return LKS_OK;
}

lks_status lks_directory_retain(const char *directory, uint64_t committed, int keep, bool best)
{
    uint64_t *steps;
    size_t count;
    LKS_TRY(lks_directory_steps(directory, &steps, &count));
    while (count > 0 && steps[count - 1] > committed)
        --count;
    lks_status status = retain(directory, steps, count, keep, best);
    free(steps);
    return status;
}
