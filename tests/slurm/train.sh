#!/bin/bash
# scripts/slurm on a real SLURM: jobs that get a notice, are requeued, preempted, cancelled, or lose a node come
# back by themselves, or do not, and end with the digest of an undisturbed run.
#   train.sh LOCKSTEP MAKE_DATA SLOW_DISK
LOCKSTEP=$1 MAKE_DATA=$2 slow=$(realpath "$3")
here=$(dirname "$(realpath "$0")")
# shellcheck source=tests/slurm/cluster.sh
. "$here/cluster.sh"
missing=$(slurm_missing)
if [ -n "$missing" ]; then
  echo "skipped: SLURM cannot be had here: $missing"
  exit 77
fi
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"
trap 'slurm_stop; rm -rf "$work"' EXIT
declare -A scripts=([mpirun]=$here/../../scripts/slurm/train.sbatch [srun]=$here/../../scripts/slurm/train-srun.sbatch)

# Jobs wait for a disk that is slow, not for cores: so they take seconds on any machine.
"$MAKE_DATA" text text.txt 6000
"$LOCKSTEP" --quiet prepare text --output data text.txt
cat >job.yaml <<'YAML'
model: {name: gpt, layers: 1, width: 32, heads: 4, context: 32, dropout: 0.1}
data: {train: data}
train: {steps: 160, global_batch: 8, lanes: 4, seed: 1}
optimizer: {name: adamw, lr: 0.001, clip_norm: 1.0}
checkpoint: {every_steps: 4, keep: 3, busy: wait}
YAML
"$LOCKSTEP" --quiet train job.yaml --run alone-1
"$LOCKSTEP" --quiet train job.yaml --run alone-2 --set train.seed=2
wanted=$(digest alone-1)
slurm_start cluster 8

now() { date +%s.%N; }
# submit MS SBATCH-OPTIONS... SCRIPT ARGUMENTS...: each fsync takes MS longer. Prints the job's number.
submit() {
  local ms=$1
  shift
  slurm_run env LOCKSTEP="$LOCKSTEP" LD_PRELOAD="$slow" LKS_SLOW_DISK_MS="$ms" sbatch --parsable "$@"
}
field() { slurm_run scontrol show job -o "$1" | sed -n "s/.* $2=\([^ ]*\).*/\1/p"; } # JOB NAME
is_state() { [ "$(field "$1" JobState)" = "$2" ]; }
is_over() { [[ $(field "$1" JobState) == @(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL) ]]; }
steps() { grep -cs grad_norm "$1/metrics.jsonl" || true; }
has_steps() { [ "0$(steps "$1")" -ge "$2" ]; }
has_starts() { [ "0$(grep -cs '"arithmetic"' "$1/run.json")" -ge "$2" ]; }

fault_notice() { slurm_run scancel --batch --signal=USR2 "$1"; }
fault_time() { :; } # SLURM's own, before the time limit
fault_requeue() { slurm_run scontrol requeue "$1"; }
fault_preempted() { # JOB NODES
  slurm_run sbatch --parsable --partition=high --nodelist="$2" --exclusive --output=/dev/null --wrap=true >/dev/null
}
fault_node_lost() { # JOB: the last of its nodes
  slurm_lose "$(slurm_run scontrol show hostnames "$(field "$1" NodeList)" | tail -n 1)"
}
fault_rank_killed() { slurm_run pkill -KILL -n -f "^$LOCKSTEP train job.yaml --run $3\$"; }

# suffer KIND FAULT NODES MS RESTARTS SBATCH-OPTIONS...: one job, from its start to its end. RESTARTS: how often SLURM
# starts it again, at least.
suffer() {
  local kind=$1 fault=$2 nodes=$3 ms=$4 restarts=$5 run=$2-$1 job start before
  shift 5
  job=$(submit "$ms" --output="$run.log" "$@" "${scripts[$kind]}" job.yaml --run "$run")
  check "$run: trains" slurm_until 180 has_steps "$run" 20
  start=$(now)
  "fault_${fault%%-*}" "$job" "$nodes" "$run"
  check "$run: starts again" slurm_until 240 has_starts "$run" 2
  before=$(steps "$run")
  check "$run: trains again" slurm_until 180 has_steps "$run" $((before + 1))
  awk -v run="$run" -v a="$start" -v b="$(now)" 'BEGIN { printf "%-32s %5.1f s\n", run, b - a }' >"$run.seconds"
  check "$run: ends" slurm_until 240 is_over "$job"
  [[ $fault != @(notice|time|preempted*) ]] || check "$run: had saved" grep -qm 1 'status 75' "$run/requeues"
  same "$run: state" COMPLETED "$(field "$job" JobState)"
  same "$run: digest" "$wanted" "$(digest "$run")"
  check "$run: SLURM's restarts are $(field "$job" Restarts)" [ "$(field "$job" Restarts)" -ge "$restarts" ]
}

# As suffer, for a job that must not come back.
cancel() { # KIND
  local run=cancel-$1
  submit 50 --output="$run.log" --nodelist='node[5-6]' "${scripts[$1]}" job.yaml --run "$run" >"$run.job"
  check "$run: trains" slurm_until 180 has_steps "$run" 20
  slurm_run scancel "$(cat "$run.job")"
  check "$run: is cancelled" slurm_until 180 is_state "$(cat "$run.job")" CANCELLED
}

