#include "launcher/launch_mpirun.h"
#include "launcher/launch_node.h"
#include "launcher/launch_slurm.h"
#include "launcher/launch_supervisor.h"
#include "runtime/base/clock.h"
#include "runtime/base/files.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STUCK_MAX = 2, TICK_MS = 50 };
static const char directory_prefix[] = "lockstep-launch-";
static const double lock_wait_seconds = 15, cut_off_wait_seconds = 3, young_seconds = 60;

/* --- Temporary files ------------------------------------------------------ */

static const char *temporary_base(void)
{
    const char *base = getenv("TMPDIR");
    return base && *base ? base : "/tmp";
}

/* A directory whose lock nobody holds is of a launch that was killed. */
static void remove_if_dead(const char *path)
{
    struct stat file;
    char *lock = lks_files_join(path, "lock");
    if (!lock || lstat(path, &file) || !S_ISDIR(file.st_mode) || file.st_uid != geteuid()) {
        free(lock);
        return;
    }
    int fd = open(lock, O_RDWR | O_CLOEXEC);
    bool dead = fd >= 0 ? flock(fd, LOCK_EX | LOCK_NB) == 0
                        : difftime(time(NULL), file.st_mtime) > young_seconds;
    if (dead && lks_files_remove_tree(path) != LKS_OK)
        lks_log_verbose("%s", lks_status_message());
    if (fd >= 0)
        close(fd);
    free(lock);
}

static void remove_dead_directories(const char *base)
{
    lks_file_list names = {0};
    if (lks_files_list(base, &names) != LKS_OK)
        return;
    for (size_t i = 0; i < names.count; ++i) {
        char *path = lks_files_join(base, names.names[i]);
        if (path && !strncmp(names.names[i], directory_prefix, sizeof directory_prefix - 1))
            remove_if_dead(path);
        free(path);
    }
    lks_file_list_release(&names);
}

static void new_mark(lks_supervisor *s)
{
    uint64_t number = 0;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        number = lks_clock_ns() ^ (uint64_t)getpid() << 40;
    snprintf(s->mark, sizeof s->mark, "%016llx", (unsigned long long)number);
}

static lks_status name_directory(lks_supervisor *s, const char *base)
{
    new_mark(s);
    free(s->directory);
    if (asprintf(&s->directory, "%s/%s%s", base, directory_prefix, s->mark) >= 0)
        return LKS_OK;
    s->directory = NULL;
    return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
}

/* *locked is false where another launch took it for a dead one's before it was locked, and removed it. */
static lks_status lock_directory(lks_supervisor *s, bool *locked)
{
    struct stat file;
    char *lock = lks_files_join(s->directory, "lock");
    if (!lock)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    if (s->directory_lock >= 0)
        close(s->directory_lock);
    s->directory_lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    free(lock);
    bool held = s->directory_lock >= 0 && flock(s->directory_lock, LOCK_EX | LOCK_NB) == 0;
    *locked = held && fstat(s->directory_lock, &file) == 0 && file.st_nlink > 0;
    if (held || errno == EWOULDBLOCK || errno == ENOENT)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_IO, "%s: cannot lock: %s", s->directory, strerror(errno));
}

static lks_status make_directory(lks_supervisor *s)
{
    const char *base = temporary_base();
    bool locked = false;
    remove_dead_directories(base);
    while (!locked) {
        LKS_TRY(name_directory(s, base));
        if (mkdir(s->directory, 0700)) {
            lks_status status =
                LKS_FAIL(LKS_ERR_IO, "%s: cannot make a temporary directory: %s; set TMPDIR", base,
                         strerror(errno));
            free(s->directory);
            s->directory = NULL;
            return status;
        }
        LKS_TRY(lock_directory(s, &locked));
    }
    return LKS_OK;
}

/* --- Open and close ------------------------------------------------------- */

