#!/bin/bash
# lockstep doctor where a mount namespace breaks the machine: /dev/shm, the run directory, disks, locked memory, RDMA ports.
#   namespace.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
here=$(dirname "$(realpath "$0")")
if [ "${LKS_IN_NAMESPACE:-}" != yes ]; then
  missing=
  [ "$(id -u)" = 0 ] || missing='not root'
  [ -n "$missing" ] || unshare --mount true 2>/dev/null || missing='no mount namespaces'
  command -v setpriv >/dev/null || missing='no setpriv'
  if [ -n "$missing" ]; then
    echo "skipped: what doctor looks at cannot be broken here: $missing"
    exit 77
  fi
  LKS_IN_NAMESPACE=yes exec unshare --mount --propagation private "$0" "$@"
fi
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"
# shellcheck source=tests/doctor/rows.sh
. "$here/rows.sh"
trap 'cd /; umount "$work"/* 2>/dev/null || true; rm -rf "$work"' EXIT

"$MAKE_DATA" text text.txt 20000
"$LOCKSTEP" --quiet prepare text --output data --split validation=0.1 text.txt
cat >job.yaml <<'YAML'
model: {name: gpt, layers: 2, width: 128, heads: 4, context: 64}
data: {train: data/train}
train: {steps: 4, global_batch: 24, lanes: 6, micro_batch: 2, seed: 3}
checkpoint: {every_steps: 10, keep: 6}
YAML

# --- /dev/shm ------------------------------------------------------------------------------
start=(mpirun -n 2 --mca btl 'tcp,self') # Open MPI's own segments would not fit
mount -t tmpfs -o size=2m tmpfs /dev/shm
turns "a small /dev/shm" shm fail '2 MiB are free, 2 ranks need|2.0 MiB of 2.0 MiB are free|2 MiB of 2 MiB are free' job.yaml --only shm
mend "a small /dev/shm" shm
is_ok "a larger one" shm job.yaml --only shm
umount /dev/shm
mount -t tmpfs -o size=64m tmpfs /dev/shm
start=()
turns "a container's /dev/shm" shm warn "container's default" --only shm
mend "a container's /dev/shm" shm
is_ok "a larger one" shm --only shm
umount /dev/shm
KUBERNETES_SERVICE_HOST=10.0.0.1 doctor_run job.yaml --only shm
same "in a pod" ok "$(row shm status)"

# --- The run directory ---------------------------------------------------------------------
start=(mpirun -n 2)
mkdir runs small
mount --bind runs runs
mount -o remount,bind,ro runs
turns "a read-only run directory" run fail 'cannot be written to: Read-only file system' --only run --run runs/job
mend "a read-only run directory" run
is_ok "a writable one" run --only run --run runs/job
umount runs
mount -t tmpfs -o ro tmpfs runs
turns "a read-only file system" run fail 'cannot be written to: Read-only file system' --only run --run runs/job
mend "a read-only file system" run
is_ok "a writable one" run --only run --run runs/job
umount runs

start=()
mount -t tmpfs -o size=8m tmpfs small
turns "a full disk" 'write rate' fail 'No space left on device' --only run --run small/job
mend "a full disk" 'write rate'
is_ok "a larger disk" 'write rate' --only run --run small/job
umount small

