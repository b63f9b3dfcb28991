/* A subcommand of the program. */
#ifndef LKS_LAUNCHER_COMMAND_H
#define LKS_LAUNCHER_COMMAND_H

#include "collectives/comm.h"
#include "launcher/arguments.h"
#include "runtime/base/config.h"

#include <signal.h>

typedef struct lks_command_context {
    lks_comm *comm;
    const volatile sig_atomic_t *notice;
    bool alone;         /* set when this rank failed and the others do not know */
    char *comm_problem; /* doctor: why this rank was not connected to others; NULL: it is */
} lks_command_context;

typedef struct lks_command {
    const char *name;
    const char *usage; /* "CONFIG [options]" */
    const char *about; /* one line */
    /* argv[0] is what follows the command's name. Returns the exit status. */
    lks_status (*run)(lks_command_context *context, int argc, char **argv);
} lks_command;

extern const lks_command lks_command_train, lks_command_prepare, lks_command_dataset,
    lks_command_checkpoint, lks_command_evaluate, lks_command_generate, lks_command_predict,
    lks_command_config, lks_command_launch, lks_command_ledger, lks_command_doctor;

/* True when argv asks for help; prints usage and flags on rank 0. */
bool lks_command_help(const lks_command_context *context, const lks_command *command,
                      const lks_flag *flags, int argc, char **argv);

/* The file, then the environment, then `settings` (--set). */
lks_status lks_command_read_config(lks_config *config, const char *path,
                                   const lks_texts *settings) LKS_MUST_CHECK;

/* Exactly `count` of `rest`, else LKS_ERR_USAGE with the usage line. */
lks_status lks_command_expect(const lks_command *command, const lks_texts *rest,
                              size_t count) LKS_MUST_CHECK;

/* Writes to stdout on rank 0; a closed or full stdout is LKS_ERR_IO. */
lks_status lks_command_print(const lks_command_context *context, const char *text,
                             size_t bytes) LKS_MUST_CHECK;

/* (collective) Runs on rank 0 alone what needs no other. */
typedef lks_status (*lks_command_work)(lks_command_context *context, void *user);
lks_status lks_command_on_root(lks_command_context *context, lks_command_work work,
                               void *user) LKS_MUST_CHECK;

#endif
