#!/bin/bash
# The program under ThreadSanitizer, with every thread that it has: readers, the checkpoints' writer and that of the copies
# in memory, the one that asks a cloud for notices, the doctor's servers. A race ends a rank with 66.
#   threads.sh LOCKSTEP MAKE_DATA RACE
LOCKSTEP=$1 MAKE_DATA=$2 race=$(realpath "$3")
tools=$(dirname "$(realpath "$0")")/../tools
# shellcheck source=tests/tools/common.sh
. "$tools/common.sh"
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir memory

# ends NAME WANTED COMMAND...: with that status, or its output is shown.
ends() {
  local name=$1 want=$2 status=0
  shift 2
  "$@" >log 2>&1 || status=$?
  same "$name: exit status" "$want" "$status"
  if [ "$status" != "$want" ]; then cat log; fi
}

ends "a race is found" 66 "$race"

"$MAKE_DATA" text text.txt 20000
"$LOCKSTEP" --quiet prepare text --output data --split validation=0.1 text.txt
cat >job.yaml <<YAML
model: {name: gpt, layers: 1, width: 16, heads: 2, context: 16}
data: {train: data/train, validation: data/validation, threads: 3, ring: 4}
train: {steps: 12, global_batch: 8, lanes: 4, seed: 3, validate_every_steps: 4}
checkpoint: {every_steps: 2, memory_every_steps: 1, memory_directory: $work/memory}
YAML

# Stopped in the middle, so that a second start reads what the first has written.
trains() {
  local name=$1 n=$2 link=$3
  ends "$name: the first half" 0 ranks "$n" timeout 100 "$LOCKSTEP" train job.yaml --run "$name" --set "collectives.link=$link" --set train.steps=6
  ends "$name: the second half" 0 ranks "$n" timeout 100 "$LOCKSTEP" train job.yaml --run "$name" --set "collectives.link=$link" --set train.steps=12
}
trains alone 1 auto
trains shm 2 shm
trains mpi 2 mpi
same "shm: the digest of one rank" "$(digest alone)" "$(digest shm)"
same "mpi: the digest of one rank" "$(digest alone)" "$(digest mpi)"

unset http_proxy https_proxy
: >asked
python3 "$tools/metadata.py" aws port asked '4*garbage' '10*none' &
server=$!
until [ -s port ]; do sleep 0.01; done
ends "a notice stops it" 75 ranks 2 timeout 100 "$LOCKSTEP" train job.yaml --run noticed --set train.steps=1000000 --set checkpoint.every_steps=0 \
  --set preemption.source=aws --set "preemption.url=http://127.0.0.1:$(cat port)" --set preemption.poll_seconds=0.05

ends "doctor" 0 ranks 2 timeout 100 "$LOCKSTEP" doctor job.yaml --run doctored
say_result
