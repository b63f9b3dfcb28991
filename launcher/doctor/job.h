/* The job that a configuration describes, opened on one rank alone: enough to say what it will need. */
#ifndef LKS_LAUNCHER_DOCTOR_JOB_H
#define LKS_LAUNCHER_DOCTOR_JOB_H

#include "launcher/doctor/check.h"
#include "runtime/datasets/dataset.h"
#include "runtime/train/experiment.h"
#include "runtime/train/geometry.h"
#include "runtime/train/replica.h"

typedef struct lks_doctor_job {
    lks_config *config;
    lks_experiment experiment;
    lks_geometry geometry;
    lks_dataset *data;
    lks_device *device;
    lks_replica replica;
    int local_rank;
} lks_doctor_job;

/* Reads the configuration and opens the data, without the graph. In a look: what is opened ends with its process. */
lks_status lks_doctor_job_open(lks_doctor *d, lks_doctor_job *job) LKS_MUST_CHECK;
/* Builds the graph and plans its memory. Nothing of that memory is touched. `check`: as for lks_replica_init, NULL: none. */
lks_status lks_doctor_job_build(lks_doctor_job *job, const lks_replica_check *check) LKS_MUST_CHECK;

#endif
