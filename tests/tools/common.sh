# Shared by the tests that run the program. Sourced with LOCKSTEP and MAKE_DATA set;
# leaves the shell in a fresh directory that goes when it ends.
# shellcheck shell=bash
set -euo pipefail

LOCKSTEP=$(realpath "$LOCKSTEP")
MAKE_DATA=$(realpath "$MAKE_DATA")
work=$(mktemp -d "${TMPDIR:-/tmp}/lockstep-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

checks=0
failures=0

# say_result: Check's own form of summary, and the status for Meson.
say_result() {
  echo "$((checks ? 100 * (checks - failures) / checks : 0))%: Checks: $checks, Failures: $failures, Errors: 0"
  [ "$failures" = 0 ] && [ "$checks" != 0 ]
}

# check NAME COMMAND...: the command must succeed.
check() {
  local name=$1
  shift
  checks=$((checks + 1))
  if ! "$@"; then
    failures=$((failures + 1))
    echo "FAILED: $name"
  fi
}

# same NAME A B: two texts must be equal.
same() {
  checks=$((checks + 1))
  if [ "$2" != "$3" ] || [ -z "$2" ]; then
    failures=$((failures + 1))
    printf 'FAILED: %s\n  %s\n  %s\n' "$1" "$2" "$3"
  fi
}

# ranks N COMMAND...: under mpirun, or alone for 1.
ranks() {
  local n=$1
  shift
  if [ "$n" = 1 ]; then "$@"; else mpirun -n "$n" "$@"; fi
}

# The same, instead of the shell: in a subshell that is to be sent signals.
exec_ranks() {
  local n=$1
  shift
  if [ "$n" = 1 ]; then exec "$@"; else exec mpirun -n "$n" "$@"; fi
}

# losses RUN: every logged loss, to the last digit.
losses() { sed -n 's/.*"step": \([0-9]*\),.*"loss": \([-+.e0-9]*\),.*/\1 \2/p' "$1/metrics.jsonl"; }

digest() { "$LOCKSTEP" checkpoint digest "$1"; }
