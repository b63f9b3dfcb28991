/* Run by abort.sh: ranks that all end the job at the same moment. */
#include "tests/unit/collectives/ranks.h"

int main(void)
{
    lks_comm *comm = NULL;
    if (lks_comm_open(&comm, "mpi"))
        return 1;
    MUST_OK(lks_comm_barrier(comm));
    lks_comm_abort(comm, LKS_ERR_PEER);
}
