/* How much memory this node can still give to a process. */
#ifndef LKS_BASE_NODE_MEMORY_H
#define LKS_BASE_NODE_MEMORY_H

#include <stdint.h>

/* Bytes: what the kernel says is available without swapping, or less where a control group of this process
 * (version 1 or 2, its parents included) has less left, files that it could forget not counted. UINT64_MAX:
 * not known. `root`: "" for this node; else where its proc and sys are. */
uint64_t lks_node_memory_available(const char *root);

#endif
