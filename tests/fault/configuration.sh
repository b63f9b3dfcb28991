#!/bin/bash
# Bad commands and configurations: exit 2, one line, nothing written.
#   configuration.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/fault/refusals.sh
. "$(dirname "$(realpath "$0")")/refusals.sh"

"$MAKE_DATA" text text.txt 1900
works 'prepare' 1 prepare text --output data --split validation=0.15 text.txt
cat >job.yaml <<YAML
model: {name: gpt, layers: 1, width: 8, heads: 2, context: 16}
data: {train: data/train}
train: {steps: 2, global_batch: 12, lanes: 4}
YAML
train=(train job.yaml --run run)

# The command line
refused 'unknown command' 2 1 'trian' 'lockstep train' -- trian
refused 'unknown command' 2 2 'trian' 'lockstep train' -- trian
refused 'nothing like a command' 2 1 'xylophone' '--help' -- xylophone
refused 'unknown flag' 2 1 '--resum\b' '--resume' -- train job.yaml --resum must
refused 'unknown flag of prepare' 2 1 '--targt' '--target' -- prepare table --targt x --output o text.txt
refused 'unknown format' 2 1 'texts' 'text' 'table' -- prepare texts --output o text.txt
refused 'no format' 2 1 'format' 'text' -- prepare
refused 'no output' 2 1 '--output' -- prepare text text.txt
refused 'no input' 2 1 'input' -- prepare text --output o
refused 'bad split' 2 1 '--split' '1\.5' 'validation=0.1' -- prepare text --output o --split validation=1.5 text.txt
refused 'flag without value' 2 1 '--run' 'DIR' -- train job.yaml --run
refused 'no configuration named' 2 1 'CONFIG' -- train
refused 'bad --resume' 2 1 'maybe' 'auto' 'never' -- "${train[@]}" --resume maybe
refused '--set without =' 2 1 '--set train.steps' 'section.key=value' -- "${train[@]}" --set train.steps
refused '--set without a section' 2 1 'steps' 'section.key' -- "${train[@]}" --set steps=3
refused 'flag that is no number' 2 1 '--tokens' 'many' 'whole number' -- generate run --tokens many
refused 'unknown verb of dataset' 2 1 'sho\b' 'show' -- dataset sho data/train
refused 'unknown verb of checkpoint' 2 1 'lst' 'list' -- checkpoint lst run

refused 'two arguments' 2 1 '2 arguments, want 1' -- config job.yaml job.yaml
refused 'no argument' 2 1 '0 arguments, want 1' -- config

# lockstep launch
refused '--ranks' 2 1 '--ranks is -1' '1 to 65536' '0' -- launch --ranks -1 -- "${train[@]}"
refused '--min-ranks' 2 1 '--min-ranks is 0' '1 or more' -- launch --min-ranks 0 -- "${train[@]}"
refused '--min-ranks above --ranks' 2 1 '--min-ranks is 3 and --ranks 2' -- launch --ranks 2 --min-ranks 3 -- "${train[@]}"
refused '--mpirun that refuses' 2 1 '/bin/false ended with status 1' '-n 1 hostname' -- launch --mpirun /bin/false -- "${train[@]}"
refused '--mpirun that is a directory' 2 1 '/tmp is not a program' '--mpirun' -- launch --mpirun /tmp -- "${train[@]}"
refused '--mpirun that is nothing' 2 1 '--mpirun' -- launch --mpirun '' -- "${train[@]}"

