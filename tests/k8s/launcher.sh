#!/bin/bash
# The path of an MPIJob without Kubernetes: hosts in network namespaces are its pods, with the names, the hostfile and
# the environment that the MPI Operator gives them; the launcher's arguments and the workers' preStop command are those that
# `launch --print k8s` wrote.
#   launcher.sh LOCKSTEP MAKE_DATA SOURCE
LOCKSTEP=$1 MAKE_DATA=$2 source=$3
# shellcheck source=tests/hosts/cluster.sh
. "$source/tests/hosts/cluster.sh"
missing=$(cluster_missing)
python=
for one in python3 /usr/bin/python3; do
  if [ -z "$python" ] && "$one" -c 'import jsonschema, yaml' 2>/dev/null; then python=$one; fi
done
[ -n "$python" ] || missing=${missing:-no python3 with jsonschema and yaml}
if [ -n "$missing" ]; then
  echo "skipped: the pods of a job cannot be had here: $missing"
  exit 77
fi
# shellcheck source=tests/tools/common.sh
. "$source/tests/tools/common.sh"
trap 'cluster_stop; rm -rf "$work"' EXIT

"$MAKE_DATA" text text.txt 20000
"$LOCKSTEP" --quiet prepare text --output data --split validation=0.1 text.txt
cat >gpt.yaml <<'YAML'
model: {name: gpt, layers: 2, width: 64, heads: 4, context: 64, dropout: 0.1}
data: {train: data/train, validation: data/validation}
train: {steps: 240, global_batch: 24, lanes: 6, micro_batch: 2, seed: 3}
optimizer: {name: adamw, lr: 0.001, clip_norm: 1.0}
checkpoint: {every_steps: 0, keep: 2}
YAML
"$LOCKSTEP" --quiet train gpt.yaml --run alone
wanted=$(digest alone)

# --- The job, as it is written

"$LOCKSTEP" launch --print k8s --nodes 3 --namespace ml --name gpt -- train gpt.yaml >job.yaml
words() { # PATH: a list of texts, one a line
  "$python" "$source/tests/k8s/manifest.py" get job.yaml MPIJob "$1" | "$python" -c 'import json, sys; print("\n".join(json.load(sys.stdin)))'
}
launcher=spec/mpiReplicaSpecs/Launcher/template/spec/containers/0
mapfile -t arguments < <(words $launcher/args)
mapfile -t environment < <("$python" "$source/tests/k8s/manifest.py" get job.yaml MPIJob $launcher/env |
  "$python" -c 'import json, sys; [print(v["name"] + "=" + v["value"]) for v in json.load(sys.stdin)]')
mapfile -t stop < <(words spec/mpiReplicaSpecs/Worker/template/spec/containers/0/lifecycle/preStop/exec/command)
same 'the options of launch' 'launch --hosts /etc/mpi/hostfile --wait-seconds 600 --' "${arguments[*]:0:6}"
same 'the last argument is the configuration' /etc/lockstep/gpt.yaml "${arguments[-1]}"
# Here the ConfigMap and the volume are this folder.
arguments=("${arguments[@]//\/etc\/lockstep\//$work/}")

# --- The pods, as the operator makes them

cluster_prefix=gpt-worker- cluster_first=0 cluster_domain=.gpt.ml.svc
cluster_start cluster 3
same 'the hostfile' 'gpt-worker-1.gpt.ml.svc slots=1' "$(sed -n 2p cluster/hostfile)"
operator=(K_MPI_JOB_ROLE=launcher OMPI_MCA_orte_keep_fqdn_hostnames=true OMPI_MCA_orte_default_hostfile=/etc/mpi/hostfile
  OMPI_MCA_plm_rsh_args='-o ConnectionAttempts=10' OMPI_MCA_orte_set_default_slots=1 NVIDIA_VISIBLE_DEVICES= NVIDIA_DRIVER_CAPABILITIES=)
cp cluster/names names
# As the cluster's DNS does with a pod that is there no more: in place, since all hosts have the file mounted.
forget() { grep -v "$1" names >cluster/names || true; }
remember() { cat names >cluster/names; }

