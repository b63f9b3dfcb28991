/* Connecting the ranks when that may be what is wrong. */
#include "launcher/doctor/check.h"
#include "launcher/doctor/interfaces.h"
#include "runtime/base/threads.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CONNECT_SECONDS = 40 };

typedef struct connect_watch {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool over;
    double seconds;
} connect_watch;

static bool is_first_rank(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    rank = rank ? rank : getenv("PMIX_RANK");
    return !rank || !strcmp(rank, "0");
}

static bool names(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; *at;) {
        size_t part = strcspn(at, ",");
        if (part == length && !strncmp(at, word, length))
            return true;
        at += part;
        at += *at == ',';
    }
    return false;
}

/* A network of this host that was not tried: the guess, else the first. */
static bool other_network(const char *tried, char *subnet, size_t size)
{
    char guess[64] = "";
    json_t *interfaces = lks_interfaces_list(), *it;
    bool found = false;
    size_t i;
    (void)lks_interfaces_guess(guess, sizeof guess);
    json_array_foreach(interfaces, i, it)
    {
        const char *own = json_string_value(json_object_get(it, "subnet"));
        bool guessed = !strcmp(own, guess);
        if (names(tried, own) || names(tried, json_string_value(json_object_get(it, "name"))) ||
            (found && !guessed))
            continue;
        snprintf(subnet, size, "%s", own);
        found = true;
    }
    json_decref(interfaces);
    return found;
}

/* Open MPI waits for ever on an interface that leads nowhere. */
static void give_up(const connect_watch *watch)
{
    const char *tried = getenv("OMPI_MCA_btl_tcp_if_include");
    char subnet[64], line[128] = "lockstep doctor --hosts HOSTFILE";
    if (other_network(tried ? tried : "", subnet, sizeof subnet))
        snprintf(line, sizeof line, "export OMPI_MCA_btl_tcp_if_include=%s", subnet);
    printf(
        "fail  world          the ranks did not meet within %g s over %s: messages between hosts "
        "get lost\n%22s %s\n",
        watch->seconds, tried ? tried : "the interfaces that Open MPI took", "mend:", line);
    fflush(stdout);
    _exit(LKS_ERR_CORRUPT);
}

static void *watch_connect(void *user)
{
    connect_watch *w = user;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)w->seconds;
    pthread_mutex_lock(&w->lock);
    int late = 0;
    while (!w->over && late != ETIMEDOUT)
        late = pthread_cond_timedwait(&w->wake, &w->lock, &until);
    bool over = w->over;
    pthread_mutex_unlock(&w->lock);
    if (!over)
        give_up(w);
    return NULL;
}

static bool watch_start(connect_watch *w)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, &monotonic);
    return lks_thread_start(&w->thread, watch_connect, w) == 0;
}

static void watch_stop(connect_watch *w)
{
    pthread_mutex_lock(&w->lock);
    w->over = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
}

/* Doctor itself takes the way that mpirun has taken, so that it can tell of those that lead nowhere. The job's own
 * choice is left alone, and looked at by the check of the network. */
static lks_status open_carefully(lks_comm **out)
{
    static const char *const choices[] = {"OMPI_MCA_btl_tcp_if_include",
                                          "OMPI_MCA_btl_tcp_if_exclude", "OMPI_MCA_btl"};
    char subnet[64];
    bool free_to_choose = true;
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; ++i)
        free_to_choose = free_to_choose && !getenv(choices[i]);
    bool chosen = free_to_choose && getenv("OMPI_MCA_orte_hnp_uri") &&
                  lks_interfaces_guess(subnet, sizeof subnet) && !setenv(choices[0], subnet, 1);
    lks_status status = lks_comm_open(out, "auto");
    if (chosen)
        unsetenv(choices[0]);
    return status;
}

lks_status lks_doctor_connect(lks_comm **out, char **problem)
{
    const char *seconds = getenv("LKS_DOCTOR_CONNECT_SECONDS");
    connect_watch watch = {.seconds = seconds ? atof(seconds) : CONNECT_SECONDS};
    bool watched = is_first_rank() && watch_start(&watch);
    lks_status status = open_carefully(out);
    if (watched)
        watch_stop(&watch);
    if (status == LKS_OK)
        return LKS_OK;
    *problem = strdup(lks_status_message());
    if (!*problem || !**problem) /* another rank speaks */
        return status;
    return lks_comm_open(out, "self");
}
