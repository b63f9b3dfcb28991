# Shared by the tests of bad input. Sourced with LOCKSTEP and MAKE_DATA set; leaves the
# shell in an empty directory, whose whole content every refusal must leave as it was.
# shellcheck shell=bash
# shellcheck source=tests/tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../tools/common.sh"
mkdir place
cd place
log=$work/log
program=("$LOCKSTEP" --quiet)
allowed='' # what the next refusal may leave: a pattern for lines of `snapshot`
export OMPI_MCA_odls_base_sigkill_timeout=0

snapshot() {
  find . -type f -print0 | sort -z | xargs -0r sha256sum
  find . ! -type f | sort
}

# timed N ARGUMENTS...: the program on N ranks, never for more than five minutes.
timed() {
  local n=$1
  shift
  if [ "$n" = 1 ]; then
    timeout 300 "${program[@]}" "$@"
  else
    timeout 300 mpirun -n "$n" "${program[@]}" "$@"
  fi
}

# What lockstep itself said, of all ranks, without warnings.
error_lines() { grep -a '^lockstep: ' "$log" | grep -av '^lockstep: \([^ ]* rank [0-9]*: \)\?warning: ' || true; }

# One line that a user can act on: no doubled prefix, no "(null)", no internals, no full stop.
is_well_worded() {
  ! grep -aqE '\(null\)|lockstep: .*lockstep: |\.[ch]:[0-9]+|LKS_|lks_[a-z_]* failed|: *$|[^.]\.$|: :|  ' <<<"$1"
}

# refused NAME STATUS RANKS PATTERN... -- ARGUMENTS...: the program ends with STATUS and one
# error line that has every PATTERN, and the place stays as it was but for $allowed.
refused() {
  local name=$1 want=$2 n=$3 status=0 line before left
  shift 3
  local -a patterns=()
  while [ "$1" != -- ]; do
    patterns+=("$1")
    shift
  done
  shift
  [ "$n" = 1 ] || name="$name, $n ranks"
  before=$(snapshot)
  timed "$n" "$@" >"$log" 2>&1 </dev/null || status=$?
  line=$(error_lines)
  [ -z "${SHOW-}" ] || printf '%s [%s]\n    %s\n' "$name" "$status" "$line"
  same "$name: exit status" "$want" "$status"
  same "$name: one error line" 1 "$(grep -c . <<<"$line")"
  check "$name: worded for a user: $line" is_well_worded "$line"
  local pattern
  for pattern in "${patterns[@]}"; do
    check "$name: says $pattern: $line" grep -aqE -- "$pattern" <<<"$line"
  done
  left=$(diff <(echo "$before") <(snapshot) | grep '^[<>]' || true)
  [ -z "$allowed" ] || left=$(grep -vE "$allowed" <<<"$left" || true)
  same "$name: leaves nothing and changes nothing" "none" "${left:-none}"
  allowed=''
}

# works NAME RANKS ARGUMENTS...: exit status 0; what it said stays in $log.
works() {
  local name=$1 n=$2 status=0
  shift 2
  timed "$n" "$@" >"$log" 2>&1 </dev/null || status=$?
  same "$name: exit status" 0 "$status"
  [ "$status" = 0 ] || tail -n 5 "$log"
}

# flip FILE OFFSET: turns one byte of a file into another.
flip() {
  local byte
  byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
  printf '%b' "\\x$(printf %02x $((byte ^ 85)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
