#!/bin/bash
# lockstep launch over hosts that crash, are cut off, freeze, lose their ranks unnoticed, and whose mpirun is killed: each
# time the job trains again on the others and ends with the digest of an undisturbed run.
#   launch.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
here=$(dirname "$(realpath "$0")")
# shellcheck source=tests/hosts/cluster.sh
. "$here/cluster.sh"
missing=$(cluster_missing)
if [ -n "$missing" ]; then
  echo "skipped: many hosts on one machine cannot be had here: $missing"
  exit 77
fi
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"
trap 'cluster_stop; rm -rf "$work"' EXIT

"$MAKE_DATA" text text.txt 20000
"$LOCKSTEP" --quiet prepare text --output data --split validation=0.1 text.txt
cat >job.yaml <<'YAML'
model: {name: gpt, layers: 2, width: 64, heads: 4, context: 64, dropout: 0.1}
data: {train: data/train, validation: data/validation}
train: {steps: 200, global_batch: 24, lanes: 6, micro_batch: 2, seed: 3}
optimizer: {name: adamw, lr: 0.001, clip_norm: 1.0}
checkpoint: {every_steps: 10, keep: 3}
YAML
"$LOCKSTEP" --quiet train job.yaml --run alone
wanted=$(digest alone)
cluster_start cluster 3

launcher=
now() { date +%s.%N; }
launch() { # RUN
  cluster_run launcher "$LOCKSTEP" --verbose launch -- train job.yaml --run "$1" >"$1.log" 2>&1 &
  launcher=$!
}
steps() { grep -cs grad_norm "$1/metrics.jsonl" || true; }
has_steps() { [ "0$(steps "$1")" -ge "$2" ]; }
is_over() { cluster_gone "$launcher"; }
ranks_are_seen() { grep -qs 'launch: all ranks are seen' "$1.log" || is_over; }
trains_again() { grep -qs 'launch: training again' "$1.log" || is_over; }

# Of one host, as that host numbers them.
ranks_of() { cluster_run "$1" pgrep -f "^$LOCKSTEP --verbose train" || true; }
mpirun_of_launcher() { cluster_run launcher pgrep -x mpirun; }

fault_crash() { cluster_crash host2; }
fault_cut() { cluster_cut host3; }
fault_cut_first() { cluster_cut host1; } # with rank 0, which holds the run directory
# shellcheck disable=SC2046
fault_freeze() { cluster_run host2 kill -STOP $(ranks_of host2); }
# shellcheck disable=SC2046
fault_unnoticed() { # mpirun's daemon there has no time to tell
  cluster_run host2 kill -STOP $(cluster_run host2 pgrep -x orted)
  cluster_run host2 kill -KILL $(ranks_of host2)
}
fault_mpirun() { cluster_run launcher kill -KILL "$(mpirun_of_launcher)"; }
mend_crash() { cluster_revive host2; }
mend_cut() { cluster_heal host3; }
mend_cut_first() { cluster_heal host1; }
mend_freeze() { :; }
# shellcheck disable=SC2046
mend_unnoticed() { cluster_run host2 kill -CONT $(cluster_run host2 pgrep -x orted); }
mend_mpirun() { :; }

leftovers() {
  local host
  for host in launcher host1 host2 host3; do
    cluster_run "$host" pgrep -fa '/lockstep (--verbose )?(train|launch)|orted|mpirun' || true
    cluster_run "$host" ls /dev/shm | sed 's/^/\/dev\/shm\//'
  done
  ls -d cluster/tmp/lockstep-launch-* 2>/dev/null || true
}


launch plain
cluster_until 120 is_over || true
status=0
wait "$launcher" || status=$?
same "3 hosts: exit status" 0 "$status"
check "3 hosts: 3 ranks" grep -q '3 ranks on 3 nodes' plain.log
same "3 hosts: digest" "$wanted" "$(digest plain)"

table=
suffer() { # FAULT WHAT RANKS_AFTER PATTERN
  local run=$1 start seconds status=0 before=$failures
  launch "$run"
  check "$2: trains" cluster_until 120 has_steps "$run" 25
  [ "$run" != unnoticed ] || check "$2: the ranks are seen" cluster_until 120 ranks_are_seen "$run"
  start=$(now)
  "fault_$run"
  check "$2: trains again" cluster_until 180 trains_again "$run"
  seconds=$(awk -v a="$start" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }')
  cluster_until 120 is_over || { kill -KILL "$launcher" && echo "FAILED: $2: hangs"; }
  wait "$launcher" || status=$?
  same "$2: exit status" 0 "$status"
  check "$2: says $4" grep -q "launch: .*$4.*going on with $3 ranks" "$run.log"
  same "$2: digest" "$wanted" "$(digest "$run")"
  [ "$failures" = "$before" ] || tail -n 40 "$run.log"
  table+=$(printf '%-52s %5s s  %s' "$2" "$seconds" "$(grep -o 'going on with.*' "$run.log" | head -n 1)")$'\n'
  "mend_$run"
}
suffer crash 'every process of a host killed' 2 'host2'
suffer cut 'the link of a host cut' 2 'host3'
suffer cut_first 'the link of the host of rank 0 cut' 2 'host1'
suffer freeze 'the ranks of a host stopped' 2 'on host2 is stopped'
# Its neighbours may end for want of it before the look, and are named too.
suffer unnoticed 'the ranks of a host killed, and its daemon stopped' 3 'ranks\? .*ended'
suffer mpirun 'mpirun killed' 3 'mpirun was killed by signal 9'
nothing_left() { left=$(leftovers) && [ -z "$left" ]; }
cluster_until 30 nothing_left || true # daemons end when they notice that mpirun is gone
same "nothing is left" none "${left:-none}"
echo "seconds from the fault to the next step:"
printf '%s' "$table"
say_result
