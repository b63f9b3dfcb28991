#!/bin/bash
# A signal may come at any instruction: inside matrix products too, whose library points the stack
# register into its own heap while it computes. Hundreds of notices in one long step, and it
# still ends with 75 and a whole checkpoint.
#   signals.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"

"$MAKE_DATA" text text.txt 60000
"$LOCKSTEP" prepare text --output data text.txt
cat >job.yaml <<YAML
model: {name: gpt, layers: 4, width: 256, heads: 4, context: 128}
data: {train: data}
train: {steps: 1000, global_batch: 64, lanes: 8}
YAML

for try in 1 2 3; do
  (exec_ranks 1 "$LOCKSTEP" train job.yaml --run "run-$try" >"$try.log" 2>&1) &
  process=$!
  until [ -s "run-$try/metrics.jsonl" ] || ! kill -0 $process 2>/dev/null; do sleep 0.02; done
  sent=0
  while [ $sent -lt 100000 ] && kill -USR2 $process 2>/dev/null; do sent=$((sent + 1)); done
  status=0
  wait $process || status=$?
  same "try $try: $sent notices end in 75" 75 "$status"
  [ "$status" = 75 ] || tail -n 5 "$try.log"
  check "try $try: the checkpoint is whole" "$LOCKSTEP" checkpoint verify "run-$try" >/dev/null
done

# Whether a TERM waits for the process to take it.
is_pending() { (((16#$(sed -n 's/^ShdPnd:.//p' "/proc/$1/status") >> ($(kill -l TERM) - 1)) & 1)); }

# A step that takes very long: the second TERM, or INT, does not wait for its end
sed -i 's/global_batch: 64/global_batch: 16384, micro_batch: 8/' job.yaml
for signal in TERM INT; do
  (exec_ranks 1 "$LOCKSTEP" train job.yaml --run "end-$signal" >"end-$signal.log" 2>&1) &
  process=$!
  until grep -aq 'ready after' "end-$signal.log" || ! kill -0 $process 2>/dev/null; do sleep 0.02; done
  kill -TERM $process
  check "a first TERM is a notice: it goes on" grep -q '^State:.[RSD]' /proc/$process/status
  while is_pending $process; do sleep 0.02; done # two that come together count as one
  kill -$signal $process
  status=0
  wait $process || status=$?
  same "TERM and then $signal" $((128 + $(kill -l $signal))) "$status"
  check "TERM and then $signal: said" grep -aq 'told to end a second time: ends now, without a checkpoint' "end-$signal.log"
done
say_result
