#!/bin/bash
# Whole trainings on the cuda device: losses beside the cpu's, the same bits at any number of ranks and in any
# order of threads, blocks and streams, and how often a step waits for the device.
#   training.sh LOCKSTEP MAKE_DATA MODULES gpt|cnn|mlp      MODULES: the folder of the emulated device; "": a GPU
LOCKSTEP=$1 MAKE_DATA=$2 modules=$3 model=$4
[ -z "$modules" ] || export LKS_MODULES=$modules
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"

case $model in
  gpt)
    "$MAKE_DATA" text text.txt 1900
    "$LOCKSTEP" prepare text --output data --split validation=0.15 text.txt
    shape='{name: gpt, layers: 2, width: 32, heads: 2, context: 16, dropout: 0.1}' ;;
  cnn)
    "$MAKE_DATA" images images labels 60
    "$LOCKSTEP" prepare images --output data --split validation=0.2 images labels
    shape='{name: cnn, channels: [4, 6], blocks: 1}' ;;
  mlp)
    "$MAKE_DATA" table table.csv 160 classification
    "$LOCKSTEP" prepare table --target target --output data --split validation=0.3 --shuffle 3 table.csv
    shape='{name: mlp, hidden: [24, 16], dropout: 0.2}' ;;
esac
cat >job.yaml <<YAML
model: $shape
data: {train: data/train, validation: data/validation}
train: {steps: 20, global_batch: 8, lanes: 4, seed: 5}
optimizer: {name: adamw, lr: 0.003, clip_norm: 1.0}
checkpoint: {every_steps: 100, keep: 1}
YAML
train() { # STEPS RANKS RUN OPTIONS...
  local steps=$1 n=$2 run=$3
  shift 3
  ranks "$n" "$LOCKSTEP" train job.yaml --run "$run" --set "train.steps=$steps" "$@" >"$run.log" 2>&1 ||
    { tail -n 5 "$run.log"; return 1; }
}

# close A B TOLERANCE: as many losses, each within TOLERANCE.
close() {
  paste -d ' ' <(losses "$1") <(losses "$2") |
    awk -v t="$3" '{ d = $2 - $4; if ($1 != $3 || d > t || -d > t) { print "step " $1 ": " $2 " and " $4; bad = 1 } } END { exit bad || !NR }'
}

gpu=(--set device.name=cuda)
check "cpu" train 20 1 cpu --set device.name=cpu
check "cuda" train 20 1 long "${gpu[@]}"
check "losses as the cpu's, to 1e-4" close cpu long 1e-4

check "one rank" train 4 1 one "${gpu[@]}"
check "again" train 4 1 again "${gpu[@]}"
same "two runs" "$(digest one)" "$(digest again)"
if [ -n "$modules" ]; then
  LKS_EMULATION_SEED=7 LKS_EMULATION_MULTIPROCESSORS=3 check "another order" train 4 1 order "${gpu[@]}"
  same "another order of threads, blocks and streams" "$(digest one)" "$(digest order)"
fi
for n in 2 4; do
  check "$n ranks" train 4 $n "ranks-$n" "${gpu[@]}"
  same "digest at $n ranks" "$(digest one)" "$(digest ranks-$n)"
done

half=("${gpu[@]}" --set train.precision=bf16)
check "bf16" train 4 1 half "${half[@]}"
check "losses in bf16 near those in f32" close one half 0.1
check "bf16, 2 ranks" train 4 2 half-2 "${half[@]}"
same "bf16: digest at 2 ranks" "$(digest half)" "$(digest half-2)"

# Where the time goes, as the device counts it: rows of kernels and of flat memory, and no more together than the step.
if [ "$model" = gpt ]; then
  LKS_EMULATION_RACES=0 check "a profile" train 6 1 profile "${gpu[@]}" --profile
  for kernel in linear attention attention_grad norm cross_entropy embedding_grad sum_blocks update; do
    check "the profile has $kernel, and time for it" \
      awk -v k="$kernel" '$2 == k && $3 >= 1 && $4 > 0 { found = 1 } END { exit !found }' profile.log
  done
  check "the profile's parts are no more than the step" \
    awk '/ all of these / { parts = $6 } $2 == "step" && NF == 5 { whole = $4 } END { exit !(parts > 0 && parts <= whole) }' profile.log
fi

# What ten more steps cost in waits of the host for all of a stream, and in allocations.
if [ -n "$modules" ]; then
  for steps in 3 13; do
    LKS_EMULATION_RACES=0 LKS_EMULATION_COUNTS=counts-$steps check "$steps steps" train "$steps" 1 "counted-$steps" "${gpu[@]}"
  done
  difference() { echo $(($(awk -v k="$1" '$1 == k { print $2 }' counts-13) - $(awk -v k="$1" '$1 == k { print $2 }' counts-3))); }
  # In one place of a step, for the losses and for the sums of squares.
  check "one wait a step: $(difference waits) in ten" test "$(difference waits)" -eq 10
  same "allocations in ten steps" "$(difference allocations)" 0
fi

say_result
