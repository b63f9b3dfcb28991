#!/bin/bash
# The link verbs on a real verbs device, in a virtual machine (vm.sh says what that needs).
#   verbs.sh LOCKSTEP MAKE_DATA TEST_REDUCER
here=$(dirname "$(realpath "$0")")
cache=${LOCKSTEP_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lockstep}/verbs-vm
set -euo pipefail
if ! why=$(timeout 300 "$here/vm.sh" prepare "$cache" 2>&1); then
  echo "skipped: $why"
  exit 77
fi
for tool in rdma ip setpriv mpirun; do
  if ! command -v "$tool" >/dev/null; then
    echo "skipped: the guest runs this machine's programs, and there is no $tool"
    exit 77
  fi
done
programs=()
for program in "$@"; do programs+=("$(realpath "$program")"); done
share=$(mktemp -d "${TMPDIR:-/tmp}/lockstep-test.XXXXXX")
trap 'rm -rf "$share"' EXIT
"$here/vm.sh" run "$cache" "$share" 800 "$here/guest.sh" "${programs[@]}"
