#include "launcher/launch_mpirun.h"
#include "launcher/launch_node.h"
#include "launcher/launch_slurm.h"
#include "runtime/base/files.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENV_LIST "OMPI_MCA_mca_base_env_list"

extern char **environ;

/* --- The command line ----------------------------------------------------- */

typedef struct command_line {
    lks_arena *arena;
    char **words;
    size_t count, capacity;
    lks_status status;
} command_line;

static void add(command_line *line, const char *word)
{
    if (line->status == LKS_OK)
        line->status = LKS_GROW(&line->words, &line->capacity, line->count + 2);
    if (line->status != LKS_OK)
        return;
    line->words[line->count] = lks_arena_copy(line->arena, word);
    if (!line->words[line->count])
        line->status = LKS_FAIL(LKS_ERR_INTERNAL, "no memory for mpirun's command line");
    else
        line->words[++line->count] = NULL;
}

static void add_number(command_line *line, const char *option, int number)
{
    add(line, option);
    add(line, lks_arena_format(line->arena, "%d", number));
}

static bool is_set_by_user(const char *parameter)
{
    lks_text name = {0};
    lks_text_append(&name, "OMPI_MCA_%s", parameter);
    bool set = name.data && getenv(name.data);
    lks_text_release(&name);
    return set;
}

static void add_mca(command_line *line, const char *parameter, const char *value)
{
    if (is_set_by_user(parameter))
        return;
    add(line, "--mca");
    add(line, parameter);
    add(line, value);
}

/* Whether one process may read another's memory, which containers often deny: Open MPI would
 * warn at every start. */
static bool can_read_neighbours(void)
{
    int status = 0;
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        char mine, theirs = 0;
        struct iovec to = {&mine, 1}, from = {&theirs, 1};
        _exit(process_vm_readv(parent, &to, 1, &from, 1, 0) == 1 ? 0 : 1);
    }
    return pid < 0 || (waitpid(pid, &status, 0) == pid && status == 0);
}

static int ranks_on(const lks_mpirun_plan *plan, const bool *usable, bool here)
{
    int left = plan->ranks, count = 0;
    for (size_t i = 0; i < plan->hosts->count && left > 0; ++i) {
        const lks_host *host = &plan->hosts->items[i];
        int room = usable[i] ? host->slots * plan->per_slot : 0, taken = room < left ? room : left;
        if (lks_host_is_here(host) == here)
            count += taken;
        left -= taken;
    }
    return count;
}

/* The variables of the user's own list too: mpirun takes either a list or options. */
static void add_exports(command_line *line)
{
    const char *list = getenv(ENV_LIST), *delimiter = getenv(ENV_LIST "_delimiter");
    const char *ends = delimiter && *delimiter ? delimiter : ";";
    for (const char *at = list ? list : ""; *at;) {
        size_t length = strcspn(at, ends);
        if (length) {
            add(line, "-x");
            add(line, lks_arena_format(line->arena, "%.*s", (int)length, at));
        }
        at += length + (at[length] != '\0');
    }
    for (char **variable = environ; *variable; ++variable) {
        size_t length = strcspn(*variable, "=");
        if (strncmp(*variable, "LOCKSTEP_", 9) || !(*variable)[length])
            continue;
        add(line, "-x");
        add(line, lks_arena_format(line->arena, "%.*s", (int)length, *variable));
    }
    add(line, "-x");
    add(line, LKS_LAUNCH_MARK);
}

static void add_settings(command_line *line, const lks_mpirun_plan *plan, const bool *usable)
{
    int here = ranks_on(plan, usable, true);
    bool crowded = plan->per_slot > 1 || here > lks_cores_here();
    /* A cut link is noticed in seconds instead of never. */
    add_mca(line, "oob_tcp_keepalive_time", "3");
    add_mca(line, "oob_tcp_keepalive_intvl", "1");
    add_mca(line, "oob_tcp_keepalive_probes", "3");
    if (!can_read_neighbours())
        add_mca(line, "btl_vader_single_copy_mechanism", "none");
    const char *daemon = lks_slurm_daemon();
    if (daemon)
        add_mca(line, "orte_launch_agent", daemon);
    if (crowded) {
        add(line, "--oversubscribe");
        add_mca(line, "mpi_yield_when_idle", "1");
    }
    if (crowded && !is_set_by_user("hwloc_base_binding_policy")) {
        add(line, "--bind-to");
        add(line, "none");
    }
    if (geteuid() == 0)
        add(line, "--allow-run-as-root");
}

static void add_program(command_line *line, const lks_mpirun_plan *plan)
{
    add(line, plan->program);
    if (lks_log_get_level() == LKS_LOG_VERBOSE)
        add(line, "--verbose");
    if (lks_log_get_level() == LKS_LOG_QUIET)
        add(line, "--quiet");
    const lks_texts *train = &plan->options->train;
    for (size_t i = 0; i < train->count; ++i) {
        add(line, train->items[i]);
        if (i == 0 && plan->take_over)
            add(line, "--take-over");
    }
}