# Keys and values
refused 'unknown key in --set' 2 1 '--set' 'model.widht' 'model.width' -- "${train[@]}" --set model.widht=3
refused 'unknown key in --set' 2 2 '--set' 'model.widht' 'model.width' -- "${train[@]}" --set model.widht=3
sed 's/width/widht/' job.yaml >typo.yaml
refused 'unknown key in the file' 2 1 'typo.yaml:1' 'model.widht' 'model.width' -- train typo.yaml --run run
refused 'unknown key, config' 2 1 'typo.yaml:1' 'model.widht' 'model.width' -- config typo.yaml
export LOCKSTEP_TRAIN_STEPZ=3
refused 'unknown key in the environment' 2 1 'LOCKSTEP_TRAIN_STEPZ' 'train.steps' -- "${train[@]}"
unset LOCKSTEP_TRAIN_STEPZ
export LOCKSTEP_TRAIN_LANES=0x
refused 'bad value in the environment' 2 1 'LOCKSTEP_TRAIN_LANES' 'train.lanes' '0x' -- "${train[@]}"
unset LOCKSTEP_TRAIN_LANES
refused 'unknown section' 2 1 'modl.width' 'model.width' -- "${train[@]}" --set modl.width=3
refused 'value out of range' 2 1 'model.dropout' '1\.5' '\b0\b' '\b1\b' -- "${train[@]}" --set model.dropout=1.5
refused 'negative steps' 2 1 'train.steps' '-3' '0' -- "${train[@]}" --set train.steps=-3
refused 'too large for an integer' 2 1 'train.steps' '99999999999999999999' -- "${train[@]}" --set train.steps=99999999999999999999
refused 'wrong type' 2 1 'model.layers' 'two' 'an integer' -- "${train[@]}" --set model.layers=two
refused 'wrong type: fraction' 2 1 'model.layers' '1\.5' 'an integer' -- "${train[@]}" --set model.layers=1.5
refused 'wrong type: truth' 2 1 'report.ledger' 'perhaps' 'true' -- "${train[@]}" --set report.ledger=perhaps
refused 'wrong type: list' 2 1 'channels' 'x' 'an integer' -- "${train[@]}" --set model.name=cnn --set model.channels='[4,x]'
refused 'not a number' 2 1 'optimizer.lr' 'nan' -- "${train[@]}" --set optimizer.lr=nan
refused 'bad choice' 2 1 'train.precision' 'f17' 'f32' -- "${train[@]}" --set train.precision=f17
refused 'unknown model' 2 1 'gtp' 'gpt' '\.so' -- "${train[@]}" --set model.name=gtp
refused 'unknown optimizer' 2 1 'optimizer.name' 'adamx' 'adamw' -- "${train[@]}" --set optimizer.name=adamx
refused 'unknown schedule' 2 1 'schedule.name' 'cosin\b' 'cosine' -- "${train[@]}" --set schedule.name=cosin
refused 'unknown device' 2 1 'device' 'gpx' 'cpu' -- "${train[@]}" --set device.name=gpx
refused 'unknown link' 2 1 'collectives.link' 'pigeon' 'shm' -- "${train[@]}" --set collectives.link=pigeon
refused 'unknown link' 2 2 'collectives.link' 'pigeon' 'shm' -- "${train[@]}" --set collectives.link=pigeon
refused 'link of GPUs without one' 2 1 'collectives.link' 'nccl. joins GPUs' 'shm' -- "${train[@]}" --set collectives.link=nccl
refused 'no optimizer' 2 1 'optimizer.name is ""' 'adamw' -- "${train[@]}" --set optimizer.name=
refused 'heads that do not divide the width' 2 1 'model.heads' '3' '8' -- "${train[@]}" --set model.heads=3

# Files
refused 'missing configuration' 2 1 'none.yaml' -- train none.yaml --run run
refused 'missing configuration' 2 2 'none.yaml' -- train none.yaml --run run
: >empty.yaml
refused 'empty configuration' 2 1 'empty.yaml' 'sections like' -- train empty.yaml --run run
refused 'directory as configuration' 2 1 'data' 'directory' -- train data --run run
printf 'model: {name: gpt\ntrain: [\n' >broken.yaml
refused 'YAML syntax' 2 1 'broken.yaml:[23]' -- train broken.yaml --run run
printf 'model: {name: gpt}\n- x\n' >broken.yaml
refused 'YAML syntax, a list after a mapping' 2 1 'broken.yaml:2' -- train broken.yaml --run run
printf 'model:\n  name: gpt\n  width: 8\n  width: 16\n' >twice.yaml
refused 'repeated key' 2 1 'twice.yaml:4' 'model.width' 'twice.yaml:3' -- train twice.yaml --run run
printf 'just words\n' >words.yaml
refused 'YAML without sections' 2 1 'words.yaml:1' 'section' -- train words.yaml --run run
printf '\xff\xfe\x00m\x00' >binary.yaml
refused 'not text' 2 1 'binary.yaml' -- train binary.yaml --run run

