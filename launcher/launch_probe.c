#include "launcher/launch_probe.h"
#include "launcher/arguments.h"
#include "launcher/launch_look.h"
#include "launcher/launch_node.h"
#include "runtime/base/clock.h"
#include "runtime/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROBES_AT_ONCE = 64, ANSWER_MAX = 1 << 20, ARGUMENTS_MAX = 64 };
/* At most, for a host that mpirun lost; and when it did not answer a moment ago either. */
static const double suspect_seconds = 2, silent_seconds = 0.5;
static const double hurry_factor = 3;
static const uint64_t silent_after_ns = 1500000000;

/* --- The child ------------------------------------------------------------ */

typedef struct probe_command {
    char *words[ARGUMENTS_MAX + 1];
    int count;
    lks_text line; /* the remote shell's */
} probe_command;

static void command_add(probe_command *command, const char *word)
{
    if (command->count < ARGUMENTS_MAX)
        command->words[command->count++] = (char *)(uintptr_t)word;
}

static void quote(lks_text *line, const char *word)
{
    lks_text_append(line, "'");
    for (; *word; ++word)
        lks_text_append(line, *word == '\'' ? "'\\''" : "%c", *word);
    lks_text_append(line, "' ");
}

static const char *remote_agent(void)
{
    static const char *const names[] = {"OMPI_MCA_plm_rsh_agent", "OMPI_MCA_orte_rsh_agent",
                                        "OMPI_MCA_pls_rsh_agent"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i)
        if (getenv(names[i]) && *getenv(names[i]))
            return getenv(names[i]);
    return NULL;
}

static void add_shell(probe_command *command, char *agent, const char *host, const char *seconds)
{
    char *rest = NULL;
    agent[strcspn(agent, ":")] = '\0'; /* the first of a list */
    for (char *word = strtok_r(agent, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest))
        command_add(command, word);
    const char *name = strrchr(command->words[0], '/');
    name = name ? name + 1 : command->words[0];
    if (!strcmp(name, "ssh")) {
        command_add(command, "-oBatchMode=yes");
        command_add(command, seconds);
    }
    command_add(command, host);
}

static void run_remote(const lks_probe *probe, const char *host)
{
    probe_command command = {0};
    char seconds[48], *agent = strdup(remote_agent() ? remote_agent() : "ssh");
    snprintf(seconds, sizeof seconds, "-oConnectTimeout=%d", (int)probe->seconds + 1);
    if (!agent || !agent[strspn(agent, " \t:")])
        return;
    if (!remote_agent() && getenv("SLURM_JOB_ID")) {
        const char *const words[] = {"srun",         "--overlap", "--mpi=none", "-Q",
                                     "-N1",          "-n1",       "-w",         host,
                                     probe->program, "launch",    "--on-host",  probe->order};
        for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i)
            command_add(&command, words[i]);
    } else {
        add_shell(&command, agent, host, seconds);
        quote(&command.line, probe->program);
        lks_text_append(&command.line, "launch --on-host ");
        quote(&command.line, probe->order);
        command_add(&command, command.line.data);
    }
    execvp(command.words[0], command.words);
}

static void run_here(const lks_probe *probe)
{
    lks_text answer = {0};
    lks_status status = lks_node_obey(probe->order, &answer);
    size_t written = 0;
    while (written < answer.length) {
        ssize_t part = write(STDOUT_FILENO, answer.data + written, answer.length - written);
        if (part <= 0)
            break;
        written += (size_t)part;
    }
    _exit(status);
}

static void child(const lks_probe *probe, const lks_host *host, int answer, pid_t parent)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || null < 0)
        _exit(127);
    sigprocmask(SIG_SETMASK, probe->signal_mask, NULL);
    dup2(null, STDIN_FILENO);
    dup2(null, STDERR_FILENO);
    dup2(answer, STDOUT_FILENO);
    if (lks_host_is_here(host))
        run_here(probe);
    run_remote(probe, host->name);
    _exit(127);
}

/* --- The parent ----------------------------------------------------------- */

