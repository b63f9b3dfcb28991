#!/bin/bash
# Damaged checkpoints, numbers that are not finite, and trained models put to wrong use.
#   checkpoints.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/fault/refusals.sh
. "$(dirname "$(realpath "$0")")/refusals.sh"

"$MAKE_DATA" text text.txt 6000
"$MAKE_DATA" table table.csv 60 classification
"$MAKE_DATA" images images labels 40
works 'prepare text' 1 prepare text --output data --split validation=0.15 text.txt
works 'prepare table' 1 prepare table --target target --output table table.csv
works 'prepare images' 1 prepare images --output images-data images labels
cat >job.yaml <<YAML
model: {name: gpt, layers: 1, width: 8, heads: 2, context: 16}
data: {train: data/train, validation: data/validation}
train: {steps: 6, global_batch: 12, lanes: 4}
checkpoint: {every_steps: 2, busy: wait}
YAML
sed 's/^model.*/model: {name: mlp, hidden: [8]}/; s/data:.*/data: {train: table}/' job.yaml >mlp.yaml
sed 's/^model.*/model: {name: cnn, channels: [4]}/; s/data:.*/data: {train: images-data}/' job.yaml >cnn.yaml
works 'train' 2 train job.yaml --run whole
works 'train an mlp' 1 train mlp.yaml --run mlp
works 'train a cnn' 1 train cnn.yaml --run cnn
digest() { "$LOCKSTEP" checkpoint digest "$1" 2>/dev/null; }

# Numbers that are not finite: one line from all ranks, the last checkpoint stays
cat >wild.yaml <<YAML
model: {name: gpt, layers: 1, width: 8, heads: 2, context: 16}
data: {train: data/train}
train: {steps: 40, global_batch: 12, lanes: 4}
optimizer: {name: sgd, lr: 0.1}
checkpoint: {every_steps: 0}
YAML
for n in 1 2; do
  works 'a good start' $n train wild.yaml --run wild --set train.steps=2
  before=$(cat wild/checkpoints/*/* | sha256sum)
  for again in '' ' again'; do
    allowed='/wild/(run.json|config.yaml|metrics.jsonl|ledger.jsonl|undone)'
    refused "not finite$again" 77 $n 'step [0-9]+' 'lane [0-9]|gradient of' 'not finite' 'optimizer.lr' 'last checkpoint' -- \
      train wild.yaml --run wild --set optimizer.lr=1e6
  done
  same 'the checkpoints are as they were' "$before" "$(cat wild/checkpoints/*/* | sha256sum)"
  works 'with a lower rate it goes on' $n train wild.yaml --run wild --set train.steps=4
  same 'to the end' "step 4" "$(digest wild | sed 's/.*step/step/')"
  rm -rf wild
done

# Damaged checkpoints
copy() {
  rm -rf bad
  cp -r whole bad
}
newest=bad/checkpoints/step-00000006
older=bad/checkpoints/step-00000004
on_bad=(train job.yaml --run bad)
passed_over() { # NAME RANKS: resumes at 4, says so, sets the newest aside, and ends as `whole` did
  program=("$LOCKSTEP")
  works "$1: resumed" "$2" "${on_bad[@]}"
  program=("$LOCKSTEP" --quiet)
  same "$1: one warning" 1 "$(grep -c 'warning: passed over .*step-00000006' "$log")"
  check "$1: says where it goes on" grep -q 'resuming from .*step-00000004' "$log"
  same "$1: and where it put the other" 1 "$(grep -c 'warning: renamed .*step-00000006 to ' "$log")"
  check "$1: keeps the damaged one under another name" bash -c 'ls -d bad/checkpoints/*step-00000006* | grep -qv "/step-00000006$"'
  same "$1: the same end" "$(digest whole)" "$(digest bad)"
}
copy
flip $newest/state.h5 $(($(stat -c %s $newest/state.h5) / 2))
refused 'verify a flipped byte' 65 1 'bad' 'holds' -- checkpoint verify bad
passed_over 'flipped byte' 1
copy
flip $newest/state.h5 $(($(stat -c %s $newest/state.h5) / 2))
passed_over 'flipped byte, 2 ranks' 2
copy
truncate -s -64 $newest/state.h5
passed_over 'cut short' 1
copy
rm $newest/manifest.json
passed_over 'without a manifest' 1
copy
rm $newest/state.h5
passed_over 'without a state' 1
copy
: >$newest/manifest.json
passed_over 'empty manifest' 1
copy
for step in bad/checkpoints/step-*; do flip "$step/state.h5" $(($(stat -c %s "$step/state.h5") / 2)); done
for n in 1 2; do
  refused 'no checkpoint holds' 65 $n 'none of the 3' 'bad/checkpoints' 'another run directory' -- "${on_bad[@]}"
