/* `lockstep launch --print KIND`: what a scheduler is given, filled in, on stdout.
 *
 * print.c reads the options, the same for all kinds, and refuses those that are another kind's.
 * print_<kind>.c checks its own and fills in its template, a file of scripts/ that Meson puts into
 * the program line by line.
 */
#ifndef LKS_LAUNCHER_PRINT_H
#define LKS_LAUNCHER_PRINT_H

#include "launcher/arguments.h"
#include "runtime/base/text.h"

enum { LKS_PRINT_FLAGS = 24 };

typedef struct lks_print_spec {
    const char *kind;       /* NULL: --print was not given */
    int64_t nodes;          /* 1 or more */
    int64_t gpus_per_node;  /* 0: ranks are CPU cores */
    int64_t ranks_per_node; /* 1 or more; gpus_per_node where there are GPUs */
    const char *name;       /* of the job: letters, digits, '-'; by default from CONFIG's name */
    const char *namespace_, *image, *volume; /* Kubernetes; NULL: not given */
    const char *memory, *rdma;               /* the same */
    const char *partition, *time;            /* SLURM; NULL: not given */
    lks_texts sbatch;                        /* SLURM: "key=value" or "key" */
    const char *program;                     /* absolute path of this program */
    const char *config;                      /* CONFIG, as it was given */
    lks_texts launch;                        /* options for launch: "--max-restarts", "3" */
    lks_texts train;                         /* CONFIG and the rest, without "train" */

    lks_flag flags[LKS_PRINT_FLAGS + 1]; /* print.c's: the options, with targets in here */
    char name_buffer[64], program_buffer[4096];
} lks_print_spec;

typedef struct lks_print_kind {
    const char *name, *about;
    const char *const *options; /* those of print.c that not all kinds have; ends in NULL */
    /* Appends the whole file. What does not fit is LKS_ERR_USAGE. */
    lks_status (*print)(const lks_print_spec *spec, lks_text *out);
} lks_print_kind;

extern const lks_print_kind lks_print_slurm, lks_print_slurm_srun, lks_print_k8s;

/* The lines of a template, without their ends; the last is NULL. Written by Meson. */
extern const char *const lks_print_template_slurm[];
extern const char *const lks_print_template_slurm_srun[];
extern const char *const lks_print_template_k8s[];

/* `spec` must stay where it is: its flags point into it. */
void lks_print_init(lks_print_spec *spec);
void lks_print_release(lks_print_spec *spec);

/* Reads launch's own arguments argv[0..argc). What is no option of printing must be one of `launch`
 * (ends in a NULL name): it is read into its target, so that it is checked, and handed on. */
lks_status lks_print_parse(lks_print_spec *spec, int argc, char **argv,
                           const lks_flag *launch) LKS_MUST_CHECK;

/* The file for `train` ("train", CONFIG, ...), after lks_print_parse. More ranks than the
 * configuration has lanes are LKS_ERR_USAGE; so is a configuration that is here and wrong. */
lks_status lks_print(lks_print_spec *spec, const lks_texts *train, lks_text *out) LKS_MUST_CHECK;

/* Appends `word` as one word of a POSIX shell. */
void lks_print_quote(lks_text *out, const char *word);

#endif
