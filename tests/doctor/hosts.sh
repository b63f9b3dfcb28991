#!/bin/bash
# lockstep doctor over many hosts: networks that lead nowhere, hosts that are gone or called otherwise, directories that are
# not shared. Each is broken, its row turns and names the host, and the printed line mends it.
#   hosts.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
here=$(dirname "$(realpath "$0")")
# shellcheck source=tests/hosts/cluster.sh
. "$here/../hosts/cluster.sh"
missing=$(cluster_missing)
if [ -n "$missing" ]; then
  echo "skipped: many hosts on one machine cannot be had here: $missing"
  exit 77
fi
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"
# shellcheck source=tests/doctor/rows.sh
. "$here/rows.sh"
trap 'cluster_stop; rm -rf "$work"' EXIT

"$MAKE_DATA" text text.txt 20000
"$LOCKSTEP" --quiet prepare text --output data --split validation=0.1 text.txt
cat >job.yaml <<'YAML'
model: {name: gpt, layers: 2, width: 64, heads: 4, context: 64}
data: {train: data/train}
train: {steps: 4, global_batch: 24, lanes: 6, micro_batch: 2, seed: 3}
YAML
cluster_start cluster 3
mkdir bin
printf '#!/bin/bash\nexec %q -F %q "$@"\n' "$(command -v ssh)" "$work/cluster/ssh/config" >bin/ssh
chmod +x bin/ssh

# Ranks on host1 to host3, mpirun on host1; what the lines say is typed in there.
printf 'host%s slots=1\n' 1 2 3 >three
ranks_start=(cluster_run host1 mpirun --hostfile three -n 3)
doctor_run() {
  doctor_status=0
  "${start[@]}" "$LOCKSTEP" doctor --json "$@" "${more[@]}" >out.json 2>err.txt || doctor_status=$?
}
mend() {
  local line
  line=$(row "$2" mend)
  check "$1: a line that mends it" [ -n "$line" ]
  printf '%-34s %s\n' "$1" "$line"
  case $line in
    export\ *) eval "$line" ;;
    *) cluster_run "${3:-host1}" env PATH="$work/bin:$PATH" bash -c "$line" ;;
  esac
}
forget() { unset OMPI_MCA_btl_tcp_if_include OMPI_MCA_mca_base_env_list NCCL_SOCKET_IFNAME; }
each_host() { # COMMAND with % for its number
  local i
  for i in 1 2 3; do cluster_run "host$i" bash -c "${1//%/$i}"; done
}

# --- All is well ---------------------------------------------------------------------------
start=("${ranks_start[@]}")
doctor_run job.yaml --run runs/job --hosts three
for subject in plan hosts world network rdma clock versions arithmetic gpu memory shm run 'write rate' locks disk epoch; do
  same "healthy: $subject" ok "$(row "$subject" status)"
done
echo "--- healthy"
cluster_run host1 mpirun --hostfile three -n 3 "$LOCKSTEP" doctor job.yaml --run runs/job --hosts three 2>/dev/null || true

# --- Networks ------------------------------------------------------------------------------
# What Docker leaves on every machine: an interface with the same address everywhere.
each_host 'ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up'
turns "docker0" network fail 'may use docker0 .* does not join all hosts: host1 to host2' --only network
mend "docker0" network
is_ok "without docker0" network --only network
forget

each_host 'ip link del docker0'
export NCCL_SOCKET_IFNAME=enp OMPI_MCA_mca_base_env_list=NCCL_SOCKET_IFNAME
turns "NCCL's interface missing" network fail 'NCCL_SOCKET_IFNAME is enp' --only network
mend "NCCL's interface missing" network
is_ok "NCCL's interface there" network --only network
forget

# A second network; the cable of host3 is out.
cluster_inside hub --net ip link add second type bridge forward_delay 0
cluster_inside hub --net ip link set second up
for i in 1 2 3; do
  cluster_inside hub --net ip link add "second$i" type veth peer name eth1 netns "${cluster_init[host$i]}"
  cluster_inside hub --net ip link set "second$i" master second up
done
each_host 'ip addr add 10.99.0.%/24 dev eth1 && ip link set eth1 up'
cluster_inside hub --net ip link set second3 down
turns "a network without a host" network fail 'may use eth1 .*, which does not join all hosts: host[123] to host[123]' --only network
mend "a network without a host" network
is_ok "the whole network" network --only network
forget
cluster_inside hub --net ip link set second3 up

cluster_run host2 ip route del 10.99.0.0/24 dev eth1
turns "a host without a route" network fail 'may use eth1 .*: host2 to host[13]: no route' --only network
mend "a host without a route" network
is_ok "another network" network --only network
cluster_run host2 ip route add 10.99.0.0/24 dev eth1
forget

# What host2 sends to host3 over the first network gets lost.
cluster_run host2 ip neigh replace "$cluster_net.3" lladdr 02:00:00:00:00:99 dev eth0 nud permanent
export OMPI_MCA_btl_tcp_if_include=eth0
cluster_run host1 env LKS_DOCTOR_CONNECT_SECONDS=4 mpirun -x LKS_DOCTOR_CONNECT_SECONDS --hostfile three -n 3 \
  "$LOCKSTEP" doctor --only network >table.txt 2>err.txt && check "ranks that do not meet" false
