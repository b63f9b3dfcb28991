/* The program: finds the subcommand, and is the only place that ends the process. */
#include "launcher/command.h"
#include "launcher/doctor/doctor.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const lks_command *const commands[] = {
    &lks_command_train,    &lks_command_prepare,  &lks_command_dataset, &lks_command_checkpoint,
    &lks_command_evaluate, &lks_command_generate, &lks_command_predict, &lks_command_config,
    &lks_command_launch,   &lks_command_ledger,   &lks_command_doctor,
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

/* The only thing that a handler may do. */
static volatile sig_atomic_t notice;

/* Handlers run here: oneDNN's sgemm points the stack register into its heap buffers, and a signal's frame
 * pushed there would overwrite the heap. Room for the largest frame (AVX-512, AMX) and more. */
static _Alignas(16) char handler_stack[64 << 10];

static void on_notice(int signal_number)
{
    (void)signal_number;
    notice = 1;
}

/* A step may take long: the second one does not wait for its end. */
static void on_end(int signal_number)
{
    static const char said[] =
        "lockstep: told to end a second time: ends now, without a checkpoint\n";
    if (notice) {
        ssize_t written = write(STDERR_FILENO, said, sizeof said - 1);
        (void)written;
        signal(signal_number, SIG_DFL);
        raise(signal_number); /* comes when this handler returns */
    }
    notice = 1;
}

static bool is_under_mpirun(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") && !getenv("SLURM_JOB_ID");
}

/* USR2 is a notice always. TERM is one for a rank in a SLURM job or that nobody started: mpirun
 * would follow it with KILL (README.md). Ctrl-C of a lone process is one too. The second of the two ends it. */
static void install_handlers(void)
{
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    sigaltstack(&stack, NULL);
    struct sigaction action = {.sa_handler = on_notice, .sa_flags = SA_RESTART | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR2, &action, NULL);
    if (is_under_mpirun())
        return;
    action.sa_handler = on_end;
    sigaction(SIGINT, &action, NULL);
    if (getenv("SLURM_JOB_ID")) /* it sends TERM more than once, and KILL when the time is over */
        action.sa_handler = on_notice;
    sigaction(SIGTERM, &action, NULL);
}

static void print_usage(FILE *file)
{
    fprintf(file, "lockstep %s: data-parallel training\n\n", LKS_VERSION);
    for (int i = 0; i < COMMANDS; ++i)
        fprintf(file, "  lockstep %s %s\n        %s\n", commands[i]->name, commands[i]->usage,
                commands[i]->about);
    fprintf(file,
            "\n  mpirun -n N lockstep train CONFIG   trains on N ranks\n"
            "  lockstep COMMAND --help             the options of a command\n"
            "  --verbose, --quiet                  before the command: more, or less, on stderr\n"
            "\nExit status: 0 done, 1 warnings, 2 usage, 65 bad data, 70 internal, 74 I/O,\n"
            "75 stopped by a notice with a checkpoint saved, 76 peer lost, 77 not finite.\n");
}

static lks_status find_command(const char *name, const lks_command **out)
{
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; ++i) {
        names[i] = commands[i]->name;
        if (!strcmp(name, names[i])) {
            *out = commands[i];
            return LKS_OK;
        }
    }
    const char *near = lks_text_nearest(name, names, COMMANDS);
    if (near)
        return LKS_FAIL(LKS_ERR_USAGE, "unknown command %s, did you mean lockstep %s?", name, near);
    return LKS_FAIL(LKS_ERR_USAGE, "unknown command %s; lockstep --help lists those there are",
                    name);
}

/* Options before the command. Returns how many arguments they took; negative: done already. */
static int global_options(int argc, char **argv)
{
    int at = 1;
    for (; at < argc && argv[at][0] == '-'; ++at) {
        if (!strcmp(argv[at], "--version")) {
            printf("lockstep %s\n", LKS_VERSION);
            return -1;
        }
        if (!strcmp(argv[at], "--help") || !strcmp(argv[at], "-h")) {
            print_usage(stdout);
            return -1;
        }
        if (!strcmp(argv[at], "--verbose"))
            lks_log_set_level(LKS_LOG_VERBOSE);
        else if (!strcmp(argv[at], "--quiet"))
            lks_log_set_level(LKS_LOG_QUIET);
        else
            break;
    }
    return at;
}

/* Doctor is there for ranks that do not meet. */
static lks_status connect_ranks(lks_command_context *context, const char *name)
{
    if (!strcmp(name, lks_command_doctor.name))
        return lks_doctor_connect(&context->comm, &context->comm_problem);
    return lks_comm_open(&context->comm, "auto");
}

static lks_status run(lks_command_context *context, const char *name, int argc, char **argv)
{
    const lks_command *command = NULL;
    LKS_TRY(lks_comm_agree(context->comm, find_command(name, &command)));
    return command->run(context, argc, argv);
}

/* Ends all ranks. A rank without a message knows that another one speaks, which then ends
 * this one too: it gives it the time. */
static void leave_alone(lks_command_context *context, lks_status status)
{
    struct timespec while_another_speaks = {.tv_sec = 2};
    if (!*lks_status_message())
        nanosleep(&while_another_speaks, NULL);
    lks_comm_abort(context->comm, status);
}

/* So that no file of a job takes the number of a closed stdin, stdout or stderr, and what is
 * printed goes into it. Writing to these fails as before. */
static void hold_standard_files(void)
{
    int file;
    do
        file = open("/dev/null", O_RDONLY);
    while (file >= 0 && file <= STDERR_FILENO);
    if (file > STDERR_FILENO)
        close(file);
}

/* What is printed may fail as late as now. */
static lks_status end_output(lks_status status)
{
    if ((!fflush(stdout) && !ferror(stdout)) || status != LKS_OK)
        return status;
    status = LKS_FAIL(LKS_ERR_IO, "standard output: %s", strerror(errno));
    lks_log_failure(status);
    return status;
}

int main(int argc, char **argv)
{
    hold_standard_files();
    install_handlers();
    int at = global_options(argc, argv);
    if (at < 0)
        return end_output(LKS_OK);
    if (at >= argc) {
        print_usage(stderr);
        return LKS_ERR_USAGE;
    }
    lks_command_context context = {.notice = &notice};
    lks_status status = connect_ranks(&context, argv[at]);
    if (status != LKS_OK) {
        lks_log_failure(status);
        return status;
    }
    int rank = lks_comm_rank(context.comm);
    lks_log_identify(lks_comm_host(context.comm, rank), rank, lks_comm_size(context.comm));
    status = run(&context, argv[at], argc - at - 1, argv + at + 1);
    lks_log_failure(status);
    if (context.alone)
        leave_alone(&context, status);
    status = end_output(status);
    lks_comm_close(context.comm);
    free(context.comm_problem);
    return status;
}