done
refused 'start from parameters that do not hold' 65 1 'bad/checkpoints' -- train job.yaml --run new --set train.initialize=bad
copy
sed -i 's/"\(format_\)\?version": 1/"\1version": 9/' $newest/manifest.json
for n in 1 2; do
  refused 'a checkpoint of a newer version' 65 $n 'step-00000006' 'newer' '9' -- "${on_bad[@]}"
done
# Whole, but of something else: than a configuration, than the job of their run directory
verify() { # NAME CODE ARGUMENTS...: as JSON
  local name=$1 code=$2
  shift 2
  same "$name: code" "$code" "$("$LOCKSTEP" checkpoint verify --json "$@" 2>/dev/null | sed -n 's/.*"code": "\(.*\)",/\1/p' | sort -u)"
}
verify 'the same model and data' ok whole --config job.yaml
verify 'its own run' ok whole/checkpoints/step-00000006
verify 'another width' wrong_model whole --config job.yaml --set model.width=16
verify 'another model' wrong_model whole --config mlp.yaml
verify 'other data' wrong_dataset whole --config job.yaml --set data.train=data/validation
refused 'verify, another width' 65 1 'not every checkpoint holds' -- checkpoint verify whole --config job.yaml --set model.width=16
check 'verify, another width: names the tensor' grep -q 'is of another model: tensor 0 is wte.weight 256x8 there and wte.weight 256x16 here' "$log"
refused 'verify, a configuration that is not there' 2 1 'none.yaml' -- checkpoint verify whole --config none.yaml
refused 'verify, --set alone' 2 1 '--config' -- checkpoint verify whole --set model.width=16
refused 'show with --config' 2 1 '--config' 'verify' -- checkpoint show whole --config job.yaml
copy
cp -r mlp/checkpoints/step-00000006 bad/checkpoints/step-00000008
verify "another job's checkpoint among its own" $'ok\nwrong_model' bad
rm -rf "${newest%6}8"
echo '{' >bad/run.json
verify 'a run.json that does not hold' ok bad
copy
truncate -s -64 $newest/state.h5
verify 'cut short' truncated $newest
copy
rm $newest/manifest.json
verify 'no manifest' no_manifest $newest
copy
flip $newest/state.h5 $(($(stat -c %s $newest/state.h5) / 2))
verify 'a flipped byte' bit_flip $newest
copy
sed -i 's/"step": 6/"step": 5/' $newest/manifest.json
verify 'an edited manifest' manifest_mismatch $newest
refused 'an edited manifest' 65 1 'step-00000006' -- checkpoint digest $newest
refused 'a checkpoint that is no checkpoint' 2 1 'text.txt' -- checkpoint digest text.txt
refused 'no such checkpoint' 2 1 'nowhere does not exist' -- checkpoint digest nowhere
refused 'diff of one' 2 1 'two' -- checkpoint diff whole
copy
rm -rf $older $newest bad/checkpoints/step-00000002
refused 'no checkpoint to show' 2 1 'bad' 'checkpoint' -- checkpoint show bad

# No room for any checkpoint: training goes on, then says so; nothing half-written stays
export OMPI_MCA_btl=self,tcp
for n in 1 2; do
  # shellcheck disable=SC2016
  program=(bash -c 'trap "" XFSZ; ulimit -f 64; exec "$0" "$@"' "$LOCKSTEP" --quiet)
  allowed='/full(/|$)'
  refused 'no room for a checkpoint' 74 $n '6 steps' 'checkpoint could not be saved' 'free space' -- \
    train job.yaml --run full --set collectives.link=mpi --set collectives.bucket_bytes=4096
  same 'each given up with a warning' 3 "$(grep -c 'warning: the checkpoint of step [246] is given up' "$log")"
  same 'none is left in part' 0 "$(find full/checkpoints -mindepth 1 | wc -l)"
  program=("$LOCKSTEP" --quiet)
  works 'with room it trains again' $n train job.yaml --run full
  same 'to the same bits' "$(digest whole)" "$(digest full)"
  rm -rf full
done
unset OMPI_MCA_btl

# The output's reader
if [ -w /dev/full ]; then
  status=0
  timeout 300 "$LOCKSTEP" checkpoint digest whole >/dev/full 2>"$log" || status=$?
  same 'a full disk under standard output: exit status' 74 $status
  same 'a full disk under standard output: one line' 1 "$(error_lines | grep -c 'standard output.*No space')"
  status=0
  timeout 300 "$LOCKSTEP" config job.yaml >/dev/full 2>"$log" || status=$?
  same 'a full disk under config: exit status' 74 $status