/* From here on a signal is something to read, and orphans of mpirun come to us. */
static lks_status take_charge(lks_supervisor *s)
{
    sigset_t taken;
    sigemptyset(&taken);
    const int numbers[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP, SIGCHLD};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; ++i)
        sigaddset(&taken, numbers[i]);
    sigprocmask(SIG_BLOCK, &taken, &s->mask_before);
    s->signals = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signals < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1))
        return LKS_FAIL(LKS_ERR_INTERNAL, "cannot watch over processes: %s", strerror(errno));
    ssize_t length = readlink("/proc/self/exe", s->program, sizeof s->program - 1);
    if (length <= 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "cannot find this program's own path: is /proc mounted?");
    s->program[length] = '\0';
    return LKS_OK;
}

static int64_t all_slots(const lks_hosts *hosts)
{
    int64_t slots = 0;
    for (size_t i = 0; i < hosts->count; ++i)
        slots += hosts->items[i].slots;
    return slots;
}

/* As many as asked for, else as slots and lanes allow. */
static void choose_ranks(lks_supervisor *s)
{
    int64_t slots = all_slots(&s->hosts), ranks = s->options->ranks;
    if (!ranks)
        ranks = s->job.lanes && s->job.lanes < slots ? s->job.lanes : slots;
    s->ranks_wanted = (int)ranks;
    s->per_slot = (int)((ranks + slots - 1) / slots);
}

static lks_status supervisor_open(lks_supervisor *s, const lks_launch_options *options)
{
    *s = (lks_supervisor){
        .options = options, .directory_lock = -1, .signals = -1, .output = -1, .last_end = -1};
    char t[2][32];
    LKS_TRY(lks_mpirun_check(options->mpirun));
    LKS_TRY(lks_hosts_find(&s->hosts, options->hosts));
    LKS_TRY(LKS_NEW_ARRAY(&s->usable, s->hosts.count));
    LKS_TRY(lks_launch_job_open(&s->job, &options->train));
    choose_ranks(s);
    if (s->ranks_wanted < options->min_ranks)
        return LKS_FAIL(LKS_ERR_USAGE, "%s at most (%s, %s), and --min-ranks is %lld",
                        lks_text_count(t[0], sizeof t[0], (uint64_t)s->ranks_wanted, "rank"),
                        s->hosts.source,
                        lks_text_count(t[1], sizeof t[1], (uint64_t)s->job.lanes, "lane"),
                        (long long)options->min_ranks);
    LKS_TRY(make_directory(s));
    return take_charge(s);
}

static void supervisor_close(lks_supervisor *s)
{
    lks_probe_stop(&s->probe);
    lks_launch_report_release(&s->report);
    lks_launch_job_close(&s->job);
    lks_hosts_release(&s->hosts);
    lks_memory_free(s->usable);
    if (s->directory && lks_files_remove_tree(s->directory) != LKS_OK)
        lks_log_warn("%s", lks_status_message());
    free(s->directory);
    if (s->directory_lock >= 0)
        close(s->directory_lock);
    if (s->signals >= 0)
        close(s->signals);
}

/* --- One start ------------------------------------------------------------ */

