# Many hosts on one machine. To be sourced; needs root, ip, unshare, nsenter, ssh and sshd.
# shellcheck shell=bash
#
#   cluster_missing            says what is missing here, nothing when all is there
#   cluster_start DIR N        host1 ... hostN, and "launcher", which has no slots but the
#                              hostfile /etc/mpi/hostfile, as under the MPI Operator
#   cluster_run HOST CMD...    in that host, in the present folder
#   cluster_cut | cluster_heal | cluster_crash | cluster_revive HOST
#   cluster_stop               ends every process of every host
#
# A host is a set of namespaces (net, UTS, IPC, mount, PID) with its own address, name,
# /dev/shm, /run and sshd on port 22. A bridge in one more, "hub", joins them. The machine's own
# network is left alone; all files lie below DIR, which all hosts share.

cluster_net=10.88.7 # only inside the namespaces
# To be set before cluster_start by who wants other names than host1, host2, ...
cluster_prefix=host
cluster_first=1
cluster_domain= # ".job.namespace.svc": follows the names in the hostfile, which /etc/hosts knows with and without
cluster_slots=1
cluster_dir=
declare -A cluster_keeper=() # process of the machine that holds a host; killing it ends the host
declare -A cluster_init=()   # the host's process 1, as the machine numbers it

cluster_missing() {
  local tool
  [ "$(id -u)" = 0 ] || { echo "not root"; return; }
  for tool in ip unshare nsenter ssh ssh-keygen; do
    command -v "$tool" >/dev/null || { echo "no $tool"; return; }
  done
  [ -x /usr/sbin/sshd ] || { echo "no sshd"; return; }
  unshare --net --uts --ipc --mount --pid --fork --mount-proc true 2>/dev/null || { echo "no namespaces"; return; }
  unshare --net sh -c 'ip link add name one type veth peer name two && ip link add name three type bridge' 2>/dev/null ||
    echo "no veth or bridge devices"
}

# cluster_until SECONDS COMMAND...: polls; fails when the time is over.
cluster_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -le $end ] || return 1
    sleep 0.02
  done
}

cluster_names() { # N
  seq -f "$cluster_prefix%g" "$cluster_first" $((cluster_first + $1 - 1))
}

