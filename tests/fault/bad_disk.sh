#!/bin/bash
# One system call of a job in its run directory fails: the k-th, for every k, as on a full disk, over
# quota, on a broken disk; writes are also done by half and interrupted. A save that it hits is
# given up and named, training goes on, the next save succeeds, and what counts as a checkpoint
# is one. A start that it hits ends with 74, and the next works.
#   bad_disk.sh LOCKSTEP MAKE_DATA PRELOAD RANKS
# With 1 rank every call, each kind of failure in turn; with 2 every call of rank 1 and every 5th of
# rank 0. With LOCKSTEP_TEST_ALL set, every call in every way.
LOCKSTEP=$1 MAKE_DATA=$2 PRELOAD=$3 n=$4
all=${LOCKSTEP_TEST_ALL-}
unset LOCKSTEP_TEST_ALL
# shellcheck source=tests/fault/disturbed.sh
. "$(dirname "$(realpath "$0")")/disturbed.sh"
declare -A say=([ENOSPC]='No space left on device' [EIO]='Input/output error'
  [EDQUOT]='Disk quota exceeded' [EINTR]='Interrupted system call')

# How a call of that name can fail.
kinds_of() {
  case $1 in
    write | pwrite) echo ENOSPC short EIO EINTR EDQUOT ;;
    fsync | close) echo EIO ENOSPC EDQUOT ;;
    open | mkdir | rename) echo ENOSPC EDQUOT EIO ;;
    *) echo EIO ;;
  esac
}

# Everything that counts as a checkpoint is one.
all_hold() {
  local directory
  for directory in "$1"/checkpoints/step-????????; do
    [ ! -d "$directory" ] || "$LOCKSTEP" checkpoint verify "$directory" >verify.log 2>&1 || return 1
  done
}

# failed RANK THREAD K KIND: false when the job has no K-th call of that thread.
failed() {
  local rank=$1 thread=$2 k=$3 kind=$4 name call path
  rm -rf run last
  disturbed "$n" run LKS_FAULT_RANK="$rank" LKS_FAULT_THREAD="$thread" LKS_FAULT_AT="$k" \
    LKS_FAULT_KIND="$kind" LKS_FAULT_LOG="$work/last"
  line=$(plain last | sed -n "${k}p")
  [ -n "$line" ] || return 1
  call=${line%% *} path=${line#* }
  name="rank $rank of $n, $thread thread, call $k, $kind of $line"
  tried=$((tried + 1))
  echo "$status $kind $line | $(grep -a 'lockstep: \|warning' run.log | grep -av 'memory per\|global batch\|step [0-9]*[/:]\|peak mem\|parameters on' | tr '\n' '|')" >>"$work/outcomes"
  check "$name: what counts as a checkpoint is one" all_hold run
  if [ "$status" != 0 ]; then
    same "$name: the exit status" 74 "$status"
    resumed 1 run
    same "$name: the next start" 0 "$status"
    after=$((after + 1))
  fi
  same "$name: the same digest" "$want" "$(digest run)"
}
every() {
  local rank=$1 stride=$2 thread k kinds
  local tried=0 after=0
  for thread in main other; do
    k=1
    while :; do
      line=$(sed -n "${k}p" "calls-$thread" | cut -d' ' -f2)
      read -ra kinds <<<"$(kinds_of "${line:-other}")"
      failed "$rank" $thread $k "${kinds[$((k % ${#kinds[@]}))]}" || break
      k=$((k + stride))
    done
  done
  echo "tried $tried after $after"
}
every 0 1
cp outcomes /tmp/w/ks/outcomes
say_result