check "ranks that do not meet" grep -q '^fail  world  *the ranks did not meet within 4 s' table.txt
line=$(sed -n 's/^ *mend: //p' table.txt)
printf '%-34s %s\n' "ranks that do not meet" "$line"
eval "$line"
is_ok "ranks that meet" network --only network
forget
cluster_run host2 ip neigh del "$cluster_net.3" dev eth0

cluster_run host3 tc qdisc add dev eth0 root tbf rate 20mbit burst 64k latency 50ms
turns "a slow network" network warn 'may use eth0 .*, where eth1' --only network
mend "a slow network" network
is_ok "the fast network" network --only network
cluster_run host3 tc qdisc del dev eth0 root

cluster_run host2 ip link set eth1 mtu 1400
turns "a smaller MTU" mtu warn 'eth1 takes frames of 1400 bytes, others .* send 1500' --only network
same "a smaller MTU: on host" host2 "$(row mtu hosts)"
mend "a smaller MTU" mtu
doctor_run --only network
check "the same MTU" [ -z "$(row mtu status)" ]
forget

# --- What one host lacks -------------------------------------------------------------------
start=("${ranks_start[@]}")
cluster_run host2 mount -o remount,size=1m /dev/shm
turns "a small /dev/shm" shm fail 'are free' --only shm
same "a small /dev/shm: on host" host2 "$(row shm hosts)"
mend "a small /dev/shm" shm
is_ok "a larger one" shm --only shm

mkdir -p runs
cluster_run host3 mount -t tmpfs tmpfs "$work/runs"
turns "a run directory of one's own" run fail 'is not the one of host1' --only run --run runs/job
same "a run directory of one's own: on host" host3 "$(row run hosts)"
mend "a run directory of one's own" run
is_ok "a shared one" run --only run --run runs/job

cluster_run host2 mount --bind "$work/runs" "$work/runs"
cluster_run host2 mount -o remount,bind,ro "$work/runs"
turns "read-only on one host" run fail 'cannot be written to: Read-only' --only run --run runs/job
same "read-only on one host: on host" host2 "$(row run hosts)"
mend "read-only on one host" run
is_ok "writable there" run --only run --run runs/job
cluster_run host2 umount "$work/runs"

# InfiniBand ports on two fabrics.
for i in 1 2 3; do
  port=$work/class$i/infiniband/mlx5_0/ports/1
  mkdir -p "$port/gids" "$port/gid_attrs/types"
  echo '4: ACTIVE' >"$port/state"
  echo InfiniBand >"$port/link_layer"
  echo '200 Gb/sec (4X HDR)' >"$port/rate"
  echo "fe80:0000:0000:000$((i / 3)):0002:c903:0029:7de$i" >"$port/gids/0"
  cluster_run "host$i" mount --bind "$work/class$i" /sys/class
done
turns "RDMA ports that do not meet" rdma fail 'no RDMA port here is on one network with a port of host1' --only rdma
same "RDMA ports that do not meet: on host" host3 "$(row rdma hosts)"
mend "RDMA ports that do not meet" rdma
is_ok "over TCP" rdma --only rdma
unset NCCL_IB_DISABLE LOCKSTEP_COLLECTIVES_LINK OMPI_MCA_mca_base_env_list
each_host 'umount /sys/class'

# --- Hosts, asked from the launcher --------------------------------------------------------
start=(cluster_run launcher)
printf 'host1 slots=1\nworker-b slots=1\nhost3\n' >named
doctor_run --only hosts
same "from the operator's hostfile" ok "$(row hosts status)"
echo "$cluster_net.2 worker-b" >>cluster/names
turns "another name" hosts warn 'worker-b answers under another name: host2' --only hosts --hosts named
mend "another name" hosts launcher
is_ok "its own name" hosts --only hosts --hosts named
printf 'host1\nhost2\nworker-b\n' >twice
turns "one machine twice" hosts fail 'host2 and worker-b are one machine' --only hosts --hosts twice
mend "one machine twice" hosts launcher
is_ok "once" hosts --only hosts --hosts twice

build=$(dirname "$(dirname "$LOCKSTEP")")
cluster_run host3 mount -t tmpfs tmpfs "$build"
turns "no program there" hosts fail 'host3 answers, but .*/lockstep does not start there' --only hosts --hosts named
mend "no program there" hosts launcher
is_ok "copied" hosts --only hosts --hosts named
cluster_run host3 umount "$build"

cluster_cut host3
turns "a host cut off" hosts fail 'host3 does not answer' --only hosts --hosts named --limit 4
mend "a host cut off" hosts launcher
is_ok "without it" hosts --only hosts --hosts named
cluster_heal host3

# Several things at once, for the eye.
cluster_run host2 ip route del 10.99.0.0/24 dev eth1
cluster_run host2 mount -o remount,size=1m /dev/shm
cluster_run host3 mount -t tmpfs tmpfs "$work/runs"
echo "--- broken: eth1 of host2 has no route, its /dev/shm is small, runs is host3's own"
cluster_run host1 mpirun --hostfile three -n 3 "$LOCKSTEP" doctor job.yaml --run runs/job 2>/dev/null || true
say_result
