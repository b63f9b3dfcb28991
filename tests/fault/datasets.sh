#!/bin/bash
# Datasets and run directories that do not fit: one line, the right status, nothing touched.
#   datasets.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/fault/refusals.sh
. "$(dirname "$(realpath "$0")")/refusals.sh"

"$MAKE_DATA" text text.txt 6000
"$MAKE_DATA" table table.csv 60 classification
"$MAKE_DATA" images images labels 40
works 'prepare text' 1 prepare text --output data --split validation=0.15 text.txt
works 'prepare other text' 1 prepare text --output other table.csv
works 'prepare table' 1 prepare table --target target --output table --split validation=0.2 table.csv
works 'prepare narrow table' 1 prepare table --target target --output narrow --ignore a table.csv
works 'prepare images' 1 prepare images --output images-data images labels
cat >job.yaml <<YAML
model: {name: gpt, layers: 1, width: 8, heads: 2, context: 16}
data: {train: data/train, validation: data/validation}
train: {steps: 4, global_batch: 12, lanes: 4}
checkpoint: {every_steps: 2, busy: wait}
YAML

# A damaged dataset
copy() { # DIR: a fresh copy of the training part, to be damaged
  rm -rf bad
  cp -r data/train bad
}
on_bad=(train job.yaml --run run --set data.train=bad)
refused 'no dataset set' 2 1 'data.train' 'prepare' -- train job.yaml --run run --set data.train=
refused 'no such dataset' 2 1 'nowhere' 'prepare' -- train job.yaml --run run --set data.train=nowhere
refused 'no such dataset' 2 2 'nowhere' 'prepare' -- train job.yaml --run run --set data.train=nowhere
refused 'a folder, not a dataset' 2 1 'data/train' 'name that one' -- train job.yaml --run run --set data.train=data
refused 'no such dataset, show' 2 1 'nowhere' -- dataset show nowhere
copy
rm bad/shard-00000.h5
refused 'missing shard' 65 1 'bad/shard-00000.h5' -- "${on_bad[@]}"
refused 'missing shard' 65 2 'bad/shard-00000.h5' -- "${on_bad[@]}"
copy
truncate -s -100 bad/shard-00000.h5
refused 'shard cut short' 65 1 'bad/shard-00000.h5' 'bytes' -- "${on_bad[@]}"
copy
flip bad/shard-00000.h5 4000
status=0
timed 1 dataset verify bad >"$log" 2>&1 || status=$?
same 'verify finds a flipped byte' 65 $status
check 'verify names the shard' grep -q 'shard-00000.h5' "$log"
for n in 1 2; do
  allowed='/run(/.*)?$'
  refused 'flipped byte' 65 $n 'bad/shard-00000.h5' 'block 0' 'expected' 'found' -- "${on_bad[@]}"
  check 'a job that never got through a step has no checkpoint' [ -z "$(find run -name state.h5)" ]
  rm -rf run
done
rm -rf bad
cp -r data/validation bad
flip bad/shard-00000.h5 "$(($(stat -c %s bad/shard-00000.h5) - 10))"
for n in 1 2; do
  allowed='/run(/.*)?$'
  refused 'flipped byte in the validation part' 65 $n 'bad/shard-00000.h5' 'block 0' 'expected' 'found' -- \
    train job.yaml --run run --set data.validation=bad
  rm -rf run
done
edit() { # SED: the manifest of a fresh copy, changed
  copy
  sed -i "$1" bad/manifest.json
}
edit 's/"version": 1/"version": 9/'
refused 'manifest of a newer version' 65 1 'bad/manifest.json' 'newer' '9' -- "${on_bad[@]}"
edit 's/"vocabulary": [0-9]*/"vocabulary": 77/'
refused 'edited manifest' 65 1 'bad/manifest.json' 'digest' 'changed' -- "${on_bad[@]}"
refused 'edited manifest' 65 2 'bad/manifest.json' 'digest' 'changed' -- "${on_bad[@]}"
edit 's/"records"/"recrods"/'
refused 'manifest without a key' 65 1 'bad/manifest.json' 'records' -- "${on_bad[@]}"
# shellcheck disable=SC2016
edit '3,$d'
refused 'manifest cut short' 65 1 'bad/manifest.json' -- "${on_bad[@]}"
copy
: >bad/manifest.json
refused 'empty manifest' 65 1 'bad/manifest.json' 'empty|JSON' -- "${on_bad[@]}"
copy
cp job.yaml bad/shard-00000.h5
refused 'shard that is no HDF5' 65 1 'bad/shard-00000.h5' -- "${on_bad[@]}"

# Datasets that do not fit
refused 'images for a gpt' 2 1 'gpt' 'text' 'images' -- train job.yaml --run run --set data.train=images-data
refused 'images for a gpt' 2 2 'gpt' 'text' 'images' -- train job.yaml --run run --set data.train=images-data
sed 's/^model.*/model: {name: mlp, hidden: [8]}/; s/data:.*/data: {train: table\/train}/' job.yaml >mlp.yaml
sed 's/^model.*/model: {name: cnn, channels: [4]}/; s/data:.*/data: {train: images-data}/' job.yaml >cnn.yaml
refused 'a text for an mlp' 2 1 'data/train' 'text' 'gpt' -- train mlp.yaml --run run --set data.train=data/train
refused 'a table for a cnn' 2 1 'cnn' 'images' 'table' -- train cnn.yaml --run run --set data.train=table/train
refused 'validation of another kind' 2 1 'data.validation' 'table/validation' 'text' -- train job.yaml --run run --set data.validation=table/validation
refused 'validation of another width' 2 1 'narrow' 'features' -- train mlp.yaml --run run --set data.validation=narrow
refused 'validation of another width' 2 2 'narrow' 'features' -- train mlp.yaml --run run --set data.validation=narrow

