/* libibverbs, opened at run time: machines without it build and run all the same.
 *
 * What the driver calls goes through this table, so that tests can put a fake in its place:
 * InfiniBand ports and device memory are nowhere to be had without hardware. What libibverbs
 * itself keeps in the context (ibv_poll_cq, ibv_post_send, ibv_post_recv) is called as it is.
 */
#ifndef LKS_COLLECTIVES_VERBS_LIBRARY_H
#define LKS_COLLECTIVES_VERBS_LIBRARY_H

#include "runtime/base/status.h"

#include <infiniband/verbs.h>
#include <stdint.h>
#include <sys/types.h>

/* Each as its namesake in infiniband/verbs.h. */
typedef struct lks_verbs_ops {
    int (*fork_init)(void);
    struct ibv_device **(*get_device_list)(int *count);
    void (*free_device_list)(struct ibv_device **list);
    struct ibv_context *(*open_device)(struct ibv_device *device);
    int (*close_device)(struct ibv_context *context);
    int (*query_device)(struct ibv_context *context, struct ibv_device_attr *out);
    int (*query_port)(struct ibv_context *context, uint8_t port, struct ibv_port_attr *zeroed);
    ssize_t (*query_gid_table)(struct ibv_context *context, struct ibv_gid_entry *out,
                               size_t capacity, uint32_t flags, size_t entry_bytes);
    struct ibv_pd *(*alloc_pd)(struct ibv_context *context);
    int (*dealloc_pd)(struct ibv_pd *pd);
    struct ibv_mr *(*reg_mr)(struct ibv_pd *pd, void *memory, size_t bytes, int access);
    int (*dereg_mr)(struct ibv_mr *mr);
    struct ibv_cq *(*create_cq)(struct ibv_context *context, int entries, void *user,
                                struct ibv_comp_channel *channel, int vector);
    int (*destroy_cq)(struct ibv_cq *cq);
    struct ibv_qp *(*create_qp)(struct ibv_pd *pd, struct ibv_qp_init_attr *wanted);
    int (*modify_qp)(struct ibv_qp *qp, struct ibv_qp_attr *wanted, int mask);
    int (*destroy_qp)(struct ibv_qp *qp);
    int (*get_async_event)(struct ibv_context *context, struct ibv_async_event *out);
    void (*ack_async_event)(struct ibv_async_event *event);
    const char *(*wc_status_str)(enum ibv_wc_status status);
    const char *(*event_type_str)(enum ibv_event_type event);
} lks_verbs_ops;

/* LKS_ERR_USAGE and what is missing when this machine has no libibverbs, or an old one. The library
 * stays until the process ends. */
lks_status lks_verbs_library_open(lks_verbs_ops *ops) LKS_MUST_CHECK;

#endif
