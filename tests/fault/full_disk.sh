#!/bin/bash
# A disk that is really full while a job trains: its saves are given up, and training goes on until
# there is space again; then the next save succeeds, and no line of its metrics is missing. A start
# on a full disk ends with 74 and leaves the job as it was.
#   full_disk.sh LOCKSTEP MAKE_DATA
if [ -z "${LKS_TEST_APART-}" ]; then
  for how in -m -rm; do
    if unshare $how mount -t tmpfs none /mnt 2>/dev/null; then
      LKS_TEST_APART=1 exec unshare $how bash "$0" "$@"
    fi
  done
  echo 'skipped: a full disk: no mount namespace allowed here'
  exit 77
fi
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"
job=''
trap '[ -z "$job" ] || kill -KILL $job 2>/dev/null || true; umount "$work/disk" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir disk
mount -t tmpfs -o size=4m none disk

"$MAKE_DATA" table table.csv 200 regression
"$LOCKSTEP" prepare table --target target --output data --split validation=0.1 table.csv >/dev/null
cat >job.yaml <<YAML
model: {name: mlp, hidden: [128, 96]}
data: {train: data/train}
train: {steps: 100000000, global_batch: 16, lanes: 4, seed: 3}
optimizer: {name: adamw, lr: 0.001}
checkpoint: {every_steps: 40, keep: 1, busy: wait}
report: {every_steps: 40}
YAML
fill() { dd if=/dev/zero of=disk/filler bs=4096 status=none 2>/dev/null || true; }
newest() { find disk/run/checkpoints -path '*/step-????????/manifest.json' 2>/dev/null | sort | tail -n 1; }

# soon COMMAND...: waits for it, five minutes at most, while the job runs.
soon() {
  local end=$((SECONDS + 300))
  until "$@"; do
    if [ $SECONDS -ge $end ] || ! kill -0 "$job" 2>/dev/null; then return 1; fi
    sleep 0.02
  done
}
has_checkpoint() { [ -n "$(newest)" ]; }
gives_up() { [ "$(grep -ac 'is given up' log)" -ge 2 ]; }
newer() { [[ "$(newest)" > "$1" ]]; }

(exec_ranks 2 "$LOCKSTEP" train job.yaml --run disk/run >log 2>&1) &
job=$!
check 'a first checkpoint' soon has_checkpoint
fill
check 'saves are given up' soon gives_up
check 'and named' grep -aq 'given up: .*No space left on device; training goes on' log
before=$(newest)
rm disk/filler
check 'the next save succeeds' soon newer "$before"
kill -USR2 $job
status=0
wait $job || status=$?
job=''
same 'the job stops at a notice' 75 "$status"
[ "$status" = 75 ] || tail -n 20 log

saved=$(find disk/run/checkpoints -maxdepth 1 -name 'step-????????')
step=$((10#${saved##*step-}))
kept=$(digest "$saved")
fill
for n in 1 2; do
  status=0
  ranks $n timeout 300 "$LOCKSTEP" train job.yaml --run disk/run >full.log 2>&1 || status=$?
  same "a start on a full disk, $n ranks" 74 "$status"
  check "a start on a full disk says so, $n ranks" grep -aq 'No space left on device' full.log
  same "and leaves the checkpoint, $n ranks" "$kept" "$(digest "$saved")"
done
rm disk/filler

goal=(--set train.steps=$((step + 60)))
ranks 1 timeout 300 "$LOCKSTEP" train job.yaml --run disk/run "${goal[@]}" >again.log 2>&1
ranks 1 timeout 300 "$LOCKSTEP" train job.yaml --run calm "${goal[@]}" >calm.log 2>&1
same 'the digest of a job that was never disturbed' "$(digest calm)" "$(digest disk/run)"
same 'the losses, but for the step of the notice' "$(losses calm)" "$(losses disk/run | grep -v "^$((step % 40 ? step : 0)) ")"
say_result