refused 'empty name of a configuration' 2 1 'name is empty' -- train '' --run run
printf '\xef\xbb\xbfmodel: {name: gpt}\r\ntrain: {steps: 3}\r\n' >mark.yaml
works 'a byte order mark and lines that end in CR LF' 1 config mark.yaml

mkfifo pipe
refused 'a pipe that nobody writes to' 2 1 'pipe is empty' -- train pipe --run run
rm pipe
sed 's/gpt/[gpt]/' job.yaml >list.yaml
refused 'a list for one value' 2 1 'list.yaml:1' 'model.name is a list' 'one value' -- train list.yaml --run run
refused 'a list for one value' 2 2 'list.yaml:1' 'model.name is a list' -- train list.yaml --run run

# Another driver than the file's: what only that one knows gives way, said once, where the name came later
cp job.yaml other.yaml
cat >>other.yaml <<YAML
optimizer: {name: adamw, lr: 0.01, beta2: 0.95}
schedule: {name: cosine, warmup_steps: 1, final_fraction: 0.2}
YAML
program=("$LOCKSTEP")
works 'another optimizer and schedule' 1 config other.yaml --set optimizer.name=sgd --set schedule.name=constant
check 'what is left out is said' grep -q 'warning: optimizer.name is sgd here, which does not know optimizer.beta2 (other.yaml:[0-9]*): left out' "$log"
check 'what is left out is said, schedule' grep -q 'warning: schedule.name is constant here, .* schedule.final_fraction (other.yaml:[0-9]*)' "$log"
check 'what both know stays' grep -q 'warmup_steps: 1' "$log"
LOCKSTEP_OPTIMIZER_NAME=sgd works 'by the environment' 2 train other.yaml --run other
same 'one of the ranks says it' 1 "$(grep -c 'does not know optimizer.beta2' "$log")"
program=("$LOCKSTEP" --quiet)
refused 'another optimizer, and its option from the same source' 2 1 '--set' 'optimizer.beta2' -- \
  train other.yaml --run run --set optimizer.name=sgd --set optimizer.beta2=0.9
sed 's/adamw/sgd/' other.yaml >same.yaml
refused 'an option of another optimizer in the same file' 2 1 'same.yaml' 'optimizer.beta2' -- train same.yaml --run run

# More memory than there is: refused before anything large is planned or taken
huge=('at least [0-9.]+ [GTPE]iB of memory' 'available' 'lower')
refused 'parameters' 2 1 "${huge[@]}" 'checkpoint.buffers=1' 'model\.\*' -- "${train[@]}" --set model.width=200000 --set model.heads=8
refused 'parameters' 2 2 "${huge[@]}" 'for 2 ranks' -- "${train[@]}" --set model.width=200000 --set model.heads=8
refused 'activations' 2 1 "${huge[@]}" 'activations' 'train.micro_batch' -- "${train[@]}" --set train.global_batch=800000000 --set train.micro_batch=200000000
refused 'many layers and activations' 2 1 "${huge[@]}" 'activations' -- \
  "${train[@]}" --set model.layers=10000 --set train.global_batch=8000000 --set train.micro_batch=2000000

# Lanes, ranks, steps
refused 'more ranks than lanes' 2 3 '3 ranks' 'train.lanes is 2' 'at most 2' -- "${train[@]}" --set train.lanes=2
refused 'more ranks than the batch' 2 3 '3 ranks' 'at most 2' -- "${train[@]}" --set train.global_batch=2 --set train.lanes=0
refused 'lanes that do not divide the batch' 2 1 'train.lanes is 5' 'global_batch 12' '4 and 6' -- "${train[@]}" --set train.lanes=5
refused 'lanes that do not divide the batch' 2 2 'train.lanes is 5' '4 and 6' -- "${train[@]}" --set train.lanes=5
refused 'micro-batch that does not divide' 2 1 'train.micro_batch is 2' '3' '1 and 3' -- "${train[@]}" --set train.micro_batch=2
refused 'neither steps nor epochs' 2 1 'train.steps' 'train.epochs' -- "${train[@]}" --set train.steps=0
refused 'neither steps nor epochs' 2 2 'train.steps' 'train.epochs' -- "${train[@]}" --set train.steps=0
works 'ranks that do not divide the lanes' 3 "${train[@]}"
works 'a part of a sample' 1 train job.yaml --run part --set train.steps=0 --set train.epochs=1e-9
check 'a part of a sample is one step' grep -q '"step": 1,' part/metrics.jsonl

