#!/bin/bash
# 20 steps of a model against PyTorch's in f64, and its first gradients.
#   train.sh LOCKSTEP MAKE_DATA COMPARE_RUN COMPARE_GRADIENTS gpt|cnn|mlp-classification|mlp-regression
LOCKSTEP=$(realpath "$1") MAKE_DATA=$(realpath "$2")
export LOCKSTEP MAKE_DATA
compare_run=$(realpath "$3") compare_gradients=$(realpath "$4") job=$5
here=$(dirname "$(realpath "$0")")
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"

"$here/data.sh" "$job"
for n in 1 2; do
  ranks $n "$LOCKSTEP" train "$here/$job.yaml" --run run-$n >log 2>&1 || { cat log; exit 1; }
  check "$job: golden at $n ranks" "$compare_run" "$here/$job" run-$n
done
check "$job: mutants" "$compare_run" "$here/$job" run-1 mutants
check "$job: gradients" "$compare_gradients" "$here/$job" "$here/$job.yaml"
say_result