/* What mpirun left behind on this machine, when it could not see to it itself. */
static void clear_here(lks_supervisor *s)
{
    char order[64];
    lks_text answer = {0};
    snprintf(order, sizeof order, "clear:%s", s->mark);
    if (lks_node_obey(order, &answer) != LKS_OK)
        lks_log_warn("%s", lks_status_message());
    lks_text_release(&answer);
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

static lks_status start(lks_supervisor *s)
{
    int64_t first;
    new_mark(s);
    lks_launch_report_reset(&s->report, &s->hosts);
    for (size_t i = 0; i < s->hosts.count; ++i) {
        s->hosts.items[i].suspect = false;
        s->hosts.items[i].frozen = -1;
    }
    s->starts_before = lks_launch_job_starts(&s->job, &first);
    s->newest_before = lks_launch_job_newest_step(&s->job);
    s->notice_sent = false;
    s->started_ns = lks_clock_ns();
    lks_watch_begin(s);
    lks_mpirun_plan plan = {.options = s->options,
                            .hosts = &s->hosts,
                            .program = s->program,
                            .directory = s->directory,
                            .mark = s->mark,
                            .signal_mask = &s->mask_before,
                            .ranks = s->ranks,
                            .per_slot = s->per_slot,
                            .take_over = s->take_over};
    return lks_mpirun_start(&plan, s->usable, &s->mpirun, &s->output);
}

static int mpirun_status(const lks_supervisor *s)
{
    return WIFSIGNALED(s->wait_status) ? 128 + WTERMSIG(s->wait_status)
                                       : WEXITSTATUS(s->wait_status);
}

/* Until mpirun is gone, on its own or because the ranks hang. */
static void follow(lks_supervisor *s)
{
    while (!lks_supervisor_reap(s)) {
        lks_supervisor_wait(s, TICK_MS);
        if (lks_watch(s)) {
            lks_supervisor_kill(s);
            break;
        }
    }
    if (s->looking)
        lks_probe_stop(&s->probe);
    s->looking = false;
    lks_log_verbose("launch: mpirun has ended, status %d", mpirun_status(s));
    clear_here(s);
}

/* --- What an end means ---------------------------------------------------- */

/* 1 is never a rank's: with steps seen it is a loss, without them a command that mpirun did not take. */
static bool is_refusal(const lks_supervisor *s, int status)
{
    int64_t first;
    return status == LKS_WARNED && !WIFSIGNALED(s->wait_status) && !s->report.lost &&
           lks_launch_job_starts(&s->job, &first) == s->starts_before;
}

static lks_status refused(const lks_supervisor *s, int status)
{
    const char *program = lks_mpirun_name(s->options->mpirun);
    return LKS_FAIL(LKS_ERR_USAGE,
                    "launch: %s ended with status %d, which is its own and no rank's: what it said "
                    "is above; see that \"%s -n 1 hostname\" works",
                    program, status, program);
}

static bool is_loss(const lks_supervisor *s, int status)
{
    static const int deliberate[] = {LKS_OK,     LKS_ERR_USAGE, LKS_ERR_CORRUPT,   LKS_ERR_INTERNAL,
                                     LKS_ERR_IO, LKS_STOPPED,   LKS_ERR_NOT_FINITE};
    for (size_t i = 0; i < sizeof deliberate / sizeof deliberate[0]; ++i)
        if (status == deliberate[i] && !WIFSIGNALED(s->wait_status))
            return false;
    return true;
}

static void complete_cause(lks_supervisor *s, int status)
{
    lks_text *cause = &s->report.cause;
    const char *program = lks_mpirun_name(s->options->mpirun);
    if (WIFSIGNALED(s->wait_status) && !s->report.lost) {
        lks_text_clear(cause);
        lks_text_append(cause, "%s was killed by signal %d (%s)", program, WTERMSIG(s->wait_status),
                        strsignal(WTERMSIG(s->wait_status)));
    }
    if (!cause->length && s->report.host_lost)
        lks_text_append(cause, "a host was lost");
    if (!cause->length)
        lks_text_append(cause, "%s ended with status %d", program, status);
}

/* What mpirun did not say, the probe has found out. */
static void name_lost_host(lks_supervisor *s)
{
    if (!s->report.host_lost || strcmp(s->report.cause.data, "a host was lost"))
        return;
    for (size_t i = 0; i < s->hosts.count; ++i) {
        if (s->hosts.items[i].answers)
            continue;
        lks_text_clear(&s->report.cause);
        lks_text_append(&s->report.cause, "host %s was lost with its ranks",
                        s->hosts.items[i].name);
        return;
    }
}

/* A start is stuck when it finished no step, or ended at the very step at which the one before
 * it did. */
static void count_progress(lks_supervisor *s)
{
    int64_t first, newest = lks_launch_job_newest_step(&s->job);
    bool started = lks_launch_job_starts(&s->job, &first) > s->starts_before;
    bool stuck = !started || newest <= first || newest == s->last_end;
    s->stuck = stuck && s->restarts ? s->stuck + 1 : 0;
    s->last_end = newest;
}

static lks_status give_up(const lks_supervisor *s, const char *why)
{
    return LKS_FAIL(LKS_ERR_PEER, "launch: %s after step %lld; giving up: %s", s->report.cause.data,
                    (long long)s->last_end, why);
}

/* Stopped by a notice while no rank ran. */
static lks_status stopped_between(const lks_supervisor *s)
{
    if (!lks_launch_job_has_checkpoint(&s->job))
        return LKS_FAIL(LKS_ERR_PEER, "launch: a notice to stop came before the first checkpoint");
    lks_log_root("launch: a notice to stop came while no rank ran; the newest checkpoint stays");
    return LKS_STOPPED;
}

static bool wait_until_free(lks_supervisor *s, double seconds)
{
    uint64_t start_ns = lks_clock_ns();
    bool is_free;
    while (!(is_free = lks_launch_job_is_free(&s->job)) && !s->notice &&
           lks_clock_seconds_since(start_ns) < seconds)
        lks_supervisor_wait(s, TICK_MS);
    return is_free;
}

/* A rank that is cut off holds the run directory until its own daemon gives up, which may be
 * never: then it is fenced off. */
static void wait_for_lock(lks_supervisor *s)
{
    bool complete = lks_gather_is_complete(s);
    bool is_free = wait_until_free(s, complete ? lock_wait_seconds : cut_off_wait_seconds);
    s->take_over = !is_free && !complete;
}

/* A launch that was killed leaves ranks that end a few seconds later, once their daemons notice. */
static void wait_for_former(lks_supervisor *s)
{
    if (lks_launch_job_is_free(&s->job))
        return;
    lks_log_root("launch: another start holds %s; waiting up to %.0f s for its end", s->job.run,
                 lock_wait_seconds);
    wait_until_free(s, lock_wait_seconds);
}

static lks_status pause_between(lks_supervisor *s)
{
    uint64_t start_ns = lks_clock_ns();
    double seconds = s->stuck ? s->options->backoff_seconds : 0;
    while (!s->notice && lks_clock_seconds_since(start_ns) < seconds)
        lks_supervisor_wait(s, TICK_MS);
    wait_for_lock(s);
    return s->notice ? stopped_between(s) : LKS_OK;
}

static void tell_restart(const lks_supervisor *s)
{
    lks_text without = {0};
    char ranks[32];
    for (size_t i = 0; i < s->hosts.count; ++i)
        if (!s->usable[i])
            lks_text_append(&without, "%s%s", without.length ? ", " : ", without ",
                            s->hosts.items[i].name);
    lks_log_root(
        "launch: %s after step %lld; going on with %s%s (restart %d of %lld)", s->report.cause.data,
        (long long)s->last_end, lks_text_count(ranks, sizeof ranks, (uint64_t)s->ranks, "rank"),
        without.data ? without.data : "", s->restarts, (long long)s->options->max_restarts);
    lks_text_release(&without);
}

/* After a loss: LKS_OK when the next start may begin. */
static lks_status recover(lks_supervisor *s, int status)
{
    complete_cause(s, status);
    count_progress(s);
    if (!s->fault_ns)
        s->fault_ns = s->pulse_ns;
    if (s->notice)
        return give_up(s, "a notice to stop had come");
    if (lks_slurm_is_preempting())
        return give_up(s, "SLURM is taking the nodes for another job");
    if (s->restarts >= s->options->max_restarts)
        return give_up(s, "no restart is left (--max-restarts)");
    if (s->stuck >= STUCK_MAX)
        return give_up(s, "two restarts in a row came no step further");
    ++s->restarts;
    LKS_TRY(lks_gather(s, false));
    if (!s->ranks)
        return stopped_between(s);
    name_lost_host(s);
    tell_restart(s);
    return pause_between(s);
}

static lks_status supervise(lks_supervisor *s)
{
    new_mark(s);
    for (size_t i = 0; i < s->hosts.count; ++i)
        s->hosts.items[i].answers = true;
    LKS_TRY(lks_gather(s, true));
    wait_for_former(s);
    if (!s->ranks || s->notice)
        return stopped_between(s);
    for (;;) {
        LKS_TRY(start(s));
        follow(s);
        int status = mpirun_status(s);
        if (!s->killed && is_refusal(s, status))
            return refused(s, status);
        if (!is_loss(s, status))
            return (lks_status)status;
        if (s->killed)
            return LKS_ERR_PEER;
        LKS_TRY(recover(s, status));
    }
}

lks_status lks_launch(const lks_launch_options *options)
{
    lks_supervisor s;
    lks_status status = supervisor_open(&s, options);
    if (status == LKS_OK)
        status = supervise(&s);
    supervisor_close(&s);
    return status;
}