pid='' log=''
job() { # LOG OPTIONS-OF-LAUNCH... : the launcher's container, as process 1 of its own
  log=$1.log
  shift
  cluster_run launcher env "${operator[@]}" "${environment[@]}" unshare --pid --fork --kill-child --mount-proc \
    "$LOCKSTEP" "${arguments[@]:0:5}" "$@" "${arguments[@]:5}" --run "$run" >"$log" 2>&1 &
  pid=$!
}
is_over() { cluster_gone "$pid"; }
says() { grep -qs -- "$1" "$log" || is_over; }
trains() { [ "0$(grep -cs grad_norm "$run/metrics.jsonl")" -ge "$1" ] || is_over; }
ends() { # WHAT STATUS
  local status=0
  cluster_until 300 is_over || kill -KILL "$pid"
  wait "$pid" || status=$?
  same "$1: exit status" "$2" "$status"
  [ "$status" = "$2" ] || tail -n 30 "$log"
}
has() { # WHAT PATTERN
  check "$1: says \"$2\"" grep -q -- "$2" "$log"
  grep -q -- "$2" "$log" || tail -n 20 "$log"
}

# --- A worker that comes up late

run=late
cluster_crash gpt-worker-1
forget gpt-worker-1
job late
check 'late: waits' cluster_until 240 says 'waiting up to 600 s for gpt-worker-1.gpt.ml.svc'
has 'late' '2 of 3 hosts answer'
remember
cluster_revive gpt-worker-1
ends late 0
has late '3 ranks on 3 nodes'
same 'late: digest' "$wanted" "$(digest late)"

# --- A worker that is preempted: its preStop command, then the container's end

run=preempted
job first
check 'preempted: trains' cluster_until 240 trains 15
check 'preempted: the preStop command ends' timeout 240 env -i PATH="$PATH" \
  nsenter -t "${cluster_init[gpt-worker-2]}" --net --uts --ipc --mount --pid --root "${stop[@]}"
left=$(cluster_run gpt-worker-2 pgrep -xl 'lockstep|orted' || true)
same 'preempted: no rank is left in the worker' none "${left:-none}"
cluster_crash gpt-worker-2
forget gpt-worker-2
ends 'preempted: launcher' 75
has preempted 'gpt-worker-2.*preemption.file /run/lockstep/notice is there'
check 'preempted: nothing is told as a failure' [ "$(grep -c 'collectives.link' "$log")" = 0 ]
saved=$(digest "$run" | sed 's/.* step //')
check "preempted: a checkpoint is saved (step $saved)" [ "$saved" -ge 15 ]
# The kubelet starts the launcher's container again, the operator makes the worker again.
job second
check 'requeued: waits for the new worker' cluster_until 240 says 'waiting up to 600 s for gpt-worker-2.gpt.ml.svc'
remember
cluster_revive gpt-worker-2
check 'requeued: goes on' cluster_until 240 trains $((saved + 3))
has requeued '3 ranks on 3 nodes'

# --- The launcher's pod is deleted, on top: TERM to its process 1

cluster_run launcher kill -TERM "$(cluster_run launcher pgrep -xo lockstep)"
ends 'deleted: launcher' 75

# --- The launcher's container is killed: the kubelet starts it again at once, while the ranks are still there

job killed
check 'killed: trains' cluster_until 240 trains $((saved + 20))
cluster_run launcher kill -KILL "$(cluster_run launcher pgrep -xo lockstep)"
cluster_until 60 is_over || true
wait "$pid" || true
job again
check 'started again: goes on' cluster_until 240 says 'step [1-9][0-9]* of 240'
has 'started again' 'step [1-9][0-9]* of 240'
cluster_run launcher kill -USR2 "$(cluster_run launcher pgrep -xo lockstep)"
ends 'started again' 75

# --- A worker that never comes up

cluster_crash gpt-worker-0
forget gpt-worker-0
job never --wait-seconds 3 --min-ranks 3
ends 'never' 76
has never 'hosts for 2 ranks answer, want 3 (--min-ranks): no answer from gpt-worker-0.gpt.ml.svc within 3 s (--wait-seconds)'
job without --wait-seconds 3
ends 'without it' 0
has 'without it' 'no answer from gpt-worker-0.gpt.ml.svc within 3 s (--wait-seconds); going on without, with 2 ranks'
has 'without it' '2 ranks on 2 nodes'
same 'after all of this: digest' "$wanted" "$(digest "$run")"
check 'after all of this: each sample once' "$LOCKSTEP" --quiet ledger verify "$run"
left=$(cluster_run launcher pgrep -fa '/lockstep (train|launch)|orted|mpirun' || true)
same 'nothing is left' none "${left:-none}"
say_result
