#!/bin/bash
# The same bits at any number of ranks, and over any stop and resume.
#   bits.sh LOCKSTEP MAKE_DATA gpt|cnn|mlp-classification|mlp-regression[-bf16]
LOCKSTEP=$1 MAKE_DATA=$2 model=${3%-bf16}
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"

# Batches of 48 on sets that they do not divide, over two epoch ends; two
# micro-batches a lane; dropout and clipping on; ragged validation.
case $model in
  gpt)
    "$MAKE_DATA" text text.txt 1900
    "$LOCKSTEP" prepare text --output data --split validation=0.15 text.txt
    shape='{name: gpt, layers: 2, width: 24, heads: 2, context: 16, dropout: 0.2}' ;;
  cnn)
    "$MAKE_DATA" images images labels 155 unlabelled
    "$LOCKSTEP" prepare images --output data --split validation=0.3 --unlabelled 255 images labels
    shape='{name: cnn, channels: [4, 6], blocks: 1, dropout: 0.2}' ;;
  mlp-*)
    "$MAKE_DATA" table table.csv 160 "${model#mlp-}"
    "$LOCKSTEP" prepare table --target target --output data --split validation=0.3 --shuffle 3 table.csv
    shape='{name: mlp, hidden: [24, 16], dropout: 0.2}' ;;
esac
cat >job.yaml <<YAML
model: $shape
data: {train: data/train, validation: data/validation}
train: {steps: 7, global_batch: 48, lanes: 8, micro_batch: 3, seed: 5, validate_every_steps: 3}
optimizer: {name: adamw, lr: 0.01, clip_norm: 0.05}
schedule: {name: cosine, warmup_steps: 2}
checkpoint: {every_steps: 3, keep: 2}
report: {ledger: ids}
YAML

train() { # RANKS RUN OPTIONS...
  local n=$1 run=$2
  shift 2
  ranks "$n" "$LOCKSTEP" train job.yaml --run "$run" "$@" >"$run.log" 2>&1 || { cat "$run.log"; return 1; }
}

# Clipping must be at work, or the test would not see it.
clips() { awk -F'"grad_norm": ' '/grad_norm/ { split($2, n, ","); if (n[1] <= 0.05) bad = 1; seen = 1 } END { exit bad || !seen }' "$1/metrics.jsonl"; }

# Losses in bf16 are near those in f32, step by step, and not the same.
near() { # RUN OTHER
  paste <(losses "$1") <(losses "$2") |
    awk '{ d = $2 - $4; d = d < 0 ? -d : d; if (d > 0.05 * $4) bad = 1; if (d > 0) differs = 1; ++n } END { exit bad || !differs || n < 7 }'
}

# Each epoch's ids are one permutation of 0..N-1; the last epoch is unfinished.
once() { # RUN N
  sed 's/.*"samples": \[//; s/\].*//' "$1/ledger.jsonl" | tr -d ' ' | tr ',' '\n' |
    awk -v n="$2" '{ e = int((NR - 1) / n); if ($1 < 0 || $1 >= n || seen[e, $1]++) bad = 1 } END { exit bad || NR < 2 * n }'
}
samples=$("$LOCKSTEP" dataset show --json data/train | sed -n 's/^  "records": \([0-9]*\),*/\1/p')
[ "$model" = gpt ] && samples=$(((samples - 1 + 15) / 16))

if [ "$model" != "$3" ]; then
  train 1 f32
  sed -i 's/^train: {/train: {precision: bf16, /' job.yaml
  train 1 bf16
  check "$model: losses in bf16 near those in f32" near bf16 f32
fi

for lanes in 8 6; do
  options=(--set "train.lanes=$lanes")
  [ $lanes = 6 ] && options+=(--set train.micro_batch=4)
  for n in 1 2 3 4 5 6 8; do
    [ $n = 8 ] && [ $lanes = 6 ] && continue
    [ $n = 6 ] && [ $lanes = 8 ] && continue
    train $n $lanes-$n "${options[@]}"
    same "$model, $lanes lanes: digest at $n ranks" "$(digest $lanes-1)" "$(digest $lanes-$n)"
    same "$model, $lanes lanes: losses at $n ranks" "$(losses $lanes-1)" "$(losses $lanes-$n)"
  done
  train 3 $lanes-mpi "${options[@]}" --set collectives.link=mpi --set collectives.bucket_bytes=4096
  same "$model, $lanes lanes: digest over link mpi" "$(digest $lanes-1)" "$(digest $lanes-mpi)"
done
check "$model: clipping is at work" clips 8-1
check "$model: each epoch is one permutation of $samples samples" once 8-5 "$samples"

steps_done() { cat "$1/metrics.jsonl" 2>/dev/null | grep -c grad_norm || true; }

# Stopped by a notice at whatever step it arrives, resumed on other numbers of ranks.
stopped() { # RANKS RUN
  local status=0 before process
  before=$(steps_done "$2")
  (exec_ranks "$1" "$LOCKSTEP" train job.yaml --run "$2" >>"$2.log" 2>&1) &
  process=$!
  while kill -0 $process 2>/dev/null && [ "$(steps_done "$2")" -le "$before" ]; do sleep 0.01; done
  kill -USR2 $process 2>/dev/null || true
  wait $process || status=$?
  echo $status
}
steps=150
[ "${model#mlp}" != "$model" ] && steps=3000
sed -i "s/steps: 7/steps: $steps/; s/every_steps: 3, keep/every_steps: 50, keep/" job.yaml
sed -i "s/validate_every_steps: 3/validate_every_steps: 50/" job.yaml
train 2 straight
# On a machine that stalls, a job may end before its notice is sent: then all stops are tried again, in a new run.
for attempt in 1 2 3 4 5; do
  rm -rf killed killed.log
  for n in 4 1 3; do
    answer=$(stopped $n killed)
    [ "$answer" = 75 ] || break
  done
  [ "$answer" = 0 ] || break
done
same "$model: notices at 4, 1 and 3 ranks are answered with 75 (attempt $attempt, $n ranks)" 75 "$answer"
[ "$answer" = 75 ] || tail -n 20 killed.log
train 5 killed
same "$model: digest after three stops at 4, 1 and 3 ranks" "$(digest straight)" "$(digest killed)"
same "$model: losses after three stops" "$(losses straight)" "$(losses killed)"
check "$model: each sample once over three stops" once killed "$samples"
say_result