# A run directory that exists
refused '--resume must without a job' 2 1 'run\b' 'no job' -- train job.yaml --run run --resume must
refused '--resume must without a job' 2 2 'run\b' 'no job' -- train job.yaml --run run --resume must
mkdir -p home
echo important >home/letter
refused "somebody's directory" 2 1 'home' 'letter' '--run' -- train job.yaml --run home
refused "somebody's directory" 2 2 'home' 'letter' '--run' -- train job.yaml --run home
refused 'a file as run directory' 74 1 'table.csv' 'directory' -- train job.yaml --run table.csv
refused 'run directory below a file' 74 1 'table.csv' 'directory' -- train job.yaml --run table.csv/run
works 'train' 2 train job.yaml --run run
again=(train job.yaml --run run)
refused '--resume never with a job' 2 1 'run\b' 'holds a job' '--run' -- "${again[@]}" --resume never
refused 'run directory of another model' 2 1 'model.name' 'gpt' 'mlp' -- train mlp.yaml --run run
refused 'run directory of another model' 2 2 'model.name' 'gpt' 'mlp' -- train mlp.yaml --run run
refused 'fixed option changed' 2 1 'train.seed' '\b0\b|\b1\b' '\b7\b' -- "${again[@]}" --set train.seed=7
refused 'fixed option changed' 2 2 'train.seed' '\b7\b' -- "${again[@]}" --set train.seed=7
refused 'size of the model changed' 2 1 'model.width' '\b8\b' '\b16\b' -- "${again[@]}" --set model.width=16
refused 'batch changed' 2 1 'train.global_batch' '\b12\b' '\b24\b' -- "${again[@]}" --set train.global_batch=24
refused 'lanes changed' 2 1 'train.lanes' '\b4\b' '\b6\b' -- "${again[@]}" --set train.lanes=6
refused 'other data' 2 1 'run' 'dataset|data.train' 'other' -- "${again[@]}" --set data.train=other
for file in run.json config.yaml; do
  cp -r run kept
  if [ $file = run.json ]; then
    sed -i 's/"version": 1/"version": 9/' run/run.json
    refused 'run.json of a newer version' 65 1 'run/run.json' 'newer' '9' -- "${again[@]}"
    sed -i '4,$d' run/run.json
    refused 'run.json cut short' 65 1 'run/run.json' -- "${again[@]}"
    : >run/run.json
    refused 'empty run.json' 65 1 'run/run.json' -- "${again[@]}"
  fi
  rm -rf run
  mv kept run
done
program=("$LOCKSTEP")
works 'scheduled option changed' 1 "${again[@]}" --set train.steps=6 --set optimizer.lr=0.5
check 'a changed scheduled option is logged, old and new' grep -qE 'train.steps.*\b4\b.*\b6\b' "$log"
check 'and another' grep -qE 'optimizer.lr.*0.001.*0.5' "$log"
program=("$LOCKSTEP" --quiet)

# Two jobs in one directory: the second is refused, the first goes on
"$LOCKSTEP" --quiet train job.yaml --run long --set train.steps=1000000000 --set checkpoint.every_steps=0 >first.log 2>&1 &
first=$!
trap 'kill $first || true; rm -rf "$work"' EXIT
until [ -s long/metrics.jsonl ] || ! kill -0 $first; do sleep 0.01; done
for n in 1 2; do
  allowed='/long/(metrics|ledger).jsonl$'
  refused 'a second job in one run directory' 2 $n 'long' 'another job' '--run' -- train job.yaml --run long
done
kill -USR2 $first
status=0
wait $first || status=$?
trap 'rm -rf "$work"' EXIT
same 'the first job goes on until its notice' 75 $status

# Places that cannot be written
refused 'read-only run directory' 74 1 '/proc/run' -- train job.yaml --run /proc/run
refused 'read-only run directory' 74 2 '/proc/run' -- train job.yaml --run /proc/run
mkdir fixed
if unshare -m mount -t tmpfs -o ro none fixed 2>/dev/null; then
  # shellcheck disable=SC2016
  program=(unshare -m sh -c 'mount -t tmpfs -o ro none fixed; exec "$0" "$@"' "$LOCKSTEP" --quiet)
  refused 'read-only file system, run' 74 1 'fixed/run' 'Read-only' -- train job.yaml --run fixed/run
  refused 'read-only file system, run itself' 74 1 'fixed' 'Read-only' -- train job.yaml --run fixed
  refused 'read-only file system, run itself' 74 2 'fixed' 'Read-only' -- train job.yaml --run fixed
  refused 'read-only file system, output' 74 1 'fixed/data' 'Read-only' -- prepare text --output fixed/data text.txt
  program=("$LOCKSTEP" --quiet)
else
  echo 'skipped: read-only file system: no mount namespace allowed here'
fi
say_result
