#!/bin/bash
# The ledger: whole over starts on any number of ranks, broken by any lie; old checkpoints have none.
#   ledger.sh LOCKSTEP MAKE_DATA PRELOAD
LOCKSTEP=$1 MAKE_DATA=$2 preload=$(realpath "$3")
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"

"$MAKE_DATA" text text.txt 1900
"$LOCKSTEP" prepare text --output data text.txt >/dev/null
cat >job.yaml <<YAML
model: {name: gpt, layers: 1, width: 8, heads: 2, context: 16}
data: {train: data}
train: {steps: 30, global_batch: 24, lanes: 8}
checkpoint: {every_steps: 5, busy: wait, keep: 9}
YAML
train() { # RANKS RUN OPTIONS...
  local n=$1 run=$2
  shift 2
  ranks "$n" "$LOCKSTEP" train job.yaml --run "$run" "$@" >"$run.log" 2>&1 || { cat "$run.log"; return 1; }
}
verify() { "$LOCKSTEP" ledger verify "$@" 2>&1; }
chains() { sed -n 's/^{"step": \([0-9]*\), "chain": "\([0-9a-f]*\)".*/\1 \2/p' "$1/ledger.jsonl"; }

# proves NAME RUN PATTERN: it verifies, and says so.
proves() {
  local answer status=0
  answer=$(verify "$2") || status=$?
  same "$1: exit status" 0 "$status"
  check "$1: $answer" grep -qE -- "$3" <<<"$answer"
}
# refutes NAME RUN STATUS PATTERN: it does not, in one line.
refutes() {
  local answer status=0
  answer=$(verify "$2") || status=$?
  same "$1: exit status" "$3" "$status"
  same "$1: one line" 1 "$(wc -l <<<"$answer")"
  check "$1: $answer" grep -qE -- "$4" <<<"$answer"
}

# Whatever writes it, and however often the job stops
train 1 straight
train 3 ids --set report.ledger=ids
train 4 stops --set train.steps=7
train 1 stops --set train.steps=13 --set report.ledger=ids
train 8 stops --set train.steps=22 --set report.ledger=none
train 2 stops
same 'chains at 1 and 3 ranks' "$(chains straight)" "$(chains ids)"
same 'chains over stops, but where none were asked for' "$(chains straight | awk '$1 < 14 || $1 > 22')" "$(chains stops)"
proves 'straight' straight 'steps 1 to 30, 1 start: 6 whole epochs of 119 samples, each used once, and 6 samples of the next'
proves 'with ids' ids 'recorded by 30 lines of ledger.jsonl and 6 checkpoints'
proves 'over stops' stops '4 starts'
same 'the chain of the last checkpoint' "$(chains straight | tail -n 1 | cut -d ' ' -f 2)" \
  "$("$LOCKSTEP" checkpoint show --json stops | sed -n 's/.*"ledger": "\(.*\)",/\1/p')"
same 'as JSON' 6 "$(verify --json straight | sed 's/.*"whole_epochs": \([0-9]*\),.*/\1/')"

# Killed at once, anywhere: undone lines leave, the rest is whole
sed -i 's/steps: 30/steps: 100000000/' job.yaml
for n in 1 2; do
  (exec_ranks $n "$LOCKSTEP" train job.yaml --run killed >>killed.log 2>&1) &
  process=$!
  before=$(tail -n 1 killed/ledger.jsonl 2>/dev/null | sed 's/{"step": \([0-9]*\).*/\1/' || true)
  until [ "$(tail -n 1 killed/ledger.jsonl 2>/dev/null | sed -n 's/{"step": \([0-9]*\),.*/\1/p')" -gt $((${before:-0} + 12)) ] 2>/dev/null ||
    ! kill -0 $process 2>/dev/null; do sleep 0.01; done
  kill -KILL $process
  wait $process 2>/dev/null || true
  until flock -n killed/lock true; do sleep 0.01; done # mpirun's ranks follow it
  proves "killed at $n ranks" killed 'each used once'
done
sed -i 's/steps: 100000000/steps: 30/' job.yaml