# Flags of another command, paths that are not there
refused 'a flag of evaluate given to generate' 2 1 '--json' -- generate run --json
refused 'a flag of generate given to evaluate' 2 1 '--tokens' -- evaluate run --tokens 3
refused 'list: no such path' 2 1 'nowhere does not exist' 'run directory' -- checkpoint list nowhere
refused 'list: no run directory' 2 1 'data/train holds no checkpoint' -- checkpoint list data/train
checkpoint=$(echo run/checkpoints/step-*)
works 'list of a checkpoint' 1 checkpoint list "$checkpoint"
check 'a checkpoint is listed' grep -qF "$checkpoint" "$log"
for verb in 'dataset show' 'checkpoint list' 'checkpoint digest'; do
  status=0
  # shellcheck disable=SC2086
  timeout 60 "$LOCKSTEP" $verb nowhere data/train run elsewhere >/dev/null 2>"$log" || status=$?
  same "$verb of several: exit status" 2 $status
  check "$verb of several: the first that fails is named" grep -q 'nowhere' "$log"
  check "$verb of several: the last that fails is named" grep -q 'elsewhere' "$log"
done

# With --json one document comes out, of one path and of two
for facts in 'dataset show data/train' 'dataset verify data/train' 'checkpoint list run' \
  'checkpoint show run' 'checkpoint verify run' 'checkpoint digest run'; do
  for paths in "$facts" "$facts ${facts##* }"; do
    # shellcheck disable=SC2086
    check "$paths --json" python3 -m json.tool <(timeout 60 "$LOCKSTEP" $paths --json) /dev/null
  done
done

# Help that cannot be printed
if [ -w /dev/full ]; then
  for help in '--help' '--version' 'train --help'; do
    status=0
    # shellcheck disable=SC2086
    timeout 60 "$LOCKSTEP" $help >/dev/full 2>"$log" || status=$?
    same "$help on a full disk: exit status" 74 $status
    check "$help on a full disk: said" grep -q 'standard output: No space left on device' "$log"
  done
fi

# Standard streams that are closed: what is said goes nowhere, into no file either
status=0
timeout 60 "$LOCKSTEP" train job.yaml --run closed >&- 2>&- <&- || status=$?
same 'closed standard streams: exit status' 0 $status
same 'closed standard streams: in no file of the run' 'none' "$(grep -rla '^lockstep: ' closed || echo none)"
status=0
timeout 60 "$LOCKSTEP" checkpoint digest closed >&- 2>"$log" || status=$?
same 'nowhere to print: exit status' 74 $status

# Models of users
refused 'a model that is not there' 2 1 './none.so' 'model.name' -- train job.yaml --run r --set model.name=./none.so
refused 'a model that is no library' 2 1 './text.txt' -- train job.yaml --run r --set model.name=./text.txt
library=$(ldd "$LOCKSTEP" | awk '/libz\.|libjansson/ { print $3; exit }')
refused 'a library without a model' 2 1 "$library" 'lks_model_driver_export' -- train job.yaml --run r --set model.name="$library"
# More than any node holds: known before a table of its blocks is made
refused 'a model too wide' 2 1 'h.0.attn.qkv.weight' '3000000x1000000' '2\^40' 'smaller' -- "${train[@]}" --set model.width=1000000
refused 'a model too wide and deep' 2 2 '2\^40' -- "${train[@]}" --set model.width=100000 --set model.layers=10000
say_result