static lks_status write_hostfile(const lks_mpirun_plan *plan, const bool *usable, const char *path)
{
    lks_text text = {0};
    for (size_t i = 0; i < plan->hosts->count; ++i)
        if (usable[i])
            lks_text_append(&text, "%s slots=%d\n", plan->hosts->items[i].name,
                            plan->hosts->items[i].slots * plan->per_slot);
    lks_status status = text.failed ? LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the hostfile")
                                    : lks_files_write_atomically(path, text.data, text.length);
    lks_text_release(&text);
    return status;
}

/* --- The child ------------------------------------------------------------ */

/* Own group: a Ctrl-C of the terminal is ours to translate. TERM, or INT where that is blocked, when
 * this process dies, so that mpirun ends its ranks in order. Its files on this machine go where they are removed even when
 * it is killed. */
static void child(const lks_mpirun_plan *plan, char **words, int output, pid_t parent)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    setpgid(0, 0);
    sigprocmask(SIG_SETMASK, plan->signal_mask, NULL);
    prctl(PR_SET_PDEATHSIG, lks_slurm_shield() ? SIGINT : SIGTERM);
    if (getppid() != parent || null < 0 || setenv(LKS_LAUNCH_MARK, plan->mark, 1) ||
        setenv("TMPDIR", plan->directory, 1) || unsetenv(ENV_LIST))
        _exit(127);
    dup2(null, STDIN_FILENO);
    dup2(output, STDERR_FILENO);
    execvp(words[0], words);
    _exit(127);
}

static lks_status spawn(const lks_mpirun_plan *plan, char **words, pid_t *pid, int *output)
{
    int ends[2];
    pid_t parent = getpid();
    if (pipe2(ends, O_CLOEXEC))
        return LKS_FAIL(LKS_ERR_INTERNAL, "pipe: %s", strerror(errno));
    *pid = fork();
    if (*pid == 0)
        child(plan, words, ends[1], parent);
    int error = errno;
    close(ends[1]);
    if (*pid < 0) {
        close(ends[0]);
        return LKS_FAIL(LKS_ERR_INTERNAL, "cannot start mpirun: fork: %s", strerror(error));
    }
    setpgid(*pid, *pid);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    *output = ends[0];
    return LKS_OK;
}

const char *lks_mpirun_name(const char *path)
{
    return path ? path : "mpirun";
}

static bool is_program(const char *path)
{
    struct stat file;
    return stat(path, &file) == 0 && S_ISREG(file.st_mode) && access(path, X_OK) == 0;
}

static bool is_on_path(const char *name)
{
    const char *folders = getenv("PATH");
    bool found = false;
    for (const char *at = folders ? folders : ""; *at && !found;) {
        lks_text file = {0};
        size_t length = strcspn(at, ":");
        lks_text_append(&file, "%.*s/%s", (int)length, at, name);
        found = file.data && is_program(file.data);
        lks_text_release(&file);
        at += length + (at[length] == ':');
    }
    return found;
}

lks_status lks_mpirun_check(const char *path)
{
    const char *name = lks_mpirun_name(path);
    if (!*name)
        return LKS_FAIL(LKS_ERR_USAGE, "--mpirun is \"\", want the path of Open MPI's mpirun");
    if (strchr(name, '/') ? is_program(name) : is_on_path(name))
        return LKS_OK;
    if (strchr(name, '/') && access(name, F_OK) == 0)
        return LKS_FAIL(LKS_ERR_USAGE, "%s is not a program: name Open MPI's mpirun with --mpirun",
                        name);
    return LKS_FAIL(LKS_ERR_USAGE, "%s is not there: install Open MPI or name it with --mpirun",
                    name);
}

lks_status lks_mpirun_start(const lks_mpirun_plan *plan, const bool *usable, pid_t *pid,
                            int *output)
{
    command_line line = {0};
    LKS_TRY(lks_arena_create(&line.arena));
    const char *hostfile = lks_arena_format(line.arena, "%s/hostfile", plan->directory);
    add(&line, lks_mpirun_name(plan->options->mpirun));
    add(&line, "--hostfile");
    add(&line, hostfile);
    add_number(&line, "-n", plan->ranks);
    add_settings(&line, plan, usable);
    add_exports(&line);
    add_program(&line, plan);
    lks_status status = line.status;
    if (status == LKS_OK)
        status = write_hostfile(plan, usable, hostfile);
    if (status == LKS_OK)
        status = spawn(plan, line.words, pid, output);
    lks_memory_free(line.words);
    lks_arena_destroy(line.arena);
    return status;
}