# Lines that cannot be written: no checkpoint is committed before they are, so that a kill loses none for good
last_line() { tail -n 1 "$1/ledger.jsonl" 2>/dev/null | sed -n 's/{"step": \([0-9]*\),.*/\1/p'; }
newest() { find "$1/checkpoints" -maxdepth 1 -name 'step-????????' 2>/dev/null | sort | tail -n 1 | sed 's/.*step-0*//'; }
unwritten() { # NAME TIMES STEPS: from the 12th line on, in a job that is to go on to STEPS
  local times=$2
  rm -rf "$1"
  LD_PRELOAD=$preload LKS_FAULT_UNDER=$work/$1/ledger.jsonl LKS_FAULT_CALLS=write LKS_FAULT_AT=12 LKS_FAULT_TIMES=$times \
    LKS_FAULT_KIND=ENOSPC exec "$LOCKSTEP" train job.yaml --run "$1" --set train.steps="$3" --set checkpoint.memory_every_steps=0
}
export ASAN_OPTIONS=${ASAN_OPTIONS-}:verify_asan_link_order=0
: >lost.log
(unwritten lost 100000000 100000000) >lost.log 2>&1 &
process=$!
until [ "$(grep -ac 'is given up: .*ledger.jsonl: write: No space left on device; training goes on' lost.log)" -ge 3 ] ||
  ! kill -0 $process 2>/dev/null; do sleep 0.01; done
kill -KILL $process
wait $process 2>/dev/null || true
same 'lines that cannot be written: the last line' 11 "$(last_line lost)"
check 'lines that cannot be written: no later checkpoint' [ "0$(newest lost)" -le 10 ]
train 1 lost
same 'lines that could not be written: none is missing' "$(seq 30)" "$(chains lost | cut -d ' ' -f 1)"
proves 'lines that could not be written' lost 'recorded by 30 lines'
same 'lines that could not be written: the same bits' "$(digest straight)" "$(digest lost)"
(unwritten late 12 30) >late.log 2>&1 || cat late.log
same 'lines that waited: none is missing' "$(chains straight)" "$(chains late)"
same 'lines that waited: the last checkpoint' 30 "$(newest late)"

# Lies
lie() { rm -rf lie; cp -r ids lie; }
lie; sed -i '17s/"chain": "\(.\)/"chain": "\1\1/; 17s/\(.\)", "samples/", "samples/' lie/ledger.jsonl
refutes 'another chain' lie 65 'ledger.jsonl:17: step 17 is the first that differs: its chain'
lie; sed -i '8s/"samples": \[[0-9]*,/"samples": [118,/; 9s/"samples": \[[0-9]*,/"samples": [118,/' lie/ledger.jsonl
refutes 'another sample' lie 65 'ledger.jsonl:[89]: step [89] is the first that differs: sample 0 of its batch is 118'
lie; sed -i '12p' lie/ledger.jsonl
refutes 'a step twice' lie 65 'step 12 comes after step 12'
lie; sed -i '12d' lie/ledger.jsonl
proves 'a line that a crash has lost is covered by the next' lie 'recorded by 29 lines'
lie; sed -i '20,$d' lie/ledger.jsonl; printf '{"step": 20, "cha' >>lie/ledger.jsonl
proves 'a torn end is covered by the checkpoints' lie 'steps 1 to 30, .*recorded by 19 lines|steps 1 to 30'
lie; sed -i 's/"seed": [0-9]*,/"seed": 99,/' lie/run.json
refutes 'another seed' lie 65 'step 1 is the first that differs'
lie; sed -i 's/"samples": 119/"samples": 118/' lie/run.json
refutes 'another number of samples' lie 65 'is the first that differs|given twice'
lie; echo nonsense >>lie/ledger.jsonl
refutes 'no JSON' lie 65 'ledger.jsonl:31'
lie; rm lie/ledger.jsonl
proves 'by the checkpoints alone' lie 'recorded by 0 lines of ledger.jsonl and 6 checkpoints'
lie; rm -r lie/checkpoints lie/ledger.jsonl
refutes 'nothing recorded' lie 2 'has no ledger'
refutes 'no run directory' nowhere 2 'has no run.json'

# A checkpoint of before there were ledgers: reads, and the job goes on without one
rm -rf old; cp -r straight old; rm -r old/checkpoints/step-000000{05,10,15,20,25}
python3 - old/checkpoints/step-00000030 <<'PY'
import hashlib
import re
import sys
path = sys.argv[1] + '/manifest.json'
text = re.sub(r' "(ledger|epoch)": .*,\n', '', open(path).read())
body = text[:text.index(' "seal"')]
open(path, 'w').write(body + ' "seal": "%s"\n}\n' % hashlib.sha256(body.encode()).hexdigest())
PY
check 'an old checkpoint is whole' "$LOCKSTEP" checkpoint verify old
train 2 old --set train.steps=33
check 'an old checkpoint: said' grep -aq 'made without a ledger' old.log
train 1 straight --set train.steps=33
same 'an old checkpoint: the same bits' "$(digest straight)" "$(digest old)"
same 'an old checkpoint: no line is made up' 30 "$(wc -l <old/ledger.jsonl)"
say_result
