#!/bin/bash
# Who may write to a run directory: a second start, a start that took over from a frozen one, dead owners, clocks
# that are a day off.
#   fence.sh LOCKSTEP MAKE_DATA SHIFT_CLOCK
LOCKSTEP=$1 MAKE_DATA=$2 shift_clock=$(realpath "$3")
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"
started=()
clean_up() {
  local process
  for process in ${started[@]+"${started[@]}"}; do kill -KILL "$process" 2>/dev/null || true; done
  rm -rf "$work"
}
trap clean_up EXIT

"$MAKE_DATA" text text.txt 30000
"$LOCKSTEP" prepare text --output data text.txt >/dev/null
cat >job.yaml <<YAML
model: {name: gpt, layers: 2, width: 32, heads: 2, context: 32}
data: {train: data}
train: {steps: 1000000, global_batch: 32, lanes: 4}
checkpoint: {every_steps: 10, keep: 1000}
YAML
lines() { cat "$1/metrics.jsonl" 2>/dev/null | grep -ac grad_norm || true; }
epoch() { sed -n 's/^  "epoch": \([0-9]*\),*/\1/p' "$1/run.json"; }
content() { (cd "$1" && find . -type f ! -path '*partial*' -print0 | sort -z | xargs -0 sha256sum); }
state() { sed 's/.*) //' "/proc/$1/stat" | cut -d ' ' -f 1; }

# begin RANKS RUN LOG: in the background; $process, and $all of its processes, once it has done 25 steps more.
begin() {
  local before
  before=$(lines "$2")
  if [ "$1" = 1 ]; then
    "$LOCKSTEP" train job.yaml --run "$2" >"$3" 2>&1 &
  else
    mpirun -n "$1" "$LOCKSTEP" train job.yaml --run "$2" >"$3" 2>&1 &
  fi
  process=$!
  until [ "$(lines "$2")" -gt $((before + 25)) ] || ! kill -0 $process 2>/dev/null; do sleep 0.01; done
  mapfile -t all < <(echo $process; [ "$1" = 1 ] || pgrep -P $process)
  started+=("${all[@]}")
}

# A second start is refused, and the first does not notice
begin 1 run first.log
status=0
before=$(epoch run)
"$LOCKSTEP" train job.yaml --run run >second.log 2>&1 || status=$?
same 'a second start: exit status' 2 "$status"
check 'a second start: told why' grep -q 'another job is running in this directory' second.log
same 'a second start: the epoch stays' "$before" "$(epoch run)"
kill -KILL "$process"
wait "$process" 2>/dev/null || true
check 'killed: the lock file is still there' [ -e run/lock ]

# The lock of the dead does not block, and each start raises the epoch
for n in 2 1; do
  begin $n run "again-$n.log"
  kill -USR2 "$process"
  status=0
  wait "$process" || status=$?
  same "after a kill, $n ranks: exit status" 75 "$status"
done
same 'three starts' 3 "$(epoch run)"
same 'epochs of the starts' '1 2 3' "$(sed -n 's/^      "epoch": \([0-9]*\),*/\1/p' run/run.json | xargs)"
newest=$(find run/checkpoints -name 'step-*[0-9]' | sort | tail -n 1)
check 'the newest checkpoint has it' grep -q '^ "epoch": 3,$' "$newest/manifest.json"

# A frozen start holds the lock; another takes over; the first thaws
for n in 1 2; do
  run=frozen-$n
  begin $n $run $run.log
  kill -STOP "${all[@]}"
  for one in "${all[@]}"; do until [ "$(state "$one")" = T ]; do sleep 0.01; done; done
  status=0
  "$LOCKSTEP" train job.yaml --run $run >refused.log 2>&1 || status=$?
  same "frozen, $n ranks: a plain start is refused" 2 "$status"
  end=$(($(lines $run) + 40))
  status=0
  "$LOCKSTEP" train job.yaml --run $run --take-over --set train.steps=$end >over.log 2>&1 || status=$?
  same "frozen, $n ranks: taken over" 0 "$status"
  [ "$status" = 0 ] || cat over.log
  before=$(content $run)
  kill -CONT "${all[@]}"
  status=0
  wait "$process" || status=$?
  same "thawed, $n ranks: exit status" 2 "$status"
  check "thawed, $n ranks: told" grep -aqE 'fenced: a newer start \(epoch 2, [^)]*\) owns this run' $run.log
  same "thawed, $n ranks: nothing is touched" "$before" "$(content $run)"
  "$LOCKSTEP" train job.yaml --run straight-$n --set train.steps=$end >straight.log 2>&1 || cat straight.log
  same "frozen, $n ranks: digest" "$(digest straight-$n)" "$(digest $run)"
  check "frozen, $n ranks: the ledger is whole" "$LOCKSTEP" ledger verify $run >/dev/null
done

# run.json of a newer start, without any lock: as where locks do not work
begin 1 nolock nolock.log
sed 's/"epoch": 1,/"epoch": 9,/; s/"start": "[0-9a-f]*"/"start": "0123456789abcdef"/; s/"host": ".*"/"host": "elsewhere"/' nolock/run.json >run.json
mv run.json nolock/run.json
status=0
wait "$process" || status=$?
same 'no locks: exit status' 2 "$status"
check 'no locks: told' grep -aq 'fenced: a newer start (epoch 9, elsewhere) owns this run' nolock.log
same 'no locks: run.json is the newer' 9 "$(epoch nolock)"

# The time of day does not matter
shifted() { # SECONDS RUN STEPS
  env LD_PRELOAD="$shift_clock" LKS_CLOCK_SHIFT="$1" ${4:+LKS_CLOCK_WANDER=1} "$LOCKSTEP" train job.yaml --run "$2" --set train.steps="$3" >"$2.log" 2>&1 ||
    { tail -n 3 "$2.log"; return 1; }
}
shifted 86400 clock 35
shifted -86400 clock 70
shifted 86400 clock 105 wander
"$LOCKSTEP" train job.yaml --run plain --set train.steps=105 >plain.log 2>&1
same 'a day off: digest' "$(digest plain)" "$(digest clock)"
same 'a day off: losses' "$(losses plain | sha256sum)" "$(losses clock | sha256sum)"
check 'a day off: the ledger is whole' "$LOCKSTEP" ledger verify clock >/dev/null
written() { sed -n 's/^      "time": "\([0-9]*\)-\([0-9]*\)-\([0-9]*\)T.*/\1\2\3/p' clock/run.json | sed -n "$1p"; }
check 'a day off: the clock was indeed off' [ "$(written 1)" -gt "$(written 2)" ]
say_result