# Seven of them and one being written are more than it holds.
bytes=$("$LOCKSTEP" doctor job.yaml --only plan --json | python3 -c '
import json, sys
print(int(json.load(sys.stdin)["facts"]["plan"][0]["checkpoint_bytes"]))')
mount -t tmpfs -o size=$((bytes * 5 + (64 << 20))) tmpfs small
head -c $((64 << 20)) /dev/zero >small/ballast
turns "no room for checkpoints" disk fail 'checkpoints of .* need .*: 6 kept, the best, one being written' \
  job.yaml --only run --only disk --run small/job
mend "no room for checkpoints" disk
is_ok "fewer are kept" disk job.yaml --only run --only disk --run small/job
same "fewer are kept" '--set checkpoint.keep=3' "${more[*]}"
more=()
umount small

# --- Locked memory -------------------------------------------------------------------------
unlocked=(setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock) # root is not bound by the limit otherwise
(
  start=("${unlocked[@]}")
  ulimit -S -l 64
  ulimit -H -l 8192
  turns "a low memlock" memlock warn '1 ?MiB cannot be locked' --only memlock
  mend "a low memlock" memlock
  is_ok "up to the hard limit" memlock --only memlock
  ulimit -S -l 64
  ulimit -H -l 64
  turns "a low hard limit" memlock warn 'cannot be locked' --only memlock
  mkdir limits.d
  mount --bind limits.d /etc/security/limits.d # for the next login
  line=$(row memlock mend)
  eval "$line"
  umount /etc/security/limits.d
  check "a low hard limit: limits.d" grep -q '^\* - memlock unlimited$' limits.d/90-memlock.conf
  echo "$checks $failures" >counts
)
read -r checks failures <counts

# --- Control groups ------------------------------------------------------------------------
mkdir group
mount -t tmpfs tmpfs group
echo '100000 100000' >group/cpu.max
mount --bind group /sys/fs/cgroup
start=(mpirun -n 2)
turns "a control group of one core" cores warn '2 ranks on 1 core that the control group allows' --only cores
mend_start() { read -ra start <<<"$(row cores mend)"; }
mend_start
is_ok "one rank" cores --only cores
umount /sys/fs/cgroup
start=()

# --- RDMA ----------------------------------------------------------------------------------
sys=$work/class
mkdir "$sys"
mount -t tmpfs tmpfs "$sys"
cp -a /sys/class/net "$sys/" 2>/dev/null || true
port() { # DEVICE STATE LAYER RATE BOARD, then GIDs as TYPE=GID
  local folder=$sys/infiniband/$1/ports/1 i=0 gid
  rm -rf "${sys:?}/infiniband/$1"
  mkdir -p "$folder/gids" "$folder/gid_attrs/types" "$folder/gid_attrs/ndevs" "$sys/infiniband/$1/device"
  echo "$2" >"$folder/state"
  echo "$3" >"$folder/link_layer"
  echo "$4" >"$folder/rate"
  echo "$5" >"$sys/infiniband/$1/board_id"
  shift 5
  for gid in "$@"; do
    echo "${gid%%=*}" >"$folder/gid_attrs/types/$i"
    echo "${gid#*=}" >"$folder/gids/$i"
    echo eth7 >"$folder/gid_attrs/ndevs/$i"
    i=$((i + 1))
  done
}
local_gid=RoCE\ v2=fe80:0000:0000:0000:0000:0000:0000:0001
v1_gid=IB/RoCE\ v1=0000:0000:0000:0000:0000:ffff:0a58:0701
v2_gid=RoCE\ v2=0000:0000:0000:0000:0000:ffff:0a58:0701
ib_gid=IB/RoCE\ v1=fe80:0000:0000:0000:0002:c903:0029:7de1
mount --bind "$sys" /sys/class
port mlx5_0 '4: ACTIVE' Ethernet '100 Gb/sec (4X EDR)' MT_1 "$local_gid" "$v1_gid" "$v2_gid"
is_ok "a RoCE port" rdma --only rdma
check "the GID that routes" grep -q 'GID index 2 of mlx5_0:1' out.json
same "the line" "export NCCL_IB_HCA='=mlx5_0:1' LOCKSTEP_VERBS_DEVICE=mlx5_0:1" "$(row rdma mend)"

port mlx5_1 '1: DOWN' Ethernet '40 Gb/sec (4X QDR)' MT_1 "$local_gid"
turns "a port that is down" rdma warn 'mlx5_1:1 is DOWN' --only rdma
(
  mend "a port that is down" rdma
  is_ok "left out" rdma --only rdma
  echo "$checks $failures" >counts
)
read -r checks failures <counts

port mlx5_1 '4: ACTIVE' Ethernet '25 Gb/sec (1X EDR)' MT_1 "$v2_gid"
turns "a port below its rate" rdma warn 'mlx5_1:1 runs at 25 Gbit/s, others of its kind at 100' --only rdma
(
  mend "a port below its rate" rdma
  is_ok "left out" rdma --only rdma
  echo "$checks $failures" >counts
)
read -r checks failures <counts
rm -r "$sys/infiniband/mlx5_1"

echo 8 >"$sys/infiniband/mlx5_0/device/current_link_width"
echo 16 >"$sys/infiniband/mlx5_0/device/max_link_width"
turns "a slot with too few lanes" rdma warn 'PCIe slot of 8 lanes and could use 16' --only rdma
rm "$sys"/infiniband/mlx5_0/device/*

(
  export NCCL_IB_GID_INDEX=0
  turns "a GID that does not route" rdma fail 'the GID to use has index 2' --only rdma
  mend "a GID that does not route" rdma
  is_ok "chosen by what it is" rdma --only rdma
  echo "$checks $failures" >counts
)
read -r checks failures <counts

# The line gives the interface an address, which makes the GID.
port mlx5_0 '4: ACTIVE' Ethernet '100 Gb/sec (4X EDR)' MT_1 "$local_gid"
mkdir -p bin
cat >bin/ip <<'IP'
#!/bin/bash
[ "$1 $2 $4 $5" = 'addr add dev eth7' ] || exit 2
echo 'RoCE v2' >"$LKS_PORT/gid_attrs/types/1"
echo 0000:0000:0000:0000:0000:ffff:0a58:0701 >"$LKS_PORT/gids/1"
IP
chmod +x bin/ip
turns "a port without an address" rdma fail 'has no RoCE v2 GID with an IPv4 address' --only rdma
PATH=$work/bin:$PATH LKS_PORT=$sys/infiniband/mlx5_0/ports/1 mend "a port without an address" rdma
is_ok "with one" rdma --only rdma

port mlx5_0 '4: ACTIVE' InfiniBand '200 Gb/sec (4X HDR)' MT_2 "$ib_gid"
is_ok "an InfiniBand port" rdma --only rdma

# A fake port is no device to register memory with: it is locked instead, all 64 MiB.
(
  start=("${unlocked[@]}")
  raised=no
  ulimit -H -l unlimited 2>/dev/null && raised=yes
  ulimit -S -l 8192
  turns "too little for RDMA" memlock fail '64 ?MiB cannot be locked: .*RDMA needs it' --only memlock
  if [ "$raised" = yes ]; then
    mend "too little for RDMA" memlock
    is_ok "enough for RDMA" memlock --only memlock
  else
    echo "not tried: the hard limit of locked memory cannot be raised here"
  fi
  echo "$checks $failures" >counts
)
read -r checks failures <counts
umount /sys/class
umount "$sys"
say_result
