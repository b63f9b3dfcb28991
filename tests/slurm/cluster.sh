# A real SLURM on one machine. To be sourced; needs root, unshare, nsenter, ip, and Debian's slurm-wlm.
# shellcheck shell=bash
#
#   slurm_missing              says what is missing here, nothing when all is there
#   slurm_start DIR N          slurmctld, munged and the nodes node1 ... nodeN, of eight cores each, which they only pretend
#   slurm_run CMD...           on the head node, in the present folder
#   slurm_user_signal on|off   whether a preempted job gets its own --signal, or its steps TERM
#   slurm_lose NODE            a node crashes
#   slurm_stop                 ends every process of it
#
# The partitions "low" (the default; preempted, after a grace) and "high" share the nodes. All is in
# namespaces of its own (net, PID, UTS, IPC, mount), where process 1 is what slurm_stop ends; each node
# has its own name and /dev/shm. Files lie below DIR, the nodes' temporary ones too.

slurm_dir=
slurm_keeper= # process of this machine that holds the cluster
slurm_init=   # the cluster's process 1, as this machine numbers it
slurm_grace=${slurm_grace:-8}

slurm_missing() {
  local tool
  [ "$(id -u)" = 0 ] || { echo "not root"; return; }
  for tool in munged slurmctld slurmd; do
    [ -x "/usr/sbin/$tool" ] || { echo "no $tool (scripts/setup --tests installs it)"; return; }
  done
  for tool in sbatch srun scontrol unshare nsenter ip; do
    command -v "$tool" >/dev/null || { echo "no $tool"; return; }
  done
  unshare --net --uts --ipc --mount --pid --fork --mount-proc true 2>/dev/null || echo "no namespaces"
}

# slurm_until SECONDS COMMAND...: polls; fails when the time is over.
slurm_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -le $end ] || return 1
    sleep 0.1
  done
}

slurm_write_files() { # N
  local k d=$slurm_dir nodes="node[1-$1]"
  mkdir -p "$d"/{munge,log,state,spool,tmp}
  chmod 755 "$d" "$d/munge"
  (umask 077 && head -c 1024 /dev/urandom >"$d/munge/key")
  # slurmd loads a cgroup plugin though nothing uses it; v1 starts everywhere.
  echo 'CgroupPlugin=cgroup/v1' >"$d/cgroup.conf"
  {
    echo '127.0.0.1 localhost head'
    for k in $(seq "$1"); do echo "127.0.0.1 node$k"; done
  } >"$d/hosts"
  # cred_expire is also how long a requeued job waits, 120 s by default. Steps' PMIx sockets lie
  # in TmpFS: nodes of one machine would share /tmp.
  cat >"$d/slurm.conf" <<X
ClusterName=test
SlurmctldHost=head(127.0.0.1)
SlurmctldPort=6817
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$d/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$d/state
SlurmdSpoolDir=$d/spool/%n
TmpFS=$d/spool/%n
SlurmctldPidFile=$d/state/slurmctld.pid
SlurmdPidFile=$d/spool/%n.pid
SlurmctldLogFile=$d/log/slurmctld
SlurmdLogFile=$d/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MinJobAge=3600
MailProg=/bin/true
ReturnToService=2
MpiDefault=none
PropagateResourceLimits=NONE
PartitionName=low Nodes=$nodes Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=$slurm_grace State=UP
PartitionName=high Nodes=$nodes PriorityTier=10 PreemptMode=OFF State=UP
X
  for k in $(seq "$1"); do
    echo "NodeName=node$k NodeHostname=node$k NodeAddr=127.0.0.1 Port=$((6817 + k)) CPUs=8 RealMemory=1024 State=UNKNOWN"
  done >>"$d/slurm.conf"
}