else
  echo 'skipped: /dev/full is not there'
fi

# Trained models put to wrong use
for command in evaluate generate; do
  for n in 1 2; do
    refused "$command: no such path" 2 $n 'nowhere does not exist' 'run directory' -- $command nowhere
  done
  refused "$command: no checkpoint there" 2 1 'data' 'checkpoint' -- $command data
  refused "$command: a file" 2 1 'text.txt' -- $command text.txt
done
refused 'predict: no such path' 2 1 'nowhere does not exist' -- predict nowhere table.csv
refused 'generate on a cnn' 2 1 'cnn' 'text' 'predict' -- generate cnn
refused 'generate on a cnn' 2 2 'cnn' 'text' 'predict' -- generate cnn
refused 'no validation data' 2 1 'data.validation' '--set' -- evaluate mlp
refused 'no validation data' 2 2 'data.validation' '--set' -- evaluate mlp
refused 'validation data of another kind' 2 1 'mlp' 'table' 'images' -- evaluate mlp --set data.validation=images-data
refused 'tokens below one' 2 1 '--tokens' -- generate whole --tokens 0
refused 'bad format' 2 1 '--format' 'xml' 'json' -- predict whole text.txt --format xml
refused 'predict: missing input' 2 1 'none' 'No such file' -- predict mlp none
cut -d, -f2- table.csv >narrow.csv
refused 'predict: a feature is missing' 65 1 'narrow.csv' 'column' '"?a"?' -- predict mlp narrow.csv
refused 'predict: a feature is missing' 65 2 'narrow.csv' 'column' '"?a"?' -- predict mlp narrow.csv
sed '5s/^[^,]*,/abc,/' table.csv >words.csv
refused 'predict: a word for a number' 65 1 'words.csv:5' 'abc' -- predict mlp words.csv
refused 'predict: images of another shape' 65 1 'labels|images' -- predict cnn labels
refused 'predict: text for a cnn' 65 1 'text.txt' 'IDX' -- predict cnn text.txt
echo 'the rank' >prompts
works 'predict: prompts' 1 predict whole prompts --tokens 3
check 'one line a prompt' [ "$(grep -c continuation "$log")" = 1 ]

: >file
mkdir folder
refused 'predict: a directory' 2 2 'folder is a directory' -- predict whole folder
refused 'predict: a directory for a table' 2 1 'folder is a directory' -- predict mlp folder
printf 'one\nt\0wo\n' >nul
refused 'predict: a prompt with a NUL byte' 65 1 'nul:2' 'NUL' -- predict whole nul --tokens 1
refused 'generate: no tokens' 2 1 '--tokens is 0' '1 or more' -- generate whole --tokens 0
refused 'generate: temperature' 2 1 '--temperature is -1' -- generate whole --temperature -1
refused 'evaluate: another model' 2 2 'model\.\*' -- evaluate whole --set model.width=16
refused 'dataset: a file' 2 1 'file: not a directory' -- dataset show file
refused 'diff of one' 2 1 '1 path, want two' -- checkpoint diff whole
refused 'verify what is not there' 2 1 'nowhere does not exist' -- checkpoint verify nowhere
refused '--best of all' 2 1 '--best' 'show' -- checkpoint list whole --best
# A name that is not UTF-8 is shown in JSON all the same.
odd=$'odd\xff'
cp -r whole "$odd"
works 'list: a name that is not UTF-8' 1 checkpoint list "$odd" --json
check 'and is said to be' grep -q '"path": "odd\\\\xff/' "$log"
works 'verify: a name that is not UTF-8' 1 checkpoint verify "$odd" --json
check 'and is said to be' grep -q '"path": "odd\\\\xff/' "$log"
rm -r "$odd"

# Starting from another job
refused 'start from nothing' 2 1 'train.initialize' 'nowhere' 'does not exist' -- train job.yaml --run new --set train.initialize=nowhere
for n in 1 2; do
  refused 'start from another model' 2 $n 'mlp' -- train job.yaml --run new --set train.initialize=mlp
done
mkdir empty
allowed='/empty/(lock|checkpoints)$' # a directory that was there stays, with what a next start takes over
refused 'start from another model, in a directory that was there' 2 1 'mlp' -- train job.yaml --run empty --set train.initialize=mlp
works 'a directory of failed starts is good for a job' 1 train job.yaml --run empty
say_result
