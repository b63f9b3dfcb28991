#!/bin/bash
# Performs scripts/k8s/Containerfile without a container engine: each FROM is a Debian made by debootstrap, each RUN
# runs in it, in namespaces of its own. Then the final stage's program trains, and its sshd reads its configuration. Prints
# what was done and the size of each stage's root. Downloads some 300 MB, builds, takes minutes: a benchmark, no test.
#   containerfile.sh [CACHE]     CACHE keeps the packages for the next time
set -euo pipefail
source=$(realpath "$(dirname "$0")/../..")
file=$source/scripts/k8s/Containerfile

skip() { echo "skipped: the Containerfile's steps cannot be performed here: $1"; exit 77; }
[ "$(id -u)" = 0 ] || skip 'not root'
command -v debootstrap >/dev/null || skip 'no debootstrap'
command -v ip >/dev/null || skip 'no ip (iproute2)'
unshare --mount --pid --uts --ipc --fork --mount-proc true 2>/dev/null || skip 'no namespaces'

work=$(mktemp -d "${TMPDIR:-/tmp}/lockstep-container.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
cache=$(realpath -m "${1:-$work/cache}")
mkdir -p "$cache/partial"

# What debian:12-slim is: no documents, no services that start.
make_base() { # DIR
  echo "FROM $image: debootstrap"
  debootstrap --variant=minbase --cache-dir="$cache" bookworm "$1" >"$work/debootstrap.log" 2>&1 ||
    { tail -n 5 "$work/debootstrap.log"; skip 'debootstrap failed: is the mirror in reach?'; }
  printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
  chmod 755 "$1/usr/sbin/policy-rc.d"
  printf 'path-exclude /usr/share/%s/*\n' doc man info locale >"$1/etc/dpkg/dpkg.cfg.d/slim"
  rm -rf "$1"/usr/share/{doc,man,info,locale}/* "$1"/var/cache/apt/*.bin "$1"/var/lib/apt/lists/*
  echo 'Binary::apt::APT::Keep-Downloaded-Packages "true";' >"$1/etc/apt/apt.conf.d/90keep"
}

# In the root of a stage, with its own /proc, /dev and the shared package cache; with the machine's network, or none but lo.
network=host
inside() { # ROOT COMMAND
  local options=(--mount --propagation private --pid --uts --ipc --fork --kill-child --mount-proc="$1/proc")
  [ $network = host ] || options+=(--net)
  unshare "${options[@]}" bash -c '
    set -e
    [ "$6" = host ] || ip link set lo up
    mount -t tmpfs -o mode=755 tmpfs "$1/dev"
    for device in null zero full random urandom tty; do : >"$1/dev/$device"; mount --bind "/dev/$device" "$1/dev/$device"; done
    ln -s /proc/self/fd "$1/dev/fd"
    mount --rbind /sys "$1/sys"
    mkdir -p "$1/dev/shm" "$1/dev/pts"
    mount -t tmpfs tmpfs "$1/dev/shm"
    mkdir -p "$1/var/cache/apt/archives"
    mount --bind "$3" "$1/var/cache/apt/archives"
    cp /etc/resolv.conf /etc/hosts "$1/etc/"
    exec env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin $4 chroot "$1" /bin/sh -c "cd $5 && $2"
  ' inside "$1" "$2" "$cache" "${environment[*]}" "$folder" $network
}

declare -A stages=()
root='' folder=/ image=''
environment=()

from() { # IMAGE [AS NAME]
  [[ $1 = debian:12* ]] || { echo "FROM $1: want debian:12"; exit 1; }
  image=$1 folder=/ environment=()
  root=$work/stage${#stages[@]}
  stages[${3:-last}]=$root
  [ -d "$work/base" ] || make_base "$work/base"
  cp -a "$work/base" "$root"
}

copy() { # [--from=STAGE] SOURCE... TARGET
  local origin=$source words target
  if [[ $1 = --from=* ]]; then origin=${stages[${1#--from=}]}; shift; fi
  words=("${@:1:$#-1}") target=${!#}
  [[ $target = /* ]] || target=$folder/$target
  for word in "${words[@]}"; do
    if [ -d "$origin/$word" ]; then
      mkdir -p "$root$target"
      cp -a "$origin/$word/." "$root$target"
    else
      [[ $target != */ ]] || mkdir -p "$root$target"
      mkdir -p "$(dirname "$root$target")"
      cp -a "$origin/$word" "$root$target"
    fi
  done
}