static void one_start(lks_probe *probe, size_t i)
{
    lks_probe_one *one = &probe->ones[i];
    const lks_host *host = &probe->hosts->items[i];
    int pipe_ends[2];
    pid_t parent = getpid();
    double seconds = probe->seconds;
    double most = host->suspect && host->answers ? suspect_seconds : silent_seconds;
    if (host->suspect && seconds > most)
        seconds = most;
    one->start_ns = lks_clock_ns();
    one->deadline_ns = one->start_ns + (uint64_t)(seconds * 1e9);
    one->answer = -1;
    if (pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK)) {
        one->over = true;
        return;
    }
    one->pid = fork();
    if (one->pid == 0)
        child(probe, host, pipe_ends[1], parent);
    close(pipe_ends[1]);
    one->answer = pipe_ends[0];
    if (one->pid < 0) {
        one->pid = 0;
        one->over = true;
    }
}

static void one_read(lks_probe_one *one)
{
    char part[4096];
    ssize_t got;
    while (one->answer >= 0 && one->text.length < ANSWER_MAX &&
           (got = read(one->answer, part, sizeof part)) > 0)
        lks_text_append_bytes(&one->text, part, (size_t)got);
}

static bool is_late(const lks_probe *probe)
{
    double seconds = hurry_factor * probe->slowest_seconds;
    return probe->hurry && 2 * probe->answered >= probe->hosts->count &&
           lks_clock_seconds_since(probe->start_ns) >
               (seconds > suspect_seconds ? seconds : suspect_seconds);
}

static void one_poll(lks_probe *probe, size_t i)
{
    lks_probe_one *one = &probe->ones[i];
    lks_host *host = &probe->hosts->items[i];
    int status;
    one_read(one);
    if (waitpid(one->pid, &status, WNOHANG) == one->pid) {
        one_read(one);
        probe->slowest_seconds = lks_clock_seconds_since(probe->start_ns);
        probe->answered += WIFEXITED(status) && WEXITSTATUS(status) == 0;
        host->answers = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        host->ended = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        if (host->answers && strncmp(probe->order, "clear:", 6)) {
            free(host->said);
            host->said = strdup(one->text.data ? one->text.data : "");
        }
        if (host->answers && !strncmp(probe->order, "look:", 5))
            host->frozen = lks_look_frozen(host->said);
    } else if (lks_clock_ns() > one->deadline_ns || is_late(probe)) {
        kill(-one->pid, SIGKILL);
        kill(one->pid, SIGKILL);
        waitpid(one->pid, NULL, 0);
        host->answers = false;
        host->ended = -1;
    } else {
        return;
    }
    one->pid = 0;
    one->over = true;
}

lks_status lks_probe_start(lks_probe *probe, lks_hosts *hosts, const char *order,
                           const char *program, double seconds, const sigset_t *mask)
{
    lks_probe_stop(probe);
    *probe = (lks_probe){.hosts = hosts,
                         .order = strdup(order),
                         .program = program,
                         .signal_mask = mask,
                         .seconds = seconds,
                         .start_ns = lks_clock_ns()};
    if (!probe->order)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    return LKS_NEW_ARRAY(&probe->ones, hosts->count);
}

bool lks_probe_poll(lks_probe *probe)
{
    size_t busy = 0, left = 0;
    if (!probe->ones)
        return true;
    for (size_t i = 0; i < probe->hosts->count; ++i) {
        if (probe->ones[i].pid)
            one_poll(probe, i);
        busy += probe->ones[i].pid != 0;
    }
    for (size_t i = 0; i < probe->hosts->count; ++i) {
        lks_probe_one *one = &probe->ones[i];
        if (!one->pid && !one->over && busy < PROBES_AT_ONCE) {
            one_start(probe, i);
            busy += one->pid != 0;
        }
        left += !one->over;
    }
    if (!left)
        lks_probe_stop(probe);
    return !left;
}

void lks_probe_stop(lks_probe *probe)
{
    for (size_t i = 0; probe->ones && i < probe->hosts->count; ++i) {
        lks_probe_one *one = &probe->ones[i];
        if (one->pid) {
            kill(-one->pid, SIGKILL);
            kill(one->pid, SIGKILL);
            waitpid(one->pid, NULL, 0);
            if (lks_clock_ns() - one->start_ns > silent_after_ns)
                probe->hosts->items[i].answers = false;
        }
        if (one->answer > 0)
            close(one->answer);
        lks_text_release(&one->text);
    }
    lks_memory_free(probe->ones);
    free(probe->order);
    probe->ones = NULL;
    probe->order = NULL;
}
