/* What is done on a host of a job, by its processes' mark in their environment. */
#ifndef LKS_LAUNCHER_LAUNCH_NODE_H
#define LKS_LAUNCHER_LAUNCH_NODE_H

#include "runtime/base/text.h"

/* Every process of a start carries LKS_LAUNCH_MARK=<mark>. */
#define LKS_LAUNCH_MARK "LKS_LAUNCH_MARK"

/* `order` is "look:MARK", "clear:MARK" or "name:". Name appends what the host calls itself and the version
 * of lockstep there. Look appends a line `<rank> <pid> <state letter>`
 * per process of the start (rank -1: one of mpirun's). Clear kills them, waits until they are
 * gone, and removes the shared memory of Open MPI that nobody maps any more; LKS_ERR_IO when
 * one stays. */
lks_status lks_node_obey(const char *order, lks_text *answer) LKS_MUST_CHECK;

#endif
