#!/bin/bash
# A checkpoint copied elsewhere is as good as the original; a job saved at 4 ranks goes on at any number.
#   copied.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"
"$MAKE_DATA" table table.csv 160 regression
"$LOCKSTEP" prepare table --target target --output data --split validation=0.3 table.csv >/dev/null
cat >job.yaml <<YAML
model: {name: mlp, hidden: [24, 16]}
data: {train: data/train, validation: data/validation}
train: {steps: 9, global_batch: 16, lanes: 8, seed: 5, validate_every_steps: 3}
optimizer: {name: adamw, lr: 0.01}
checkpoint: {every_steps: 3, keep: 2}
YAML
train() { # RANKS RUN OPTIONS...
  local n=$1 run=$2
  shift 2
  ranks "$n" timeout 300 "$LOCKSTEP" train job.yaml --run "$run" "$@" >"$run.log" 2>&1 || { cat "$run.log"; return 1; }
}
check 'straight' train 1 straight
check 'half, at 4 ranks' train 4 half --set train.steps=5
for n in 1 3 8; do
  cp -r half at$n
  check "on at $n ranks" train $n at$n
  check "at $n ranks it went on from step 5" grep -q 'resuming from at.*step-00000005$' at$n.log
  same "saved at 4 ranks, on at $n: the digest" "$(digest straight)" "$(digest at$n)"
  same "saved at 4 ranks, on at $n: the losses" "$(losses straight)" "$(losses at$n)"
done

mkdir -p elsewhere
cp -r half/checkpoints/step-00000005 elsewhere/mine
same 'the copy: digest' "$(digest half)" "$(digest elsewhere/mine)"
rm -rf half
check 'the copy verifies' "$LOCKSTEP" checkpoint verify elsewhere/mine
check 'the copy can be evaluated' "$LOCKSTEP" evaluate --json elsewhere/mine >evaluated.json
check 'another job starts from it' train 2 new --set train.initialize=elsewhere/mine --set train.steps=1 --set optimizer.lr=1e-30
check 'and says so' grep -q 'initial parameters from elsewhere/mine' new.log
number() { sed -n "s/.*\"$1\": \([-+.e0-9]*\).*/\1/p" "$2" | head -n 1; }
same 'with the same parameters' "$(number loss evaluated.json)" "$(number validation_loss new/metrics.jsonl)"
say_result