# What process 1 of the cluster does: DIR N. SLURM looks up even 127.0.0.1 in a way that fails where
# lo is the only interface and has no other address.
slurm_boot='
  set -e
  d=$1 n=$2
  export SLURM_CONF=$d/slurm.conf
  ulimit -c 0
  hostname head
  ip link set lo up
  ip addr add 10.88.9.1/32 dev lo
  mount --bind "$d/hosts" /etc/hosts
  /usr/sbin/munged --force --num-threads=2 --key-file="$d/munge/key" --socket="$d/munge/socket" \
    --pid-file="$d/munge/pid" --log-file="$d/log/munged" --seed-file="$d/munge/seed"
  /usr/sbin/slurmctld -c -f "$SLURM_CONF"
  for k in $(seq "$n"); do
    mkdir -p "$d/spool/node$k"
    unshare --uts --mount --propagation private bash -ec "
      hostname node$k
      readlink /proc/self/ns/uts >\"$d/state/node$k.uts\"
      mount -t tmpfs -o size=512m tmpfs /dev/shm
      exec /usr/sbin/slurmd -c -N node$k -f \"\$SLURM_CONF\""
  done
  : >"$d/state/up"
  sleep infinity &
  wait # and reap what daemons leave behind'

# As users would have it; root and few cores need the rest.
slurm_run() {
  nsenter -t "$slurm_init" --net --uts --ipc --mount --pid --root --wd="$PWD" \
    env SLURM_CONF="$slurm_dir/slurm.conf" TMPDIR="$slurm_dir/tmp" \
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_orte_tmpdir_base="$slurm_dir/tmp" \
    OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_hwloc_base_binding_policy=none \
    OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none "$@"
}

slurm_idle() { # N
  [ "$(slurm_run timeout 20 sinfo -h -N -p low -o %T 2>/dev/null | grep -c '^idle$')" = "$1" ]
}

slurm_start() { # DIR N
  slurm_dir=$(realpath -m "$1")
  slurm_write_files "$2"
  unshare --net --uts --ipc --mount --propagation private --pid --fork --mount-proc --kill-child \
    bash -c "$slurm_boot" boot "$slurm_dir" "$2" </dev/null >"$slurm_dir/log/boot" 2>&1 &
  slurm_keeper=$!
  disown "$slurm_keeper"
  slurm_until 120 test -e "$slurm_dir/state/up" || { cat "$slurm_dir"/log/* >&2; return 1; }
  slurm_init=$(tr -d ' ' <"/proc/$slurm_keeper/task/$slurm_keeper/children")
  slurm_until 120 slurm_idle "$2" || { tail -n 20 "$slurm_dir"/log/* >&2; return 1; }
}

slurm_user_signal() { # on|off
  sed -i '/^SlurmctldParameters=/d' "$slurm_dir/slurm.conf"
  [ "$1" = off ] || echo 'SlurmctldParameters=preempt_send_user_signal' >>"$slurm_dir/slurm.conf"
  slurm_run scontrol reconfigure
  slurm_until 60 slurm_has_user_signal "$1"
}
slurm_has_user_signal() {
  local now=off
  ! slurm_run scontrol show config | grep -q '^SlurmctldParameters.*preempt_send_user_signal' || now=on
  [ "$now" = "$1" ]
}

# Every process of a node at once, found by its name's namespace; SLURM learns of it without its time-outs.
slurm_lose() { # NODE
  slurm_run bash -c '
    pids() { find /proc -maxdepth 3 -path "/proc/[0-9]*/ns/uts" -lname "$1" 2>/dev/null | cut -d / -f 3; }
    name=$(sed "s/[][]/\\\\&/g" "$1")
    while left=$(pids "$name") && [ -n "$left" ]; do kill -KILL $left 2>/dev/null; done' lose "$slurm_dir/state/$1.uts"
  slurm_run scontrol update nodename="$1" state=down reason=lost
}

slurm_stop() {
  [ -n "$slurm_keeper" ] || return 0
  kill -KILL "${slurm_init:-$slurm_keeper}" 2>/dev/null || true
  slurm_until 10 slurm_gone || kill -KILL "$slurm_keeper" 2>/dev/null || true
  slurm_keeper=''
  slurm_init=''
}
slurm_gone() { ! grep -qs '^State:.[^ZX]' "/proc/$slurm_keeper/status"; }
