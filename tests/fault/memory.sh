#!/bin/bash
# Copies in node memory: all ranks are killed, and the job goes on from what the nodes still hold, to the same bits.
#   memory.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"

# What a killed mpirun leaves lies here, and not in places that other tests share.
export TMPDIR=$work/tmp OMPI_MCA_btl_vader_backing_directory=$work/tmp
mkdir tmp node0 node1

"$MAKE_DATA" text text.txt 20000
"$LOCKSTEP" prepare text --output data --split validation=0.1 text.txt >prepare.log
cat >job.yaml <<YAML
model: {name: gpt, layers: 2, width: 40, heads: 2, context: 16, dropout: 0.1}
data: {train: data/train}
train: {steps: 800, global_batch: 16, lanes: 8, seed: 5}
checkpoint: {every_steps: 200, keep: 2, busy: wait, memory_every_steps: 20, memory_directory: $work/node0}
YAML

train() { # RANKS RUN OPTIONS...
  local n=$1 run=$2
  shift 2
  ranks "$n" "$LOCKSTEP" train job.yaml --run "$run" "$@" >"$run.log" 2>&1 || { tail -n 20 "$run.log"; return 1; }
}

# newest: the last step of which copies are there, 0 for none, in $step. Forks nothing: steps are short.
newest() {
  local file number
  step=0
  for file in node[01]/lockstep-*-step-*; do
    [ -e "$file" ] || continue
    number=${file##*-step-}
    number=$((10#${number%%-*}))
    [ $number -le $step ] || step=$number
  done
}
exec {never}<> <(:)
moment() { read -rt 0.01 -u "$never" || true; }

# kill_after STEPS RANKS RUN [PROGRAM]: kill -9 of mpirun and all ranks when there are copies of so many steps
# more, and the disk has what $on_disk names, and $when holds of the run; the newest step that may be whole in $step.
on_disk=. when=true
past_copy() { # RUN: its metrics have a line of a step after the newest copy's
  local line
  line=$(tail -n 1 "$1/metrics.jsonl" 2>/dev/null || true)
  line=${line#*\"step\": }
  line=${line%%[!0-9]*}
  [ "${line:-0}" -gt "$step" ]
}
kill_after() {
  local goal before asked='' n=$2 run=$3 program=${4:-$LOCKSTEP} process ranks=''
  newest
  before=$step goal=$((step + $1))
  (exec_ranks "$n" "$program" train job.yaml --run "$run" >"$run.log" 2>&1) &
  process=$!
  while kill -0 $process 2>/dev/null && { [ $step -lt $goal ] || [ ! -e "$run/$on_disk" ] || ! $when "$run"; }; do
    moment
    newest
    # At the first copy, when all are there: nothing is to take time when the goal is reached.
    if [ -z "$asked" ] && [ $step -gt $before ]; then
      asked=1
      ranks=$(pgrep -P $process || true)
    fi
  done
  # shellcheck disable=SC2086
  kill -KILL $process $ranks 2>/dev/null || true
  wait $process 2>/dev/null || true
  # shellcheck disable=SC2086
  while kill -0 $ranks 2>/dev/null; do moment; done
  newest
}

says() { grep -q -- "$2" "$1.log" || { tail -n 20 "$1.log"; return 1; }; }
silent() { ! grep -q -- "$2" "$1.log" || { tail -n 20 "$1.log"; return 1; }; }
empty() { [ -z "$(find "$@" -mindepth 1 -name 'lockstep-*' -print -quit)" ] || { find "$@" -mindepth 1; return 1; }; }
# resumed RUN STEP: from memory, at that step or the copy before it.
resumed() {
  local from
  from=$(sed -n 's/.*resuming from node memory: step \([0-9]*\),.*/\1/p' "$1.log" | tail -n 1)
  [ "${from:-0}" != 0 ] && [ "$from" -ge $(($2 - 20)) ] && [ "$from" -le "$2" ] || { tail -n 20 "$1.log"; return 1; }
}
files_of() { find node0 node1 -name 'lockstep-*-step-*' -name "$1"; }

train 2 straight
check "a finished job leaves nothing" empty node0

# --- Killed again and again, on other numbers of ranks ------------------------------------------------------
# The disk holds a thing with a checkpoint's name, and nothing that could be resumed from.
sed -i 's/every_steps: 200, keep/every_steps: 0, keep/' job.yaml
kill_after 60 4 killed
mkdir -p killed/checkpoints/step-00000010
last=4
for n in 3 1 5; do
  before=$step
  when=past_copy
  kill_after 60 $n killed
  when=true
  check "$last ranks killed after step $before: $n resume from memory" resumed killed "$before"
  check "$last ranks killed: the disk is not looked at" silent killed "passed over"
  last=$n
done
rmdir killed/checkpoints/step-00000010
train 2 killed
check "5 ranks killed after step $step: 2 resume from memory" resumed killed "$step"
same "digest after four kills" "$(digest straight)" "$(digest killed)"
same "losses after four kills" "$(losses straight)" "$(losses killed)"
check "lines beyond the copy are kept in undone" test -n "$(find killed/undone -name 'metrics-*')"
check "nothing is left after four kills and the end" empty node0
sed -i 's/every_steps: 0, keep/every_steps: 200, keep/' job.yaml

on_disk=checkpoints/step-00000200
# --- Copies that do not hold ------------------------------------------------------------------------------
flip() { # FILE: one bit in the last block
  local at byte
  at=$(($(stat -c %s "$1") - 5))
  byte=$(od -An -tu1 -j $at -N 1 "$1")
  printf "%b" "\\x$(printf %x $((byte ^ 4)))" | dd of="$1" bs=1 seek=$at conv=notrunc status=none
}
kill_after 280 3 flipped
for file in $(files_of '*-rank-1-of-3-*'); do flip "$file"; done
train 4 flipped
check "a flipped bit is named" says flipped "rank-1-of-3-at-1: block .* expected .* found"
check "a copy that is not whole is not taken" says flipped "is not whole: rank 1's of 3 is missing"
check "then the disk is" says flipped "resuming from .*checkpoints/step-"
same "digest after flipped bits" "$(digest straight)" "$(digest flipped)"

kill_after 280 2 torn
for file in $(files_of '*-rank-0-of-2-*'); do truncate -s 5000 "$file"; done
for file in $(files_of '*-rank-1-of-2-*'); do dd if=/dev/zero of="$file" bs=4096 count=1 conv=notrunc status=none; done
train 2 torn
check "a torn copy is named" says torn "passed over a copy in node memory: .*torn: it has no header"
check "then the disk is taken" says torn "resuming from .*checkpoints/step-"
same "digest after torn copies" "$(digest straight)" "$(digest torn)"

# The newest generation is damaged: the one before is whole, or the disk has a later step.
on_disk=.
kill_after 120 2 older
for file in $(files_of "*-step-*$step-rank-0-*"); do flip "$file"; done
train 3 older
check "the generation before is taken" grep -qE "resuming from (node memory: step $((step - 20)),|.*checkpoints/step-)" older.log
same "digest after a damaged generation" "$(digest straight)" "$(digest older)"
check "nothing is left of damaged copies" empty node0

# The copies are gone, as if the nodes had been started again.
on_disk=checkpoints/step-00000200
kill_after 280 2 gone
files_of '*' | xargs -r rm
train 2 gone
check "without copies the disk is taken" says gone "resuming from .*checkpoints/step-"
same "digest from the disk" "$(digest straight)" "$(digest gone)"

# The disk looks as if it were ahead, and what is there does not hold.
kill_after 280 2 seeming
cp -r seeming/checkpoints/step-00000200 seeming/checkpoints/step-00009999
truncate -s 100 seeming/checkpoints/step-00009999/state.h5
ahead=$(find seeming/checkpoints -name 'step-????????' | sort | tail -n 2 | head -n 1)
train 4 seeming
check "the damaged checkpoint is passed over" says seeming "passed over a checkpoint: .*step-00009999"
if [ $((10#${ahead##*-})) -lt $((step - 20)) ]; then
  check "and the copies are newer than the one before it" resumed seeming "$step"
fi
same "digest after a seemingly newer checkpoint" "$(digest straight)" "$(digest seeming)"

# --- No room ------------------------------------------------------------------------------------------------
user=()
if ! unshare --mount true 2>/dev/null; then user=(--user --map-root-user); fi
if unshare "${user[@]}" --mount mount -t tmpfs -o size=64k none node1 2>/dev/null; then
  unshare "${user[@]}" --mount sh -c 'mount -t tmpfs -o size=64k none node1 && exec "$@"' sh \
    "$LOCKSTEP" train job.yaml --run full --set "checkpoint.memory_directory=$work/node1" >full.log 2>&1
  check "a full node memory is named" says full "node1 of .* has room for .*, the copies need"
  same "digest without copies" "$(digest straight)" "$(digest full)"
else
  echo "skipped: node memory without room needs a mount namespace"
fi
"$LOCKSTEP" train job.yaml --run nowhere --set train.steps=40 --set checkpoint.memory_directory=/no/such/place >nowhere.log 2>&1
check "a directory that is not there is named" says nowhere "given up: .*/no/such/place"

# --- Two hosts, each with its own memory, and one is lost ------------------------------------------------------
if unshare --uts true 2>/dev/null || unshare --user --map-root-user --uts true 2>/dev/null; then
  on_disk=.
  cat >on_host <<HOST
#!/bin/sh
node=node\$((OMPI_COMM_WORLD_RANK * 2 / OMPI_COMM_WORLD_SIZE))
user=
unshare --uts true 2>/dev/null || user="--user --map-root-user"
export LOCKSTEP_CHECKPOINT_MEMORY_DIRECTORY="$work/\$node"
exec unshare \$user --uts sh -c 'hostname "\$0" && exec "\$@"' \$node "$LOCKSTEP" "\$@"
HOST
  chmod +x on_host
  sed -i "s/every_steps: 200, keep/every_steps: 0, keep/; s/, memory_directory: .*}/}/" job.yaml
  for lost in node0 node1; do
    kill_after 60 4 "without-$lost" ./on_host
    rm -f $lost/lockstep-*
    left=node$((1 - ${lost#node}))
    LOCKSTEP_CHECKPOINT_MEMORY_DIRECTORY=$work/$left train 3 "without-$lost"
    check "$lost is lost: 3 ranks on $left resume from the neighbour's copies" resumed "without-$lost" "$step"
    same "digest without $lost" "$(digest straight)" "$(digest "without-$lost")"
  done
  kill_after 60 4 replaced ./on_host
  rm -f node1/lockstep-*
  mpirun -n 5 ./on_host train job.yaml --run replaced >replaced.log 2>&1 || true
  check "node1 is another one: 5 ranks on both resume" resumed replaced "$step"
  same "digest with another node1" "$(digest straight)" "$(digest replaced)"
  check "nothing is left on either host" empty node0 node1
else
  echo "skipped: two hosts on one need a UTS namespace"
fi
say_result
