#!/bin/bash
# The link verbs over real verbs. Runs in the guest of vm.sh, as root.
#   guest.sh LOCKSTEP MAKE_DATA TEST_REDUCER
# shellcheck disable=SC2034 # common.sh reads them
LOCKSTEP=$1 MAKE_DATA=$2 TEST_REDUCER=$3
here=$(dirname "$(realpath "$0")")
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"
# shellcheck source=tests/verbs/guest_devices.sh
. "$here/guest_devices.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
  OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none

table=
row_start=
begin_row() { row_start=$(date +%s.%N); }
end_row() { # WHAT SEEN
  table+=$(printf '%-44s %6.1f s  %s' "$1" "$(awk -v a="$row_start" -v b="$(date +%s.%N)" 'BEGIN { print b - a }')" "$2")$'\n'
}

# The first two are in the way: one whose port is down, one with no address but a link-local one.
begin_row
add_bare down0 dummy0
ip link set dummy0 down
add_bare bare0 dummy1
add_wire
check "down0 is down" devices_until 10 device_state down0 DOWN
check "bare0 is active" devices_until 10 device_state bare0 ACTIVE
check "a link-local GID is first" grep -q '^fe80:' /sys/class/infiniband/rxe0/ports/1/gids/0
end_row "four soft-RoCE devices" "down0 $(cut -d' ' -f2 /sys/class/infiniband/down0/ports/1/state), GID 0 of rxe0 $(cut -c1-4 /sys/class/infiniband/rxe0/ports/1/gids/0):..."

"$MAKE_DATA" table table.csv 400 classification
"$LOCKSTEP" --quiet prepare table --target target --output data table.csv
cat >job.yaml <<'YAML'
model: {name: mlp, hidden: [300, 300]}
data: {train: data}
train: {steps: 4, global_batch: 8, lanes: 4, micro_batch: 2, seed: 3}
optimizer: {name: adamw, lr: 0.001, clip_norm: 1.0}
checkpoint: {every_steps: 0, memory_every_steps: 0}
collectives: {bucket_bytes: 65536}
YAML

train() { # RANKS RUN ARGUMENT...
  local n=$1 run=$2
  shift 2
  timeout 120 mpirun -n "$n" "$LOCKSTEP" --verbose train job.yaml --run "$run" "$@" >"$run.log" 2>&1
}

begin_row
check "trains over mpi" train 2 mpi --set collectives.link=mpi
wanted=$(digest mpi)
end_row "2 ranks over mpi" "${wanted%% *}"
begin_row
check "trains over verbs" train 2 two --set collectives.link=verbs
same "2 ranks: digest" "$wanted" "$(digest two)"
check "2 ranks: link" grep -q 'link verbs' two.log
check "a rank takes rxe0, by its IPv4 GID" grep -q 'rxe0 port 1, RoCE v2 ::ffff:10.77.0.1 (GID 1), packets of 4096' two.log
check "the other takes rxe1" grep -q 'rxe1 port 1, RoCE v2 ::ffff:10.77.0.2 (GID 1), packets of 4096' two.log
end_row "2 ranks over verbs, across the cable" "$(grep -o 'rxe[01] port 1, RoCE v2 [^ ]* (GID .)' two.log | sort | paste -sd ' ' -)"
begin_row
check "trains alone" "$LOCKSTEP" --quiet train job.yaml --run one --set collectives.link=verbs
same "1 rank: digest" "$wanted" "$(digest one)"
end_row "1 rank" "same digest"

# Hosts in name only, two ranks on each: what "auto" makes of several nodes.
begin_row
printf '#!/bin/sh\nexec %q --verbose train job.yaml --run nodes\n' "$LOCKSTEP" >nodes.sh
chmod +x nodes.sh
timeout 120 mpirun -n 4 sh "$here/../unit/collectives/on_nodes.sh" 2 ./nodes.sh >nodes.log 2>&1 || true
check "2 nodes: auto takes verbs" grep -q 'on 2 nodes, .*link verbs' nodes.log
same "2 nodes: digest" "$wanted" "$(digest nodes)"
end_row "2 nodes of 2 ranks, link auto" "link verbs, same digest"

refused() { # NAME STATUS PATTERN ARGUMENT...
  local name=$1 wanted_status=$2 pattern=$3 status=0
  shift 3
  "$LOCKSTEP" train job.yaml --run refused --set collectives.link=verbs "$@" >refused.log 2>&1 || status=$?
  same "$name: status" "$wanted_status" "$status"
  check "$name: says $pattern" grep -q "$pattern" refused.log
  same "$name: one line" 1 "$(grep -c '^lockstep: .*verbs' refused.log)"
}
begin_row
refused "a port that is down" 2 'down0 port 1 is down' --set verbs.device=down0
refused "a link-local GID alone" 2 'bare0 port 1 has no RoCE v2 GID but link-local' --set verbs.device=bare0
refused "a GID that is not there" 2 'port 1 has no GID 99' --set verbs.gid=99
refused "no such device" 2 'rxe0 is not in verbs.device' --set verbs.device=none0
end_row "ports that cannot be used" "named, status 2"

begin_row
status=0
(ulimit -l 256 && timeout 60 setpriv --bounding-set=-ipc_lock "$LOCKSTEP" train job.yaml --run locked \
  --set collectives.link=verbs >locked.log 2>&1) || status=$?
same "little lockable memory: status" 74 "$status"
check "little lockable memory: says so" grep -q 'this process may lock 256.*KiB: raise it' locked.log
end_row "256 KiB of lockable memory" "named, status 74"

begin_row
for n in 2 3 4 5; do
  check "conformance at $n ranks" timeout 200 mpirun -n "$n" "$TEST_REDUCER" verbs
done
end_row "conformance at 2 to 5 ranks" "every sum and parameter the tree's, bit for bit"

lines() { grep -cs grad_norm "$1/metrics.jsonl" || true; }
has_lines() { [ "0$(lines "$1")" -ge "$2" ]; }
is_over() { ! kill -0 "$1" 2>/dev/null; }
cut_in_mid_step() { # RUN WHAT CUT MEND PATTERN ARGUMENT...
  local run=$1 what=$2 cut=$3 mend=$4 pattern=$5 job status=0
  shift 5
  train 2 "$run" --set collectives.link=verbs --set train.steps=1000000 --set verbs.peer_seconds=3 "$@" &
  job=$!
  check "$what: trains" devices_until 60 has_lines "$run" 3
  begin_row
  "$cut"
  check "$what: ends" devices_until 30 is_over "$job"
  kill "$job" 2>/dev/null || true
  wait "$job" || status=$?
  same "$what: status" 76 "$status"
  check "$what: names peer, device and reason" grep -qE "peer lost: rank [01] on host guest \(rxe[01] port 1\), through rxe[01] port 1 of this host.*: $pattern" "$run.log"
  end_row "$what" "76, $(grep -o 'peer lost: [^;]*' "$run.log" | head -n 1)"
  "$mend"
}
cut_in_mid_step down "port down" cut_wire mend_wire '.*'
cut_in_mid_step silent "packets vanish, sent again for ever" lose_packets find_packets 'no answer for' --set verbs.retry_count=7
cut_in_mid_step retried "packets vanish, sent again 6 times" lose_packets find_packets 'transport retry counter exceeded' \
  --set verbs.retry_count=6 --set verbs.ack_timeout=14 --set verbs.peer_seconds=20
echo
echo "test, seconds, what was seen:"
printf '%s' "$table"
say_result
