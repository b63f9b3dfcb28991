#!/bin/bash
# A job is killed at its k-th system call in the run directory, for every k; the next start
# goes on by itself, from the newest checkpoint, and ends as if nothing had been.
#   kill_save.sh LOCKSTEP MAKE_DATA PRELOAD RANKS
# With 1 rank every call. With 2 every call of rank 1 and every 5th of rank 0, of each
# two one kills the rank alone and the other both ranks and mpirun; with LKS_TEST_ALL
# set, every call of both in both ways. Under sanitizers every 5th of each.
LOCKSTEP=$1 MAKE_DATA=$2 PRELOAD=$3 n=$4
all=${LKS_TEST_ALL-}
# shellcheck source=tests/fault/disturbed.sh
. "$(dirname "$(realpath "$0")")/disturbed.sh"

# killed RANK THREAD K KIND: false when the job ended before the K-th call of that thread. Counted by
# threads, so that the k-th call is the same one in every run.
killed() {
  local rank=$1 thread=$2 k=$3 kind=$4 name="rank $1 of $n, $2 thread, call $3, $4" before found
  rm -rf run
  disturbed "$n" run LKS_FAULT_RANK="$rank" LKS_FAULT_THREAD="$thread" LKS_FAULT_AT="$k" \
    LKS_FAULT_KIND="$kind" LKS_FAULT_LOG="$work/last"
  [ "$status" != 0 ] || return 1
  tried=$((tried + 1))
  tail -n 1 last >>struck
  rm -f last
  if [ "$kind" = node ]; then rm -rf "${TMPDIR:?}"/*; fi
  same "$name: it was killed" 137 "$status"
  before=$(newest run)
  resumed $((k % 8 == 3 ? n : 1)) run
  same "$name: the next start goes to the end" 0 "$status"
  if [ "$status" = 0 ]; then ended=$((ended + 1)); else tail -n 5 run.log; fi
  if [ -n "$before" ]; then
    check "$name: it goes on from ${before##*/}" grep -q "resuming from .*/${before##*/}\$" run.log
    from_checkpoint=$((from_checkpoint + 1))
  fi
  found=$(digest run) || true
  same "$name: the same digest" "$want" "$found"
  if [ "$want" = "$found" ]; then equal=$((equal + 1)); fi
  check "$name: nothing is left over" is_tidy run
}

# every RANK STRIDE KIND...: kills at each STRIDE-th call of each thread, with the kinds in turn.
every() {
  local rank=$1 stride=$2 thread k
  shift 2
  local kinds=("$@") tried=0 from_checkpoint=0 ended=0 equal=0 calls=0
  for thread in main other; do
    k=1
    while killed "$rank" $thread $k "${kinds[$((k / stride % $#))]}"; do k=$((k + stride)); done
    calls=$((calls + k - 1))
  done
  echo "rank $rank of $n, $* at every ${stride}. of $calls calls: $tried killed, $ended went to the end," \
    "$from_checkpoint of them from a checkpoint, $equal with the same digest"
  check "rank $rank: enough calls were counted" [ $calls -ge $((rank ? 10 : 90)) ]
}

# Calls of an undisturbed run that were the last of none so far, each once.
missed() { comm -23 <(plain calls-0-main calls-0-other | sort -u) <(plain struck | sort -u); }

# The second save is begun by the step's own lines or after them, whichever the first save's end allows: where
# that turned out differently, a call changed places with its neighbours, and is sought beside its own place.
seek_missed() {
  local call thread at k tried=0 from_checkpoint=0 ended=0 equal=0
  while read -r call; do
    for thread in main other; do
      at=$(plain "calls-0-$thread" | grep -nxF "$call" | cut -d : -f 1 | tail -n 1) || at=
      for k in ${at:+$at $((at - 1)) $((at - 2)) $((at + 1)) $((at + 2)) $at}; do
        missed | grep -qxF "$call" || break
        killed 0 $thread "$k" kill || true
      done
    done
  done < <(missed)
  echo "sought again: $tried killed, $ended went to the end, $equal with the same digest"
}

count_calls "$n" 0
want=$(digest calm)
: >struck
if [ "$n" = 1 ]; then
  every 0 "$thin" kill
  if [ "$thin" = 1 ]; then
    seek_missed
    left=$(missed)
    same 'each call of an undisturbed run was the last of some run' none "${left:-none}"
  fi
elif [ -n "$all" ]; then
  for kind in kill node; do
    every 0 1 $kind
    every 1 1 $kind
  done
else
  every 0 $((5 * thin)) kill node
  every 1 "$thin" kill node
fi
say_result
