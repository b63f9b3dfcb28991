# Shared by the tests that disturb a job through its system calls. Sourced with LOCKSTEP, MAKE_DATA
# and PRELOAD set; leaves the shell in a fresh directory with a small job, whose undisturbed run
# is `calm`.
# shellcheck shell=bash
PRELOAD=$(realpath "$PRELOAD")
# shellcheck source=tests/tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../tools/common.sh"

# Every how many-th call is tried where time is short: under sanitizers, which scripts/test sets up.
# shellcheck disable=SC2034
thin=$([ -z "${UBSAN_OPTIONS-}" ] && echo 1 || echo 5)
# A library that is preloaded comes before the address sanitizer's own, where there is one.
export ASAN_OPTIONS=${ASAN_OPTIONS-}:verify_asan_link_order=0
# A killed mpirun leaves its files here, and not in places that other tests share.
export TMPDIR=$work/tmp OMPI_MCA_btl_vader_backing_directory=$work/tmp OMPI_MCA_odls_base_sigkill_timeout=0
mkdir "$TMPDIR"

"$MAKE_DATA" table table.csv 60 regression
"$LOCKSTEP" prepare table --target target --output data --split validation=0.3 table.csv >/dev/null
cat >job.yaml <<YAML
model: {name: mlp, hidden: [4]}
data: {train: data/train, validation: data/validation}
train: {steps: 4, global_batch: 8, lanes: 4, seed: 3, validate_every_steps: 2}
optimizer: {name: adamw, lr: 0.01}
checkpoint: {every_steps: 2, keep: 1, busy: wait, memory_every_steps: 0}
report: {ledger: true}
YAML

# bounded N COMMAND...: on N ranks, for five minutes at most.
bounded() {
  local n=$1
  shift
  if [ "$n" = 1 ]; then timeout 300 "$@"; else timeout 300 mpirun -n "$n" "$@"; fi
}

# disturbed N RUN VARIABLE=VALUE...: trains with these set for the preloaded library, the log in
# RUN.log; the exit status in $status, 124 if it hangs.
disturbed() {
  local n=$1 run=$2 command
  shift 2
  command=(env "LD_PRELOAD=$PRELOAD" "LKS_FAULT_UNDER=$work/$run" "$@"
    "$LOCKSTEP" train "$work/job.yaml" --run "$work/$run")
  status=0
  # In braces, so that the shell does not report each kill.
  { bounded "$n" "${command[@]}" >"$run.log" 2>&1; } 2>/dev/null || status=$?
}

# resumed N RUN: the next start, undisturbed; the exit status in $status.
resumed() {
  local n=$1
  status=0
  bounded "$n" "$LOCKSTEP" train job.yaml --run "$work/$2" >"$2.log" 2>&1 || status=$?
}

# The newest directory that counts as a checkpoint; nothing when there is none.
newest() {
  find "$1/checkpoints" -path '*/step-????????/manifest.json' 2>/dev/null | sort | tail -n 1 | xargs -r dirname
}

# What a run may hold besides its files: no leftovers of a save.
is_tidy() { [ -z "$(find "$1" -name '*.partial*' -o -name '*.tmp-*')" ]; }

# Calls without what differs from run to run.
plain() { sed -E 's/^[0-9]+ //; s/\.partial-[0-9a-f]+/.partial/; s/\.tmp-[0-9]+/.tmp/' "$@"; }

# count_calls N RANK: the calls of a rank, of its first thread and of all others, to calls-RANK-THREAD; each
# is the same in every undisturbed run. Leaves one as `calm`.
count_calls() {
  local thread
  for thread in main other; do
    rm -rf calm
    disturbed "$1" calm LKS_FAULT_RANK="$2" LKS_FAULT_THREAD=$thread LKS_FAULT_LOG="$work/calls-$2-$thread"
    same 'the undisturbed run' 0 "$status"
  done
}