perform() { # INSTRUCTION ARGUMENTS
  local words started=$SECONDS
  read -ra words <<<"$2"
  case $1 in
    FROM) from "${words[@]}" ;;
    COPY) copy "${words[@]}" ;;
    WORKDIR) folder=${words[0]} && mkdir -p "$root$folder" ;;
    ENV) environment+=("${words[@]}") ;;
    CMD) ;;
    RUN) inside "$root" "$2" >"$work/run.log" 2>&1 || { tail -n 40 "$work/run.log"; echo "FAILED: RUN $2"; exit 1; } ;;
    *) echo "FAILED: $1 is not understood"; exit 1 ;;
  esac
  [ $((SECONDS - started)) -lt 2 ] || echo "$1 ${2:0:80}: $((SECONDS - started)) s"
}

line=
while IFS= read -r part; do
  [[ $part =~ ^[[:space:]]*(#.*)?$ ]] && continue
  line+=$part
  if [[ $line = *\\ ]]; then line=${line%\\}; continue; fi
  perform "${line%% *}" "${line#* }"
  line=
done <"$file"

megabytes() { du -sxm --exclude=./dev --exclude=./proc "$1" | cut -f1; }
echo "size of an empty Debian: $(megabytes "$work/base") MB"
echo "size of the build stage: $(megabytes "${stages[build]}") MB"
echo "size of the final stage: $(megabytes "$root") MB"

checks=0 failures=0
check() { # NAME COMMAND
  checks=$((checks + 1))
  inside "$root" "$2" >"$work/check.log" 2>&1 && return
  failures=$((failures + 1))
  echo "FAILED: $1"
  tail -n 20 "$work/check.log"
}
check 'every library is there' '! ldd /usr/local/bin/lockstep /usr/local/lib/*/liblockstep.so.0 | grep "not found"'
check 'no host key is in the image' '! ls /etc/ssh/ssh_host_*'
check 'no compiler is in the image' '! command -v cc'
# The worker's own command: first with sshd's test of its configuration in place of sshd.
start=$(sed -n 's/^ *command: \[\/bin\/sh, -c, \(.*\)\]$/\1/p' "$source/scripts/k8s/base/mpijob.yaml")
network=none
check 'sshd takes its configuration' "${start/exec \/usr\/sbin\/sshd -De/\/usr\/sbin\/sshd -t}"
check 'sshd does not ask PAM' '/usr/sbin/sshd -T | grep -qx "usepam no"'
cat >"$root/root/gpt.yaml" <<'YAML'
model: {name: gpt, layers: 2, width: 64, heads: 4, context: 64}
data: {train: data/train, validation: data/validation}
train: {steps: 10, global_batch: 8, lanes: 4, seed: 1}
optimizer: {name: adamw, lr: 0.001}
checkpoint: {every_steps: 5}
YAML
folder=/root
check 'data are prepared' 'cat /usr/share/perl5/*.pm /etc/* /usr/bin/ldd 2>/dev/null | head -c 100000 >text && lockstep prepare text --output data --split validation=0.1 text'
check 'gpt trains 10 steps' 'lockstep train gpt.yaml && lockstep checkpoint digest runs/gpt >alone'
check 'and under mpirun' 'export OMPI_MCA_btl_vader_single_copy_mechanism=none && mpirun --oversubscribe --bind-to none -n 2 lockstep train gpt.yaml --run runs/two'
check 'to the same bits' 'lockstep checkpoint digest runs/two | cmp - alone'
# A worker of the image, by the name that a pod would have, with keys as the operator makes them.
cat >"$root/root/job" <<SH
set -e
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_orte_keep_fqdn_hostnames=true
echo '127.0.0.1 gpt-worker-0.gpt.default.svc' >>/etc/hosts
echo 'gpt-worker-0.gpt.default.svc slots=2' >hostfile
mkdir -p -m 700 .ssh
ssh-keygen -q -t ecdsa -b 521 -m PEM -N '' -f .ssh/id_rsa
cp .ssh/id_rsa.pub .ssh/authorized_keys
/bin/sh -c '$start' &
lockstep launch --hosts hostfile --wait-seconds 20 -- train gpt.yaml --run runs/three
SH
check 'a worker takes ranks over ssh' 'sh job && lockstep checkpoint digest runs/three | cmp - alone'
check 'it was the image that asked for nothing' '! ls .ssh/known_hosts'
cat "$root/root/alone"
echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ "$failures" = 0 ]
