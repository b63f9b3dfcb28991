#!/bin/bash
# The bandwidth of the link verbs beside that of ib_write_bw, in one virtual machine.
#   bench.sh BENCH_LINK
# Emulated processors and a software device: only the ratio says something.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=${LOCKSTEP_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lockstep}/verbs-vm
"$here/vm.sh" prepare "$cache"
share=$(mktemp -d "${TMPDIR:-/tmp}/lockstep-bench.XXXXXX")
trap 'rm -rf "$share"' EXIT
"$here/vm.sh" run "$cache" "$share" 800 "$here/guest_bench.sh" "$(realpath "$1")"
