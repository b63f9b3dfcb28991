/* How fast a link moves parameters and gradients between two ranks. Run under mpirun -n 2:
 *   bench_link LINK MEGABYTES ROUNDS
 * Prints each round's rates in MB/s, both directions added up: of the all-gather of parameters,
 * which only moves bytes, and of the reduction, which sums them too.
 */
#include "tests/unit/collectives/ranks.h"

#include "collectives/reducer.h"
#include "runtime/base/clock.h"
#include "runtime/base/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* One round: seconds of the reduction, then of the all-gather. */
static void run_round(lks_comm *comm, lks_reducer *reducer, int lane, double seconds[2])
{
    MUST_OK(lks_reducer_begin(reducer));
    MUST_OK(lks_comm_barrier(comm));
    uint64_t start = lks_clock_ns();
    MUST_OK(lks_reducer_lane_done(reducer, lane));
    MUST_OK(lks_reducer_sum(reducer));
    MUST_OK(lks_comm_barrier(comm));
    seconds[0] = lks_clock_seconds_since(start);
    start = lks_clock_ns();
    MUST_OK(lks_reducer_gather(reducer));
    MUST_OK(lks_comm_barrier(comm));
    seconds[1] = lks_clock_seconds_since(start);
}

static void run_rounds(lks_comm *comm, lks_reducer *reducer, int rounds, double megabytes)
{
    int rank = lks_comm_rank(comm);
    double seconds[2];
    (void)lks_reducer_lane(reducer, rank);
    run_round(comm, reducer, rank, seconds); /* touches all memory */
    for (int i = 0; i < rounds; ++i) {
        run_round(comm, reducer, rank, seconds);
        if (rank == 0)
            printf("%.1f reduction\n%.1f all-gather\n", megabytes / seconds[0],
                   megabytes / seconds[1]);
    }
}

int main(int argc, char **argv)
{
    lks_comm *comm = NULL;
    lks_device *device = NULL;
    lks_layout *layout = NULL;
    lks_reducer *reducer = NULL;
    lks_config *config = NULL;
    lks_verbs_options verbs;
    if (argc != 4 || lks_comm_open(&comm, "auto") != LKS_OK) {
        fprintf(stderr, "usage: mpirun -n 2 bench_link LINK MEGABYTES ROUNDS\n");
        return 2;
    }
    double megabytes = atof(argv[2]);
    MUST(lks_comm_size(comm) == 2 && megabytes > 0 && atoi(argv[3]) > 0);
    MUST_OK(lks_config_create(&config));
    MUST_OK(lks_config_use_environment(config, environ));
    MUST_OK(lks_config_bind(config, "verbs", lks_verbs_option_table, &verbs));
    MUST_OK(lks_device_open(&device, "cpu", lks_comm_local_rank(comm)));
    MUST_OK(lks_layout_create(&layout));
    MUST_OK(lks_layout_add(layout, "all", LKS_SHAPE((int64_t)(megabytes * 1e6 / sizeof(float))),
                           LKS_ROLE_PARAMETER, false, NULL));
    lks_reducer_spec spec = {.comm = comm,
                             .device = device,
                             .layout = layout,
                             .lanes = 2,
                             .link = argv[1],
                             .verbs = &verbs};
    MUST_OK(lks_reducer_open(&reducer, &spec));
    run_rounds(comm, reducer, atoi(argv[3]), megabytes);
    lks_reducer_close(reducer);
    lks_layout_destroy(layout);
    lks_device_close(device);
    lks_config_destroy(config);
    lks_comm_close(comm);
    return 0;
}
