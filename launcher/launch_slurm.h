/* What SLURM knows of the job that this process runs in. */
#ifndef LKS_LAUNCHER_LAUNCH_SLURM_H
#define LKS_LAUNCHER_LAUNCH_SLURM_H

#include <stdbool.h>

/* True once SLURM has begun to take the nodes away for another job: it has sent TERM to the steps and ends
 * all after the partition's grace. False outside of SLURM, or when it does not answer within
 * seconds. */
bool lks_slurm_is_preempting(void);

/* SLURM sends TERM to all processes that it knows of, before it ends them. Ranks take it as a notice, and save if
 * mpirun and its daemons live on: for these it is blocked, which survives their setting a handler
 * and does not reach the ranks that they start. */
/* For mpirun, called in the child before exec. False outside of SLURM. */
bool lks_slurm_shield(void);
/* The command of mpirun's daemons; NULL: mpirun's own. */
const char *lks_slurm_daemon(void);

#endif
