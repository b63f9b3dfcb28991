#!/bin/bash
# A disk so slow that a save takes longer than its interval: saves are skipped and said, memory is bounded, a
# notice and the end still save.
#   slow_disk.sh LOCKSTEP MAKE_DATA SLOW_DISK
LOCKSTEP=$1 MAKE_DATA=$2 slow=$(realpath "$3")
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"

"$MAKE_DATA" text text.txt 1900
"$LOCKSTEP" prepare text --output data text.txt >/dev/null
cat >job.yaml <<YAML
model: {name: gpt, layers: 1, width: 8, heads: 2, context: 16}
data: {train: data}
train: {steps: 2000, global_batch: 24, lanes: 8}
checkpoint: {every_steps: 10, keep: 100}
YAML
slowly() { # RANKS RUN OPTIONS...
  local n=$1 run=$2
  shift 2
  ranks "$n" env LD_PRELOAD="$slow" LKS_SLOW_DISK_MS=60 "$LOCKSTEP" train job.yaml --run "$run" "$@" >"$run.log" 2>&1 ||
    { tail -n 5 "$run.log"; return 1; }
}
saves() { find "$1/checkpoints" -name 'step-*[0-9]' | grep -vc partial || true; }
skips() { grep -ac 'is skipped: that of step [0-9]* is still being written after' "$1.log" || true; }
peak() { sed -n 's/.*peak memory of this rank: \([0-9]*\).*/\1/p' "$1.log" | head -n 1; }

ranks 2 "$LOCKSTEP" train job.yaml --run straight --set checkpoint.every_steps=0 >straight.log 2>&1
for n in 1 2; do
  slowly $n run-$n
  check "$n ranks: skipped and said" [ "$(skips run-$n)" -gt 10 ]
  check "$n ranks: some are saved" [ "$(saves run-$n)" -gt 1 ]
  same "$n ranks: each of the 200 is saved or skipped" 200 $(($(saves run-$n) + $(skips run-$n)))
  same "$n ranks: digest" "$(digest straight)" "$(digest run-$n)"
  check "$n ranks: all that was saved is whole" "$LOCKSTEP" checkpoint verify run-$n >/dev/null
  check "$n ranks: memory ($(peak run-$n) MiB, $(peak straight) MiB without saves)" \
    [ "$(peak run-$n)" -le $(($(peak straight) + 12)) ]
done

# Of the main thread a save takes the copy, not the write: one is many times the other on such a disk
usual() { # RUN KEY: the median where it is not 0, over all steps but the last, which waits for those before it
  grep -v '"step": 2000,' "$1/metrics.jsonl" | sed -n "s/.*\"$2\": \([-+.e0-9]*\),.*/\1/p" | sort -g |
    awk '$1 > 0 { v[n++] = $1 } END { print n ? v[int(n / 2)] : 0 }'
}
for n in 1 2; do
  check "$n ranks: training waits $(usual run-$n checkpoint_stall_seconds) s, a write takes $(usual run-$n checkpoint_running_seconds) s" \
    awk "BEGIN {exit !($(usual run-$n checkpoint_stall_seconds) < $(usual run-$n checkpoint_running_seconds) / 3)}"
done

# With one buffer none waits: fewer are saved, in less memory
slowly 1 one --set checkpoint.buffers=1 --set train.steps=200
same 'one buffer: each of the 20 is saved or skipped' 20 $(($(saves one) + $(skips one)))
staging() { sed -n 's/.*checkpoint staging \([^(]*\) (.*/\1/p' "$1.log" | head -n 1; }
check "one buffer: less memory ($(staging one), $(staging run-1) with two)" \
  awk "BEGIN {exit !($(staging one | cut -d ' ' -f 1) * 1.9 < $(staging run-1 | cut -d ' ' -f 1))}"
check 'one buffer: said' grep -aq ' (1 buffer), ' one.log
check 'two buffers: said' grep -aq ' (2 buffers), ' run-1.log

# Waited for when asked
slowly 2 waits --set checkpoint.busy=wait --set train.steps=50
same 'busy: wait saves all' '5 0' "$(saves waits) $(skips waits)"

# A notice while a save is under way
: >stop
status=0
env LD_PRELOAD="$slow" LKS_SLOW_DISK_MS=60 "$LOCKSTEP" train job.yaml --run notice --set checkpoint.every_steps=1 \
  --set preemption.file=stop >notice.log 2>&1 || status=$?
same 'a notice: exit status' 75 "$status"
check 'a notice: saved' [ "$(saves notice)" -ge 1 ]
rm stop
(until [ "$(saves notice2 2>/dev/null)" -ge 2 ]; do sleep 0.01; done; : >stop) &
status=0
env LD_PRELOAD="$slow" LKS_SLOW_DISK_MS=60 "$LOCKSTEP" train job.yaml --run notice2 --set checkpoint.every_steps=1 \
  --set preemption.file=stop --set preemption.grace_seconds=0.05 --set train.steps=100000 >notice2.log 2>&1 || status=$?
same 'a notice too near: exit status' 75 "$status"
check 'a notice too near: said' grep -aqE 'warning: a notice to stop, [-0-9.]+ s are left, and saving step [0-9]+ will not end in time: ' notice2.log
say_result
