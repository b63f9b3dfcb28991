/* A check of lockstep doctor, for those who write one.
 *
 * A check ends in a const descriptor that meson.build names. On every rank `look` finds facts, in a process of its own that is
 * killed when it takes too long; the facts of all ranks are gathered, and `judge` turns them into rows
 * on rank 0. What one check has found is there for the later ones.
 */
#ifndef LKS_LAUNCHER_DOCTOR_CHECK_H
#define LKS_LAUNCHER_DOCTOR_CHECK_H

#include "launcher/doctor/doctor.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

typedef struct lks_doctor lks_doctor;

typedef struct lks_doctor_check {
    const char *name;  /* "shm" */
    const char *about; /* one line */
    /* Fills `facts`, an object. May leave it empty; a failure becomes a row with its message. NULL: nothing to look at. */
    lks_status (*look)(lks_doctor *d, json_t *facts);
    /* (collective) In the rank itself, for what needs MPI. Must bound its own time. NULL: nothing. */
    lks_status (*meet)(lks_doctor *d, json_t *facts);
    /* Rank 0. A rank whose look failed or hung has a row by then, and facts {}. */
    void (*judge)(lks_doctor *d);
} lks_doctor_check;

extern const lks_doctor_check *const lks_doctor_checks[]; /* ends in NULL; written by Meson */

struct lks_doctor {
    lks_comm *comm;
    int rank, size;
    const lks_doctor_options *options;
    const lks_doctor_check *check; /* the one under way */
    lks_arena *arena;              /* for texts that live as long as this */
    json_t *facts;                 /* {check: [of rank 0, of rank 1, ...]}, on every rank */
    json_t *rows;                  /* rank 0 */
    int channel;                   /* in look: to the rank itself */
};

/* --- For look ---------------------------------------------------------------------- */

/* (collective over the looks of all ranks) Everybody gives an object and gets all of them, in rank order; NULL for a rank
 * whose look is over or was killed. *all is the caller's. It is a barrier too. */
lks_status lks_doctor_exchange(lks_doctor *d, json_t *mine, json_t **all) LKS_MUST_CHECK;

/* --- Facts ------------------------------------------------------------------------- */

/* What a rank found in a check, an object; {} when it was not looked at. */
const json_t *lks_doctor_facts(const lks_doctor *d, const char *check, int rank);
/* A member of it, by the present check; defaults where it is missing. */
const char *lks_doctor_text(const lks_doctor *d, int rank, const char *key); /* "" */
double lks_doctor_number(const lks_doctor *d, int rank, const char *key);    /* NAN */
bool lks_doctor_has(const lks_doctor *d, int rank, const char *key);
/* A number that the configuration's plan holds for this rank, NAN without one (plan.c). */
double lks_doctor_plan(const lks_doctor *d, int rank, const char *key);
const char *lks_doctor_plan_text(const lks_doctor *d, const char *key); /* "" */

/* Whether every rank could say what it will need. */
bool lks_doctor_is_planned(const lks_doctor *d);

/* The first rank of this rank's node. */
bool lks_doctor_is_first(const lks_doctor *d, int rank);
const char *lks_doctor_host(const lks_doctor *d, int rank);

/* --- Rows -------------------------------------------------------------------------- */

enum { LKS_DOCTOR_ALL = -1 };

/* Adds a row about `rank`, or about the whole job. Rows that say the same of several ranks become one.
 * `subject`: what it is about, NULL: the check's name. `mend`: the line that mends it, NULL: there is none. */
void lks_doctor_row(lks_doctor *d, const char *subject, lks_severity severity, int rank,
                    const char *mend, const char *format, ...) LKS_PRINTF(6, 7);
/* Whether this check has a row that is not ok. */
bool lks_doctor_has_trouble(const lks_doctor *d);
/* A formatted text that lives as long as `d`, "" without memory. */
const char *lks_doctor_say(const lks_doctor *d, const char *format, ...) LKS_PRINTF(2, 3);
/* "ssh host2 LINE" when `rank` is on another host than rank 0, else LINE, which holds no double quotes. */
const char *lks_doctor_on(const lks_doctor *d, int rank, const char *line);
const char *lks_doctor_bytes(const lks_doctor *d, double bytes);
/* "export A=B C=D" of assignments without spaces in values; under mpirun those that are not Open MPI's own are named in
 * mca_base_env_list, so that it passes them to the ranks. */
const char *lks_doctor_export(const lks_doctor *d, const char *assignments);

#endif
