#!/bin/bash
# lockstep launch --print slurm: what is filled in, and what is refused.
#   print.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
here=$(dirname "$(realpath "$0")")
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"
templates=$here/../../scripts/slurm
cat >my_gpt.yaml <<'YAML'
model: {name: gpt, layers: 1, width: 16, heads: 2, context: 16}
data: {train: data}
train: {steps: 5, global_batch: 64, lanes: 16}
YAML

# print OPTIONS... [-- TRAIN-ARGUMENTS]: into the file "out"; train is "train my_gpt.yaml" and what follows.
print() {
  local own=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do own+=("$1"); shift; done
  "$LOCKSTEP" launch --print "${own[@]}" -- train my_gpt.yaml "${@:2}" >out 2>err
}
option() { sed -n "s/^#SBATCH --$1=//p" out; }
has_line() { grep -qxF -- "$1" out; }

# The text is that of scripts/slurm but for what is filled in.
for kind in slurm:train slurm-srun:train-srun; do
  check "$kind is printed" print "${kind%%:*}" --nodes 2
  same "$kind: only what is filled in differs" '#SBATCH --job-name=my-gpt' \
    "$(grep -vxFf "$templates/${kind#*:}.sbatch" out | grep -v '^train=\|^lockstep=')"
  check "$kind: the program" has_line "lockstep=$LOCKSTEP"
  check "$kind: the configuration" has_line 'train=(my_gpt.yaml "$@")'
  check "$kind is a script" bash -n out
  check "$kind: nothing is said" [ ! -s err ]
done

check 'CPU ranks' print slurm --nodes=4 --ranks-per-node 2 --partition low --time 2:00:00 --name try-1 \
  --sbatch account=me --sbatch exclusive --sbatch=--mem=0 --sbatch output=/logs/%j --max-restarts 3 --min-ranks=2
same 'nodes, ranks, name' '4 2 try-1' "$(option nodes) $(option ntasks-per-node) $(option job-name)"
same 'partition, time, account, mem' 'low 2:00:00 me 0' "$(option partition) $(option time) $(option account) $(option mem)"
check 'a switch of sbatch' has_line '#SBATCH --exclusive'
same 'an option of the text is replaced' /logs/%j "$(option output)"
check 'options of launch are handed on' has_line 'options=(--max-restarts 3 --min-ranks 2)'
same 'options of sbatch stand before all else' 0 "$(sed '1,/^#$/d' out | grep -c '^#SBATCH')"
check 'GPU ranks' print slurm --nodes 2 --gpus-per-node 8
same 'GPUs, ranks, binding' '8 8 none' "$(option gpus-per-node) $(option ntasks-per-node) $(option gpu-bind)"

words=(--run "runs/a b'c" --set 'data.train=$HOME "x"' --set data.validation=%a)
check 'any words' print slurm --nodes 1 -- "${words[@]}"
train=()
set -- # what sbatch would give the script
eval "$(grep '^train=(' out)"
same 'any words come through' "my_gpt.yaml ${words[*]}" "${train[*]}"
same 'word by word' 7 ${#train[@]}

# A short start is told of its end later.
lead() { print slurm --nodes 1 --time "$1" && option signal; }
same 'notice before the end' 'B:USR2@225 B:USR2@60 B:USR2@300 B:USR2@300 B:USR2@150 B:USR2@60 B:USR2@300' \
  "$(lead 15) $(lead 4) $(lead 0:30:00) $(lead 1-0) $(lead 0-0:10) $(lead 3:30) $(lead UNLIMITED)"

refused() { # MESSAGE OPTIONS...
  local status=0 message=$1
  shift
  print "$@" || status=$?
  same "refused: $*" "2 0 1" "$status $(wc -c <out) $(grep -cF -- "$message" err)"
}
refused '--print is "slrm", want slurm' slrm --nodes 1
refused '--nodes is 0, want 1 to 65536' slurm
refused '--nodes is -1' slurm --nodes -1
refused '--nodes is "x", want a whole number' slurm --nodes x
refused '--ranks-per-node is -1' slurm --nodes 1 --ranks-per-node -1
refused 'a rank is one GPU' slurm --nodes 1 --ranks-per-node 2 --gpus-per-node 4
refused '5 nodes of 4 ranks are 20, and my_gpt.yaml has 16 lanes' slurm --nodes 5 --ranks-per-node 4
refused '17 nodes of 1 rank' slurm --nodes 17
refused '--name is "A", want' slurm --nodes 1 --name A
refused '--partition is "a b"' slurm --nodes 1 --partition 'a b'
for time in x 5x 1: :5 1-2-3 1:2:3:4 '' 2 0:1 9999999999999999999-0; do
  refused "--time is \"$time\"" slurm --nodes 1 --time "$time"
done
refused '--nodes is set already' slurm --nodes 1 --sbatch nodes=3
refused '--sbatch is "a b=c"' slurm --nodes 1 --sbatch 'a b=c'
refused '--sbatch is "x="' slurm --nodes 1 --sbatch x=
refused '--sbatch wrap=x: --wrap goes on' slurm --nodes 1 --sbatch wrap=x
refused '--sbatch --version: --version goes on' slurm-srun --nodes 1 --sbatch=--version
refused 'unknown option --nodse, did you mean --nodes?' slurm --nodse 1
refused '--max-restarts is "x", want a whole number' slurm --nodes 1 --max-restarts x
refused '--probe-seconds is 0' slurm --nodes 1 --probe-seconds 0
refused '--hosts does not go with --print slurm' slurm --nodes 1 --hosts file
refused '--image does not go with --print slurm' slurm --nodes 1 --image i
refused '--max-restarts is for launch' slurm-srun --nodes 1 --max-restarts 3
refused 'lanes' slurm --nodes 1 -- --set train.lanes=7

status=0
"$LOCKSTEP" launch --nodes 2 -- train my_gpt.yaml 2>err || status=$?
same 'without --print' '2 1' "$status $(grep -c -- '--nodes is for --print' err)"
check 'a configuration that is elsewhere' "$LOCKSTEP" launch --print slurm --nodes 2 -- train away.yaml >out 2>err
check 'and is said to be' grep -q 'away.yaml is not here' err
say_result
