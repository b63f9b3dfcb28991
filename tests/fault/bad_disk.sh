#!/bin/bash
# One system call of a job in its run directory fails: the k-th, for every k, as on a full disk, over
# quota, on a broken disk; writes are also done by half and interrupted. A save that it hits is
# given up and named, training goes on, the next save succeeds, and what counts as a checkpoint
# is one. A start that it hits ends with 74, and the next works.
#   bad_disk.sh LOCKSTEP MAKE_DATA PRELOAD RANKS
# With 1 rank every call, its kinds of failure in turn; with 2 every call of rank 1 and every 7th of
# rank 0. With LKS_TEST_ALL set, every call in every kind. Under sanitizers every 5th of each.
LOCKSTEP=$1 MAKE_DATA=$2 PRELOAD=$3 n=$4
all=${LKS_TEST_ALL-}
# shellcheck source=tests/fault/disturbed.sh
. "$(dirname "$(realpath "$0")")/disturbed.sh"
declare -A say=([ENOSPC]='No space left on device' [EIO]='Input/output error'
  [EDQUOT]='Disk quota exceeded' [EINTR]='Interrupted system call')

# The kinds of failure of a call of that name.
kinds_of() {
  case $1 in
    write | pwrite) echo ENOSPC short EIO EINTR EDQUOT ;;
    fsync | close) echo EIO ENOSPC EDQUOT ;;
    open | mkdir | rename) echo ENOSPC EDQUOT EIO ;;
    *) echo EIO ;;
  esac
}

# Failures that lose nothing, and of which nothing need be said: a directory that is there already,
# a probe that is removed by the next start, a file whose bytes are not asked for.
is_harmless() {
  case $1 in
    'mkdir ' | 'rmdir /checkpoints/probe.partial' | 'close /lock' | 'close /metrics.jsonl' | 'close /ledger.jsonl') ;;
    'open-to-read /checkpoints/step-'*/manifest.json) ;;
    *) return 1 ;;
  esac
}

# Everything that counts as a checkpoint is one.
all_hold() {
  local directory
  for directory in "$1"/checkpoints/step-????????; do
    [ ! -d "$directory" ] || "$LOCKSTEP" checkpoint verify "$directory" >verify.log 2>&1 || return 1
  done
}

all_steps() { [ "$(losses "$1" | wc -l)" = 4 ]; }

# How a job went whose call failed: `$1` is the call with its path, `$2` the kind.
judge() {
  local name=$3
  check "$name: what counts as a checkpoint is one" all_hold run
  if [ "$2" = short ] || [ "$2" = EINTR ]; then
    same "$name: a write is done to its end" 0 "$status"
    check "$name: it needs no word" [ -z "$(grep -a warning run.log)" ]
  elif ! is_harmless "$1"; then
    check "$name: it is told" grep -aq "${say[$2]}" run.log
  fi
  case $1 in
    *'/checkpoints/step-'* | *LATEST* | 'write /'*)
      check "$name: training goes on to its end" all_steps run
      if [ "$status" = 0 ]; then survived=$((survived + 1)); else
        check "$name: it was the last save that failed" grep -aq 'the last checkpoint could not be saved' run.log
      fi ;;
  esac
}

# failed RANK THREAD K KIND: false when the job has no K-th call of that thread.
failed() {
  local rank=$1 thread=$2 k=$3 kind=$4 call name found
  rm -rf run last
  disturbed "$n" run LKS_FAULT_RANK="$rank" LKS_FAULT_THREAD="$thread" LKS_FAULT_AT="$k" \
    LKS_FAULT_KIND="$kind" LKS_FAULT_LOG="$work/last"
  call=$(plain last | sed -n "${k}p")
  [ -n "$call" ] || return 1
  name="rank $rank of $n, $thread thread, call $k: $kind of $call"
  tried=$((tried + 1))
  if [ -n "${SHOW-}" ]; then
    echo "$status $kind $call | $(grep -aE 'warning|cannot|could not' run.log | tr '\n' '|')"
  fi
  judge "$call" "$kind" "$name"
  if [ "$status" != 0 ]; then
    same "$name: the exit status" 74 "$status"
    resumed 1 run
    same "$name: the next start" 0 "$status"
    again=$((again + 1))
  fi
  found=$(digest run) || true
  same "$name: the same digest" "$want" "$found"
  if [ "$want" = "$found" ]; then equal=$((equal + 1)); fi
}

# every RANK STRIDE: failures of each STRIDE-th call of each thread.
every() {
  local rank=$1 stride=$2 thread k call kind tried=0 again=0 equal=0 survived=0 last
  local -a kinds
  for thread in main other; do
    k=1
    last=
    while [ -z "$last" ]; do
      call=$(sed -n "${k}p" "calls-$rank-$thread" | cut -d' ' -f2)
      read -ra kinds <<<"$(kinds_of "${call:-none}")"
      [ -n "$all" ] || kinds=("${kinds[$((k % ${#kinds[@]}))]}")
      for kind in "${kinds[@]}"; do failed "$rank" $thread $k "$kind" || last=1; done
      k=$((k + stride))
    done
  done
  echo "rank $rank of $n, every ${stride}. call: $tried failures; $survived during training ended with 0;" \
    "$again ended with 74 and worked at the next start; $equal with the same digest"
  check "rank $rank: enough calls were tried" [ $((tried * stride)) -ge $((rank ? 10 : 90)) ]
}

# lasting CALLS KIND TIMES: from the 5th call on.
lasting() {
  rm -rf run
  disturbed "$n" run LKS_FAULT_CALLS="$1" LKS_FAULT_AT=5 LKS_FAULT_KIND="$2" LKS_FAULT_TIMES="$3"
}

count_calls "$n" 0
want=$(digest calm)
if [ "$n" = 1 ] || [ -n "$all" ]; then every 0 "$thin"; else every 0 $((7 * thin)); fi
if [ "$n" != 1 ]; then
  count_calls "$n" 1
  every 1 "$thin"
fi

lasting write,pwrite short 1000000
same 'all writes by half: exit status' 0 "$status"
same 'all writes by half: the same digest' "$want" "$(digest run)"
lasting write,pwrite EINTR 20
same 'writes interrupted many times: exit status' 0 "$status"
same 'writes interrupted many times: the same digest' "$want" "$(digest run)"
lasting fsync EIO 1000000
same 'no fsync works: exit status' 74 "$status"
check 'no fsync works: nothing counts as a checkpoint' [ -z "$(newest run)" ]
resumed 1 run
same 'no fsync works: the next start' 0 "$status"
same 'no fsync works: the same digest' "$want" "$(digest run)"
say_result
