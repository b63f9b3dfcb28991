#!/bin/bash
# What a step needs is there after the first ones: a long run peaks where a short one does, and
# most of the gradient leaves before the last backward has ended.
#   memory.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"
# The address sanitizer would keep what is freed, and grow by it.
export ASAN_OPTIONS=${ASAN_OPTIONS-}:quarantine_size_mb=1:thread_local_quarantine_size_kb=16

"$MAKE_DATA" text text.txt 20000
"$LOCKSTEP" prepare text --output data --split validation=0.1 text.txt
cat >job.yaml <<YAML
model: {name: gpt, layers: 6, width: 64, heads: 4, context: 32}
data: {train: data/train, validation: data/validation}
train: {steps: 10, global_batch: 16, lanes: 4, micro_batch: 2, validate_every_steps: 5}
checkpoint: {every_steps: 5}
collectives: {bucket_bytes: 65536}
YAML

peak_kib() { # RANKS RUN STEPS
  ranks "$1" "$LOCKSTEP" train job.yaml --run "$2" --set train.steps="$3" >"$2.log" 2>&1 || cat "$2.log"
  awk '/peak memory/ { v = $(NF - 1); if ($NF == "MiB") v *= 1024; if ($NF == "GiB") v *= 1048576; print int(v) }' "$2.log"
}

# After 100 steps every periodic thing has been done often enough for the C library's heaps to have their size (0.7 MiB more than
# after 10). Within 2%: the kernel's count has its own noise (page cache of stacks and libraries).
grows_little() { [ "$2" -gt 1000 ] && [ "$2" -le $(($1 + $1 / 50)) ]; }
for n in 1 2; do
  short=$(peak_kib $n short-$n 100)
  long=$(peak_kib $n long-$n 400)
  check "$n ranks: peak $short KiB after 100 steps, $long KiB after 400" grows_little "$short" "$long"
done

# The last parameters whose gradient is final are the embedding's and the first norm's; all
# that lies before them in the backward pass has left by then.
leaves_early() {
  awk -F'"gradient_bytes(_early)?": ' '/gradient_bytes/ {
    split($2, all, ","); split($3, early, "}")
    if (early[1] < 0.7 * all[1] || early[1] >= all[1]) bad = 1; seen = 1 } END { exit bad || !seen }' "$1/metrics.jsonl"
}
check "most of the gradient leaves early" leaves_early long-2
ranks 2 "$LOCKSTEP" train job.yaml --run over-mpi --set collectives.link=mpi >mpi.log 2>&1
check "most of the gradient leaves early over link mpi" leaves_early over-mpi
say_result
