#!/bin/bash
# What ptxas says of the kernels whose speed hangs on registers: attention, norm and the classifier must not spill.
#   ptxas.sh REPORT...     one per source file, as the build wrote them
reports=() LOCKSTEP=none MAKE_DATA=none # of the build: neither is run
for report; do reports+=("$(realpath "$report")"); done
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"

# list REPORT: architecture, registers, bytes spilled (stores and loads), bytes of stack, bytes of shared memory, kernel.
list() {
  awk -v quote="'" '
    /Compiling entry function/ { split($0, part, quote); kernel = part[2]; architecture = part[4]; spilled = "unknown" }
    /bytes spill stores/ { stack = $1; spilled = $5 + $9 }
    /Used [0-9]+ registers/ {
      shared = 0
      for (i = 1; i <= NF; ++i) {
        if ($i == "Used") registers = $(i + 1)
        if ($i ~ /^smem/) shared = $(i - 2)
      }
      print architecture, registers, spilled, stack, shared, kernel
    }' "$1"
}

for name in attention attention_grad norm cross_entropy; do
  report=
  for candidate in "${reports[@]}"; do
    if [ "${candidate##*/}" = "$name.ptxas" ]; then report=$candidate; fi
  done
  check "$name: there is a report" test -n "$report"
  if [ -z "$report" ]; then continue; fi
  list "$report" | c++filt | sed 's/(anonymous namespace):://g; s/>(.*/>/' >"$name.txt"
  echo "$name: architecture, registers, bytes spilled, bytes of stack, bytes of shared memory, kernel"
  cat "$name.txt"
  for architecture in sm_80 sm_90; do
    check "$name: kernels for $architecture" grep -q "^$architecture " "$name.txt"
  done
  same "$name: kernels in the report" "$(wc -l <"$name.txt")" "$(grep -c 'Compiling entry function' "$report")"
  same "$name: kernels that spill" "$(awk '$3 != "0"' "$name.txt" | wc -l)" 0
done

say_result
