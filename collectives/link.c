#include "collectives/link.h"

#include "runtime/base/log.h"
#include "runtime/base/module.h"
#include "runtime/base/text.h"

#include <string.h>

/* Links of cuda devices, before those of every build; each is in a module, which may be missing. */
static const struct {
    const char *name, *module, *symbol;
} cuda_links[] = {{"nccl", "nccl", "lks_nccl_link_driver"}, {"ipc", "cuda", "lks_ipc_link_driver"}};
enum { CUDA_LINKS = sizeof cuda_links / sizeof *cuda_links };

/* The link number `index` for this device, NULL where its module is missing. False: there are no more. */
static bool link_at(const lks_link_spec *spec, int index, const lks_link_driver **out)
{
    const void *symbol = NULL;
    bool cuda = !strcmp(lks_device_name(spec->device), "cuda");
    *out = NULL;
    if (!cuda || index >= CUDA_LINKS) {
        *out = lks_link_drivers[index - (cuda ? CUDA_LINKS : 0)];
        return *out != NULL;
    }
    if (lks_module_symbol(cuda_links[index].module, cuda_links[index].symbol, &symbol) == LKS_OK)
        *out = symbol;
    return true;
}

static lks_status fail_no_link(const char *name, const lks_link_spec *spec)
{
    const lks_link_driver *link;
    lks_text names = {0};
    for (int i = 0; link_at(spec, i, &link); ++i)
        if (link)
            lks_text_append(&names, ", %s", link->name);
    bool of_gpus = false;
    for (int i = 0; i < CUDA_LINKS; ++i)
        of_gpus = of_gpus || !strcmp(name, cuda_links[i].name);
    lks_status status =
        LKS_FAIL(LKS_ERR_USAGE, "collectives.link \"%s\" %s: there are auto%s", name,
                 of_gpus                ? "joins GPUs and is not here"
                 : strcmp(name, "auto") ? "is unknown"
                                        : "finds none that serves",
                 names.data ? names.data : "");
    lks_text_release(&names);
    return status;
}

/* From the one at *index on, which becomes that of the link found. */
static lks_status find_link(const char *name, const lks_link_spec *spec, int *index,
                            const lks_link_driver **out)
{
    bool automatic = strcmp(name, "auto") == 0, alone = lks_comm_size(spec->comm) == 1;
    for (; link_at(spec, *index, out); ++*index) {
        if (!*out && strcmp(name, cuda_links[*index].name) == 0)
            return LKS_ERR_USAGE; /* as the module said */
        if (!*out || (automatic && alone && (*out)->alone_by_name))
            continue;
        if (!automatic && strcmp(name, (*out)->name) == 0)
            return (*out)->usable(spec);
        if (automatic && (*out)->usable(spec) == LKS_OK) {
            lks_status_set_message(""); /* why those before it do not serve is no failure */
            return LKS_OK;
        }
    }
    return fail_no_link(name, spec);
}

lks_status lks_link_open(const lks_link_driver **driver, void **instance, lks_link_arrays *arrays,
                         const char *name, const lks_link_spec *spec)
{
    for (int index = 0;; ++index) {
        LKS_TRY(lks_comm_agree(spec->comm, find_link(name, spec, &index, driver)));
        lks_status status = (*driver)->open(instance, spec, arrays);
        if (status == LKS_OK || !(*driver)->may_give_way || strcmp(name, "auto") != 0)
            return status;
        if (*lks_status_message())
            lks_log_warn("link %s is passed over: %s", (*driver)->name, lks_status_message());
    }
}