cluster_number() { # HOST: the last part of its address
  if [ "$1" = launcher ]; then echo 200; else echo $((${1#"$cluster_prefix"} - cluster_first + 1)); fi
}

cluster_write_files() { # N
  local i d=$cluster_dir
  mkdir -p "$d/ssh" "$d/state" "$d/tmp" "$d/etc"
  chmod 700 "$d/ssh"
  ssh-keygen -q -t ed25519 -N '' -f "$d/ssh/host" -C hosts
  ssh-keygen -q -t ed25519 -N '' -f "$d/ssh/user" -C user
  sed 's/^/* /' "$d/ssh/host.pub" >"$d/ssh/known"
  printf '%s\n' "HostKey $d/ssh/host" "AuthorizedKeysFile $d/ssh/user.pub" 'StrictModes no' 'UsePAM no' \
    'UseDNS no' 'PidFile none' 'PasswordAuthentication no' 'PermitRootLogin prohibit-password' \
    'MaxStartups 100' >"$d/ssh/sshd_config"
  printf '%s\n' 'User root' "IdentityFile $d/ssh/user" 'IdentitiesOnly yes' "UserKnownHostsFile $d/ssh/known" \
    'GlobalKnownHostsFile /dev/null' 'BatchMode yes' 'LogLevel ERROR' >"$d/ssh/config"
  {
    echo '127.0.0.1 localhost'
    echo "$cluster_net.200 launcher"
    for i in $(cluster_names "$1"); do echo "$cluster_net.$(cluster_number "$i") $i$cluster_domain $i"; done
  } >"$d/names"
  for i in $(cluster_names "$1"); do echo "$i$cluster_domain slots=$cluster_slots"; done >"$d/hostfile"
}

# What process 1 of a host does: DIR NAME.
cluster_boot='
  set -e
  mount -t tmpfs -o size=512m tmpfs /dev/shm
  mount -t tmpfs tmpfs /run
  mkdir -p /run/sshd
  if [ "$2" = launcher ]; then
    mount -t tmpfs tmpfs "$1/etc"
    cp -a /etc/. "$1/etc"
    mkdir -p "$1/etc/mpi"
    cp "$1/hostfile" "$1/etc/mpi/hostfile"
    mount --bind "$1/etc" /etc
  fi
  mount --bind "$1/names" /etc/hosts
  hostname "$2"
  ip link set lo up
  : >"$1/state/$2.up"
  [ "$2" = hub ] && exec sleep infinity
  until [ -e "$1/state/$2.linked" ]; do sleep 0.02; done
  exec /usr/sbin/sshd -D -f "$1/ssh/sshd_config" -E "$1/state/$2.sshd"'

cluster_inside() { # HOST NSENTER-OPTIONS CMD...
  local host=$1
  shift
  nsenter -t "${cluster_init[$host]}" "$@"
}

cluster_boot_host() { # NAME
  local name=$1 d=$cluster_dir keeper
  rm -f "$d/state/$name".*
  unshare --net --uts --ipc --mount --propagation private --pid --fork --mount-proc --kill-child \
    bash -c "$cluster_boot" boot "$d" "$name" </dev/null >"$d/state/$name.log" 2>&1 &
  keeper=$!
  disown "$keeper"
  cluster_keeper[$name]=$keeper
  cluster_until 60 test -e "$d/state/$name.up" || { cat "$d/state/$name.log" >&2; return 1; }
  cluster_init[$name]=$(tr -d ' ' <"/proc/$keeper/task/$keeper/children")
}

cluster_link_host() { # NAME: eth0 there, a port of its name on the hub's bridge
  local name=$1 number
  number=$(cluster_number "$1")
  cluster_inside hub --net ip link add name "$name" type veth peer name eth0 netns "${cluster_init[$name]}"
  cluster_inside hub --net ip link set "$name" master joint up
  # one address for ever, or a host that comes back is not found until caches forget
  cluster_inside "$name" --net ip link set eth0 address "02:00:00:00:07:$(printf %02x "$number")" up
  cluster_inside "$name" --net ip addr add "$cluster_net.$number/24" dev eth0
  : >"$cluster_dir/state/$name.linked"
}

cluster_answers() { # HOST
  cluster_run launcher ssh -F "$cluster_dir/ssh/config" -oConnectTimeout=5 "$1" true 2>/dev/null
}

cluster_start() { # DIR N
  local i
  cluster_dir=$(realpath -m "$1")
  mkdir -p "$cluster_dir"
  cluster_write_files "$2"
  cluster_boot_host hub
  cluster_inside hub --net ip link add name joint type bridge forward_delay 0
  cluster_inside hub --net ip link set joint up
  for i in launcher $(cluster_names "$2"); do
    cluster_boot_host "$i"
    cluster_link_host "$i"
  done
  for i in $(cluster_names "$2"); do
    cluster_until 60 cluster_answers "$i" || { echo "no ssh to $i" >&2; cat "$cluster_dir"/state/*.sshd >&2; return 1; }
  done
}

# What the MPI Operator sets in its launcher, and what root and few cores need.
cluster_run() { # HOST CMD...
  local host=$1
  shift
  env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
    OMPI_MCA_orte_keep_fqdn_hostnames=true OMPI_MCA_plm_rsh_agent="ssh -F $cluster_dir/ssh/config" \
    OMPI_MCA_orte_tmpdir_base="$cluster_dir/tmp" TMPDIR="$cluster_dir/tmp" \
    OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1 \
    nsenter -t "${cluster_init[$host]}" --net --uts --ipc --mount --pid --root --wd="$PWD" "$@"
}

cluster_cut() { cluster_inside hub --net ip link set "$1" down; }
cluster_heal() { cluster_inside hub --net ip link set "$1" up; }

cluster_gone() { ! grep -qs '^State:.[^ZX]' "/proc/$1/status"; }

cluster_crash() { # HOST: every process at once, and its network
  kill -KILL "${cluster_init[$1]}"
  cluster_until 60 cluster_gone "${cluster_keeper[$1]}"
}

cluster_no_port() { ! cluster_inside hub --net ip link show "$1" >/dev/null 2>&1; }

cluster_revive() { # HOST
  cluster_until 60 cluster_no_port "$1"
  cluster_boot_host "$1"
  cluster_link_host "$1"
  cluster_until 60 cluster_answers "$1"
}

cluster_stop() {
  local name
  for name in "${!cluster_keeper[@]}"; do
    cluster_gone "${cluster_keeper[$name]}" || kill -KILL "${cluster_init[$name]:-${cluster_keeper[$name]}}" 2>/dev/null || true
  done
  for name in "${!cluster_keeper[@]}"; do
    cluster_until 60 cluster_gone "${cluster_keeper[$name]}" || kill -KILL "${cluster_keeper[$name]}" 2>/dev/null || true
  done
  cluster_keeper=() cluster_init=()
}
