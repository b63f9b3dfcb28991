/* lockstep doctor: what is wrong with this cluster, and the line that mends it. */
#ifndef LKS_LAUNCHER_DOCTOR_DOCTOR_H
#define LKS_LAUNCHER_DOCTOR_DOCTOR_H

#include "collectives/comm.h"
#include "launcher/arguments.h"
#include "runtime/base/text.h"

#include <jansson.h>

typedef struct lks_doctor_options {
    const char *config;        /* NULL: none */
    const lks_texts *settings; /* --set */
    const char *run, *hosts;   /* NULL: not given */
    lks_texts only;            /* names of checks; none: all */
    double limit_seconds;      /* for each step of a check */
    const char *comm_problem;  /* why the ranks were not connected; NULL: they are */
} lks_doctor_options;

typedef enum lks_severity { LKS_DOCTOR_OK, LKS_DOCTOR_WARN, LKS_DOCTOR_FAIL } lks_severity;

/* (collective) Runs the checks in the order of the registry. *out (rank 0, NULL elsewhere; json_decref): what was found,
 * see README.md. A failure of a check is a row of it and no failure of this call. */
lks_status lks_doctor_run(lks_comm *comm, const lks_doctor_options *options,
                          json_t **out) LKS_MUST_CHECK;

/* (collective) As lks_comm_open, for a cluster that may be ill: where the ranks are not connected this one goes on alone, and
 * *problem (free()) says why. Ranks that wait for each other for ever are ended after 40 s, with a line on stdout. */
lks_status lks_doctor_connect(lks_comm **out, char **problem) LKS_MUST_CHECK;

/* The table for people. */
void lks_doctor_print(const json_t *report, lks_text *out);
/* The worst of the rows. */
lks_severity lks_doctor_worst(const json_t *report);

#endif
