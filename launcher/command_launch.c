#include "launcher/command.h"
#include "launcher/launch.h"
#include "launcher/launch_node.h"
#include "launcher/print.h"

#include <stdio.h>
#include <string.h>

static lks_status check_options(const lks_launch_options *o)
{
    if (o->ranks < 0 || o->ranks > 65536)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--ranks is %lld, want 1 to 65536, or 0: as many as slots and lanes allow",
                        (long long)o->ranks);
    if (o->min_ranks < 1)
        return LKS_FAIL(LKS_ERR_USAGE, "--min-ranks is %lld, want 1 or more",
                        (long long)o->min_ranks);
    if (o->ranks && o->min_ranks > o->ranks)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--min-ranks is %lld and --ranks %lld: want no more than --ranks",
                        (long long)o->min_ranks, (long long)o->ranks);
    if (o->max_restarts < 0)
        return LKS_FAIL(LKS_ERR_USAGE, "--max-restarts is %lld, want 0 or more",
                        (long long)o->max_restarts);
    if (o->backoff_seconds < 0 || o->wait_seconds < 0 || o->stall_seconds < 0)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--backoff, --wait-seconds and --stall-seconds want 0 or more");
    if (o->probe_seconds <= 0 || o->probe_seconds > 600)
        return LKS_FAIL(LKS_ERR_USAGE, "--probe-seconds is %g, want more than 0, at most 600",
                        o->probe_seconds);
    if (!o->train.count)
        return LKS_FAIL(LKS_ERR_USAGE, "nothing to launch: lockstep launch -- train CONFIG ...");
    if (strcmp(o->train.items[0], "train"))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "\"%s\" cannot be launched, only train is watched over: lockstep launch -- "
                        "train CONFIG ...",
                        o->train.items[0]);
    if (o->train.count < 2)
        return LKS_FAIL(LKS_ERR_USAGE, "no CONFIG: lockstep launch -- train CONFIG ...");
    return LKS_OK;
}

static bool takes_next(const lks_flag *flags, const char *name)
{
    while (flags->name && strcmp(flags->name, name))
        ++flags;
    return flags->name && flags->type != LKS_FLAG_SWITCH;
}

/* Own options end at "--" or at the first word that is none: what follows is train's. */
static int own_arguments(int argc, char **argv, const lks_flag *flags, const lks_flag *more)
{
    int at = 0;
    while (at < argc && ((!strncmp(argv[at], "--", 2) && argv[at][2]) || !strcmp(argv[at], "-h")))
        at += takes_next(flags, argv[at]) || takes_next(more, argv[at]) ? 2 : 1;
    return at < argc ? at : argc;
}

static lks_status on_host(lks_command_context *context, const char *order)
{
    lks_text answer = {0};
    lks_status status = lks_node_obey(order, &answer);
    if (status == LKS_OK && answer.length)
        status = lks_command_print(context, answer.data, answer.length);
    lks_text_release(&answer);
    return status;
}

static lks_status print_run(lks_command_context *context, lks_print_spec *print,
                            const lks_launch_options *o)
{
    lks_text text = {0};
    LKS_TRY(check_options(o));
    lks_status status = lks_print(print, &o->train, &text);
    if (status == LKS_OK)
        status = lks_command_print(context, text.data, text.length);
    lks_text_release(&text);
    return status;
}

static lks_status launch_run(lks_command_context *context, lks_launch_options *o, const char *order)
{
    if (order)
        return on_host(context, order);
    if (lks_comm_size(context->comm) > 1)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "launch starts mpirun itself: run it once, without mpirun or srun");
    LKS_TRY(check_options(o));
    return lks_launch(o);
}

static lks_status command_launch(lks_command_context *context, int argc, char **argv)
{
    lks_launch_options o = {.min_ranks = 1,
                            .max_restarts = 100,
                            .backoff_seconds = 2,
                            .probe_seconds = 10,
                            .wait_seconds = 60};
    const char *order = NULL;
    const lks_flag flags[] = {
        {"--hosts", LKS_FLAG_TEXT, &o.hosts, "FILE",
         "lines \"HOST slots=N\"; default: SLURM's hosts, /etc/mpi/hostfile, this machine"},
        {"--ranks", LKS_FLAG_INTEGER, &o.ranks, "N",
         "the most ranks at once; default: slots, but not more than lanes"},
        {"--min-ranks", LKS_FLAG_INTEGER, &o.min_ranks, "N", "the fewest to go on with (1)"},
        {"--max-restarts", LKS_FLAG_INTEGER, &o.max_restarts, "N", "in all (100)"},
        {"--backoff", LKS_FLAG_NUMBER, &o.backoff_seconds, "SECONDS",
         "before a restart after one that came no step further (2)"},
        {"--probe-seconds", LKS_FLAG_NUMBER, &o.probe_seconds, "S",
         "for a host to answer after a fault (10)"},
        {"--wait-seconds", LKS_FLAG_NUMBER, &o.wait_seconds, "S",
         "for hosts to come up or come back (60)"},
        {"--stall-seconds", LKS_FLAG_NUMBER, &o.stall_seconds, "S",
         "without a step before the ranks are ended; default: 1800, or 20 of the longest steps"},
        {"--mpirun", LKS_FLAG_TEXT, &o.mpirun, "PATH", "instead of mpirun from PATH"},
        {"--on-host", LKS_FLAG_TEXT, &order, "ORDER", "launch's own question to a host"},
        LKS_FLAGS_END,
    };
    lks_print_spec print;
    lks_print_init(&print);
    int own = own_arguments(argc, argv, flags, print.flags);
    if (lks_command_help(context, &lks_command_launch, flags, own, argv)) {
        if (lks_comm_rank(context->comm) == 0)
            lks_arguments_help(print.flags);
        return LKS_OK;
    }
    lks_status status = lks_print_parse(&print, own, argv, flags);
    int at = own + (own < argc && !strcmp(argv[own], "--"));
    o.train = (lks_texts){.items = (const char **)(argv + at), .count = (size_t)(argc - at)};
    status = lks_comm_agree(context->comm, status);
    if (status == LKS_OK)
        status = print.kind ? print_run(context, &print, &o) : launch_run(context, &o, order);
    lks_print_release(&print);
    return status;
}

const lks_command lks_command_launch = {
    "launch", "[options] [--] train CONFIG ...",
    "mpirun with train, started again after a fault on the hosts that are left", command_launch};