array() {
  local job i
  job=$(submit 50 --array=1-2 --output=array-%a.log --nodelist='node[5-6]' "${scripts[mpirun]}" job.yaml --run array-%a \
    --set train.seed=%a)
  check "array: both train" slurm_until 180 has_steps array-1 20
  slurm_run scancel --batch --signal=USR2 "${job}_1"
  for i in 1 2; do
    check "array: task $i ends" slurm_until 240 is_over "${job}_$i"
    same "array: digest of task $i" "$(digest alone-$i)" "$(digest array-$i)"
  done
  same "array: only the task with a notice was requeued" '1 0' "$(field "${job}_1" Restarts) $(field "${job}_2" Restarts)"
}

printed() { # KIND-OF-PRINT
  local run=printed-$1 job=
  job=$("$LOCKSTEP" launch --print "$1" --nodes 2 --ranks-per-node 2 --name "$run" --partition low --time 0:10:00 \
    --sbatch output="$run.log" --sbatch=exclude='node[1-4]' -- train job.yaml --run "$run" | slurm_run sbatch --parsable)
  check "$run: ends" slurm_until 240 is_over "$job"
  same "$run: digest" "$wanted" "$(digest "$run")"
  check "$run: 4 ranks on 2 nodes" grep -q '4 ranks on 2 nodes' "$run.log"
}

# What always wants to be started again and saves nothing is given up.
no_progress() {
  local job
  printf '#!/bin/sh\nexit 75\n' >idle
  chmod +x idle
  job=$(slurm_run env LOCKSTEP="$work/idle" sbatch --parsable --output=idle.log "${scripts[mpirun]}" job.yaml --run idle-run)
  check "no progress: ends" slurm_until 240 is_over "$job"
  same "no progress: after two requeues" 'FAILED 2' "$(field "$job" JobState) $(field "$job" Restarts)"
  check "no progress: says so" grep -q 'three starts in a row saved nothing newer' idle.log
}

refusals() {
  local status=0 job
  slurm_run srun -N2 -n2 --exclude='node[1-4]' "$LOCKSTEP" train job.yaml --run strangers >strangers.log 2>&1 || status=$?
  same "srun without --mpi: exit status" 2 "$status"
  same "srun without --mpi: one line says what to do" 1 "$(grep -c 'start with srun --mpi=pmix, or with mpirun' strangers.log)"
  check "srun without --mpi: nothing is trained" [ ! -e strangers ]
  for kind in mpirun srun; do
    job=$(submit 0 --array=1-2 --output="no-a-$kind-%a.log" "${scripts[$kind]}" job.yaml --run joint)
    check "$kind: an array in one run directory ends" slurm_until 240 is_over "${job}_2"
    same "$kind: and is refused" '2:0' "$(field "${job}_2" ExitCode)"
    check "$kind: it says what to do" grep -q 'need a run directory each: --run joint-%a' "no-a-$kind-2.log"
  done
}

# Runs each in a subshell of its own, at the same time; `finish` adds their checks to ours.
parts=()
begin() {
  local part=part-${#parts[@]}
  parts+=("$part")
  (
    trap - EXIT
    checks=0 failures=0
    "$@" >"$part.out" 2>&1 || echo "FAILED: $*: ended early" >>"$part.out"
    echo "$checks $failures" >"$part.counts"
  ) &
  pids+=($!)
}
pids=()
finish() {
  local part c f
  wait "${pids[@]}" || true
  for part in "${parts[@]}"; do
    read -r c f <"$part.counts" || { c=1 f=1; }
    checks=$((checks + c)) failures=$((failures + f))
    cat "$part.out"
    ! grep -q 'ended early' "$part.out" || failures=$((failures + 1))
  done
}

# The notice before the time limit comes when SLURM looks, every 30 s, here in the job's first 30.
for kind in mpirun srun; do
  begin suffer $kind time 'node[5-6]' 150 1 --nodelist='node[5-6]' --time=1 --signal=B:USR2@40
done
late=("${pids[@]}")
pids=()
begin refusals
begin suffer mpirun notice 'node[1-2]' 50 1 --nodelist='node[1-2]'
begin suffer srun notice 'node[3-4]' 50 1 --nodelist='node[3-4]'
begin suffer mpirun requeue 'node[1-2]' 50 1 --nodelist='node[1-2]'
begin suffer srun requeue 'node[3-4]' 50 1 --nodelist='node[3-4]'
wait "${pids[@]}"
pids=()
begin suffer mpirun preempted 'node[1-2]' 50 1 --nodelist='node[1-2]'
begin suffer srun preempted 'node[3-4]' 50 1 --nodelist='node[3-4]'
begin suffer srun rank_killed '' 50 0 --nodelist='node[5-6]'
begin array
begin no_progress
wait "${pids[@]}"
slurm_user_signal on
pids=()
begin suffer mpirun preempted-signal 'node[1-2]' 50 1 --nodelist='node[1-2]'
begin suffer srun preempted-signal 'node[3-4]' 50 1 --nodelist='node[3-4]'
begin cancel mpirun
begin cancel srun
begin printed slurm
begin printed slurm-srun
wait "${pids[@]}" "${late[@]}"
pids=()
begin suffer mpirun node_lost-kept '' 100 0 --nodelist='node[1-2]' --no-kill
begin suffer mpirun node_lost '' 100 1 --exclude='node[1-2,6-8]'
begin suffer srun node_lost '' 100 1 --exclude='node[1-5]'
finish
for kind in mpirun srun; do
  same "cancel-$kind: does not come back" 'CANCELLED 0' \
    "$(field "$(cat cancel-$kind.job)" JobState) $(field "$(cat cancel-$kind.job)" Restarts)"
done
echo "seconds from the fault to the next step:"
cat ./*.seconds
[ "$failures" = 0 ] || tail -n 40 ./*.log
say_result
