#include "collectives/verbs/library.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

#define SYMBOL(name)                                                                               \
    {                                                                                              \
        "ibv_" #name, offsetof(lks_verbs_ops, name)                                                \
    }

static const struct {
    const char *name;
    size_t offset;
} symbols[] = {
    SYMBOL(fork_init),
    SYMBOL(get_device_list),
    SYMBOL(free_device_list),
    SYMBOL(open_device),
    SYMBOL(close_device),
    SYMBOL(query_device),
    SYMBOL(query_port),
    SYMBOL(alloc_pd),
    SYMBOL(dealloc_pd),
    SYMBOL(reg_mr),
    SYMBOL(dereg_mr),
    SYMBOL(create_cq),
    SYMBOL(destroy_cq),
    SYMBOL(create_qp),
    SYMBOL(modify_qp),
    SYMBOL(destroy_qp),
    SYMBOL(get_async_event),
    SYMBOL(ack_async_event),
    SYMBOL(wc_status_str),
    SYMBOL(event_type_str),
    {"_ibv_query_gid_table", offsetof(lks_verbs_ops, query_gid_table)},
};

lks_status lks_verbs_library_open(lks_verbs_ops *ops)
{
    void *library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "link verbs needs libibverbs, which this host does not have (%s): install "
                        "libibverbs1 and ibverbs-providers, or set collectives.link=mpi",
                        dlerror());
    lks_status status = LKS_OK;
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0] && status == LKS_OK; ++i) {
        void *address = dlsym(library, symbols[i].name);
        memcpy((char *)ops + symbols[i].offset, &address, sizeof address);
        if (!address)
            status = LKS_FAIL(LKS_ERR_USAGE,
                              "link verbs needs a newer libibverbs: this host's has no %s; install "
                              "rdma-core 32 or newer, or set collectives.link=mpi",
                              symbols[i].name);
    }
    (void)dlclose(library);
    if (status == LKS_OK)
        (void)ops->fork_init(); /* so that a forked child leaves registered memory where it is */
    return status;
}
