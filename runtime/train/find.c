#include "runtime/train/find.h"
#include "runtime/base/files.h"

#include <stdlib.h>
#include <string.h>

typedef struct search {
    const lks_find *find;
    char *found;
} search;

static lks_status search_on_root(void *user)
{
    search *s = user;
    lks_checkpoint *checkpoint;
    LKS_TRY(lks_checkpoint_find(&checkpoint, s->find->path, s->find->check, s->find->set_aside,
                                s->find->best));
    if (!checkpoint)
        return LKS_OK;
    s->found = strdup(lks_checkpoint_path(checkpoint));
    lks_checkpoint_close(checkpoint);
    return s->found ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
}

lks_status lks_find_checkpoint(lks_comm *comm, const lks_find *find, char **found)
{
    search s = {.find = find};
    *found = NULL;
    LKS_TRY(lks_comm_on_root(comm, search_on_root, &s));
    uint64_t bytes = s.found ? strlen(s.found) + 1 : 0;
    LKS_TRY(lks_comm_broadcast(comm, 0, &bytes, sizeof bytes));
    if (!bytes)
        return LKS_OK;
    if (!s.found)
        s.found = malloc(bytes);
    lks_status status = s.found ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    status = lks_comm_agree(comm, status);
    if (status == LKS_OK)
        status = lks_comm_broadcast(comm, 0, s.found, bytes);
    if (status == LKS_OK)
        *found = s.found;
    else
        free(s.found);
    return status;
}

lks_status lks_find_fail(const char *path)
{
    return LKS_FAIL(LKS_ERR_USAGE, "%s %s: give a run directory or a checkpoint", path,
                    lks_files_exists(path) ? "holds no checkpoint" : "does not exist");
}
