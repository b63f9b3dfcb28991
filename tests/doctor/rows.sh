# Breaking things and seeing doctor's rows turn. Sourced after common.sh, with LOCKSTEP set to the program.
# shellcheck shell=bash
#
#   doctor_run ARGS...             $start lockstep doctor ARGS $more --json >out.json; the status goes to doctor_status
#   row SUBJECT FIELD              of the worst row of that subject in out.json
#   is_ok NAME SUBJECT ARGS...     the row must be ok
#   turns NAME SUBJECT STATUS PATTERN ARGS...   it must have this status and match, and the exit status fit
#   mend NAME SUBJECT              does what the row says: settings go to $more, all else to the shell
tools=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
start=() # what stands before the program: mpirun ...
more=()  # settings that mended
doctor_status=0

doctor_run() {
  doctor_status=0
  timeout 300 "${start[@]}" "$LOCKSTEP" doctor --json "$@" "${more[@]}" >out.json 2>err.txt || doctor_status=$?
}

row() { python3 "$tools/row.py" out.json "$1" "$2"; }

show() { # what it said, for a failed check
  grep -E '"(status|found|mend)":' out.json | head -n 60 || head -n 20 out.json
  head -n 20 err.txt
}

is_ok() {
  local name=$1 subject=$2
  shift 2
  doctor_run "$@"
  same "$name: ok" ok "$(row "$subject" status)" || true
  [ "$(row "$subject" status)" = ok ] || show
}

turns() {
  local name=$1 subject=$2 status=$3 pattern=$4 found wanted=1
  shift 4
  doctor_run "$@"
  found="$(row "$subject" status) $(row "$subject" found)"
  [ "$status" = warn ] || wanted=65
  checks=$((checks + 1))
  if ! [[ $found =~ ^$status\ .*($pattern) ]]; then
    failures=$((failures + 1))
    printf 'FAILED: %s\n  wanted %s %s\n  found  %s\n' "$name" "$status" "$pattern" "$found"
    show
  fi
  same "$name: exit status" "$wanted" "$doctor_status"
}

# As a user would: what starts with -- is added to the command, all else is typed in.
mend() {
  local line
  line=$(row "$2" mend)
  check "$1: a line that mends it" [ -n "$line" ]
  printf '%-34s %s\n' "$1" "$line"
  case $line in
    --*) read -ra words <<<"$line" && more+=("${words[@]}") ;;
    *) eval "$line" ;;
  esac
}
