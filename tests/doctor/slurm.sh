#!/bin/bash
# lockstep doctor on a real SLURM: tasks that do not know each other, fewer ranks than tasks, nodes that are asked.
#   slurm.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
here=$(dirname "$(realpath "$0")")
# shellcheck source=tests/slurm/cluster.sh
. "$here/../slurm/cluster.sh"
missing=$(slurm_missing)
if [ -n "$missing" ]; then
  echo "skipped: no SLURM can be had here: $missing"
  exit 77
fi
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"
# shellcheck source=tests/doctor/rows.sh
. "$here/rows.sh"
trap 'slurm_stop; rm -rf "$work"' EXIT
slurm_start cluster 2
PATH="$(dirname "$LOCKSTEP"):$PATH"

# In one allocation, as a user has it; what the lines say is typed in there.
cat >job.sh <<'JOB'
lockstep doctor --only world --only hosts --json >alone.json
srun --mpi=none lockstep doctor --only world --json >strangers.json
line=$(python3 "$1/row.py" strangers.json world mend)
echo "$line" >line
eval "$line --only world --only hosts --json" >connected.json
mpirun -n 1 lockstep doctor --only world --json >fewer.json
line=$(python3 "$1/row.py" fewer.json world mend)
echo "$line" >>line
eval "$line --only world --json" >all.json
JOB
slurm_run timeout 300 salloc -N2 -n2 bash job.sh "$tools" >salloc.log 2>&1 || true
cat line
field() { python3 "$tools/row.py" "$1.json" "$2" "$3"; }
same "alone: nodes are asked by srun" ok "$(field alone hosts status)"
check "alone: nodes are asked by srun" grep -q 'all 2 hosts of SLURM answer' alone.json
same "alone: only this machine" warn "$(field alone world status)"
same "strangers" fail "$(field strangers world status)"
check "strangers" grep -q 'MPI does not connect them' strangers.json
same "connected" ok "$(field connected world status)"
check "connected" grep -q '2 ranks, as SLURM_STEP_NUM_TASKS says' connected.json
same "connected: hosts" ok "$(field connected hosts status)"
same "fewer" fail "$(field fewer world status)"
check "fewer" grep -q '1 rank, but SLURM_NTASKS asks for 2' fewer.json
same "all" ok "$(field all world status)"
[ "$failures" = 0 ] || tail -n 40 salloc.log ./*.json
say_result
