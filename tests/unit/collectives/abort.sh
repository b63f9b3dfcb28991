#!/bin/bash
# abort.sh PROGRAM: ranks that end the job together, as after a time-out that all see: their status is mpirun's.
LOCKSTEP=$1 MAKE_DATA=$1
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../../tools/common.sh"

check 'memory that ranks release is overwritten' mpirun -n 1 sh -c '[ "$MALLOC_PERTURB_" -gt 0 ]'
for job in {1..8}; do
  status=0
  timeout 100 mpirun -n 8 "$LOCKSTEP" >log 2>&1 </dev/null || status=$?
  same "job $job: exit status" 76 "$status"
done
say_result
